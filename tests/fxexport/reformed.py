"""Pairs whose sites changed form in the middle of the network, every extent alike: no shape tells an error.

Channels, height, width and hidden features are all 8, so a permutation in the wrong order, a missing one or
a transposed weight fits as well as the right one.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

SIDE = 8


class Map(nn.Module):
    """ConvNeXt's block: a depthwise convolution, a norm and two Linear on ``[N, H, W, C]``, a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(SIDE, SIDE, 3, padding=1, groups=SIDE)
        self.norm = nn.LayerNorm(SIDE)
        self.first, self.second = nn.Linear(SIDE, SIDE), nn.Linear(SIDE, SIDE)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, SIDE).reshape(SIDE, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.second(functional.gelu(self.first(y))).permute(0, 3, 1, 2)
        return x + self.scale * y


class MapAsConv(Map):
    """The same with convolutions; its norm alone needs the channels last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.scale * self.second(functional.gelu(self.first(y)))


class Tokens(nn.Module):
    """A transformer's block on ``[N, T, C]``: attention with two heads, then two Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, SIDE, SIDE))
        self.inner, self.outer = nn.LayerNorm(SIDE), nn.LayerNorm(SIDE)
        self.qkv, self.out = nn.Linear(SIDE, 3 * SIDE), nn.Linear(SIDE, SIDE)
        self.first, self.second = nn.Linear(SIDE, SIDE), nn.Linear(SIDE, SIDE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.mean(3).transpose(1, 2) + self.place
        tokens = tokens + self.out(self.attended(self.qkv(self.inner(tokens))))
        tokens = tokens + self.second(functional.gelu(self.first(self.outer(tokens))))
        return tokens.transpose(1, 2).unsqueeze(-1)

    def attended(self, qkv: torch.Tensor) -> torch.Tensor:
        q, k, v = qkv.reshape(-1, SIDE, 3, 2, SIDE // 2).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-2, -1), dim=-1)
        return (weights @ v).transpose(1, 2).reshape(-1, SIDE, SIDE)


class TokensAsConv(Tokens):
    """The same with convolutions on ``[N, C, T]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.mean(3).transpose(1, 2) + self.place
        qkv = self.qkv(self.inner(tokens).transpose(1, 2)).transpose(1, 2)
        tokens = tokens + self.out(self.attended(qkv).transpose(1, 2)).transpose(1, 2)
        y = self.second(functional.gelu(self.first(self.outer(tokens).transpose(1, 2))))
        return (tokens.transpose(1, 2) + y).unsqueeze(-1)


class Windows(nn.Module):
    """Swin's block: windows of 4×4 cells of ``[N, H, W, C]``, a Linear on each, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(SIDE)
        self.first, self.second = nn.Linear(SIDE, SIDE), nn.Linear(SIDE, SIDE, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.roll(self.norm(x.permute(0, 2, 3, 1)), (-1, -2), (1, 2))
        y = y.view(-1, 2, 4, 2, 4, SIDE).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, SIDE)
        y = torch.softmax(self.first(y), dim=1) * y
        y = y.view(-1, 2, 2, 4, 4, SIDE).permute(0, 1, 3, 2, 4, 5).reshape(-1, SIDE, SIDE, SIDE)
        return x + self.second(y).permute(0, 3, 1, 2)


class WindowsAsConv(Windows):
    """The same with convolutions, on windows of ``[N, C, 16]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.roll(self.norm(x.permute(0, 2, 3, 1)), (-1, -2), (1, 2))
        y = y.view(-1, 2, 4, 2, 4, SIDE).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, SIDE).transpose(1, 2)
        y = (torch.softmax(self.first(y), dim=2) * y).transpose(1, 2)
        y = y.view(-1, 2, 2, 4, 4, SIDE).permute(0, 1, 3, 2, 4, 5).reshape(-1, SIDE, SIDE, SIDE)
        return x + self.second(y.permute(0, 3, 1, 2))


class Windowed(nn.Module):
    """Convolutions with kernels: padded, with a stride, with dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(SIDE, SIDE, 3, padding=1)
        self.second = nn.Conv2d(SIDE, SIDE, (2, 3), stride=2, padding=(1, 2), dilation=(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class Unfolded(Windowed):
    """The same as matrix products of windows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(self.second, torch.relu(self.product(self.first, x)))

    def product(self, site: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        windows = functional.unfold(x, site.kernel_size, site.dilation, site.padding, site.stride)
        y = functional.linear(windows.transpose(1, 2), site.weight.flatten(1), site.bias)
        extents = [
            (x.shape[2 + i] + 2 * site.padding[i] - site.dilation[i] * (site.kernel_size[i] - 1) - 1)
            // site.stride[i]
            + 1
            for i in (0, 1)
        ]
        return y.transpose(1, 2).reshape(-1, SIDE, *extents)


class Net(nn.Module):
    """A stem, a block between feature maps, a pool and a head."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, SIDE, 2, 2), block, nn.Linear(SIDE, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A block and its other form; ``rank`` is that of the convolutions in the place of its Linear."""

    block: Callable[[], nn.Module]
    other: type[nn.Module]
    rank: int


KINDS = {
    "map": Kind(block=Map, other=MapAsConv, rank=2),
    "tokens": Kind(block=Tokens, other=TokensAsConv, rank=1),
    "windows": Kind(block=Windows, other=WindowsAsConv, rank=1),
    "unfold": Kind(block=Windowed, other=Unfolded, rank=2),
}


def pair(name: str) -> tuple[Net, Net]:
    """A model and its other form, over the same parameters."""
    kind = KINDS[name]
    torch.manual_seed(0)
    model = Net(kind.block()).eval()
    other = copy.deepcopy(model)
    for site, module in list(other.block.named_children()):
        if isinstance(module, nn.Linear):
            rank = 2 if (name, site) == ("windows", "second") else kind.rank
            setattr(other.block, site, as_convolution(module, rank))
    other.block.__class__ = kind.other
    return model, other


def as_convolution(linear: nn.Linear, rank: int) -> nn.Module:
    """A pointwise convolution with the weights of ``linear``."""
    form = (nn.Conv1d, nn.Conv2d)[rank - 1]
    site = form(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
    weight = linear.weight.detach()
    site.weight = nn.Parameter(weight.reshape(*weight.shape, *(1,) * rank))
    site.bias = linear.bias
    return site
