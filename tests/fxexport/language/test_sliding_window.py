"""Windows stop as often as they do over each number, whatever extent is free."""

from __future__ import annotations

import random

import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn

from fxexport.language import derive, graph_of_module, graph_of_onnx
from fxexport.language.extents import symbol
from fxexport.language.sliding_window import SlidingWindow
from fxexport.language.term import Uninterpreted
from tests.fxexport.language.test_extents import number


@pytest.mark.parametrize("seed", range(20))
def test_windows_that_hang_over_a_free_extent_are_as_many_as_over_each_number(seed: int) -> None:
    drawn = random.Random(seed)
    size, step, gap = (drawn.randint(1, 4) for _ in range(3))
    pair = drawn.randint(0, 2), drawn.randint(0, 2)
    window = SlidingWindow.of([size], [step], [pair], [gap], ceil=True)
    try:
        (count,) = window.places([symbol("n")])
    except Uninterpreted:
        return
    for extent in range(1, 20):
        assert number(count, n=extent) == window.places([extent])[0]


class Halved(nn.Module):
    """A block whose map is halved, as those of a ResNet-D: by a pool beside a convolution."""

    def __init__(self, *, ceil: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=ceil, count_include_pad=False)
        self.beside = nn.Conv2d(3, 3, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x).relu() + self.beside(x)


@pytest.mark.parametrize(("rounded", "is_proved"), [(1, True), (0, False)])
def test_a_pool_that_rounds_up_is_beside_a_convolution_at_every_size(rounded: int, is_proved: bool) -> None:
    block = Halved(ceil=True).eval()
    text = (
        f"p = AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = {rounded}> (x) r = Relu (p) "
        "c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w, b) y = Add (r, c)"
    )
    file = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 19]> g (float[n,3,h,w] x) => (float[n,3,p,q] y) {' + text + "}"
    )
    for name, held in (("w", block.beside.weight), ("b", block.beside.bias)):
        file.graph.initializer.append(numpy_helper.from_array(held.detach().numpy(), name))
    module = graph_of_module(block, (torch.randn(2, 3, 9, 10),), free_sizes=True)
    assert module.inputs[0].dims == (None, 3, None, None)
    assert derive(module, graph_of_onnx(file)).is_proved is is_proved
