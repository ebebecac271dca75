"""Graphs that grow in one respect each, to see how the time of a rewrite grows with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import fx, nn
from torch.nn import functional as F

from bench._chain import chain

CHANNELS, CLASSES = 4, 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A rewrite at two sizes.

    Attributes:
        what: what grows.
        build: makes the model of a size.
        sizes: the smaller and the larger one.
        to: the form.
        scope: the scope.
        example: an input where the rewrite needs one.
    """

    what: str
    build: Callable[[int], fx.GraphModule]
    sizes: tuple[int, int]
    to: str
    scope: str = "head"
    example: torch.Tensor | None = None


def heads(count: int) -> fx.GraphModule:
    """Many Linears on one pool."""
    root, graph = _root(count), fx.Graph()
    flat = _pooled(graph, graph.call_module("conv", (graph.placeholder("x"),)))
    graph.output(tuple(graph.call_module(f"fc{index}", (flat,)) for index in range(count)))
    return fx.GraphModule(root, graph)


def pooled_heads(count: int) -> fx.GraphModule:
    """Many Linears, each on a pool of its own."""
    root, graph = _root(count), fx.Graph()
    features = graph.call_module("conv", (graph.placeholder("x"),))
    pooled = [_pooled(graph, features) for _ in range(count)]
    graph.output(tuple(graph.call_module(f"fc{index}", (flat,)) for index, flat in enumerate(pooled)))
    return fx.GraphModule(root, graph)


def layers(count: int) -> fx.GraphModule:
    """Many Linears one behind the other."""
    root, graph = _root(count, CHANNELS), fx.Graph()
    value = _pooled(graph, graph.call_module("conv", (graph.placeholder("x"),)))
    for index in range(count):
        value = graph.call_module(f"fc{index}", (value,))
    graph.output(value)
    return fx.GraphModule(root, graph)


def blocks(count: int) -> fx.GraphModule:
    """Residual blocks ``x + b(gelu(a(norm(x))))`` on tokens."""
    root, graph = nn.Module(), fx.Graph()
    value = graph.placeholder("x")
    for index in range(count):
        root.add_module(f"norm{index}", nn.LayerNorm(CHANNELS))
        root.add_module(f"a{index}", nn.Linear(CHANNELS, 8))
        root.add_module(f"b{index}", nn.Linear(8, CHANNELS))
        inner = graph.call_module(f"a{index}", (graph.call_module(f"norm{index}", (value,)),))
        inner = graph.call_module(f"b{index}", (graph.call_function(F.gelu, (inner,)),))
    graph.output(value)
    return fx.GraphModule(root, graph)


def _root(count: int, outputs: int = CLASSES) -> nn.Module:
    root = nn.Module()
    root.add_module("conv", nn.Conv2d(3, CHANNELS, 1))
    for index in range(count):
        root.add_module(f"fc{index}", nn.Linear(CHANNELS, outputs))
    return root


def _pooled(graph: fx.Graph, features: fx.Node) -> fx.Node:
    pooled = graph.call_function(F.adaptive_avg_pool2d, (features, 1))
    return graph.call_function(torch.flatten, (pooled, 1))


GROWTHS = (
    Growth(what="heads on one pool", build=heads, sizes=(1_000, 4_000), to="conv"),
    Growth(what="heads on one pool", build=heads, sizes=(250, 1_000), to="dense"),
    Growth(what="heads on pools of their own", build=pooled_heads, sizes=(500, 2_000), to="conv"),
    Growth(what="heads on pools of their own", build=pooled_heads, sizes=(250, 1_000), to="dense"),
    Growth(what="layers of one head", build=layers, sizes=(500, 2_000), to="dense"),
    Growth(
        what="residual blocks",
        build=blocks,
        sizes=(200, 800),
        to="conv",
        scope="all",
        example=torch.zeros(2, 5, CHANNELS),
    ),
    Growth(what="nodes of a backbone", build=chain, sizes=(10_000, 100_000), to="conv"),
)
