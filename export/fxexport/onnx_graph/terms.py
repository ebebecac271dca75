"""ONNX graph → terms: views dropped, Gemm, MatMul + Add and covering Conv read as one affine site."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fxexport.onnx_graph.affine import read_affine
from fxexport.onnx_graph.functions import joint_function
from fxexport.onnx_graph.operators import averages_map, reduced_axes, squeezed_axes, static_dims
from fxexport.onnx_graph.signature import ELEMENTWISE, captured, function_of, signature_of
from fxexport.onnx_graph.sites import read_pointwise
from fxexport.terms.term import (
    MAXIMUM,
    Array,
    HeadTerm,
    Kind,
    Shape,
    SiteWeights,
    TermGraph,
    at_every_position,
)

_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast"}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """A value as a term and the order in which it reads the term's elements (None: the same).

    ``name`` is that of the value itself, where the order is not the same.
    """

    term: HeadTerm
    shape: Shape | None
    order: NDArray[np.int64] | None = None
    name: str = ""


def onnx_terms(model: ir.Model) -> TermGraph:
    """The graph of ``model`` as terms.

    Shapes must have been inferred; where one is unknown the operator is kept as it is written.
    """
    reader = _Reader()
    graph = model.graph
    for value in graph.inputs:
        if not value.is_initializer():
            reader.add_input(value)
    for node in graph:
        node.version = node.version or model.opset_imports.get(node.domain)
        reader.add_node(node)
    return TermGraph(
        dialect="onnx", outputs=tuple((str(value.name), reader.read(value).term) for value in graph.outputs)
    )


def _per_sample(value: ir.Value | None) -> Shape | None:
    dims = static_dims(value)
    if dims is None or any(extent is None for extent in dims[1:]):
        return None
    return tuple(extent for extent in dims[1:] if extent is not None)


def _constant(value: ir.Value | None) -> Array | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


class _Reader:
    """Reads nodes in order; holds the term of every value read so far."""

    def __init__(self) -> None:
        self._seen: dict[ir.Value, _Seen] = {}
        self._inputs = 0

    def add_input(self, value: ir.Value) -> None:
        name, shape = str(value.name), _per_sample(value)
        signature = f"input {self._inputs}"
        self._inputs += 1
        term = HeadTerm(kind=Kind.INPUT, value=name, node=name, signature=signature, shape=shape)
        self._seen[value] = _Seen(term=term, shape=shape)

    def read(self, value: ir.Value) -> _Seen:
        if value not in self._seen:
            array = _constant(value)
            name = str(value.name)
            constants = () if array is None else (array,)
            signature = "constant" if array is not None else f"unknown {name}"
            term = HeadTerm(
                kind=Kind.CONSTANT, value=name, node=name, signature=signature, constants=constants
            )
            self._seen[value] = _Seen(term=term, shape=None)
        return self._seen[value]

    def add_node(self, node: ir.Node) -> None:
        seen = self._view(node) or self._permutation(node) or self._affine(node) or self._pool(node)
        seen = seen or self._joint(node) or self._bias(node)
        seen = seen or self._elementwise(node) or self._pointwise(node)
        if seen is not None:
            self._seen[node.outputs[0]] = seen
        else:
            self._operator(node)

    def _view(self, node: ir.Node) -> _Seen | None:
        is_view = node.op_type in _VIEWS or _is_inactive_dropout(node) or _is_idle_pool(node)
        if node.domain != "" or not is_view or not node.inputs:
            return None
        source = node.inputs[0]
        if source is None or _constant(source) is not None:
            return None
        seen, target = self.read(source), _per_sample(node.outputs[0])
        if node.op_type in ("Identity", "Dropout", "AveragePool"):
            return seen
        if node.op_type == "Cast":
            return seen if source.dtype is not None and source.dtype == node.outputs[0].dtype else None
        if node.op_type == "Squeeze" and 0 in (squeezed_axes(node) or (0,)):
            return None
        before = _per_sample(source)
        if target is None or before is None or math.prod(before) != math.prod(target) or 0 in target:
            return None
        if not _batch_leads(source, node.outputs[0]):
            return None
        return dataclasses.replace(seen, shape=target, name=str(node.outputs[0].name))

    def _permutation(self, node: ir.Node) -> _Seen | None:
        source = node.inputs[0] if node.inputs else None
        before = _per_sample(source)
        if node.op_type != "Transpose" or node.domain != "" or source is None or before is None:
            return None
        perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else ()
        if not perm or perm[0] != 0:
            return None
        seen = self.read(source)
        grid = np.arange(math.prod(before)) if seen.order is None else seen.order
        order = grid.reshape(before).transpose([axis - 1 for axis in perm[1:]])
        flat = np.ascontiguousarray(order).reshape(-1)
        is_same = bool((flat == np.arange(flat.size)).all())
        return _Seen(
            term=seen.term, shape=order.shape, order=None if is_same else flat, name=str(node.outputs[0].name)
        )

    def _pool(self, node: ir.Node) -> _Seen | None:
        source = _mean_of_means(node) or (node.inputs[0] if node.inputs and averages_map(node) else None)
        before, after = _per_sample(source), _per_sample(node.outputs[0])
        if node.domain != "" or source is None or before is None or after is None:
            return None
        seen = self._materialized(self.read(source))
        if not _is_map(seen.term.shape, before):
            return None
        term = self._term(node, Kind.POOL, "average over the map", (seen,), after)
        return _Seen(term=term, shape=after)

    def _elementwise(self, node: ir.Node) -> _Seen | None:
        if node.domain != "" or node.op_type not in ELEMENTWISE or node.inputs[0] is None:
            return None
        constants = [_constant(value) for value in node.inputs[1:] if value is not None]
        present = tuple(item for item in constants if item is not None)
        source = node.inputs[0]
        if len(present) != len(constants) or _constant(source) is not None:
            return None
        seen = self._materialized(self.read(source))
        if seen.shape is None or seen.shape != _per_sample(node.outputs[0]):
            return None
        function = function_of(node, present)
        term = self._term(node, Kind.ELEMENTWISE, signature_of(node), (seen,), seen.shape, present, function)
        return _Seen(term=term, shape=seen.shape)

    def _joint(self, node: ir.Node) -> _Seen | None:
        """A join along the channels, a maximum over the map or a softmax, whatever its spelling."""
        function, shape = joint_function(node), _per_sample(node.outputs[0])
        sources = [value for value in node.inputs if value is not None]
        if function is None or shape is None or len(node.outputs) != 1:
            return None
        if function == MAXIMUM:
            seen = self.read(sources[0])
            if seen.order is not None or seen.term.shape != seen.shape or seen.shape is None:
                return None
            term = self._term(node, Kind.POOL, "maximum over the map", (seen,), shape, function=function)
            return _Seen(term=term, shape=shape)
        if any(_constant(value) is not None for value in sources):
            return None
        parts = [self.read(value) for value in sources]
        if any(part.order is not None or not part.shape for part in parts):
            return None
        # the same on [N, C] and on [N, C, 1, 1]
        cells = tuple(dataclasses.replace(part, shape=(part.shape or ())[:1]) for part in parts)
        term = self._term(node, Kind.OP, function, cells, shape, function=function)
        return _Seen(term=term, shape=shape)

    def _pointwise(self, node: ir.Node) -> _Seen | None:
        """Arithmetic on two values of one shape: the same on ``[N, C]`` and on ``[N, C, 1, 1]``.

        ``x · sigmoid(x)`` is how the exporter writes SiLU.
        """
        if node.domain != "" or node.op_type not in _ARITHMETIC:
            return None
        sources = [value for value in node.inputs if value is not None and _constant(value) is None]
        seen = tuple(self._materialized(self.read(value)) for value in sources)
        shape = _per_sample(node.outputs[0])
        if len(seen) != 2 or shape is None or any(part.shape != shape for part in seen):
            return None
        for x, gate in (seen, seen[::-1]):
            if node.op_type == "Mul" and gate.term.function == "sigmoid" and gate.term.operands == (x.term,):
                term = self._term(node, Kind.ELEMENTWISE, "silu", (x,), shape, function="silu")
                return _Seen(term=term, shape=shape)
        term = self._term(node, Kind.ELEMENTWISE, signature_of(node), seen, shape)
        return _Seen(term=term, shape=shape)

    def _operator(self, node: ir.Node) -> None:
        present = [value for value in (*node.inputs, *captured(node)) if value is not None]
        dynamic = [value for value in present if _constant(value) is None]
        constants = tuple(item for value in present if (item := _constant(value)) is not None)
        seen = tuple(self._materialized(self.read(value)) for value in dynamic)
        signature = signature_of(node)
        for index, value in enumerate(node.outputs):
            shape = _per_sample(value)
            part = signature if index == 0 else f"{signature}[{index}]"
            term = self._term(node, Kind.OP, part, seen, shape, constants, value=str(value.name))
            term = dataclasses.replace(term, pointwise=_pointwise_site(node, seen))
            self._seen[value] = _Seen(term=term, shape=shape)

    def _materialized(self, seen: _Seen) -> _Seen:
        """A permuted value as a term of its own, for operators that care for the order."""
        if seen.order is None:
            return seen
        base = seen.term
        term = HeadTerm(
            kind=Kind.OP,
            value=seen.name,
            node=f"permuted {base.node}",
            signature="permute",
            operands=(base,),
            shape=seen.shape,
            constants=(seen.order,),
        )
        return _Seen(term=term, shape=seen.shape)

    def _term(
        self,
        node: ir.Node,
        kind: Kind,
        signature: str,
        operands: tuple[_Seen, ...],
        shape: Shape | None,
        constants: tuple[Array, ...] = (),
        function: str | None = None,
        value: str | None = None,
        affine: SiteWeights | None = None,
    ) -> HeadTerm:
        return HeadTerm(
            kind=kind,
            value=str(node.outputs[0].name) if value is None else value,
            node=str(node.name or node.outputs[0].name),
            signature=signature,
            operands=tuple(seen.term for seen in operands),
            shape=shape,
            constants=constants,
            affine=affine,
            function=function,
        )

    def _affine(self, node: ir.Node) -> _Seen | None:
        found = read_affine(node)
        if found is None or found.source is None:
            return None
        seen = self.read(found.source)
        if seen.shape is None or math.prod(seen.shape) != found.weight.shape[1]:
            return None
        if seen.shape != _per_sample(found.source):
            return None
        affine = SiteWeights(
            weight=found.weight if seen.order is None else _reordered(found.weight, seen.order),
            bias=found.bias,
            weight_name=found.weight_name,
            bias_name=found.bias_name,
            kernel_size=found.kernel_size,
            operand=seen.shape,
            reads=str(found.source.name),
            columns=seen.order,
            is_exact=found.is_exact,
            is_plain=found.is_plain,
            is_transposed=found.is_transposed,
            spelling=signature_of(node),
        )
        shape = _per_sample(node.outputs[0])
        term = self._term(node, Kind.AFFINE, "affine", (seen,), shape, affine=affine)
        return _Seen(term=term, shape=shape)

    def _bias(self, node: ir.Node) -> _Seen | None:
        """Add of a constant ``[O]`` to an affine site without bias."""
        if node.op_type != "Add" or node.domain != "":
            return None
        for value, other in (node.inputs, node.inputs[::-1]):
            seen, bias = self._seen.get(value) if value is not None else None, _constant(other)
            affine = None if seen is None else seen.term.affine
            if seen is None or affine is None or bias is None or affine.bias is not None:
                continue
            shape = _per_sample(node.outputs[0])
            if shape is None or shape != seen.shape or seen.order is not None:
                continue
            full = np.broadcast_to(bias, (1, *shape)) if bias.ndim <= len(shape) + 1 else bias
            if full.shape != (1, *shape) or math.prod(shape) != affine.weight.shape[0]:
                continue
            whole = dataclasses.replace(
                affine,
                bias=np.ascontiguousarray(full).reshape(-1),
                bias_name=str(other.name if other else ""),
                spelling=f"{affine.spelling} + Add",
            )
            term = dataclasses.replace(
                seen.term, value=str(node.outputs[0].name), node=str(node.name), affine=whole
            )
            return _Seen(term=term, shape=shape)
        return None


def _pointwise_site(node: ir.Node, seen: Sequence[_Seen]) -> SiteWeights | None:
    """The site that an operator applies at every place of what it reads, or None."""
    site = read_pointwise(node)
    if site is None or [part.name for part in seen] != [""]:
        return None
    found = site.affine
    affine = SiteWeights(
        weight=found.weight,
        bias=found.bias,
        weight_name=found.weight_name,
        bias_name=found.bias_name,
        kernel_size=found.kernel_size,
        operand=(),
        reads="" if found.source is None else str(found.source.name),
        columns=None,
        is_transposed=found.is_transposed,
        spelling=signature_of(node),
    )
    return at_every_position(affine, str(node.outputs[0].name), site.rank, site.axis)


def _is_idle_pool(node: ir.Node) -> bool:
    """True for an average over windows of one cell of a map that has several."""
    if node.op_type != "AveragePool" or {*(static_dims(node.inputs[0]) or ())[2:]} == {1}:
        return False
    given = {name: tuple(node.attributes[name].as_ints()) for name in _WINDOWS if name in node.attributes}
    auto_pad = node.attributes.get("auto_pad")
    is_padded = any(given.get("pads", ())) or (auto_pad is not None and auto_pad.as_string() != "NOTSET")
    return set(given["kernel_shape"]) | set(given.get("strides", (1,))) == {1} and not is_padded


_WINDOWS = ("kernel_shape", "strides", "pads")


def _is_inactive_dropout(node: ir.Node) -> bool:
    """True for a Dropout that gives its operand, and whose mask nobody reads."""
    if node.op_type != "Dropout" or any(tuple(mask.uses()) for mask in node.outputs[1:]):
        return False
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    is_training = _constant(node.inputs[2])
    return is_training is not None and not is_training.any()


def _mean_of_means(node: ir.Node) -> ir.Value | None:
    """The map of which several ReduceMean in a row take the mean over all cells, each cell counted once."""
    first, second = node.inputs[0].producer() if node.inputs and node.inputs[0] else None, node
    if first is None or first.op_type != "ReduceMean" or second.op_type != "ReduceMean":
        return None
    dims, axes = static_dims(first.inputs[0]), [reduced_axes(item) for item in (first, second)]
    if dims is None or not axes[0] or not axes[1] or {first.domain, second.domain} != {""}:
        return None
    taken = {axis % len(dims) for axis in axes[0]}
    is_kept = "keepdims" not in first.attributes or first.attributes["keepdims"].as_int() == 1
    left = [axis for axis in range(len(dims)) if is_kept or axis not in taken]
    taken |= {left[axis % len(left)] for axis in axes[1]}
    return first.inputs[0] if len(dims) > 2 and taken == set(range(2, len(dims))) else None


def _is_map(own: Shape | None, read: Shape) -> bool:
    """True if a map is read with its own channels, its cells in one row or several."""
    return own is not None and own[:1] == read[:1] and math.prod(own) == math.prod(read)


def _reordered(weight: Array, order: NDArray[np.int64]) -> Array:
    """Columns in the order of the value before it was permuted."""
    plain = np.empty_like(weight)
    plain[:, order] = weight
    return plain


def _batch_leads(source: ir.Value, target: ir.Value) -> bool:
    """True unless both batch extents are known and differ."""
    before, after = (static_dims(source) or (None,))[0], (static_dims(target) or (None,))[0]
    return before is None or after is None or before == after
