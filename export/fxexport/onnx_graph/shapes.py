"""A file's graph with the shape of every value, found for a batch that no model has.

With a symbolic batch ONNX's inference gives up at ``Shape → Gather → Concat → Reshape``, which is how the
TorchScript-based exporter writes ``x.view(x.size(0), -1)``. With a number such chains can be computed: their
results become constants of the copy. The number is a large prime, so that an extent that happens to equal
the batch is not taken for it; no value of the model is computed at that size. Shapes that the file itself
declares are not believed where inference finds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from fxexport.onnx_graph.evaluated import evaluated_alone
from fxexport.onnx_inference import infer_shapes
from fxexport.onnx_node import array_of, domain_of, inputs_of, is_external, replace
from fxexport.terms.term import Array

BATCH = 7919
_SMALL = 64
_INTEGERS = frozenset({onnx.TensorProto.INT64, onnx.TensorProto.INT32})
_CHAIN = frozenset(
    "Gather Unsqueeze Squeeze Concat Slice Cast Add Sub Mul Div Mod Reshape Identity Range Min Max Transpose "
    "ConstantOfShape Equal Where".split()
)

Extents = tuple[int, ...]


def with_shapes(model: onnx.ModelProto, extents: Sequence[Extents] = ()) -> onnx.ModelProto:
    """A copy of ``model`` with inferred shapes, its symbolic batch being ``BATCH``.

    Args:
        model: the model; large weights may be marked as external data.
        extents: for each input its shape without the batch, for inputs that leave it open.

    Raises:
        onnx.shape_inference.InferenceError: the shapes contradict each other.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for index, value in enumerate(inputs_of(copy.graph)):
        _fix(value, extents[index] if index < len(extents) else ())
    without_declarations(copy.graph)
    while True:
        inferred = infer_shapes(copy)
        if not _fold(inferred, copy):
            return inferred


def without_declarations(graph: onnx.GraphProto) -> None:
    """Takes away what is declared of values, but of those that no operator of ONNX's gives.

    Of these nothing is inferred, and without them nothing of what reads them.
    """
    own = {name for node in graph.node if domain_of(node.domain) for name in node.output}
    replace(graph.value_info, [value for value in graph.value_info if value.name in own])
    for value in graph.output:
        if value.name not in own:
            value.type.tensor_type.ClearField("shape")


def _fold(inferred: onnx.ModelProto, copy: onnx.ModelProto) -> bool:
    """Computes in ``copy`` what follows from shapes that are known; True if inference may find more."""
    graph = inferred.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    shapes = {value.name: _extents(value) for value in values if value.type.HasField("tensor_type")}
    known = {
        tensor.name: tensor
        for tensor in copy.graph.initializer
        if tensor.data_type in _INTEGERS and _size(tensor) <= _SMALL and not is_external(tensor)
    }
    kept, is_changed, wanted = [], False, {value.name for value in graph.output}
    for node in copy.graph.node:
        result = None if wanted.intersection(node.output) else _computed(node, shapes, known, inferred)
        if result is None:
            kept.append(node)
            continue
        is_changed = True
        known[node.output[0]] = numpy_helper.from_array(result, node.output[0])
        copy.graph.initializer.append(known[node.output[0]])
    replace(copy.graph.node, kept)
    return is_changed


def _computed(
    node: onnx.NodeProto,
    shapes: Mapping[str, Extents | None],
    known: Mapping[str, onnx.TensorProto],
    model: onnx.ModelProto,
) -> Array | None:
    """The node's result, if it is one of the operators of shape chains on known operands."""
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    if node.op_type == "Constant":
        held = next((item.t for item in node.attribute if item.name == "value"), None)
        if held is None or held.data_type not in _INTEGERS or _size(held) > _SMALL or is_external(held):
            return None
        return array_of(held)
    if node.op_type == "Shape":
        extents = shapes.get(node.input[0])
        given = {item.name: item.i for item in node.attribute}
        part = slice(given.get("start"), given.get("end"))
        return None if extents is None else np.array(extents[part], np.int64)
    if node.op_type not in _CHAIN or not all(name in known for name in node.input if name):
        return None
    feeds = {name: array_of(known[name]) for name in node.input if name}
    try:
        if node.op_type == "Range" and len(range(*(int(feeds[name]) for name in node.input))) > _SMALL:
            return None
        if node.op_type == "ConstantOfShape" and math.prod(map(int, feeds[node.input[0]])) > _SMALL:
            return None
    except (TypeError, ValueError, LookupError):
        return None  # an invalid chain: the runtime says so in its own words
    result = evaluated_alone(node, model.opset_import, feeds)
    return result if result is not None and result.size <= _SMALL else None


def _extents(value: onnx.ValueInfoProto) -> Extents | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    return tuple(dim.dim_value for dim in kind.shape.dim)


def _size(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims)


def _fix(value: onnx.ValueInfoProto, extents: Extents) -> None:
    """Gives an input's open extents numbers: the batch its own, others those of the samples."""
    if not value.type.tensor_type.HasField("shape"):
        return
    dims = value.type.tensor_type.shape.dim
    numbers = (BATCH, *extents) if len(extents) + 1 == len(dims) else (BATCH,)
    for dim, number in zip(dims, numbers, strict=False):
        if not dim.HasField("dim_value"):
            dim.dim_value = number
