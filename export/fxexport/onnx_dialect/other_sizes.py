"""Whether a rewritten file takes inputs of other heights and widths than the old one declared."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx

from fxexport.onnx_dialect.extents import shape_of
from fxexport.onnx_graph.shapes import BATCH
from fxexport.onnx_inference import infer_shapes

_FACTORS = (1, 2, 3)


class _OneSize(Exception):
    """What holds a graph at its size."""


def held_by(model: onnx.ModelProto, inputs: Iterable[str], *, keeps_outputs: bool) -> str | None:
    """What holds a model at the size of its inputs, in words; None where larger ones can be computed.

    ONNX's inference says so for two of them, and that every Reshape keeps as many numbers as it reads.

    With ``keeps_outputs`` the outputs have to have the same shapes at every size.
    """
    try:
        shapes = [_outputs_at(model, {*inputs}, factor) for factor in _FACTORS]
    except _OneSize as reason:
        return str(reason)
    grown = (name for shape in shapes[1:] for name in shape if shape[name] != shapes[0][name])
    return f"the output {next(grown)!r} would grow" if keeps_outputs and shapes[1:] != shapes[:-1] else None


def _outputs_at(model: onnx.ModelProto, inputs: set[str], factor: int) -> dict[str, object]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in (value for value in graph.input if value.name in inputs):
        batch, *_ = dims = value.type.tensor_type.shape.dim
        batch.dim_value = batch.dim_value if batch.dim_value > 0 else BATCH
        for dim in dims[2:]:
            dim.dim_value *= factor
    try:
        found = infer_shapes(copy, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise _OneSize(str(error).rpartition("error(s): ")[2].strip().splitlines()[0]) from error
    counts = {value.name: _count(value) for value in (*found.input, *found.value_info, *found.output)}
    for node in graph.node:
        if node.op_type == "Reshape" and counts.get(node.input[0]) != counts.get(node.output[0], 0):
            raise _OneSize(f"{node.op_type} {node.name or node.output[0]!r} gives one size only")
    return {value.name: shape_of(value) for value in found.output}


def _count(value: onnx.ValueInfoProto) -> int | None:
    """How many numbers a value holds, or None where an extent is open."""
    known = shape_of(value)
    sizes = [size for size in (known[1] if known is not None else [None]) if isinstance(size, int)]
    return math.prod(sizes) if known is not None and len(sizes) == len(known[1]) else None
