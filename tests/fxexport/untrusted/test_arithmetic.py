"""What a graph computes beside its tensors stays small, or the graph is refused before it runs."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import pytest
import torch
from torch.fx import Graph, Node, symbolic_trace

from fxexport.untrusted.arithmetic import require_small_numbers
from fxexport.untrusted.refused import Refused

Build = Callable[[Graph, Node], object]


def graph_of(build: Build) -> Graph:
    graph = Graph()
    x = graph.placeholder("x")
    build(graph, x)
    graph.output(x)
    return graph


def repeatedly(times: int, function: object, first: Callable[[Graph, Node], Node]) -> Build:
    def build(graph: Graph, x: Node) -> None:
        value = first(graph, x)
        for _ in range(times):
            value = graph.call_function(function, (value, value))  # type: ignore[arg-type]

    return build


def size(graph: Graph, x: Node) -> Node:
    return graph.call_method("size", (x, 0))


def shape(graph: Graph, x: Node) -> Node:
    return graph.call_function(getattr, (x, "shape"))


def rounded(graph: Graph, x: Node) -> None:
    """Rounding an integer gives it back, however large."""
    value = size(graph, x)
    for _ in range(20):
        value = graph.call_function(int, (graph.call_function(operator.pow, (value, 16)),))


GROWING: dict[str, Build] = {
    "a power of constants": lambda graph, x: graph.call_function(operator.pow, (10, 10**8)),
    "a computed exponent": lambda graph, x: graph.call_function(operator.pow, (2, size(graph, x))),
    "a product, doubled": repeatedly(60, operator.mul, size),
    "a shift of constants": lambda graph, x: graph.call_function(operator.lshift, (1, 10**9)),
    "a computed shift": lambda graph, x: graph.call_function(operator.lshift, (1, size(graph, x))),
    "a repeated shape": lambda graph, x: graph.call_function(operator.mul, (shape(graph, x), 10**9)),
    "a repeated size": lambda graph, x: graph.call_function(
        operator.mul, (graph.call_method("size", (x,)), 10**9)
    ),
    "a repeated shape of a broadcast": lambda graph, x: graph.call_function(
        operator.mul, (graph.call_function(torch.broadcast_shapes, (shape(graph, x), (1,))), 10**9)
    ),
    "a number of elements, doubled": repeatedly(
        60, operator.mul, lambda graph, x: graph.call_function(torch.numel, (x,))
    ),
    "an operator's size, doubled": repeatedly(
        60, operator.mul, lambda graph, x: graph.call_function(torch.ops.aten.sym_size.int, (x, 0))
    ),
    "a tensor's elements": lambda graph, x: graph.call_method("tolist", (x,)),
    "a repeated text": lambda graph, x: graph.call_function(operator.mul, ("a", 10**9)),
    "a shape repeated as often as its size": lambda graph, x: graph.call_function(
        operator.mul, (shape(graph, x), size(graph, x))
    ),
    "a sum of shapes, doubled": repeatedly(60, operator.add, shape),
    "a rounded power, again and again": rounded,
    "the product of a power of sizes": lambda graph, x: graph.call_function(
        math.prod, (graph.call_function(operator.mul, (shape(graph, x), 10)),)
    ),
    "a sequence in a sequence": lambda graph, x: graph.call_function(
        operator.mul, (graph.call_function(operator.getitem, ((shape(graph, x),), 0)), 10**9)
    ),
    "the sum of sequences": lambda graph, x: graph.call_function(
        operator.mul, (graph.call_function(sum, (((1,),), ())), 10**9)
    ),
    "an element of a tensor": lambda graph, x: graph.call_function(
        operator.pow, (3, graph.call_method("item", (x,)))
    ),
}


@pytest.mark.parametrize("name", GROWING)
def test_what_can_grow_without_bounds_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="limit"):
        require_small_numbers(graph_of(GROWING[name]))


class Honest(torch.nn.Module):
    """What models do with sizes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sizes into views, scales and roots."""
        batch, channels, height, width = x.shape[0], x.shape[1], x.shape[2], x.size(3)
        n = height * width // 2
        y = x.view(batch, channels, n, 2).transpose(1, 2).reshape(operator.add(x.shape[:2], (n * 2,)))
        for _ in range(200):
            y = y * y + 2**y * (x.size(-1) ** -0.5)
        scale = (channels + 7) // 8 * 8
        return y.expand(operator.add(x.size()[:1], (-1, n * 2))) * scale**2


def test_what_models_do_is_not() -> None:
    require_small_numbers(symbolic_trace(Honest()).graph)
