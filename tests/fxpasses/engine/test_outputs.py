"""Which outputs are maps of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import fx, nn

from fxpasses.engine.outputs import count_maps
from fxpasses.vocabulary.vocabulary import Vocabulary


class Model(nn.Module):
    def __init__(self, function: Callable[[Any, Any], Any], inner: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.inner = fx.symbolic_trace(inner)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        return isinstance(m, fx.GraphModule) or super().is_leaf_module(m, name)


@pytest.mark.parametrize(
    ("function", "inner", "count"),
    [
        (lambda m, x: (x.mean((2, 3)), x), nn.ReLU(), 1),
        (lambda m, x: (x.mean((2, 3)).relu(), x), nn.ReLU(), 1),
        (lambda m, x: (x.mean((2, 3)), x, x), nn.ReLU(), 2),
        (lambda m, x: (x, x.mean((2, 3))), nn.ReLU(), 0),
        (lambda m, x: (x.amax((2, 3)), x), nn.ReLU(), 0),
        (lambda m, x: (m.fc(x.mean((2, 3))), x), nn.ReLU(), 0),
        (lambda m, x: (m.inner(x.mean((2, 3))), x), nn.ReLU(), 1),
        (lambda m, x: (m.inner(x.mean((2, 3))), x), nn.Linear(4, 4), 0),
        (lambda m, x: x.mean((2, 3)), nn.ReLU(), 0),
    ],
    ids=["map", "behind", "two", "order", "maximum", "features", "subgraph", "subgraph-linear", "alone"],
)
def test_maps_are_what_averages_of_them_lead_to(
    function: Callable[[Any, Any], Any], inner: nn.Module, count: int
) -> None:
    model = Model(function, nn.Sequential(inner))
    graph = _Tracer().trace(model)
    assert count_maps(graph, Vocabulary(model)) == count
