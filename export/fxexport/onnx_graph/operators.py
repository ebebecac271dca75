"""Questions to one operator of a graph that is being written: its sizes, the axes that it reduces."""

from __future__ import annotations

import onnx_ir as ir


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


def reduced_axes(node: ir.Node) -> tuple[int, ...] | None:
    """Axes of a ReduceMean (attribute or input) as they are written, or None where not constant."""
    if "axes" in node.attributes:
        return tuple(node.attributes["axes"].as_ints())
    return constant_ints(node.inputs[1]) if len(node.inputs) > 1 else None


def averages_map(node: ir.Node) -> bool:
    """True if the node's result is the mean over exactly the spatial axes of ``[N, C, *k]``."""
    dims = static_dims(node.inputs[0]) if node.inputs else None
    if dims is None or len(dims) < 3:
        return False
    spatial = tuple(range(2, len(dims)))
    if node.op_type == "GlobalAveragePool":
        return True
    if node.op_type == "ReduceMean":
        axes = reduced_axes(node)
        return bool(axes) and tuple(sorted(axis % len(dims) for axis in axes or ())) == spatial
    if node.op_type == "AveragePool":
        kernel = tuple(node.attributes["kernel_shape"].as_ints())
        return kernel == dims[2:] and not _is_padded(node) and _is_ones(node, "dilations")
    return False


def view_source(node: ir.Node) -> ir.Value | None:
    """The value that a view node reads, or None where it may not be a view at every batch size."""
    if node.domain != "" or node.op_type not in VIEW_OPERATORS or not node.inputs:
        return None
    if node.op_type == "Squeeze":
        axes = squeezed_axes(node)
        if axes is None or 0 in axes:
            return None
    if node.op_type == "Gather" and not _takes_only_cell(node):
        return None
    return node.inputs[0]


def _takes_only_cell(node: ir.Node) -> bool:
    """Whether a Gather takes the one cell that there is along an axis, and drops it: ``x[:, :, 0]``."""
    dims, index = static_dims(node.inputs[0]), node.inputs[1]
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if not dims or static_dims(index) != () or constant_ints(index) not in ((0,), (-1,)):
        return False
    return axis % len(dims) != 0 and dims[axis] == 1


def squeezed_axes(node: ir.Node) -> tuple[int, ...] | None:
    """Axes of a Squeeze counted from the front, or None where they are not constant or not given."""
    dims = static_dims(node.inputs[0])
    axes = node.attributes["axes"].as_ints() if "axes" in node.attributes else None
    if axes is None and len(node.inputs) > 1:
        axes = constant_ints(node.inputs[1])
    if not axes:
        return None
    if dims is None:
        return tuple(axes) if min(axes) >= 0 else None
    return tuple(axis % len(dims) for axis in axes)


VIEW_OPERATORS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Gather"}


def _is_padded(node: ir.Node) -> bool:
    auto_pad = node.attributes.get("auto_pad")
    if auto_pad is not None and auto_pad.as_string() not in ("NOTSET", "VALID"):
        return True
    return "pads" in node.attributes and any(node.attributes["pads"].as_ints())


def _is_ones(node: ir.Node, name: str) -> bool:
    return name not in node.attributes or all(extent == 1 for extent in node.attributes[name].as_ints())
