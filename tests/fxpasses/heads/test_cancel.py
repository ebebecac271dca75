"""Which values move between map and flat form, which views cancel, and which die."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from fxpasses.heads.cancel import Moves, component, decide
from fxpasses.heads.region import Region, scan
from fxpasses.report import Form
from fxpasses.vocabulary.ops import Affine
from fxpasses.vocabulary.vocabulary import Vocabulary


class Model(nn.Module):
    """A function of a map and of layers that fit it."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.function = function
        self.fc, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.conv, self.point = nn.Conv2d(4, 4, 2), nn.Conv2d(4, 3, 1)
        self.norm = nn.BatchNorm1d(4)
        self.twice = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is decided for a function, as names of nodes in graph order."""

    name: str
    to: Form
    function: Callable[[Any, Any], Any]
    moved: str
    bypassed: str = ""
    dead: str = ""


def pool(x: Any, size: int = 1) -> Any:
    return F.adaptive_avg_pool2d(x, size)


def parallel(m: Any, x: Any) -> Any:
    flat = pool(x).flatten(1)
    return m.fc(flat) + flat


def branch(m: Any, x: Any) -> Any:
    flat = pool(x).flatten(1)
    return m.fc(flat), flat.sigmoid().relu()


CASES = (
    Case("one site", Form.CONV, lambda m, x: m.fc(pool(x).flatten(1)), "fc", dead="flatten"),
    Case(
        "one site back", Form.LINEAR, lambda m, x: m.conv(pool(x, 2)).flatten(1), "conv", "flatten", "flatten"
    ),
    Case("two sites", Form.CONV, lambda m, x: m.last(m.fc(pool(x).flatten(1))), "fc last", dead="flatten"),
    Case(
        "an elementwise op on the way",
        Form.CONV,
        lambda m, x: m.last(m.fc(pool(x).flatten(1)).relu()),
        "fc relu last",
        dead="flatten",
    ),
    Case(
        "an elementwise op that nobody wants moved",
        Form.CONV,
        lambda m, x: m.fc(pool(x).flatten(1)).relu(),
        "fc",
        dead="flatten",
    ),
    Case("a mean", Form.CONV, lambda m, x: m.fc(x.mean((2, 3))), "mean fc"),
    Case(
        "a mean back",
        Form.LINEAR,
        lambda m, x: m.point(x.mean((2, 3), True)).flatten(1),
        "mean point",
        "flatten",
        "flatten",
    ),
    Case("a norm", Form.CONV, lambda m, x: m.fc(m.norm(pool(x).flatten(1))), "norm fc", dead="flatten"),
    Case(
        "a norm that is called twice",
        Form.CONV,
        lambda m, x: m.fc(m.twice(m.twice(pool(x).flatten(1)))),
        "fc",
    ),
    Case(
        "a vector in between",
        Form.CONV,
        lambda m, x: m.fc(pool(x).flatten(1) * m.scale),
        "mul fc",
        dead="flatten",
    ),
    Case("a view that is read elsewhere", Form.CONV, parallel, "fc"),
    Case("a branch without a site", Form.CONV, branch, "fc"),
    Case(
        "a map that becomes a map again",
        Form.CONV,
        lambda m, x: m.point(m.fc(pool(x).flatten(1)).unflatten(1, (4, 1, 1))),
        "fc",
        "unflatten",
        "flatten unflatten",
    ),
)


def decided(case: Case) -> tuple[Region, Moves]:
    traced = fx.symbolic_trace(Model(case.function))
    vocabulary = Vocabulary(traced)
    region = scan(traced.graph, vocabulary)
    sites = {
        node for node, value in region.values.items()
        if isinstance(value.op, Affine) and value.op.form is not case.to
    }  # fmt: skip
    return region, decide(region, vocabulary, frozenset(sites), case.to)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_decided(case: Case) -> None:
    region, moves = decided(case)
    found = [
        " ".join(node.name for node in region.values if node in chosen)
        for chosen in (moves.moved, moves.bypassed, moves.dead)
    ]
    assert found == [case.moved, case.bypassed, case.dead]


def test_heads_that_share_nothing_are_apart() -> None:
    traced = fx.symbolic_trace(Model(lambda m, x: (m.fc(x.mean((2, 3))), m.point(pool(x)))))
    region = scan(traced.graph, Vocabulary(traced))
    first, second = (next(node for node in region.values if node.name == name) for name in ("fc", "point"))
    parts = [sorted(node.name for node in component(region, node)) for node in (first, second)]
    assert parts == [["fc", "mean"], ["adaptive_avg_pool2d", "point"]]
