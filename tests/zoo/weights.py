"""Weights that are tied, frozen, in another memory format, or not where a Linear has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.bridges import HIDDEN, chain
from zoo.entry import CHANNELS, CLASSES, Entry, Stem, seeded
from zoo.model import linear, model, pooled
from zoo.structures import two_heads_averaged

ONE = ((1, 1),)


def _tied(classes: int = CHANNELS) -> dict[str, nn.Module]:
    modules = {"a": linear(CHANNELS, classes), "b": linear(CHANNELS, classes)}
    modules["b"].weight = modules["a"].weight
    return modules


def _frozen() -> dict[str, nn.Module]:
    modules = {"fc": linear(CHANNELS, HIDDEN), "head": linear(HIDDEN)}
    modules["fc"].requires_grad_(False)
    modules["head"].bias.requires_grad_(False)
    return modules


def _channels_last(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: make().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class RootParameter(nn.Module):
    """A head whose weights are the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()
        self.head_weight = nn.Parameter(torch.randn(CLASSES, CHANNELS) / 2)
        self.head_bias = nn.Parameter(torch.randn(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return F.linear(pooled(self.stem(x)), self.head_weight, self.head_bias)


class LoRA(nn.Linear):
    """A Linear subclass of one's own, which tracing looks into."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside)
        self.lora_a = nn.Parameter(torch.randn(2, inside))
        self.lora_b = nn.Parameter(torch.randn(outside, 2))

    def forward(self, x: Tensor) -> Tensor:
        """The affine op and its low-rank correction."""
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.lora_a), self.lora_b) * 0.5


_base = model(
    "", lambda m, x: m.head(F.relu(m.fc(pooled(m.stem(x))))), _frozen, sites=("fc", "head"), kernels=ONE * 2
)
_grid = chain(
    "",
    lambda: {
        "pool": nn.AdaptiveAvgPool2d((2, 3)),
        "head": nn.Conv2d(CHANNELS, CLASSES, (2, 3)),
        "flat": nn.Flatten(),
    },
    form="conv",
    kernels=((2, 3),),
)
WEIGHTS = (
    model("tied_heads", two_heads_averaged, _tied, sites=("a", "b"), kernels=ONE * 2, added_nodes=1),
    model(
        "tied_in_sequence",
        lambda m, x: m.b(torch.relu(m.a(pooled(m.stem(x))))),
        _tied,
        sites=("a", "b"),
        kernels=ONE * 2,
    ),
    model(
        "lora_traced",
        lambda m, x: m.head(pooled(m.stem(x))),
        lambda: {"head": LoRA(CHANNELS, CLASSES)},
        sites=("head", "head.lora_a", "head.lora_b"),
        kernels=ONE * 3,
        calls=3,
        added_nodes=3,
    ),
    dataclasses.replace(_base, name="frozen_parts"),
    dataclasses.replace(_base, name="channels_last_memory", make=_channels_last(_base.make)),
    dataclasses.replace(_grid, name="channels_last_kernel", make=_channels_last(_grid.make), copies=True),
    Entry(name="root_parameter", make=seeded(RootParameter), sites=("head_weight",)),
)
