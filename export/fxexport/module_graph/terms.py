"""torch.fx graph → terms: views dropped, Linear and covering convolutions read as one affine site.

What a node does is asked of the vocabulary, so modules, functions, methods, ATen operators and the operators
of an ONNX file that was opened as a graph are read alike; what the vocabulary does not know is compared by
its signature. What the dialects name in ways of their own they say by a ``Naming``.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from fxexport.module_graph.affine import FxAffine, covers_map, read_affine
from fxexport.module_graph.functions import averages_map, is_of_one_cell, joint_function, takes_all
from fxexport.module_graph.naming import Naming, has_hooks
from fxexport.terms.arrays import arrays_of, numpy_of
from fxexport.terms.term import (
    MAXIMUM,
    Array,
    HeadTerm,
    Kind,
    Scaling,
    Shape,
    SiteWeights,
    TermGraph,
    at_every_position,
)
from fxpasses.private_names import pytree
from fxpasses.vocabulary.ops import (
    AdaptivePool,
    Concat,
    Elementwise,
    Flatten,
    Index,
    Op,
    Opaque,
    Permute,
    Plain,
    Reduce,
    Role,
    Squeeze,
    Unflatten,
    Unsqueeze,
    View,
    WindowPool,
)
from fxpasses.vocabulary.vocabulary import Vocabulary

_AFFINE = (Role.LINEAR, Role.SUM, Role.PRODUCT, Role.QUOTIENT)
_VIEWS = (Flatten, Unflatten, View, Squeeze, Unsqueeze, Index)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """A node's value as a term and the order in which it reads the term's elements (None: the same).

    ``name`` is that of the value itself, where the order is not the same.
    """

    term: HeadTerm
    shape: Shape | None
    order: NDArray[np.int64] | None = None
    name: str = ""


def graph_terms(
    graph: fx.Graph,
    vocabulary: Vocabulary,
    naming: Naming,
    shapes: Mapping[str, tuple[int, ...]],
    results: Mapping[str, Sequence[tuple[int, ...]]] = MappingProxyType({}),
    written: Collection[tuple[str, str]] = (),
) -> TermGraph:
    """The graph as terms, given the shape of every tensor node at some batch size.

    Args:
        graph: the graph.
        vocabulary: of its dialect.
        naming: of its dialect.
        shapes: of every node that gives a tensor.
        results: the shapes of every node that gives several.
        written: reader and value wherever a node reads what was written to since it was computed.
    """
    reader = _Reader(vocabulary, naming, shapes, results, frozenset(name for name, _ in written))
    outputs: list[HeadTerm] = []
    for node in graph.nodes:
        if node.op == "output":
            for leaf in pytree.tree_leaves(node.args[0]):
                if isinstance(leaf, fx.Node):
                    outputs += reader.given(leaf, is_written=(node.name, leaf.name) in written)
        else:
            reader.add(node)
    return tuple(outputs)


_LARGEST = 2**22
"""Numbers of a sample whose order is followed: no weight reads more of them, and each takes eight bytes."""


@dataclasses.dataclass(slots=True)
class _Reader:
    """Reads nodes in order; holds the term of every node read so far."""

    _vocabulary: Vocabulary
    _naming: Naming
    _shapes: Mapping[str, tuple[int, ...]]
    _results: Mapping[str, Sequence[tuple[int, ...]]]
    _rereading: Collection[str]
    _seen: dict[fx.Node, _Seen] = dataclasses.field(default_factory=dict)
    _swapped: dict[fx.Node, tuple[fx.Node, tuple[int, ...]]] = dataclasses.field(default_factory=dict)
    _given: dict[fx.Node, tuple[fx.Node, ...]] = dataclasses.field(default_factory=dict)
    _constants: dict[tuple[fx.Node, bool], torch.Tensor | None] = dataclasses.field(default_factory=dict)
    _inputs: int = 0

    def given(self, node: fx.Node, *, is_written: bool) -> list[HeadTerm]:
        """What an output gives: one value, or all those of an operator that gives several.

        ``is_written``: whether it is not what the node computed, but what was written there later.
        """
        term = self._seen[node].term
        if is_written:
            term = HeadTerm(
                kind=Kind.OP,
                value="",
                node=node.name,
                signature="written",
                operands=(term,),
                shape=term.shape,
            )
        return (
            [term]
            if node.name not in self._results
            else [
                HeadTerm(
                    kind=Kind.OP,
                    value="",
                    node=node.name,
                    signature=f"result {index} of several",
                    operands=(term,),
                    shape=tuple(shape[1:]),
                )
                for index, shape in enumerate(self._results[node.name])
            ]
        )

    def add(self, node: fx.Node) -> None:
        leaf = self._leaf(node)
        if leaf is not None:
            self._seen[node] = leaf
            return
        op = self._vocabulary.classify(node)
        if has_hooks(self._called(node)) or node.name in self._rereading:
            op, seen = Opaque(), None
        else:
            seen = self._known(node, op)
        seen = self._of_unit(node, seen or self._operator(node, op, node.all_input_nodes))
        read = [self._seen[source].term for source in node.all_input_nodes]
        is_own = seen.term.kind in (Kind.OP, Kind.ELEMENTWISE) and all(term is not seen.term for term in read)
        if is_own and (scaling := self._scaling(node, op)) is not None:
            seen = dataclasses.replace(seen, term=dataclasses.replace(seen.term, scaling=scaling))
        self._seen[node] = seen

    def _known(self, node: fx.Node, op: Op) -> _Seen | None:
        """What is known of the node's operator beside its name."""
        source = self._source(node, op)
        seen = None
        if source is not None:
            seen = self._view(node, op, source) or self._permutation(node, op, source)
            seen = seen or self._affine(node, op, source) or self._pool(node, op, source)
        seen = seen or self._joint(node, op)
        if seen is None and source is not None:
            seen = self._elementwise(node, op, source)
        return seen or self._biased(node, op) or self._pointwise(node, op)

    def _of_unit(self, node: fx.Node, seen: _Seen) -> _Seen:
        """The same, unless it reads a value that only the graph has: then the operator as one term."""
        unit = self._naming.unit(node)
        steps = [self._seen[source].term for source in node.all_input_nodes if source in unit]
        inner = {term for term in steps if not term.value}
        if inner.isdisjoint((seen.term, *seen.term.operands)):
            return seen
        first = next(iter(unit))
        if first not in self._given:
            given = (source for part in unit for source in part.all_input_nodes if source not in unit)
            self._given[first] = tuple(dict.fromkeys(given))
        return self._operator(node, Opaque(), self._given[first])

    def _shape(self, node: object) -> Shape | None:
        full = self._shapes.get(node.name) if isinstance(node, fx.Node) else None
        return None if full is None or not full else tuple(full[1:])

    def _called(self, node: fx.Node) -> nn.Module | None:
        return self._vocabulary.module(str(node.target)) if node.op == "call_module" else None

    def _source(self, node: fx.Node, op: Op) -> fx.Node | None:
        """The one value that the node is a function of, or None."""
        source = getattr(op, "source", None)
        if source is None:
            sources = op.sources if isinstance(op, Elementwise) else tuple(node.all_input_nodes)
            # a number that comes first may be divided by what follows
            sources = (*sources[:1], *(given for given in sources[1:] if self._number(given) is None))
            source = sources[0] if len(sources) == 1 else None
        if not isinstance(source, fx.Node) or self._shape(source) is None:
            return None
        return None if self._seen[source].term.kind is Kind.CONSTANT else source

    def _number(self, node: fx.Node) -> Array | None:
        """A constant of one number; a limit, say."""
        found = self._seen[node].term.constants if node in self._seen and node.op == "get_attr" else ()
        return found[0] if found and found[0].size == 1 else None

    def _leaf(self, node: fx.Node) -> _Seen | None:
        if node.op == "placeholder":
            signature = f"input {self._inputs}"
            self._inputs += 1
            shape = self._shape(node)
            name = self._naming.value(node)
            term = HeadTerm(kind=Kind.INPUT, value=name, node=name, signature=signature, shape=shape)
            return _Seen(term=term, shape=shape)
        if node.op == "get_attr":
            constants = arrays_of([operator.attrgetter(str(node.target))(self._vocabulary.root)])
            term = HeadTerm(
                kind=Kind.CONSTANT,
                value=self._naming.value(node),
                node=self._naming.parameter(str(node.target))[0],
                signature="constant",
                constants=constants,
            )
            return _Seen(term=term, shape=None)
        return None

    def _view(self, node: fx.Node, op: Op, source: fx.Node) -> _Seen | None:
        if self._naming.is_identity(node, op):
            return self._seen[source]
        before, after = self._shapes[source.name], self._shapes.get(node.name)
        # a pool to the extents that the map has; one of one cell is a pool, which at other sizes has several
        is_idle = isinstance(op, AdaptivePool) or (isinstance(op, WindowPool) and is_of_one_cell(op))
        if is_idle and before == after and set(before[2:]) != {1}:
            return self._seen[source]
        is_view = isinstance(op, _VIEWS) or self._naming.is_view(node)
        if not is_view or after is None or len(after) < 2:
            return None
        if isinstance(op, Index) and not _keeps_batch(op):
            return None
        if before[0] != after[0] or math.prod(before) != math.prod(after):
            return None
        return dataclasses.replace(self._seen[source], shape=tuple(after[1:]), name=self._naming.value(node))

    def _permutation(self, node: fx.Node, op: Op, source: fx.Node) -> _Seen | None:
        before = self._shape(source)
        if not isinstance(op, Permute) or before is None:
            return None
        axes = op.order(len(before) + 1)
        if axes is None or axes[0] != 0:
            return None if axes is None else self._swapped_back(node, source, axes)
        if math.prod(before) > _LARGEST:
            return None
        seen = self._seen[source]
        grid = np.arange(math.prod(before)) if seen.order is None else seen.order
        moved = grid.reshape(before).transpose([axis - 1 for axis in axes[1:]])
        order = np.ascontiguousarray(moved).reshape(-1)
        is_same = bool((order == np.arange(order.size)).all())
        return _Seen(
            term=seen.term,
            shape=moved.shape,
            order=None if is_same else order,
            name=self._naming.value(node),
        )

    def _swapped_back(self, node: fx.Node, source: fx.Node, axes: tuple[int, ...]) -> _Seen | None:
        """What two permutations in a row that move the batch give, if the second undoes the first."""
        self._swapped[node] = (source, axes)
        first, before = self._swapped.get(source, (None, ()))
        is_same = len(before) == len(axes) and [before[axis] for axis in axes] == [*range(len(axes))]
        return self._seen[first] if first is not None and is_same else None

    def _affine(self, node: fx.Node, op: Op, source: fx.Node) -> _Seen | None:
        found = read_affine(op, self._vocabulary.root)
        before = self._shape(source)
        if found is None or before is None or not covers_map(found, before):
            return None
        seen, shape = self._seen[source], self._shape(node)
        affine = self._weights(node, found, before, seen.order)
        return _Seen(term=self._term(node, Kind.AFFINE, "affine", (seen,), shape, affine=affine), shape=shape)

    def _pool(self, node: fx.Node, op: Op, source: fx.Node) -> _Seen | None:
        before, after = self._shape(source), self._shape(node)
        seen = _materialized(self._seen[source])
        own = seen.term.shape
        if before is None or after is None or own is None:
            return None
        if own[:1] != before[:1] or math.prod(own) != math.prod(before):
            return None
        if not averages_map(op, node, before, after, self._shape):
            return None
        seen = self._of_mean(node, op, source) or seen
        return _Seen(term=self._term(node, Kind.POOL, "average over the map", (seen,), after), shape=after)

    def _of_mean(self, node: fx.Node, op: Op, source: fx.Node) -> _Seen | None:
        """The map of which the source is the mean along the other axes."""
        first = self._vocabulary.classify(source) if isinstance(op, Reduce) else None
        if not isinstance(op, Reduce) or not isinstance(first, Reduce) or not first.average:
            return None
        read, seen = self._shape(first.source), self._seen[first.source]
        is_map = seen.order is None and seen.term.shape == read
        is_plain = not (node.kwargs.get("dtype") or source.kwargs.get("dtype"))
        return seen if read and is_map and is_plain and takes_all(first, op, len(read) + 1) else None

    def _elementwise(self, node: fx.Node, op: Op, source: fx.Node) -> _Seen | None:
        seen = _materialized(self._seen[source])
        if not isinstance(op, Elementwise) or seen.shape is None or self._shape(node) != seen.shape:
            return None
        function = None
        if op.channels:
            if any(extent != 1 for extent in seen.shape[1:]):
                return None
        else:
            function = self._naming.function(node)
        signature, numbers = self._naming.signature(node), map(self._number, op.sources)
        term = self._term(node, Kind.ELEMENTWISE, signature, (seen,), seen.shape, function=function)
        term = dataclasses.replace(term, constants=tuple(number for number in numbers if number is not None))
        return _Seen(term=term, shape=seen.shape)

    def _scaling(self, node: fx.Node, op: Op) -> Scaling | None:
        """What it does to one value, if it adds and multiplies by constants: so much as zero and one tell."""
        if not isinstance(op, Elementwise) or op.role not in _AFFINE:
            return None
        values = [source for source in op.sources if self._constant(source) is None]
        shape = self._shape(values[0]) if len(values) == 1 else None
        if not shape or shape != self._shape(node) or self._seen[values[0]].order is not None:
            return None
        if not all(self._is_one_rounding_off(source) for source in op.sources if source not in values):
            return None
        cells = (1, shape[0], *[1] * (len(shape) - 1))
        rows = [
            self._run(node, {values[0]: torch.full(cells, place, dtype=torch.float64)})
            for place in (0.0, 1.0)
        ]
        if any(row is None or row.shape != cells or row.dtype != torch.float64 for row in rows):
            return None
        shift, whole = (numpy_of(row.reshape(-1)) for row in rows if row is not None)
        is_finite = np.isfinite((shift, whole)).all()  # of a quotient by the value it is not
        return Scaling(factor=whole - shift, shift=shift) if is_finite else None

    def _is_one_rounding_off(self, node: fx.Node) -> bool:
        """Whether a constant is what it is in float64, but for a rounding: else libraries compute others."""
        wide, own = self._constant(node), self._constant(node, is_wide=False)
        if wide is None or own is None:
            return False
        unit = torch.finfo(own.dtype).eps if own.is_floating_point() else 0.0
        return torch.allclose(own.double(), wide.double(), rtol=unit, atol=0.0, equal_nan=True)

    def _constant(self, node: fx.Node, *, is_wide: bool = True) -> torch.Tensor | None:
        """A stored number, or what views and functions of each element make of one; else None.

        In float64, or in the model's own types.
        """
        if node.op == "get_attr":
            held = operator.attrgetter(str(node.target))(self._vocabulary.root)
            is_small = isinstance(held, torch.Tensor) and not held.is_complex() and held.numel() <= _LARGEST
            return None if not is_small else held.detach().double() if is_wide else held.detach()
        pending = [node]
        while pending:  # without recursion, since graphs are deep
            item = pending[-1]
            is_known = (item, is_wide) not in self._constants and self._is_of_constants(item)
            read = item.all_input_nodes if is_known else ()
            missing = [one for one in read if one.op != "get_attr" and (one, is_wide) not in self._constants]
            if not missing:
                value = self._run(item, {}, is_wide=is_wide) if is_known else None
                self._constants.setdefault((item, is_wide), value)
                pending.pop()
            pending += missing
        return self._constants[node, is_wide]

    def _is_of_constants(self, node: fx.Node) -> bool:
        """Whether it makes a constant of constants."""
        op = self._vocabulary.classify(node) if node.all_input_nodes else None
        is_pure = isinstance(op, Elementwise) and not op.inplace and op.role is not Role.DROPOUT
        return is_pure or isinstance(op, _VIEWS)

    def _run(
        self, node: fx.Node, given: Mapping[fx.Node, torch.Tensor], *, is_wide: bool = True
    ) -> torch.Tensor | None:
        """The node's function of these values and of constants; None where that is no tensor."""
        read = dict(given)
        for source in node.all_input_nodes:
            constant = self._constant(source, is_wide=is_wide) if source not in read else None
            if constant is not None:
                read[source] = constant.clone()  # which the node may write to
        called = getattr(torch.Tensor, str(node.target), None) if node.op == "call_method" else node.target
        if not callable(called) or not read.keys() >= {*node.all_input_nodes}:
            return None
        args: Any = fx.map_arg(node.args, read.__getitem__)
        kwargs: Any = fx.map_arg(node.kwargs, read.__getitem__)
        try:
            found = called(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
        return found if isinstance(found, torch.Tensor) else None

    def _joint(self, node: fx.Node, op: Op) -> _Seen | None:
        """A join along the channels, a maximum over the map or a softmax, whatever its spelling."""
        sources = op.sources if isinstance(op, Concat) else tuple(node.all_input_nodes)
        if any(self._shape(source) is None for source in sources):
            return None
        seen, shape = tuple(self._seen[source] for source in sources), self._shape(node)
        function = joint_function(node, op, self._called(node), [part.shape for part in seen], shape)
        is_read_as_it_is = all(part.order is None for part in seen)
        if function is None or shape is None or not is_read_as_it_is:
            return None
        if function == MAXIMUM:
            is_map = seen[0].term.shape == seen[0].shape
            term = self._term(node, Kind.POOL, "maximum over the map", seen, shape, function=function)
            return _Seen(term=term, shape=shape) if is_map else None
        # the same on [N, C] and on [N, C, 1, 1]
        cells = tuple(dataclasses.replace(part, shape=(part.shape or ())[:1]) for part in seen)
        return _Seen(term=self._term(node, Kind.OP, function, cells, shape, function=function), shape=shape)

    def _pointwise(self, node: fx.Node, op: Op) -> _Seen | None:
        """A function of several values of one shape: the same on ``[N, C]`` and on ``[N, C, 1, 1]``."""
        if not isinstance(op, Elementwise) or op.channels:
            return None
        seen = tuple(_materialized(self._seen[source]) for source in op.sources)
        shape, signature = self._shape(node), self._naming.signature(node)
        if len(seen) < 2 or shape is None or any(part.shape != shape for part in seen):
            return None
        gated = [x for x, gate in zip(seen, seen[::-1], strict=True) if _is_sigmoid_of(gate.term, x.term)]
        if len(seen) == 2 and gated and op.role is Role.PRODUCT:  # as exporters write it
            term = self._term(node, Kind.ELEMENTWISE, "silu", (gated[0],), shape, function="silu")
            return _Seen(term=term, shape=shape)
        return _Seen(term=self._term(node, Kind.ELEMENTWISE, signature, seen, shape), shape=shape)

    def _biased(self, node: fx.Node, op: Op) -> _Seen | None:
        """A constant added to an affine site that has no bias, where the two can run as one."""
        if not isinstance(op, Elementwise) or op.plain is not Plain.SUM or not self._naming.unit(node):
            return None
        shape = self._shape(node)
        for source, other in (op.sources, op.sources[::-1]):
            seen, given = self._seen[source], self._seen[other].term
            affine = seen.term.affine
            if affine is None or affine.bias is not None or seen.order is not None or other.op != "get_attr":
                continue
            if shape is None or shape != seen.shape or not given.constants:
                continue
            bias = _bias_of(given.constants[0], shape)
            if bias is None:
                continue
            whole = dataclasses.replace(
                affine, bias=bias, bias_name=given.node, spelling=f"{affine.spelling} + Add"
            )
            value, name = self._naming.value(node), self._naming.told(node)
            term = dataclasses.replace(seen.term, value=value, node=name, affine=whole)
            return _Seen(term=term, shape=shape)
        return None

    def _operator(self, node: fx.Node, op: Op, sources: Sequence[fx.Node]) -> _Seen:
        seen = tuple(_materialized(self._seen[source]) for source in sources)
        shape, signature = self._shape(node), self._naming.signature(node)
        pointwise = self._pointwise_site(node, op, seen)
        term = self._term(node, Kind.OP, signature, seen, shape, pointwise=pointwise)
        if node.name not in self._shapes:  # no tensor, which could be tapped: several, or a size
            term = dataclasses.replace(term, value="")
        return _Seen(term=term, shape=shape)

    def _pointwise_site(self, node: fx.Node, op: Op, seen: Sequence[_Seen]) -> SiteWeights | None:
        """The site that a Linear or a convolution of one cell applies at every place, or None."""
        found = read_affine(op, self._vocabulary.root)
        if found is None or {*found.kernel_size, *found.op.stride} - {1} or not seen:
            return None
        if not self._naming.value(found.op.source) or seen[0].name or seen[0].order is not None:
            return None
        if not seen[0].shape:  # a vector or a constant: it has no places of samples
            return None
        affine = self._weights(node, found, (), None)
        rank = len(seen[0].shape) + 1
        name = self._naming.value(node)
        return at_every_position(affine, name, rank, 1 if found.kernel_size else rank - 1)

    def _weights(
        self, node: fx.Node, found: FxAffine, operand: Shape, order: NDArray[np.int64] | None
    ) -> SiteWeights:
        matrix = numpy_of(found.weight.flatten(1))
        if order is not None:
            plain = np.empty_like(matrix)
            plain[:, order] = matrix
            matrix = plain
        name, is_transposed = self._naming.parameter(str(found.op.weight))
        bias_name = None if found.op.bias is None else self._naming.parameter(found.op.bias)[0]
        return SiteWeights(
            weight=matrix,
            bias=None if found.bias is None else numpy_of(found.bias),
            weight_name=name,
            bias_name=bias_name,
            kernel_size=found.kernel_size,
            operand=operand,
            reads=self._naming.value(found.op.source),
            columns=order,
            is_transposed=is_transposed,
            spelling=self._naming.signature(node),
        )

    def _term(
        self,
        node: fx.Node,
        kind: Kind,
        signature: str,
        operands: tuple[_Seen, ...],
        shape: Shape | None,
        affine: SiteWeights | None = None,
        pointwise: SiteWeights | None = None,
        function: str | None = None,
    ) -> HeadTerm:
        return HeadTerm(
            kind=kind,
            value=self._naming.value(node),
            node=self._naming.told(node),
            signature=signature,
            operands=tuple(seen.term for seen in operands),
            shape=shape,
            affine=affine,
            pointwise=pointwise,
            function=function,
        )


def _materialized(seen: _Seen) -> _Seen:
    """A permuted value as a term of its own, for operators that care for the order."""
    if seen.order is None:
        return seen
    term = HeadTerm(
        kind=Kind.OP,
        value=seen.name,
        node=f"permuted {seen.term.node}",
        signature="permute",
        operands=(seen.term,),
        shape=seen.shape,
        constants=(seen.order,),
    )
    return _Seen(term=term, shape=seen.shape)


def _is_sigmoid_of(gate: HeadTerm, x: HeadTerm) -> bool:
    return gate.function == "sigmoid" and gate.operands == (x,)


def _bias_of(constant: Array, shape: Shape) -> Array | None:
    """One number for each channel of a sample, from what is added to all samples; else None."""
    if constant.ndim > len(shape) + 1 or any(extent != 1 for extent in shape[1:]):
        return None
    try:
        full = np.broadcast_to(constant, (1, *shape))
    except ValueError:
        return None
    return np.ascontiguousarray(full).reshape(-1)


def _keeps_batch(op: Index) -> bool:
    """True if the index leaves the batch as it is, at whatever size."""
    return bool(op.items) and (op.items[0] is ... or op.items[0] == slice(None))
