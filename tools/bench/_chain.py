"""Synthetic graphs of any length: convolution, batch norm and ReLU over and over, then a head."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn import functional as F

CHANNELS = 8
CLASSES = 10
# modules are called again after so many blocks: building a million would measure nn.Module
DISTINCT_BLOCKS = 1000


class _Head(nn.Module):
    """The head's own parameters; its ops are nodes of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, CHANNELS))
        self.bias = nn.Parameter(torch.randn(CLASSES))


def chain(nodes: int) -> fx.GraphModule:
    """A traced model of about ``nodes`` nodes with a functional head, built without tracing."""
    root = nn.Module()
    blocks = max(1, (nodes - 7) // 3)
    with torch.device("meta"):
        for index in range(min(blocks, DISTINCT_BLOCKS)):
            root.add_module(f"conv{index}", nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1))
            root.add_module(f"bn{index}", nn.BatchNorm2d(CHANNELS))
            root.add_module(f"relu{index}", nn.ReLU())
    root.add_module("head", _Head())
    graph = fx.Graph()
    value = graph.placeholder("x")
    for index in range(blocks):
        for kind in ("conv", "bn", "relu"):
            value = graph.call_module(f"{kind}{index % DISTINCT_BLOCKS}", (value,))
    pooled = graph.call_function(F.adaptive_avg_pool2d, (value, 1))
    flat = graph.call_function(torch.flatten, (pooled, 1))
    weight, bias = graph.get_attr("head.weight"), graph.get_attr("head.bias")
    graph.output(graph.call_function(F.linear, (flat, weight, bias)))
    return fx.GraphModule(root, graph)


def linear_pattern(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The head of ``chain``, in the one spelling that it has."""
    return F.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1), weight, bias)


def conv_pattern(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The same as a convolution, the weight being viewed at run time for want of anything better."""
    kernel = weight.view(CLASSES, CHANNELS, 1, 1)
    return torch.flatten(F.conv2d(F.adaptive_avg_pool2d(x, 1), kernel, bias), 1)
