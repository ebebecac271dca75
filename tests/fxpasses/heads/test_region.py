"""Where the pooled region of a graph starts, how it goes on, and where it ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from fxpasses.graph.shapes import propagate
from fxpasses.heads.region import PooledValue, Region, scan
from fxpasses.vocabulary.vocabulary import Vocabulary


class Model(nn.Module):
    """A stem that makes a map of 4 channels, and a function of the map."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.function = function
        self.stem = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)
        self.grid = nn.Linear(16, 5)
        self.point = nn.Conv2d(4, 4, 1)
        self.trunk = nn.Parameter(torch.ones(4, 4, 1, 1))
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Any) -> Any:
        return self.function(self, self.stem(x))


@dataclasses.dataclass(frozen=True)
class Case:
    """A function of the map, and what is said of each pooled value in graph order; ``shaped`` with shapes."""

    name: str
    function: Callable[[Any, Any], Any]
    expected: str
    shaped: str = ""


def region_of(function: Callable[[Any, Any], Any], example: torch.Tensor | None) -> Region:
    traced = fx.symbolic_trace(Model(function))
    shapes = None if example is None else propagate(traced.graph, traced, (example,))
    return scan(traced.graph, Vocabulary(traced), shapes)


def said(value: PooledValue) -> str:
    """``4@1x1 (N)(C)``: the channels, the extents of the map, the axes."""
    layout = value.layout
    if layout is None:
        return str(value.problem.code) if value.problem else "?"
    extents = "x".join("?" if extent is None else str(extent) for extent in layout.extents)
    axes = "".join(f"({''.join(map(str, axis))})" for axis in layout.axes)
    return f"{layout.channels or '?'}@{extents} {axes}"


def told(region: Region) -> str:
    presumed = ["presumed"] if region.is_presumed else []
    return "; ".join([*map(said, region.values.values()), *presumed])


def pool(u: Any, size: Any = 1) -> Any:
    return F.adaptive_avg_pool2d(u, size)


def windows_of_its_own_size(m: Any, u: Any) -> Any:
    return F.avg_pool2d(u, u.shape[2:])


def squeeze_excite(m: Any, u: Any) -> Any:
    return u * torch.sigmoid(m.point(pool(u)))


CASES = (
    Case(
        "adaptive pool",
        lambda m, u: pool(u, 2),
        "4@2x2 (N)(C)(0)(1)",
    ),
    Case(
        "adaptive pool that keeps an axis",
        lambda m, u: pool(u, (1, None)),
        "4@1x? (N)(C)()(1); presumed",
        shaped="4@1x4 (N)(C)()(1)",
    ),
    Case(
        "windows of the map's own size",
        windows_of_its_own_size,
        "4@1x1 (N)(C)()()",
    ),
    Case(
        "windows before a linear",
        lambda m, u: m.fc(F.avg_pool2d(u, 4).flatten(1)),
        "4@?x? (N)(C)(0)(1); 4@?x? (N)(C01); 5@1x1 (N)(C); presumed",
        shaped="4@1x1 (N)(C)()(); 4@1x1 (N)(C); 5@1x1 (N)(C)",
    ),
    Case(
        "windows before nothing",
        lambda m, u: F.avg_pool2d(u, 4),
        "",
        shaped="4@1x1 (N)(C)()()",
    ),
    Case(
        "windows in the trunk",
        lambda m, u: F.conv2d(F.max_pool2d(u, 2), m.trunk).relu().mean((2, 3)),
        "4@?x? (N)(C)(0)(1); 4@?x? (N)(C)(0)(1); 4@?x? (N)(C)(0)(1); 4@1x1 (N)(C); presumed",
        shaped="4@1x1 (N)(C)",
    ),
    Case(
        "mean",
        lambda m, u: u.mean((2, 3)),
        "4@1x1 (N)(C)",
    ),
    Case(
        "mean with keepdim",
        lambda m, u: u.mean((-2, -1), keepdim=True),
        "4@1x1 (N)(C)()()",
    ),
    Case(
        "means one after the other",
        lambda m, u: u.mean(3).mean(2),
        "4@?x1 (N)(C)(0); 4@1x1 (N)(C)",
    ),
    Case(
        "mean over channels",
        lambda m, u: u.mean(1),
        "",
    ),
    Case(
        "tokens",
        lambda m, u: m.fc(u.flatten(2).transpose(1, 2).mean(1)),
        "?@1 (N)(C); 5@1 (N)(C); presumed",
        shaped="4@1 (N)(C); 5@1 (N)(C)",
    ),
    Case(
        "flatten",
        lambda m, u: pool(u, 2).flatten(1),
        "4@2x2 (N)(C)(0)(1); 4@2x2 (N)(C01)",
    ),
    Case(
        "linear",
        lambda m, u: m.grid(pool(u, 2).flatten(1)),
        "4@2x2 (N)(C)(0)(1); 4@2x2 (N)(C01); 5@1x1 (N)(C)",
    ),
    Case(
        "linear of the map itself",
        lambda m, u: m.fc(pool(u, 4)),
        "4@4x4 (N)(C)(0)(1); ?; presumed",
    ),
    Case(
        "convolution",
        lambda m, u: m.point(pool(u, 3)),
        "4@3x3 (N)(C)(0)(1); 4@3x3 (N)(C)(0)(1)",
    ),
    Case(
        "sum of two",
        lambda m, u: pool(u) + pool(u),
        "4@1x1 (N)(C)()(); 4@1x1 (N)(C)()(); 4@1x1 (N)(C)()()",
    ),
    Case(
        "sum of two layouts",
        lambda m, u: pool(u) + u.mean((2, 3)),
        "4@1x1 (N)(C)()(); 4@1x1 (N)(C); ?; presumed",
    ),
    Case(
        "scaled by a parameter",
        lambda m, u: u.mean((2, 3)) * m.scale,
        "4@1x1 (N)(C); 4@1x1 (N)(C)",
    ),
    Case(
        "joined along the channels",
        lambda m, u: torch.cat([pool(u), pool(u)], 1),
        "4@1x1 (N)(C)()(); 4@1x1 (N)(C)()(); 8@1x1 (N)(C)()()",
    ),
    Case(
        "joined along the batch",
        lambda m, u: torch.cat([pool(u), pool(u)], 0),
        "4@1x1 (N)(C)()(); 4@1x1 (N)(C)()(); ?; presumed",
    ),
    Case(
        "joined with another vector",
        lambda m, u: torch.cat([pool(u).flatten(1), m.fc(u[:, :, 0, 0])], 1),
        "4@1x1 (N)(C)()(); 4@1x1 (N)(C); ?@1x1 (N)(C)",
        shaped="4@1x1 (N)(C)()(); 4@1x1 (N)(C); 9@1x1 (N)(C)",
    ),
    Case(
        "squeeze and excite",
        squeeze_excite,
        "4@1x1 (N)(C)()(); 4@1x1 (N)(C)()(); 4@1x1 (N)(C)()()",
    ),
    Case(
        "a norm of the last axis",
        lambda m, u: torch.softmax(u.mean((2, 3)), -1),
        "4@1x1 (N)(C); 4@1x1 (N)(C)",
    ),
    Case(
        "an op that nobody knows",
        lambda m, u: torch.cumsum(u.mean((2, 3)), 1).relu(),
        "4@1x1 (N)(C); ?; ?; presumed",
        shaped="4@1x1 (N)(C); 4@1x1 (N)(C); 4@1x1 (N)(C)",
    ),
    Case(
        "a view with a reason",
        lambda m, u: pool(u).squeeze().relu(),
        "4@1x1 (N)(C)()(); AMBIGUOUS_SQUEEZE; AMBIGUOUS_SQUEEZE; presumed",
    ),
    Case(
        "a size",
        lambda m, u: pool(u).view(u.size(0), -1),
        "4@1x1 (N)(C)()(); 4@1x1 (N)(C)",
    ),
    Case(
        "pooled again",
        lambda m, u: pool(pool(u, 4)),
        "4@4x4 (N)(C)(0)(1); 4@1x1 (N)(C)()()",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_region(case: Case) -> None:
    assert told(region_of(case.function, None)) == case.expected
    assert told(region_of(case.function, torch.zeros(2, 3, 6, 6))) == (case.shaped or case.expected)


@pytest.mark.parametrize("dims", [(-1,), (0, 0)])
def test_a_sum_over_a_vector_or_a_number_pools_no_map(dims: tuple[int, ...]) -> None:
    """It ended in an exception, for attention whose share is a sum over vectors of weights."""

    def shared(m: Any, u: Any) -> Any:
        share = m.scale
        for dim in dims:
            share = torch.sum(share, dim)
        return pool(u) * share

    assert told(region_of(shared, torch.zeros(2, 3, 6, 6))).startswith("4@1x1 (N)(C)()()")
