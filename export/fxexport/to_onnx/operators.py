"""Questions to one operator of a graph that is being written: its sizes, the axes that it reduces."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from fxexport.onnx_node import attributes_of

VIEW_OPERATORS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Gather"}


def attributes(node: ir.Node) -> dict[str, Any]:
    """The attributes of an operator of ONNX's own, those left out with their defaults."""
    versions = {} if node.graph is None else node.graph.opset_imports
    return attributes_of(ir.to_proto(node), versions)


def static_dims(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Extents of ``value`` with None for symbolic ones; None where the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def constant_ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """Integers of a constant 1-D or 0-D ``value``, or None where it is computed."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None:
        return None
    return tuple(int(item) for item in tensor.numpy().reshape(-1))


def averages_map(node: ir.Node) -> bool:
    """True if the node's result is the mean over exactly the spatial axes of ``[N, C, *k]``."""
    dims = static_dims(node.inputs[0]) if node.inputs else None
    if dims is None or len(dims) < 3:
        return False
    spatial = tuple(range(2, len(dims)))
    if node.op_type == "GlobalAveragePool":
        return True
    if node.op_type == "ReduceMean":
        return tuple(sorted(given_axes(node) or ())) == spatial
    if node.op_type == "AveragePool":
        given = attributes(node)
        is_padded = given["auto_pad"] not in ("NOTSET", "VALID") or any(given["pads"] or ())
        is_dilated = {*(given.get("dilations") or ())} - {1}
        return tuple(given["kernel_shape"]) == dims[2:] and not (is_padded or is_dilated)
    return False


def view_source(node: ir.Node) -> ir.Value | None:
    """The value that a view node reads, or None where it may not be a view at every batch size."""
    if node.domain != "" or node.op_type not in VIEW_OPERATORS or not node.inputs:
        return None
    if node.op_type == "Squeeze":
        axes = given_axes(node)
        if axes is None or 0 in axes:
            return None
    if node.op_type == "Gather" and not _takes_only_cell(node):
        return None
    return node.inputs[0]


def _takes_only_cell(node: ir.Node) -> bool:
    """Whether a Gather takes the one cell that there is along an axis, and drops it: ``x[:, :, 0]``."""
    dims, index = static_dims(node.inputs[0]), node.inputs[1]
    if not dims or static_dims(index) != () or constant_ints(index) not in ((0,), (-1,)):
        return False
    axis: int = attributes(node)["axis"]
    return axis % len(dims) != 0 and dims[axis] == 1


def given_axes(node: ir.Node) -> tuple[int, ...] | None:
    """Axes of a reduction or Squeeze, from the front; None where they are not constant or not given."""
    dims, axes = static_dims(node.inputs[0]), attributes(node).get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = constant_ints(node.inputs[1])
    if not axes:
        return None
    if dims is None:
        return tuple(axes) if min(axes) >= 0 else None
    return tuple(axis % len(dims) for axis in axes)
