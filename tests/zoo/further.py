"""Heads that were found missing from the zoo: channel dropout, rarer spellings, one head with two names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.bridges import HIDDEN, chain
from zoo.entry import CHANNELS, Entry, Stem, seeded
from zoo.model import conv, linear, model, pooled

GRID = (2, 3)
ONE = ((1, 1),)


def _steps(**steps: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {name: step() for name, step in steps.items()}


def _pool() -> nn.Module:
    return nn.AdaptiveAvgPool2d(1)


def _grid() -> nn.Module:
    return nn.AdaptiveAvgPool2d(GRID)


def _sized_product(x: Tensor) -> Tensor:
    return x.view(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3])


class ChannelDropout1d(nn.Module):
    """Dropout1d on a one-dimensional map; on ``[N, C]`` it would drop whole samples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem(1)
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.drop = nn.Dropout1d(0.4)
        self.head = linear()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.drop(self.pool(self.stem(x))).flatten(1))


CHANNEL_DROPOUT = (
    chain(
        "conv_dropout_2d",
        _steps(pool=_pool, drop=lambda: nn.Dropout2d(0.4), head=conv, flat=nn.Flatten),
        form="conv",
    ),
    chain(
        "conv_dropout_2d_between",
        _steps(
            pool=_pool,
            fc=lambda: conv(CHANNELS, HIDDEN),
            drop=lambda: nn.Dropout2d(0.4),
            head=lambda: conv(HIDDEN),
            flat=nn.Flatten,
        ),
        form="conv",
        sites=("fc", "head"),
        kernels=ONE * 2,
        added_nodes=2,
    ),
    chain(
        "dropout_2d_before_view",
        _steps(pool=_pool, drop=lambda: nn.Dropout2d(0.4), flat=nn.Flatten, head=linear),
    ),
    chain(
        "dropout_2d_on_a_grid",
        _steps(
            pool=_grid, drop=lambda: nn.Dropout2d(0.4), flat=nn.Flatten, head=lambda: linear(6 * CHANNELS)
        ),
        kernels=(GRID,),
    ),
    Entry(
        name="dropout_1d",
        make=seeded(ChannelDropout1d),
        input_shapes=((3, 11),),
        kernels=((1,),),
    ),
)
RARER_SPELLINGS = (
    chain("mean_axis", _steps(pool=lambda: lambda x: x.mean(axis=(2, 3)), head=linear), added_nodes=1),
    chain(
        "mean_axis_keepdim",
        _steps(pool=lambda: lambda x: x.mean(axis=(2, 3), keepdim=True), flat=nn.Flatten, head=linear),
    ),
    chain("view_product", _steps(pool=_pool, flat=lambda: _sized_product, head=linear)),
    chain(
        "view_product_on_a_grid",
        _steps(pool=_grid, flat=lambda: _sized_product, head=lambda: linear(6 * CHANNELS)),
        kernels=(GRID,),
    ),
    chain("view_shape_slice", _steps(pool=_pool, flat=lambda: lambda x: x.view(x.shape[:2]), head=linear)),
    chain(
        "select_twice", _steps(pool=_pool, flat=lambda: lambda x: x.select(3, 0).select(2, 0), head=linear)
    ),
    chain(
        "torch_select",
        _steps(
            pool=_pool,
            flat=lambda: lambda x: torch.select(torch.select(x, -1, 0), dim=-1, index=0),
            head=linear,
        ),
    ),
    chain(
        "where",
        _steps(
            pool=_pool,
            flat=nn.Flatten,
            act=lambda: lambda x: torch.where(x > 0, x, 0.0),
            head=linear,
        ),
    ),
    chain(
        "where_before_view",
        _steps(
            pool=_pool,
            act=lambda: lambda x: torch.where(x > 0, x, x * 0.1),
            flat=nn.Flatten,
            head=linear,
        ),
    ),
)


class Holder(nn.Module):
    """Holds a parameter and is never called."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight


def _alias() -> dict[str, nn.Module]:
    head = linear()
    return {"head": head, "alias": head, "nested": nn.Sequential(head)}


def _held() -> dict[str, nn.Module]:
    head = linear()
    return {
        "head": head,
        "holder": Holder(head.weight),
        "again": nn.ModuleDict({"inner": Holder(head.weight)}),
    }


def _plain(m: Any, x: Tensor) -> Tensor:
    return m.head(pooled(m.stem(x)))


SEVERAL_NAMES = (
    model("head_under_two_names", _plain, _alias),
    model("tied_to_a_holder", _plain, _held),
    model(
        "head_called_by_both_names",
        lambda m, x: m.head(pooled(m.stem(x))) + m.nested(F.relu(pooled(m.stem(x)))),
        _alias,
        calls=2,
    ),
)

FURTHER = (*CHANNEL_DROPOUT, *RARER_SPELLINGS, *SEVERAL_NAMES)
