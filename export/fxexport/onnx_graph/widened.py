"""A file computed in float64 by ONNX's reference evaluator, which is slow and knows ONNX's operators only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fxexport.onnx_graph.evaluated import evaluated
from fxexport.onnx_node import array_of
from fxexport.terms.term import Array

_MOST_VALUES = 2**22
"""Weights of larger files are not widened: evaluation would take minutes."""


def evaluated64(
    proto: onnx.ModelProto, weights: Mapping[str, Array], feeds: Sequence[Array]
) -> tuple[Array, ...] | None:
    """The file's outputs in float64; None where it is too large, or the evaluator lacks an operator.

    Args:
        proto: the file.
        weights: values of the initialisers that it marks as external data.
        feeds: its inputs.
    """
    if sum(array.size for array in weights.values()) > _MOST_VALUES:
        return None
    stored = {tensor.name for tensor in proto.graph.initializer}
    names = [value.name for value in proto.graph.input if value.name not in stored]
    wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in feeds]
    try:
        model = _widened(proto, weights)
    except (TypeError, ValueError):  # of tensors that hold something else than they say
        return None
    return evaluated(model, dict(zip(names, wide, strict=True)))


def _widened(proto: onnx.ModelProto, weights: Mapping[str, Array]) -> onnx.ModelProto:
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    for tensor in wide.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name]), tensor.name))
    _widen(wide.graph)
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return wide


def _widen(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _widen(attribute.g)
            elif attribute.HasField("t"):
                _widen_tensor(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.CopyFrom(helper.make_attribute("to", TensorProto.DOUBLE))


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        array = array_of(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
