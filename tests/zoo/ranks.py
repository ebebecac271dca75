"""One- and three-dimensional maps, tokens, and pools that nothing says the extent of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.bridges import chain
from zoo.entry import CHANNELS, CLASSES, MAP, Entry, seeded
from zoo.model import linear

TOKENS = (9, 3)


def _spatial(rank: int, pool: Any, view: Any, head: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"pool": pool(), "flat": view, "head": head()}


def _flat(x: Tensor) -> Tensor:
    return torch.flatten(x, 1)


_ONE_D = {"rank": 1, "input_shapes": ((3, 11),), "kernels": ((1,),)}
_THREE_D = {"rank": 3, "input_shapes": ((3, 2, 4, 3),), "kernels": ((1, 1, 1),)}
_CONV_1D = {**_ONE_D, "form": "conv"}
_CONV_3D = {**_THREE_D, "form": "conv"}
RANKS = (
    chain("adaptive_1d", _spatial(1, lambda: nn.AdaptiveAvgPool1d(1), _flat, linear), **_ONE_D),
    chain(
        "adaptive_1d_squeeze",
        _spatial(1, lambda: nn.AdaptiveAvgPool1d(1), lambda x: x.squeeze(-1), linear),
        **_ONE_D,
    ),
    chain("mean_1d", lambda: {"pool": lambda x: x.mean(-1), "head": linear()}, added_nodes=1, **_ONE_D),
    chain(
        "mean_1d_getitem", lambda: {"pool": lambda x: x.mean(2, True)[:, :, 0], "head": linear()}, **_ONE_D
    ),
    chain("max_1d", _spatial(1, lambda: nn.AdaptiveMaxPool1d(1), _flat, linear), **_ONE_D),
    chain("adaptive_3d", _spatial(3, lambda: nn.AdaptiveAvgPool3d((1, 1, 1)), _flat, linear), **_THREE_D),
    chain(
        "F_adaptive_3d", _spatial(3, lambda: lambda x: F.adaptive_avg_pool3d(x, 1), _flat, linear), **_THREE_D
    ),
    chain(
        "mean_3d", lambda: {"pool": lambda x: x.mean([2, 3, 4]), "head": linear()}, added_nodes=1, **_THREE_D
    ),
    chain(
        "mean_3d_negative",
        lambda: {"pool": lambda x: x.mean((-3, -2, -1), keepdim=True), "flat": _flat, "head": linear()},
        **_THREE_D,
    ),
    chain(
        "squeeze_3d",
        _spatial(3, lambda: nn.AdaptiveAvgPool3d(1), lambda x: x.squeeze(-1).squeeze(-1).squeeze(-1), linear),
        **_THREE_D,
    ),
    chain("avg_3d", _spatial(3, lambda: nn.AvgPool3d((2, 4, 3)), _flat, linear), **_THREE_D),
    chain(
        "grid_1d",
        lambda: {"pool": nn.AdaptiveAvgPool1d(4), "flat": _flat, "head": linear(4 * CHANNELS)},
        **{**_ONE_D, "kernels": ((4,),)},
    ),
    chain(
        "grid_3d",
        lambda: {"pool": nn.AdaptiveAvgPool3d((1, 2, 3)), "flat": _flat, "head": linear(6 * CHANNELS)},
        **{**_THREE_D, "kernels": ((1, 2, 3),)},
    ),
    chain(
        "conv_1d",
        lambda: {"pool": nn.AdaptiveAvgPool1d(1), "head": nn.Conv1d(CHANNELS, CLASSES, 1), "flat": _flat},
        **_CONV_1D,
    ),
    chain(
        "conv_1d_squeeze",
        lambda: {
            "pool": nn.AdaptiveAvgPool1d(1),
            "head": nn.Conv1d(CHANNELS, CLASSES, 1),
            "flat": lambda x: x.squeeze(2),
        },
        **_CONV_1D,
    ),
    chain(
        "conv_3d",
        lambda: {"pool": nn.AdaptiveAvgPool3d(1), "head": nn.Conv3d(CHANNELS, CLASSES, 1), "flat": _flat},
        **_CONV_3D,
    ),
    chain(
        "conv_3d_grid",
        lambda: {
            "pool": nn.AdaptiveAvgPool3d((1, 2, 3)),
            "head": nn.Conv3d(CHANNELS, CLASSES, (1, 2, 3)),
            "flat": _flat,
        },
        **{**_CONV_3D, "kernels": ((1, 2, 3),)},
    ),
)


class Tokens(nn.Module):
    """Tokens ``[N, T, C]``, mixed and normalised, then ``pool`` and a Linear."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed = nn.Conv1d(3, CHANNELS, 3, padding=1)
        self.norm = nn.LayerNorm(CHANNELS)
        self.pool = pool
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``x: [N, 3, T]``."""
        return self.head(self.pool(self.norm(self.embed(x).transpose(1, 2))))


class DistilledTokens(Tokens):
    """Two heads behind norms of their own, over one mean of tokens (LeViT)."""

    def __init__(self) -> None:
        super().__init__(lambda x: x.mean(1))
        self.first, self.second = nn.BatchNorm1d(CHANNELS), nn.BatchNorm1d(CHANNELS)
        self.other = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of both logits of ``x: [N, 3, T]``."""
        x = self.pool(self.norm(self.embed(x).transpose(1, 2)))
        return (self.head(self.first(x)) + self.other(self.second(x))) / 2


class BareTokens(nn.Module):
    """Tokens ``[N, T, C]`` as the input itself, so that nothing says what the axes are."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(x.mean(1))


class BarePool(nn.Module):
    """A fixed pool on the input itself, whose extent nothing says."""

    def __init__(self, *, to_conv: bool) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(MAP)
        self.head = nn.Conv2d(3, CLASSES, 1) if to_conv else nn.Linear(3, CLASSES)
        self.to_conv = to_conv

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.pool(x)
        return self.head(x).flatten(1) if self.to_conv else self.head(x.flatten(1))


_TOKENS = {"input_shapes": ((3, 9),), "kernels": ((1,),), "needs_inputs": True, "added_nodes": 3}
TOKEN_HEADS = (
    Entry(name="token_mean", make=seeded(lambda: Tokens(lambda x: x.mean(1))), **_TOKENS),
    Entry(
        name="token_mean_of_two_heads",
        make=seeded(DistilledTokens),
        **{**_TOKENS, "sites": ("head", "other"), "kernels": ((1,),) * 2, "added_nodes": 4},
    ),
    Entry(name="token_mean_torch", make=seeded(lambda: Tokens(lambda x: torch.mean(x, dim=1))), **_TOKENS),
    Entry(
        name="token_adaptive",
        make=seeded(lambda: Tokens(lambda x: F.adaptive_avg_pool1d(x.transpose(1, 2), 1).flatten(1))),
        **{**_TOKENS, "needs_inputs": False},
    ),
    Entry(
        name="token_transposed_mean",
        make=seeded(lambda: Tokens(lambda x: x.permute(0, 2, 1).mean(-1))),
        **_TOKENS,
    ),
    Entry(name="token_mean_bare", make=seeded(BareTokens), **{**_TOKENS, "input_shapes": (TOKENS,)}),
    Entry(name="avg_pool_bare", make=seeded(lambda: BarePool(to_conv=False)), needs_inputs=True),
    Entry(
        name="avg_pool_bare_conv", make=seeded(lambda: BarePool(to_conv=True)), needs_inputs=True, form="conv"
    ),
)
