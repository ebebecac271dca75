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

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from fxexport.to_onnx.operators import VIEW_OPERATORS, attributes, averages_map, static_dims, view_source

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def canonicalize_head(model: ir.Model) -> int:
    """Number of rewrites made; edits ``model`` in place.

    Source:
        ONNX operators GlobalAveragePool-1/22, Flatten-13, Gemm-13.
    """
    count = 0
    rules: tuple[Callable[[ir.Graph, ir.Node], bool], ...] = (_pool, _average_pool, _view, _gemm)
    for rule in rules:
        for node in tuple(model.graph):
            if node.graph is not None and node.domain == "":
                count += rule(model.graph, node)
        RemoveUnusedNodesPass()(model)
    return count


def _pool(graph: ir.Graph, node: ir.Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    if node.op_type != "ReduceMean" or source is None or not averages_map(node):
        return False
    if source.dtype not in _FLOATS or source.shape is None:
        return False
    pool = ir.node("GlobalAveragePool", [source], name=_beside(node, "pool"))
    if attributes(node)["keepdims"]:
        _replace(graph, node, [pool])
        return True
    pooled = pool.outputs[0]
    pooled.name = _beside(node, "pooled")
    pooled.dtype = source.dtype
    pooled.shape = ir.Shape([*source.shape[:2], *(1 for _ in source.shape[2:])])
    _replace(graph, node, [pool, ir.node("Flatten", [pooled], {"axis": 1}, name=_beside(node, "flatten"))])
    return True


def _average_pool(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op_type != "AveragePool" or not averages_map(node):
        return False
    dims = static_dims(node.inputs[0])
    if dims is None or all(extent == 1 for extent in dims[2:]):
        return False  # a pool over one cell is no pool: leave the author's spelling
    _replace(graph, node, [ir.node("GlobalAveragePool", [node.inputs[0]], name=_beside(node, "pool"))])
    return True


def _view(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op_type not in VIEW_OPERATORS - {"Identity"} or view_source(node) is None:
        return False
    target = static_dims(node.outputs[0])
    if target is None or not _keeps_batch(target):
        return False
    best: ir.Value | None = None
    value = view_source(node)
    while value is not None:
        dims = static_dims(value)
        if dims is None or not _keeps_batch(dims) or math.prod(_rest(dims)) != math.prod(_rest(target)):
            break
        best, producer = value, value.producer()
        value = view_source(producer) if producer is not None else None
    return best is not None and _shorten(graph, node, best, target)


def _keeps_batch(dims: tuple[int | None, ...]) -> bool:
    return len(dims) >= 2 and all(extent is not None and extent > 0 for extent in dims[1:])


def _rest(dims: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(extent for extent in dims[1:] if extent is not None)


def _shorten(graph: ir.Graph, node: ir.Node, source: ir.Value, target: tuple[int | None, ...]) -> bool:
    dims = static_dims(source)
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
    if features is None or weight is None or len(static_dims(features) or ()) != 2:
        return False
    transposed = 0
    producer = weight.producer()
    if producer is not None and producer.op_type == "Transpose" and len(static_dims(weight) or ()) == 2:
        if attributes(producer)["perm"] in (None, [1, 0]):
            transposed, weight = 1, producer.inputs[0]
    if weight is None or not weight.is_initializer() or len(static_dims(weight) or ()) != 2:
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
    width = static_dims(output)
    if bias is None or not bias.is_initializer() or width is None or static_dims(bias) != width[1:]:
        return None, None
    return add, bias


def _beside(node: ir.Node, role: str) -> str:
    return f"{node.outputs[0].name}_{role}"


def _replace(graph: ir.Graph, node: ir.Node, new: list[ir.Node]) -> None:
    """Puts ``new`` in the place of ``node``; the result keeps its name, shape and type."""
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, node.outputs, new[-1].outputs)
