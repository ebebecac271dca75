"""Which ONNX nodes are functions of whole samples that have a bound: joins, maxima, softmax."""

from __future__ import annotations

import onnx_ir as ir

from fxexport.onnx_graph.operators import reduced_axes, static_dims
from fxexport.terms.term import CONCAT, MAXIMUM, SOFTMAX

_OPSET_OF_SINGLE_AXIS = 13
"""From this version on Softmax works along one axis; before, over all from there on."""


def joint_function(node: ir.Node) -> str | None:
    """``CONCAT``, ``MAXIMUM`` or ``SOFTMAX`` where the node is that, or None.

    Source:
        ONNX operators Concat-13, ReduceMax-20, GlobalMaxPool-22, Softmax-1 and -13.
    """
    read = node.inputs[:1] if node.op_type == "ReduceMax" else node.inputs
    inputs = [static_dims(value) for value in read if value is not None]
    if node.domain != "" or not inputs or any(dims is None for dims in inputs):
        return None
    shapes = [dims for dims in inputs if dims is not None]
    if node.op_type == "Concat":
        axis = node.attributes["axis"].as_int()
        is_channels = all(_is_one_cell(dims) and axis in (1, 1 - len(dims)) for dims in shapes)
        return CONCAT if is_channels else None
    if node.op_type in ("ReduceMax", "GlobalMaxPool"):
        return MAXIMUM if _is_maximum(node, shapes[0]) else None
    if node.op_type == "Softmax":
        dims = shapes[0]
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else _default_axis(node)
        return SOFTMAX if _is_one_cell(dims) and axis in (1, 1 - len(dims)) else None
    return None


def _is_maximum(node: ir.Node, dims: tuple[int | None, ...]) -> bool:
    if len(dims) < 3 or None in dims[1:]:
        return False
    if node.op_type == "GlobalMaxPool":
        return True
    axes = reduced_axes(node)
    return bool(axes) and {axis % len(dims) for axis in axes or ()} == set(range(2, len(dims)))


def _is_one_cell(dims: tuple[int | None, ...]) -> bool:
    return len(dims) > 1 and dims[1] is not None and all(extent == 1 for extent in dims[2:])


def _default_axis(node: ir.Node) -> int:
    version = node.version
    if version is None and node.graph is not None:
        version = node.graph.opset_imports.get("")
    return -1 if version is None or version >= _OPSET_OF_SINGLE_AXIS else 1
