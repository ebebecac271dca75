"""Heads that can stand before their pool or work on windows, and those that cannot, with the reason.

The zoo's other entries are about the two forms after the pool; what these have of their own is what an
average commutes with, and what has a meaning at every position of a map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxpasses.miss_codes import MissCode
from zoo.bridges import HIDDEN, LayerNorm2d, after, between, chain
from zoo.entry import CHANNELS, CLASSES, Entry
from zoo.model import conv, linear, model, pooled

WIDE = (6, 4)
_WIDE_IMAGE = {"input_shapes": ((3, *WIDE),)}


def _pool() -> nn.Module:
    return nn.AdaptiveAvgPool2d(1)


def _grid(rows: int, columns: int, *bridges: nn.Module) -> Callable[[], dict[str, Any]]:
    """A head on a grid of the pooled map, VGG's shape."""
    steps = {f"bridge{index}": bridge for index, bridge in enumerate(bridges)}
    return lambda: {
        "pool": nn.AdaptiveAvgPool2d((rows, columns)),
        "flat": nn.Flatten(),
        "head": nn.Linear(CHANNELS * rows * columns, HIDDEN),
        **steps,
        "last": nn.Linear(HIDDEN, CLASSES),
    }


def _sum_of_heads(m: Any, x: Tensor) -> Tensor:
    features = pooled(m.stem(x))
    return (m.a(features) + m.b(features)) / 2


def _features_too(m: Any, x: Tensor) -> Any:
    features = pooled(m.stem(x))
    return m.head(features), features


def _named(m: Any, x: Tensor) -> dict[str, Tensor]:
    return {"logits": m.head(pooled(m.stem(x)))}


def _tempered(m: Any, x: Tensor) -> Tensor:
    return m.head(pooled(m.stem(x)) / m.temperature) * m.temperature + 1


class Tempered(nn.Module):
    """A learned temperature, read by the graph itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.temperature = nn.Parameter(torch.tensor([1.7]))
        self.head = linear()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return _tempered(self, x)


def _tempered_model() -> nn.Module:
    torch.manual_seed(0)
    return Tempered()


def _two(between_them: Callable[[], nn.Module]) -> Callable[[], dict[str, Any]]:
    return lambda: {
        "pool": _pool(),
        "flat": nn.Flatten(),
        "first": linear(CHANNELS, HIDDEN),
        "bridge": between_them(),
        "head": linear(HIDDEN, CLASSES),
    }


def _conv_only() -> dict[str, Any]:
    return {"pool": _pool(), "head": conv()}


def _adaptive_mean() -> dict[str, Any]:
    return {"pool": _pool(), "mean": lambda x: x.mean([2, 3]), "head": linear()}


# after the pool; each can stand before it
def _with_vector(m: Any, x: Tensor) -> Tensor:
    return m.head(pooled(m.stem(x)) + m.offset.bias)


DENSE: tuple[Entry, ...] = (
    between("dense_dropout", nn.Dropout),
    between("dense_batch_norm", lambda: nn.BatchNorm1d(CHANNELS)),
    between("dense_dropout2d", nn.Dropout2d, flat=False),
    after("dense_softmax_after", lambda x: x.softmax(1)),
    after("dense_scaled_after", lambda x: 3 - x * 0.5),
    model("dense_vector", _with_vector, lambda: {"head": linear(), "offset": linear(3, CHANNELS)}),
    chain(
        "dense_batch_norm_after",
        lambda: {"pool": _pool(), "flat": nn.Flatten(), "head": linear(), "norm": nn.BatchNorm1d(CLASSES)},
    ),
    chain("dense_two_linears", _two(nn.Dropout), sites=("first", "head")),
    chain("dense_mean_twice", lambda: {"pool": lambda x: x.mean(3).mean(2), "head": linear()}),
    chain(
        "dense_mean_twice_keepdim",
        lambda: {
            "pool": lambda x: x.mean(3, keepdim=True).mean(2, keepdim=True),
            "flat": lambda x: x.view(x.size(0), -1),
            "head": linear(),
        },
    ),
    chain("dense_adaptive_mean", _adaptive_mean),
    chain("dense_mean", lambda: {"pool": lambda x: x.mean((-2, -1)), "head": linear()}),
    chain(
        "dense_own_extent",
        lambda: {"pool": lambda x: F.avg_pool2d(x, x.shape[2:]), "flat": nn.Flatten(), "head": linear()},
    ),
    chain("dense_conv_only", _conv_only, form="conv"),
    chain(
        "dense_1d",
        lambda: {"pool": nn.AdaptiveAvgPool1d(1), "flat": nn.Flatten(), "head": linear()},
        rank=1,
        input_shapes=((3, 7),),
    ),
    chain(
        "dense_3d",
        lambda: {"pool": nn.AdaptiveAvgPool3d(1), "flat": nn.Flatten(), "head": linear()},
        rank=3,
        input_shapes=((3, 2, 3, 4),),
    ),
    model("dense_features_too", _features_too, lambda: {"head": linear()}),
    model("dense_sum_of_heads", _sum_of_heads, lambda: {"a": linear(), "b": linear()}, sites=("a", "b")),
    model("dense_named", _named, lambda: {"head": linear()}),
    Entry(name="dense_temperature", make=_tempered_model),
)


def _author(name: str, steps: Callable[[], dict[str, Any]], **facts: Any) -> Entry:
    return chain(name, steps, form="dense", **facts)


# before the pool as their author wrote them
WRITTEN_DENSE: tuple[Entry, ...] = (
    _author("author_dense", lambda: {"head": conv(), "pool": _pool(), "flat": nn.Flatten()}),
    _author("author_dense_mean", lambda: {"head": conv(), "pool": lambda x: x.mean([2, 3])}),
    _author(
        "author_dense_norm",
        lambda: {"head": conv(), "norm": nn.BatchNorm2d(CLASSES), "pool": _pool(), "flat": nn.Flatten()},
    ),
    _author(
        "author_dense_two",
        lambda: {
            "first": conv(CHANNELS, HIDDEN),
            "drop": nn.Dropout(),
            "head": conv(HIDDEN),
            "pool": _pool(),
            "flat": nn.Flatten(),
        },
        sites=("first", "head"),
    ),
)


def _no(entry: Entry, *misses: tuple[str, MissCode]) -> Entry:
    return dataclasses.replace(entry, misses=misses)


def _every(entry: Entry, code: MissCode) -> Entry:
    return _no(entry, *((site, code) for site in entry.sites))


def _squeeze_excite(m: Any, x: Tensor) -> Tensor:
    maps = m.stem(x)
    gate = torch.sigmoid(m.fc2(torch.relu(m.fc1(F.adaptive_avg_pool2d(maps, 1)))))
    return m.head(pooled(maps * gate))


def _tokens(m: Any, x: Tensor) -> Tensor:
    return m.head(m.stem(x).flatten(2).transpose(1, 2).mean(1))


def _in_place(m: Any, x: Tensor) -> Tensor:
    return m.head(F.adaptive_avg_pool2d(m.stem(x), 1).mul_(2).flatten(1))


def _tied(m: Any, x: Tensor) -> Any:
    features = pooled(m.stem(x))
    return m.a(features), m.b(features.relu())


def _tied_modules() -> dict[str, nn.Module]:
    a, b = linear(), linear()
    b.weight = a.weight
    return {"a": a, "b": b}


def _moving_conv() -> nn.Module:
    return nn.Conv2d(CHANNELS, CLASSES, 1, stride=2)


# in the linear or convolution form, and not to be had before the pool
NOT_DENSE: tuple[Entry, ...] = (
    _every(between("not_dense_relu", nn.ReLU), MissCode.NONLINEAR),
    _every(between("not_dense_square", lambda: lambda x: x * x), MissCode.NONLINEAR),
    _every(between("not_dense_inverse", lambda: lambda x: 1 / (x + 9)), MissCode.NONLINEAR),
    _every(between("not_dense_layer_norm", lambda: nn.LayerNorm(CHANNELS)), MissCode.NONLINEAR),
    _every(chain("not_dense_two", _two(nn.Hardswish), sites=("first", "head")), MissCode.NONLINEAR),
    _every(chain("not_dense_grid", _grid(3, 2), sites=("head", "last"), **_WIDE_IMAGE), MissCode.POOL_GRID),
    _every(
        chain(
            "not_dense_max",
            lambda: {"pool": nn.AdaptiveMaxPool2d(1), "flat": nn.Flatten(), "head": linear()},
        ),
        MissCode.POOL_KIND,
    ),
    _every(
        chain("not_dense_sum", lambda: {"pool": lambda x: x.sum([2, 3]), "head": linear()}),
        MissCode.POOL_KIND,
    ),
    _every(
        chain(
            "not_dense_padded",
            lambda: {"pool": nn.AvgPool2d((7, 6), padding=1), "flat": nn.Flatten(), "head": linear()},
            needs_inputs=True,
        ),
        MissCode.POOL_KIND,
    ),
    _every(model("not_dense_tokens", _tokens, lambda: {"head": linear()}), MissCode.POOL_KIND),
    _every(model("not_dense_in_place", _in_place, lambda: {"head": linear()}), MissCode.IN_PLACE_ALIAS),
    _no(
        model("not_dense_tied", _tied, _tied_modules, sites=("a", "b")),
        ("a", MissCode.TIED_WEIGHT),
        ("b", MissCode.NONLINEAR),
    ),
    _every(
        chain("not_dense_stride", lambda: {"pool": _pool(), "head": _moving_conv()}, form="conv"),
        MissCode.KERNEL,
    ),
)
SIDE_BRANCH = model(
    "side_branch",
    _squeeze_excite,
    lambda: {"fc1": conv(CHANNELS, 4), "fc2": conv(4, CHANNELS), "head": linear()},
    pooled_sites=("fc1", "fc2", "head"),
)


def _softmax_last(m: Any, x: Tensor) -> Tensor:
    return m.head(pooled(m.stem(x))).softmax(-1)


# on windows of the size that the zoo's inputs have
WINDOWED: tuple[Entry, ...] = (
    between("fcn_relu", nn.ReLU),
    between("fcn_layer_norm", lambda: nn.LayerNorm(CHANNELS)),
    between("fcn_layer_norm_2d", lambda: LayerNorm2d(CHANNELS), flat=False),
    between("fcn_batch_norm", lambda: nn.BatchNorm1d(CHANNELS)),
    after("fcn_scaled_after", lambda x: torch.sigmoid(x * 2)),
    model("fcn_softmax_last", _softmax_last, lambda: {"head": linear()}),
    chain("fcn_two", _two(nn.Hardswish), sites=("first", "head")),
    chain("fcn_mean_twice", lambda: {"pool": lambda x: x.mean(3).mean(2), "head": linear()}),
    chain("fcn_conv_only", _conv_only, form="conv"),
    chain("fcn_grid_whole", _grid(*WIDE, nn.ReLU()), sites=("head", "last"), **_WIDE_IMAGE),
    chain("fcn_grid_half", _grid(3, 2, nn.ReLU()), sites=("head", "last"), **_WIDE_IMAGE),
    chain("fcn_grid_mixed", _grid(2, 4, nn.ReLU()), sites=("head", "last"), **_WIDE_IMAGE),
    chain("fcn_grid_row", _grid(1, 2, nn.ReLU()), sites=("head", "last"), **_WIDE_IMAGE),
    chain(
        "fcn_window",
        lambda: {"pool": nn.AvgPool2d((5, 4)), "flat": nn.Flatten(), "head": linear()},
        needs_inputs=True,
    ),
    chain(
        "fcn_1d",
        lambda: {"pool": nn.AdaptiveAvgPool1d(2), "flat": nn.Flatten(), "head": linear(2 * CHANNELS)},
        rank=1,
        input_shapes=((3, 6),),
    ),
    chain(
        "fcn_3d",
        lambda: {"pool": nn.AdaptiveAvgPool3d(1), "flat": nn.Flatten(), "head": linear()},
        rank=3,
        input_shapes=((3, 2, 3, 4),),
    ),
    chain(
        "fcn_mean_after",
        lambda: {"pool": _pool(), "head": conv(), "mean": lambda x: x.mean((2, 3))},
        form="conv",
    ),
    model("fcn_features_too", _features_too, lambda: {"head": linear()}),
    model("fcn_named", _named, lambda: {"head": linear()}),
)


def _grouped(m: Any, x: Tensor) -> Tensor:
    return m.head(m.norm(F.adaptive_avg_pool2d(m.stem(x), 1)).flatten(1))


def _joined(m: Any, x: Tensor) -> Tensor:
    return torch.cat([m.head(pooled(m.stem(x))), x[:, 0, 0]], 1)


def _centred(m: Any, x: Tensor) -> Tensor:
    features = pooled(m.stem(x))
    return m.head(features) - features.mean(1, keepdim=True)


NOT_WINDOWED: tuple[Entry, ...] = (
    _every(chain("not_fcn_grid", _grid(4, 3), sites=("head", "last"), **_WIDE_IMAGE), MissCode.WINDOW),
    _every(
        chain(
            "not_fcn_window",
            lambda: {"pool": nn.AvgPool2d((4, 4)), "flat": nn.Flatten(), "head": linear()},
            needs_inputs=True,
        ),
        MissCode.WINDOW,
    ),
    _every(
        model(
            "not_fcn_group_norm",
            _grouped,
            lambda: {"norm": nn.GroupNorm(2, CHANNELS), "head": linear()},
        ),
        MissCode.NOT_A_MAP,
    ),
    _every(
        model("not_fcn_vector", _with_vector, lambda: {"head": linear(), "offset": linear(3, CHANNELS)}),
        MissCode.NOT_A_MAP,
    ),
    _every(model("not_fcn_joined", _joined, lambda: {"head": linear()}), MissCode.NOT_A_MAP),
    _every(model("not_fcn_centred", _centred, lambda: {"head": linear()}), MissCode.NOT_A_MAP),
    _every(
        chain(
            "not_fcn_turned",
            lambda: {
                "pool": _pool(),
                "flat": nn.Flatten(),
                "head": linear(),
                "turned": lambda x: x.transpose(0, 1),
            },
        ),
        MissCode.NOT_A_MAP,
    ),
    _every(
        chain(
            "not_fcn_max",
            lambda: {"pool": nn.AdaptiveMaxPool2d(1), "flat": nn.Flatten(), "head": linear()},
        ),
        MissCode.POOL_KIND,
    ),
    _every(model("not_fcn_tokens", _tokens, lambda: {"head": linear()}), MissCode.POOL_KIND),
    _every(
        chain("not_fcn_stride", lambda: {"pool": _pool(), "head": _moving_conv()}, form="conv"),
        MissCode.KERNEL,
    ),
)
