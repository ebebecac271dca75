"""What a file holds that no reader of its graph sees."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fxexport.language import NotRead, graph_of_onnx


def outside(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The tensor with its values in a file of their own."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    return tensor


@pytest.mark.parametrize("place", ["branch", "attribute", "sparse", "function"])
def test_values_that_lie_elsewhere_are_not_taken_for_equal(place: str) -> None:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2])
    given = outside(numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    result = helper.make_empty_tensor_value_info("b")
    branch = helper.make_graph([helper.make_node("Add", ["x", "w"], ["b"])], "g", [], [result], [given])
    node, functions, sparse = helper.make_node("Add", ["x", "x"], ["y"]), [], []
    if place == "branch":
        node = helper.make_node("If", ["is"], ["y"], then_branch=branch, else_branch=branch)
    elif place == "attribute":
        node = helper.make_node("Constant", [], ["y"], value=given)
    elif place == "sparse":
        indices = numpy_helper.from_array(np.array([0, 1], np.int64))
        sparse = [helper.make_sparse_tensor(given, indices, [4])]
    else:
        node = helper.make_node("F", [], ["y"], domain="own")
        inner = helper.make_node("Constant", [], ["c"], value=given)
        functions = [helper.make_function("own", "F", [], ["c"], [inner], [helper.make_opsetid("", 20)])]
    graph = helper.make_graph(
        [node], "m", [value], [helper.make_empty_tensor_value_info("y")], sparse_initializer=sparse
    )
    graph.initializer.append(numpy_helper.from_array(np.asarray(True), "is"))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    with pytest.raises(NotRead, match="lie outside"):
        graph_of_onnx(helper.make_model(graph, opset_imports=opsets, functions=functions))
