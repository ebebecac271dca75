"""A graph makes no tensor that nobody asked for: seen before it is run."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from fxexport.untrusted.refused import Refused
from fxexport.untrusted.tensor_budget import require_small_tensors

X = torch.zeros(2, 3, 8, 8)


def makes(*extents: int) -> fx.GraphModule:
    """A graph that makes a tensor of so many floats, and adds the first to its input."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    made = graph.call_function(torch.zeros, (extents,))
    graph.output(graph.call_function(torch.add, (x, graph.call_method("sum", (made,)))))
    return fx.GraphModule(nn.Module(), graph)


@pytest.mark.parametrize("extents", [(1 << 20, 1 << 12), (1 << 30,)])
def test_a_tensor_beyond_the_limit_is_refused(extents: tuple[int, ...]) -> None:
    with pytest.raises(Refused, match=r"makes a tensor of [0-9,]+ bytes, more than the limit of"):
        require_small_tensors(makes(*extents), [X])


def test_a_smaller_one_a_view_and_what_large_inputs_need_are_not() -> None:
    require_small_tensors(makes(1 << 20), [X])
    expanded = fx.Graph()
    x = expanded.placeholder("x")
    expanded.output(expanded.call_method("expand", (x, 1 << 30, 2, 3, 8, 8)))
    require_small_tensors(fx.GraphModule(nn.Module(), expanded), [X])
    large = torch.empty(2, 3, 4096, 4096, device="meta")
    wide = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU()).to("meta")
    require_small_tensors(fx.symbolic_trace(wide), [large])


def test_what_fails_in_another_way_is_left_to_the_run() -> None:
    require_small_tensors(fx.symbolic_trace(nn.Linear(5, 5)), [X])


def test_a_window_that_takes_for_ever_is_refused_and_an_honest_one_is_not() -> None:
    wide = fx.symbolic_trace(nn.Sequential(nn.LocalResponseNorm(1 << 18)))
    with pytest.raises(
        Refused, match=r"goes over a window of 262,144 elements for each of 524,288, more than"
    ):
        require_small_tensors(wide, [torch.zeros(1, 2048, 16, 16)])
    usual = nn.Sequential(nn.LocalResponseNorm(5), nn.MaxPool2d(3), nn.AvgPool2d(2))
    require_small_tensors(fx.symbolic_trace(usual), [X])
