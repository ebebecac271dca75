"""Large and deep graphs: nothing recurses by depth, and nothing takes more than its share of the nodes."""

from __future__ import annotations

import cProfile
import inspect
import operator
import pstats
import sys
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from bench._growth import blocks, heads, layers, pooled_heads
from fxpasses import rewrite
from fxpasses.miss_codes import MissCode

DEEP = 1_500  # more than Python's own limit of calls


def deep_chain(tail: Callable[[fx.Graph, fx.Node], fx.Node]) -> fx.GraphModule:
    """A map that each of many sums reads twice, then ``tail``."""
    root, graph = nn.Module(), fx.Graph()
    root.add_module("conv", nn.Conv2d(3, 4, 1))
    root.add_module("last", nn.Conv2d(4, 2, 1))
    root.add_module("fc", nn.Linear(4, 2))
    value = graph.call_module("conv", (graph.placeholder("x"),))
    for _ in range(DEEP):
        value = graph.call_function(operator.add, (value, value))
        value = graph.call_function(operator.mul, (value, 0.5))
    graph.output(tail(graph, value))
    return fx.GraphModule(root, graph)


def to_head(graph: fx.Graph, value: fx.Node) -> fx.Node:
    pooled = graph.call_function(F.adaptive_avg_pool2d, (value, 1))
    return graph.call_module("fc", (graph.call_function(torch.flatten, (pooled, 1)),))


def to_dense_head(graph: fx.Graph, value: fx.Node) -> fx.Node:
    scores = graph.call_module("last", (value,))
    summed = graph.call_function(operator.add, (scores, value))
    return graph.call_method("mean", (summed, (2, 3)))


def sizes_of_sizes(graph: fx.Graph, value: fx.Node) -> fx.Node:
    size = graph.call_method("size", (value, 0))
    for _ in range(DEEP):
        size = graph.call_function(operator.mul, (size, size))
        size = graph.call_function(operator.floordiv, (size, 2))
    pooled = graph.call_function(F.adaptive_avg_pool2d, (value, 1))
    return graph.call_module("fc", (graph.call_method("view", (pooled, size, -1)),))


def constants(graph: fx.Graph, value: fx.Node) -> fx.Node:
    factor = graph.get_attr("conv.bias")
    for _ in range(DEEP):
        factor = graph.call_function(operator.add, (factor, factor))
    pooled = graph.call_function(F.adaptive_avg_pool2d, (value, 1))
    flat = graph.call_function(torch.flatten, (pooled, 1))
    return graph.call_module("fc", (graph.call_function(operator.mul, (flat, factor)),))


@pytest.mark.parametrize("to", ["conv", "dense"])
@pytest.mark.parametrize("tail", [to_head, to_dense_head, sizes_of_sizes, constants])
def test_depth_is_no_recursion(tail: Callable[[fx.Graph, fx.Node], fx.Node], to: str) -> None:
    report = rewrite(deep_chain(tail), to=to).report
    if tail is sizes_of_sizes:
        assert {miss.code for miss in report.misses} >= {MissCode.UNKNOWN_LAYOUT}
    assert report.rewrites or report.misses


def test_a_deep_residual_model_becomes_convolutions() -> None:
    model, x = blocks(120), torch.randn(2, 5, 4)
    rewrite(blocks(1), to="conv", scope="all", example_inputs=x)  # imports go deep as well
    limit, depth = sys.getrecursionlimit(), len(inspect.stack(0))
    sys.setrecursionlimit(depth + 220)  # fewer than two for each of its sums
    try:
        result = rewrite(model, to="conv", scope="all", example_inputs=x)
    finally:
        sys.setrecursionlimit(limit)
    assert len(result.report.rewrites) == 240
    torch.testing.assert_close(result.module(x), model(x))


@pytest.mark.parametrize("to", ["conv", "dense"])
@pytest.mark.parametrize("build", [heads, pooled_heads, layers])
def test_four_times_the_heads_take_four_times_the_calls(
    build: Callable[[int], fx.GraphModule], to: str
) -> None:
    assert _calls(build(160), to) <= 4.4 * _calls(build(40), to)


def _calls(model: fx.GraphModule, to: str) -> float:
    """Calls of Python functions by a rewrite there and back: the same number in every run."""
    profile = cProfile.Profile()
    profile.enable()
    there = rewrite(model, to=to)
    back = rewrite(there.module, to="linear")
    profile.disable()
    assert len(back.report.rewrites) == len(there.report.rewrites) > 1
    return float(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]  # typeshed lacks it


def test_an_output_is_written_as_often_for_forty_heads_as_for_four(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    for name in ("__setattr__", "replace_input_with"):
        method = getattr(fx.Node, name)

        def counted(node: fx.Node, *arguments: object, method: Callable[..., None] = method) -> None:
            written.extend([node.op] if node.op == "output" else ())
            method(node, *arguments)

        monkeypatch.setattr(fx.Node, name, counted)
    counts = []
    for size in (4, 40):
        written.clear()
        _calls(pooled_heads(size), "conv")
        counts.append(len(written))
    assert 0 < counts[0] == counts[1]
