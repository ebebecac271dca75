"""Hand-made pairs: a classifier with a linear head, and the same with a convolution in its place."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torchvision
from torch import nn


class ConvHead(nn.Module):
    """A Linear written as a convolution over the whole map, then flattened."""

    def __init__(self, linear: nn.Linear, channels: int, kernel: tuple[int, ...]) -> None:
        super().__init__()
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kernel) - 1]
        self.operand = (channels, *kernel)
        self.conv = kind(channels, linear.out_features, kernel, bias=linear.bias is not None)
        weight = linear.weight.detach().clone()
        self.conv.weight = nn.Parameter(weight.view(linear.out_features, channels, *kernel))
        if linear.bias is not None:
            self.conv.bias = nn.Parameter(linear.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.conv(x.reshape(x.size(0), *self.operand)), 1)


class Small(nn.Module):
    """A small classifier; ``pool`` takes ``[N, 8, *k]`` to ``[N, 8]`` or ``[N, 8, 1, …]``."""

    def __init__(self, pool: Callable[[torch.Tensor], torch.Tensor], rank: int = 2) -> None:
        super().__init__()
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        self.features = kind(3, 8, 3)
        self.pool = pool
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(torch.relu(self.features(x))))


def small_pair() -> tuple[Small, Small]:
    """A small model and its convolution form."""
    torch.manual_seed(0)
    model = Small(lambda x: x.mean((2, 3))).eval()
    return model, converted(model)


def zoo_model(name: str) -> nn.Module:
    """A torchvision classifier with its default initialisation, in evaluation mode."""
    torch.manual_seed(0)
    options = {"googlenet": {"init_weights": False, "aux_logits": False}}.get(name, {})
    return getattr(torchvision.models, name)(weights=None, **options).eval()


def converted(model: nn.Module) -> nn.Module:
    """A copy with every Linear written as a 1×1 convolution."""
    clone = copy.deepcopy(model)
    for parent in list(clone.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, ConvHead(child, child.in_features, (1, 1)))
    return clone


def last_head(model: nn.Module) -> nn.Conv2d:
    """The convolution of the last converted head."""
    return [part for part in model.modules() if isinstance(part, ConvHead)][-1].conv


def _random(conv: nn.Conv2d) -> None:
    conv.weight.copy_(torch.randn_like(conv.weight) * conv.weight.std())


def _reversed(conv: nn.Conv2d) -> None:
    conv.weight.copy_(conv.weight.flip(1))


def _swapped(conv: nn.Conv2d) -> None:
    conv.weight[:, [0, 1]] = conv.weight[:, [1, 0]]


def _no_bias(conv: nn.Conv2d) -> None:
    conv.bias = None


def _copied_row(conv: nn.Conv2d) -> None:
    conv.weight[0] = conv.weight[1]


def _one_weight(conv: nn.Conv2d) -> None:
    conv.weight.view(-1)[5] *= 1.01


def _bfloat16(conv: nn.Conv2d) -> None:
    conv.weight.copy_(conv.weight.bfloat16().float())


def _one_ulp(conv: nn.Conv2d) -> None:
    flat = conv.weight.view(-1)
    flat[7] = torch.nextafter(flat[7], torch.tensor(torch.inf))


DAMAGES: dict[str, Callable[[nn.Conv2d], None]] = {
    "random": _random,
    "reversed": _reversed,
    "swapped": _swapped,
    "no_bias": _no_bias,
    "copied_row": _copied_row,
    "one_weight": _one_weight,
    "bfloat16": _bfloat16,
    "one_ulp": _one_ulp,
}


def damaged(model: nn.Module, kind: str) -> nn.Module:
    """A copy of a converted model whose last head is damaged."""
    clone = copy.deepcopy(model)
    with torch.no_grad():
        DAMAGES[kind](last_head(clone))
    return clone
