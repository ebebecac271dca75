"""Whether a rewritten file takes inputs of other heights and widths than the old one declared."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx

from fxexport import onnx_node
from fxexport.onnx_dialect.extents import shape_of
from fxexport.onnx_graph.shapes import BATCH
from fxexport.onnx_inference import infer_shapes

_FACTORS = (1, 2, 3)


CHANNELS_FIRST, CHANNELS_LAST = slice(2, None), slice(1, -1)
"""Where the axes of a map are in the shape of an input."""


class _OneSize(Exception):
    """What holds a graph at its size."""


class _OtherAxes(_OneSize):
    """A convolution read other channels: these axes were not those of a map."""


def held_by(
    model: onnx.ModelProto, inputs: Iterable[str], *, keeps_outputs: bool
) -> tuple[slice, str | None]:
    """The axes of a model's maps, and what holds it at their extents; None where larger ones can be computed.

    ONNX's inference says so for two of them, and that every Reshape keeps as many numbers as it reads, and
    every convolution reads the channels that its weight has.

    With ``keeps_outputs`` the outputs have to have the same shapes at every size.
    """
    held: tuple[slice, str | None] = (CHANNELS_FIRST, None)
    for axes in (CHANNELS_FIRST, CHANNELS_LAST):
        try:
            shapes = [_outputs_at(model, {*inputs}, axes, factor) for factor in _FACTORS]
        except _OtherAxes as reason:
            held = (axes, str(reason))
            continue
        except _OneSize as reason:
            return axes, str(reason)
        grown = (name for shape in shapes[1:] for name in shape if shape[name] != shapes[0][name])
        is_held = keeps_outputs and shapes[1:] != shapes[:-1]
        return axes, f"the output {next(grown)!r} would grow" if is_held else None
    return held


def _outputs_at(model: onnx.ModelProto, inputs: set[str], axes: slice, factor: int) -> dict[str, object]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in (value for value in graph.input if value.name in inputs):
        batch, *_ = dims = value.type.tensor_type.shape.dim
        batch.dim_value = batch.dim_value if batch.dim_value > 0 else BATCH
        for dim in dims[axes]:
            dim.dim_value *= factor
    try:
        found = infer_shapes(copy, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise _OneSize(str(error).rpartition("error(s): ")[2].strip().splitlines()[0]) from error
    values = (*found.input, *found.value_info, *found.output)
    channels = {value.name: (shape_of(value) or (0, ()))[1][1:2] for value in values}
    weights = {tensor.name: tensor.dims[1] for tensor in graph.initializer if len(tensor.dims) > 2}
    counts: dict[str, int | None] = {item.name: math.prod(item.dims) for item in graph.initializer}
    counts |= {value.name: _count(value) for value in values}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            group = onnx_node.attributes_of(node, onnx_node.versions_of(model))["group"]
            read = channels.get(node.input[0])
            if read and isinstance(read[0], int) and read[0] != group * weights[node.input[1]]:
                raise _OtherAxes(f"Conv {node.name or node.output[0]!r} reads {read[0]} channels")
        if node.op_type == "Reshape" and counts.get(node.input[0]) != counts.get(node.output[0], 0):
            raise _OneSize(f"{node.op_type} {node.name or node.output[0]!r} gives one size only")
    return {value.name: shape_of(value) for value in found.output}


def _count(value: onnx.ValueInfoProto) -> int | None:
    """How many numbers a value holds, or None where an extent is open."""
    known = shape_of(value)
    sizes = [size for size in (known[1] if known is not None else [None]) if isinstance(size, int)]
    return math.prod(sizes) if known is not None and len(sizes) == len(known[1]) else None
