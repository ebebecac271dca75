"""ONNX graph → placed terms: each operator told by the parts of its operands' axes that it works on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from fxexport.onnx_graph.affine import read_constant, stored_name
from fxexport.onnx_graph.operators import averages_map, reduced_axes, static_dims
from fxexport.onnx_graph.signature import ELEMENTWISE, captured, signature_of
from fxexport.onnx_graph.sites import OnnxSite, read_pointwise
from fxexport.terms.gathers import OUTSIDE, Index
from fxexport.terms.layout_free import Named, PlacedValue, Terms
from fxexport.terms.term import Array, Kind, Shape, SiteWeights, Spots, Term, TermGraph

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Dropout", "Expand"})
_CELLWISE = frozenset(ELEMENTWISE) | frozenset(
    "Add Sub Mul Div Pow Min Max Sum Mean Where Equal Greater Less GreaterOrEqual LessOrEqual And Or Xor Not "
    "Mod PRelu Sign Ceil Floor Round Reciprocal Sin Cos Tan IsNaN IsInf ThresholdedRelu HardSwish".split()
)
_REDUCTIONS = {
    "ReduceMean": "mean",
    "GlobalAveragePool": "mean",
    "ReduceMax": "maximum",
    "GlobalMaxPool": "maximum",
    "ReduceMin": "minimum",
    "ReduceSum": "sum",
    "ReduceL2": "norm",
}
_OPSET_OF_SINGLE_AXIS = 13
"""From this version on Softmax works along one axis; before, over all from there on."""


def placed_terms(model: ir.Model, inputs: Mapping[str, Shape]) -> TermGraph:
    """The graph of ``model`` as placed terms; shapes must have been inferred.

    Args:
        model: the graph.
        inputs: shapes of its inputs, the batch included.
    """
    reader = _Reader(inputs)
    for value in model.graph.inputs:
        if not value.is_initializer():
            reader.add_input(value)
    for node in model.graph:
        node.version = node.version or model.opset_imports.get(node.domain)
        reader.add_node(node)
    outputs = tuple((str(value.name), reader.result(value)) for value in model.graph.outputs)
    return TermGraph(dialect="onnx", outputs=outputs)


class _Reader:
    """Reads nodes in order; holds what every value read so far is."""

    def __init__(self, inputs: Mapping[str, Shape]) -> None:
        self._inputs = inputs
        self._terms = Terms()
        self._seen: dict[ir.Value, PlacedValue] = {}
        self._count = 0

    def add_input(self, value: ir.Value) -> None:
        name = str(value.name)
        named = Named(value=name, node=name, signature=f"input {self._count}")
        self._count += 1
        self._seen[value] = self._terms.source(named, Kind.INPUT, self._inputs.get(name))

    def result(self, value: ir.Value) -> Term:
        """An output as it is given: its layout is part of the function."""
        named = Named(value=str(value.name), node=str(value.name), signature="result")
        return self._terms.other(named, [self._read(value)], (), _dims(value)).term

    def _read(self, value: ir.Value | None) -> PlacedValue:
        if value is None:
            raise ValueError("an operand that the operator needs is left out")
        if value not in self._seen:
            array, name = read_constant(value), str(value.name)
            signature = "constant" if array is not None else f"unknown {name}"
            named = Named(value=name, node=name, signature=signature)
            held = () if array is None else (array,)
            self._seen[value] = self._terms.source(
                named, Kind.CONSTANT, None if array is None else array.shape, held
            )
        return self._seen[value]

    def add_node(self, node: ir.Node) -> None:
        if node.domain == "" and len(node.outputs) == 1 and node.inputs and node.inputs[0] is not None:
            for read in self._readers(node.op_type):
                found = read(node)
                if found is not None and found.shape == _dims(node.outputs[0]):
                    self._seen[node.outputs[0]] = found
                    return
        if node.domain == "" and node.op_type == "Split" and self._split(node):
            return
        self._other(node)

    def _readers(self, kind: str) -> tuple[Callable[[ir.Node], PlacedValue | None], ...]:
        if kind in _VIEWS:
            return self._view, self._cellwise
        if kind in _CELLWISE:
            return self._bias, self._cellwise
        if kind in _REDUCTIONS or kind == "AveragePool":
            return (self._reduction,)
        named: dict[str, Callable[[ir.Node], PlacedValue | None]] = {
            "Transpose": self._permutation,
            "Concat": self._concat,
            "Slice": self._slice,
            "Gather": self._gather,
            "Pad": self._pad,
            "Softmax": self._softmax,
            "LogSoftmax": self._softmax,
            "LayerNormalization": self._layer_norm,
            "BatchNormalization": self._batch_norm,
        }
        return (named.get(kind, self._site),)

    def _view(self, node: ir.Node) -> PlacedValue | None:
        source, kind = node.inputs[0], node.op_type
        shape = _dims(node.outputs[0])
        if source is None or shape is None:
            return None
        value = self._read(source)
        if kind == "Dropout":
            training = node.inputs[2] if len(node.inputs) > 2 else None
            flag = read_constant(training)
            return None if training is not None and (flag is None or flag.any()) else value
        if kind == "Cast" and (source.dtype is None or source.dtype != node.outputs[0].dtype):
            return None
        if value.term.kind is Kind.CONSTANT:
            return self._constant_view(node, value, lambda array: array.reshape(shape))
        return self._terms.viewed(value, shape)

    def _constant_view(
        self, node: ir.Node, value: PlacedValue, made: Callable[[Array], Array]
    ) -> PlacedValue | None:
        """A constant seen in another way is another constant."""
        if not value.term.constants or value.term.constants[0].size != math.prod(
            _dims(node.outputs[0]) or ()
        ):
            return None
        array = made(value.term.constants[0])
        return self._terms.source(_named(node, "constant"), Kind.CONSTANT, array.shape, (array,))

    def _permutation(self, node: ir.Node) -> PlacedValue | None:
        value, shape = self._read(node.inputs[0]), _dims(node.outputs[0])
        if value.layout is None or shape is None:
            return None
        rank = len(value.layout)
        perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(rank)[::-1]
        if value.term.kind is Kind.CONSTANT:
            return self._constant_view(node, value, lambda array: array.transpose(perm))
        return self._terms.permuted(value, perm)

    def _cellwise(self, node: ir.Node) -> PlacedValue | None:
        if node.op_type not in _CELLWISE:
            return None
        operands = [self._read(value) for value in node.inputs if value is not None]
        return self._terms.pointwise(_named(node, signature_of(node)), operands)

    def _bias(self, node: ir.Node) -> PlacedValue | None:
        """Add of a constant for each output to a site without bias."""
        if node.op_type != "Add":
            return None
        for source, other in (node.inputs, node.inputs[::-1]):
            if source is None or other is None:
                return None
            value, bias = self._read(source), self._read(other)
            if value.term.affine is None or bias.term.kind is not Kind.CONSTANT or not bias.term.constants:
                continue
            spots = value.term.affine.spots
            is_beside = spots is not None and spots.result == str(source.name)
            named = _named(node, "")
            return self._terms.biased(named, value, bias, stored_name(other), is_beside=is_beside)
        return None

    def _site(self, node: ir.Node) -> PlacedValue | None:
        found = read_pointwise(node)
        if found is None or found.affine.source is None:
            return None
        value, extents = self._read(found.affine.source), _dims(found.affine.source)
        if extents is None and value.layout is not None:
            extents = value.shape
        if extents is None or value.term.kind is Kind.CONSTANT:
            return None
        contracted: list[int] = [found.axis]
        affine = _affine(node, found, extents)
        if found.window is not None:
            windows = self._windows(node, found, value, extents)
            if windows is None:
                return None
            value = windows
            contracted += range(2, 2 * len(extents) - 2, 2)
        named = _named(node, "")
        return self._terms.site(named, value, contracted, affine, found.axis)

    def _windows(
        self, node: ir.Node, site: OnnxSite, value: PlacedValue, extents: Shape
    ) -> PlacedValue | None:
        """``[N, C, k, results, k, results, …]``: the cells that a convolution reads."""
        for number, extent in enumerate(extents[2:]):
            found = self._terms.gathered(_named(node, ""), value, 2 + 2 * number, site.index(number, extent))
            if found is None:
                return None
            value = found
        return value

    def _reduction(self, node: ir.Node) -> PlacedValue | None:
        value = self._read(node.inputs[0])
        if value.layout is None:
            return None
        rank = len(value.layout)
        keeps = "keepdims" not in node.attributes or node.attributes["keepdims"].as_int() == 1
        if not node.op_type.startswith("Reduce"):
            if node.op_type == "AveragePool" and not averages_map(node):
                return None
            axes: tuple[int, ...] | None = tuple(range(2, rank))
        else:
            axes = reduced_axes(node)
        if not axes or value.term.kind is Kind.CONSTANT:
            return None
        kind = _REDUCTIONS.get(node.op_type, "mean")
        return self._terms.reduced(_named(node, kind), value, [axis % rank for axis in axes], keeps=keeps)

    def _softmax(self, node: ir.Node) -> PlacedValue | None:
        value = self._read(node.inputs[0])
        if value.layout is None or (node.version or _OPSET_OF_SINGLE_AXIS) < _OPSET_OF_SINGLE_AXIS:
            return None
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        return self._terms.along(_named(node, node.op_type), value, [axis % len(value.layout)])

    def _layer_norm(self, node: ir.Node) -> PlacedValue | None:
        value = self._read(node.inputs[0])
        if value.layout is None:
            return None
        rank, shape = len(value.layout), value.shape or ()
        first = (node.attributes["axis"].as_int() if "axis" in node.attributes else -1) % rank
        constants = [read_constant(item) for item in node.inputs[1:] if item is not None]
        held = [array for array in constants if array is not None and array.size == math.prod(shape[first:])]
        if len(held) != len(node.inputs) - 1:
            return None
        named = _named(node, signature_of(node, without=("axis",)))
        return self._terms.along(named, value, range(first, rank), held)

    def _batch_norm(self, node: ir.Node) -> PlacedValue | None:
        value = self._read(node.inputs[0])
        constants = [read_constant(item) for item in node.inputs[1:]]
        held = [array for array in constants if array is not None]
        if value.layout is None or len(value.layout) < 2 or len(held) != len(constants):
            return None
        return self._terms.along(_named(node, signature_of(node)), value, [1], held)

    def _concat(self, node: ir.Node) -> PlacedValue | None:
        operands = [self._read(item) for item in node.inputs if item is not None]
        axis = node.attributes["axis"].as_int()
        return self._terms.concatenated(_named(node, "Concat"), operands, axis)

    def _slice(self, node: ir.Node) -> PlacedValue | None:
        value, given = self._read(node.inputs[0]), [_ints(item) for item in node.inputs[1:]]
        if value.shape is None or len(given) < 2 or any(item is None for item in given[:2]):
            return None
        starts, ends = given[0] or (), given[1] or ()
        axes = given[2] if len(given) > 2 and node.inputs[3] is not None else tuple(range(len(starts)))
        steps = given[3] if len(given) > 3 else (1,) * len(starts)
        if axes is None or steps is None or value.term.kind is Kind.CONSTANT:
            return None
        rank, found = len(value.shape), value
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            extent = value.shape[axis % rank]
            span = range(*slice(start, end, step).indices(extent)) if step > 0 else None
            if span is None:
                return None
            if len(span) == extent:
                continue
            taken = self._terms.gathered(_named(node, ""), found, axis % rank, np.array(span, np.int64))
            if taken is None:
                return None
            found = taken
        return found

    def _gather(self, node: ir.Node) -> PlacedValue | None:
        value, index = self._read(node.inputs[0]), read_constant(node.inputs[1])
        if value.shape is None or index is None or value.term.kind is Kind.CONSTANT:
            return None
        axis = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % len(value.shape)
        extent = value.shape[axis]
        cells = np.where(index < 0, index + extent, index).astype(np.int64)
        if ((cells < 0) | (cells >= extent)).any():
            return None
        return self._terms.gathered(_named(node, ""), value, axis, cells)

    def _pad(self, node: ir.Node) -> PlacedValue | None:
        value, pads = self._read(node.inputs[0]), _ints(node.inputs[1] if len(node.inputs) > 1 else None)
        if value.shape is None or pads is None or value.term.kind is Kind.CONSTANT:
            return None
        rank = len(value.shape)
        fill = read_constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        axes = _ints(node.inputs[3]) if len(node.inputs) > 3 else tuple(range(rank))
        mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
        if axes is None or (len(node.inputs) > 2 and node.inputs[2] is not None and fill is None):
            return None
        if fill is not None and fill.any() and mode == "constant":
            return None
        for number, axis in enumerate(axes):
            before, after = pads[number], pads[number + len(axes)]
            if not before and not after:
                continue
            index = _padded(value.shape[axis % rank], before, after, mode) if value.shape else None
            found = (
                None if index is None else self._terms.gathered(_named(node, ""), value, axis % rank, index)
            )
            if found is None or found.shape is None:
                return None
            value = found
        return value

    def _split(self, node: ir.Node) -> bool:
        source = node.inputs[0]
        value = self._read(source) if source is not None else None
        if value is None or value.shape is None or value.term.kind is Kind.CONSTANT:
            return False
        axis = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % len(value.shape)
        start, found = 0, []
        for output in node.outputs:
            dims = _dims(output)
            if dims is None:
                return False
            index = np.arange(start, start + dims[axis])
            start += dims[axis]
            named = Named(value=str(output.name), node=str(node.name), signature="")
            found.append(self._terms.gathered(named, value, axis, index))
        if start != value.shape[axis]:
            return False
        parts = [part for part in found if part is not None]
        if len(parts) != len(found):
            return False
        self._seen.update(zip(node.outputs, parts, strict=True))
        return True

    def _other(self, node: ir.Node) -> None:
        present = [value for value in (*node.inputs, *captured(node)) if value is not None]
        read = [self._read(value) for value in present]
        operands = [value for value in read if value.term.kind is not Kind.CONSTANT]
        constants = tuple(
            array for value in read if value.term.kind is Kind.CONSTANT for array in value.term.constants
        )
        signature = signature_of(node)
        for number, output in enumerate(node.outputs):
            part = signature if number == 0 else f"{signature}[{number}]"
            named = Named(value=str(output.name), node=str(node.name or output.name), signature=part)
            self._seen[output] = self._terms.other(named, operands, constants, _dims(output))


def _named(node: ir.Node, signature: str) -> Named:
    name = str(node.outputs[0].name)
    return Named(value=name, node=str(node.name or name), signature=signature)


def _dims(value: ir.Value | None) -> Shape | None:
    dims = static_dims(value)
    if dims is None or any(extent is None for extent in dims):
        return None
    return tuple(extent for extent in dims if extent is not None)


def _ints(value: ir.Value | None) -> tuple[int, ...] | None:
    array = read_constant(value)
    return None if array is None else tuple(int(item) for item in array.reshape(-1))


def _padded(extent: int, before: int, after: int, mode: str) -> Index | None:
    cells: Index = np.arange(-before, extent + after)
    if mode == "constant":
        return np.where((cells >= 0) & (cells < extent), cells, OUTSIDE)
    if mode == "edge":
        return np.minimum(np.maximum(cells, 0), extent - 1)
    if mode == "wrap":
        cells = cells % extent
        return cells
    if mode == "reflect" and max(before, after) < extent:
        cells = (extent - 1) - np.abs((extent - 1) - np.abs(cells))
        return cells
    return None


def _affine(node: ir.Node, site: OnnxSite, extents: Shape) -> SiteWeights:
    found = site.affine
    window = site.window
    is_one_cell = window is None or (
        math.prod(window.kernel_size) == 1 and {*window.strides} == {1} and not any(window.pads)
    )
    return SiteWeights(
        weight=found.weight,
        bias=found.bias,
        weight_name=found.weight_name,
        bias_name=found.bias_name,
        kernel_size=found.kernel_size,
        operand=extents[1:],
        reads="" if found.source is None else str(found.source.name),
        columns=None,
        is_exact=found.is_exact,
        is_plain=found.is_plain,
        is_transposed=found.is_transposed,
        spelling=signature_of(node),
        spots=Spots(
            extents=extents,
            axis=site.axis,
            result=str(node.outputs[0].name),
            adds_bias=found.bias is not None,
            window=None if is_one_cell else window,
        ),
    )
