"""Whether what stands before a head takes inputs of other heights and widths than a file declares."""

from __future__ import annotations

import math

import onnx
from torch.fx import Node

from fxexport.onnx_dialect.extents import shape_of
from fxexport.onnx_dialect.open import OpenOnnx
from fxexport.onnx_graph.shapes import BATCH

_FACTORS = (2, 3)


def takes_other_sizes(opened: OpenOnnx) -> bool:
    """Whether all that an edit to windows reads can be computed at larger sizes of fixed inputs.

    ONNX's inference says so for two of them, and that every Reshape keeps as many numbers as it reads.
    """
    known = {node for unit in opened.units for node in unit.nodes}
    made = [node for node in opened.graph.nodes if node.op == "call_function" and node not in known]
    read = [source for node in made for source in node.all_input_nodes if source in known]
    graph = _before(opened, read)
    return bool(read) and all(_runs_at(opened, graph, factor) for factor in _FACTORS)


def _before(opened: OpenOnnx, read: list[Node]) -> onnx.GraphProto:
    """The part of the file that computes some values."""
    wanted = {name for name, node in opened.by_name.items() if node in read}
    nodes = []
    for node in reversed(opened.file.node):
        if wanted & {*node.output}:
            wanted |= {*node.input}
            nodes.append(node)
    graph = onnx.GraphProto(name="before the head", node=reversed(nodes))
    graph.input.extend(value for value in opened.file.input if value.name in wanted)
    graph.initializer.extend(tensor for tensor in opened.file.initializer if tensor.name in wanted)
    return graph


def _runs_at(opened: OpenOnnx, graph: onnx.GraphProto, factor: int) -> bool:
    model = onnx.ModelProto(ir_version=opened.content.proto.ir_version, graph=graph)
    model.opset_import.extend(opened.content.proto.opset_import)
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    for value in inputs:
        batch, *_ = dims = value.type.tensor_type.shape.dim
        batch.dim_value = batch.dim_value if batch.dim_value > 0 else BATCH
        for dim in dims[2:]:
            dim.dim_value *= factor
    try:
        found = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        return False
    counts = {value.name: _count(value) for value in (*found.input, *found.value_info)}
    reshapes = [node for node in graph.node if node.op_type == "Reshape"]
    is_whole = all(counts.get(node.input[0]) == counts.get(node.output[0], 0) for node in reshapes)
    return is_whole and bool(inputs)


def _count(value: onnx.ValueInfoProto) -> int | None:
    """How many numbers a value holds, or None where an extent is open."""
    known = shape_of(value)
    sizes = [size for size in (known[1] if known is not None else [None]) if isinstance(size, int)]
    return math.prod(sizes) if known is not None and len(sizes) == len(known[1]) else None
