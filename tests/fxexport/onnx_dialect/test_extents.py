"""Shapes of an ONNX file's values as torch knows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from fxexport.onnx_dialect.extents import FakeValues, inferred

FLOAT = 1


@pytest.mark.parametrize("shape", [(2**40,) * 4, ("N", 2**40, 2**40), (2**62, 8)])
def test_of_a_tensor_larger_than_torch_counts_nothing_is_known(shape: tuple[int | str, ...]) -> None:
    """A Resize to it made ``check`` an internal error."""
    assert FakeValues().tensor((FLOAT, shape)) is None


def test_of_others_the_shape_is() -> None:
    found = FakeValues().tensor((FLOAT, ("N", 3, 4)))
    assert found is not None
    assert (found.dtype, found.shape[1:]) == (torch.float32, (3, 4))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("between", ["Identity", "Relu"])
def test_behind_an_operator_of_others_a_convolution_tells_the_shape(between: str, groups: int) -> None:
    """Nothing was known there, so a head behind a global pool was no head."""
    nodes = [
        helper.make_node("Mixer", ["x"], ["m"], domain="com.example"),
        helper.make_node(between, ["m"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"], group=groups),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, FLOAT, None) for name in "xy"]
    weight = numpy_helper.from_array(np.zeros((4, 6 // groups, 3, 3), np.float32), "w")
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    opsets = [helper.make_opsetid(*known) for known in (("", 17), ("com.example", 1))]
    found = inferred(helper.make_model(graph, opset_imports=opsets))
    assert found["r"] == (FLOAT, (None, 6, None, None))
    assert found["y"] == (FLOAT, (None, 4, 1, 1))
