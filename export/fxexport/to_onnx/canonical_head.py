"""The head as compilers look for it: ``GlobalAveragePool → Conv → Flatten`` or ``… → Flatten → Gemm``.

The exporter writes the same function with ``ReduceMean`` and ``Reshape``, which fewer compilers match.
Each rule below replaces a node only where equality follows from attributes, constants and the shapes
that the exporter proved; anything else stays as it was written.

====================================  =======================================================
written by the exporter               becomes
====================================  =======================================================
``ReduceMean(axes=spatial, keep)``    ``GlobalAveragePool``
``ReduceMean(axes=spatial, drop)``    ``GlobalAveragePool → Flatten``
``AveragePool`` covering the map      ``GlobalAveragePool``
chain of views ``[N,C,*k]→[N,C·∏k]``  ``Flatten(axis=1)``
chain of views back to its own start  nothing
``MatMul(x, W) [+ b]``, ``W`` 2-D     ``Gemm``
====================================  =======================================================

Refused: axes that are not exactly the spatial ones or not constant, unknown rank, padding, dilation, a
pool that does not cover the map, views that mix the batch with other axes, ``Squeeze`` without axes
(at batch 1 it would drop the batch too). A value that is a graph output or has other users is kept:
the new node is added beside it and only unused nodes go.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from fxexport.onnx_node import attributes_of

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_VIEWS = {"Reshape", "Flatten", "Unsqueeze", "Identity"}


def canonicalize_head(model: ir.Model) -> int:
    """Number of rewrites made; edits ``model`` in place.

    Source:
        ONNX operators GlobalAveragePool-1/22, Flatten-13, Gemm-13.
    """
    count = 0
    rules: tuple[Callable[[ir.Graph, ir.Node], bool], ...] = (_pool, _view, _gemm)
    for rule in rules:
        for node in tuple(model.graph):
            if node.graph is not None and node.domain == "":
                count += rule(model.graph, node)
        RemoveUnusedNodesPass()(model)
    return count


def _pool(graph: ir.Graph, node: ir.Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    if source is None or source.shape is None or source.dtype not in _FLOATS or not _averages_map(node):
        return False
    pool = ir.node("GlobalAveragePool", [source], name=_beside(node, "pool"))
    if _attributes(node).get("keepdims", 1):
        _replace(graph, node, [pool])
        return True
    pooled = pool.outputs[0]
    pooled.name = _beside(node, "pooled")
    pooled.dtype = source.dtype
    pooled.shape = ir.Shape([*source.shape[:2], *(1 for _ in source.shape[2:])])
    _replace(graph, node, [pool, ir.node("Flatten", [pooled], {"axis": 1}, name=_beside(node, "flatten"))])
    return True


def _averages_map(node: ir.Node) -> bool:
    """Whether the result is the mean over exactly the spatial axes of ``[N, C, *k]``."""
    dims = _dims(node.inputs[0]) or ()
    if node.op_type == "ReduceMean":
        return len(dims) > 2 and sorted(_axes(node) or ()) == [*range(2, len(dims))]
    if node.op_type != "AveragePool" or all(extent == 1 for extent in dims[2:]):
        return False  # a pool over one cell is no pool: leave the author's spelling
    given = _attributes(node)
    is_padded = given["auto_pad"] not in ("NOTSET", "VALID") or any(given["pads"] or ())
    is_dilated = {*(given.get("dilations") or ())} - {1}
    return tuple(given["kernel_shape"]) == dims[2:] and not (is_padded or is_dilated)


def _view(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op_type == "Identity" or _view_source(node) is None:
        return False
    target = _dims(node.outputs[0])
    if target is None or not _keeps_batch(target):
        return False
    best: ir.Value | None = None
    value = _view_source(node)
    while value is not None:
        dims = _dims(value)
        if dims is None or not _keeps_batch(dims) or math.prod(_rest(dims)) != math.prod(_rest(target)):
            break
        best, producer = value, value.producer()
        value = _view_source(producer) if producer is not None else None
    return best is not None and _shorten(graph, node, best, target)


def _keeps_batch(dims: tuple[int | None, ...]) -> bool:
    return len(dims) >= 2 and all(extent is not None and extent > 0 for extent in dims[1:])


def _rest(dims: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(extent for extent in dims[1:] if extent is not None)


def _shorten(graph: ir.Graph, node: ir.Node, source: ir.Value, target: tuple[int | None, ...]) -> bool:
    dims = _dims(source)
    output = node.outputs[0]
    if dims is not None and dims[1:] == target[1:]:
        if output.is_graph_output():
            return False
        ir.convenience.replace_all_uses_with(output, source)
        return True
    if len(target) != 2 or (node.op_type == "Flatten" and node.inputs[0] is source):
        return False
    _replace(graph, node, [ir.node("Flatten", [source], {"axis": 1}, name=_beside(node, "flatten"))])
    return True


def _gemm(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op_type != "MatMul":
        return False
    features, weight = node.inputs
    if features is None or weight is None or len(_dims(features) or ()) != 2:
        return False
    transposed = 0
    producer = weight.producer()
    if producer is not None and producer.op_type == "Transpose" and len(_dims(weight) or ()) == 2:
        if _attributes(producer)["perm"] in (None, [1, 0]):
            transposed, weight = 1, producer.inputs[0]
    if weight is None or not weight.is_initializer() or len(_dims(weight) or ()) != 2:
        return False
    factors = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": transposed}
    add, bias = _only_bias(node)
    operands = [features, weight] if bias is None else [features, weight, bias]
    gemm = ir.node("Gemm", operands, factors, name=_beside(node, "gemm"))
    _replace(graph, add or node, [gemm])
    return True


def _only_bias(node: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """The Add that is the only user of a MatMul and its constant ``[O]`` operand, else two Nones."""
    output = node.outputs[0]
    uses = tuple(output.uses())
    if output.is_graph_output() or len(uses) != 1 or uses[0].node.op_type != "Add":
        return None, None
    add, position = uses[0].node, uses[0].idx
    bias = add.inputs[1 - position]
    width = _dims(output)
    if bias is None or not bias.is_initializer() or width is None or _dims(bias) != width[1:]:
        return None, None
    return add, bias


def _view_source(node: ir.Node) -> ir.Value | None:
    """The value that a view node reads, or None where it may not be a view at every batch size."""
    if node.domain != "" or not node.inputs:
        return None
    if node.op_type == "Squeeze":
        is_view = 0 not in (_axes(node) or (0,))
    else:
        is_view = node.op_type in _VIEWS or (node.op_type == "Gather" and _takes_only_cell(node))
    return node.inputs[0] if is_view else None


def _takes_only_cell(node: ir.Node) -> bool:
    """Whether a Gather takes the one cell that there is along an axis, and drops it: ``x[:, :, 0]``."""
    dims, index = _dims(node.inputs[0]), node.inputs[1]
    if not dims or _dims(index) != () or _constant(index) not in ((0,), (-1,)):
        return False
    axis: int = _attributes(node)["axis"]
    return axis % len(dims) != 0 and dims[axis] == 1


def _attributes(node: ir.Node) -> dict[str, Any]:
    """The attributes of an operator of ONNX's own, those left out with their defaults."""
    versions = {} if node.graph is None else node.graph.opset_imports
    return attributes_of(ir.to_proto(node), versions)


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    """Axes of a reduction or Squeeze, from the front; None where they are not constant or not given."""
    dims, axes = _dims(node.inputs[0]), _attributes(node).get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = _constant(node.inputs[1])
    if not axes or (dims is None and min(axes) < 0):
        return None
    return tuple(axes) if dims is None else tuple(axis % len(dims) for axis in axes)


def _dims(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Extents of ``value`` with None for symbolic ones; None where the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def _constant(value: ir.Value | None) -> tuple[int, ...] | None:
    """Integers of a constant 1-D or 0-D ``value``, or None where it is computed."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tuple(map(int, tensor.numpy().reshape(-1)))


def _beside(node: ir.Node, role: str) -> str:
    return f"{node.outputs[0].name}_{role}"


def _replace(graph: ir.Graph, node: ir.Node, new: list[ir.Node]) -> None:
    """Puts ``new`` in the place of ``node``; the result keeps its name, shape and type."""
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, node.outputs, new[-1].outputs)
