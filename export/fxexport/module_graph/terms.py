"""torch.fx graph → terms: views dropped, Linear and covering convolutions read as one affine site.

What a node does is asked of the vocabulary, so modules, functions, methods and ATen operators are read
alike; what the vocabulary does not know is compared by its signature.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

from fxexport.module_graph.affine import FxAffine, covers_map, read_affine
from fxexport.module_graph.functions import joint_function
from fxexport.module_graph.pools import averages_map
from fxexport.module_graph.signature import (
    call_signature,
    has_hooks,
    is_identity,
    operator_name,
    path_of,
)
from fxexport.numerics.activations import ACTIVATIONS
from fxexport.terms.arrays import arrays_of, numpy_of
from fxexport.terms.term import MAXIMUM, HeadTerm, Kind, Shape, SiteWeights, TermGraph, at_every_position
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
    Squeeze,
    Unflatten,
    Unsqueeze,
    View,
)
from fxpasses.vocabulary.vocabulary import Vocabulary

_VIEWS = (Flatten, Unflatten, View, Squeeze, Unsqueeze, Index)

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """A node's value as a term and the order in which it reads the term's elements (None: the same).

    ``name`` is that of the value itself, where the order is not the same.
    """

    term: HeadTerm
    shape: Shape | None
    order: NDArray[np.int64] | None = None
    name: str = ""


def module_terms(
    graph_module: fx.GraphModule,
    shapes: dict[str, tuple[int, ...]],
    results: Mapping[str, Sequence[tuple[int, ...]]] = MappingProxyType({}),
) -> TermGraph:
    """The graph as terms, given the shape of every tensor node at some batch size.

    The output terms are named by their position; the caller knows their names.

    Args:
        graph_module: the graph.
        shapes: of every node that gives a tensor.
        results: the shapes of every node that gives several.
    """
    reader = _Reader(graph_module, shapes, results)
    outputs: list[HeadTerm] = []
    for node in graph_module.graph.nodes:
        if node.op == "output":
            for leaf in pytree.tree_leaves(node.args[0]):
                outputs += reader.given(leaf) if isinstance(leaf, fx.Node) else []
        else:
            reader.add(node)
    return TermGraph(
        dialect="module", outputs=tuple((str(index), term) for index, term in enumerate(outputs))
    )


class _Reader:
    """Reads nodes in order; holds the term of every node read so far."""

    def __init__(
        self,
        module: fx.GraphModule,
        shapes: dict[str, tuple[int, ...]],
        results: Mapping[str, Sequence[tuple[int, ...]]],
    ) -> None:
        self._module = module
        self._shapes = shapes
        self._results = results
        self._vocabulary = Vocabulary(module)
        self._seen: dict[fx.Node, _Seen] = {}
        self._inputs = 0

    def read(self, node: fx.Node) -> _Seen:
        return self._seen[node]

    def given(self, node: fx.Node) -> list[HeadTerm]:
        """What an output gives: one value, or all those of an operator that gives several."""
        term = self.read(node).term
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
        module = self._called(node)
        op = Opaque() if has_hooks(module) else self._vocabulary.classify(node)
        seen = None
        source = self._source(node, op)
        if source is not None and not has_hooks(module):
            seen = self._view(node, op, source) or self._permutation(node, op, source)
            seen = seen or self._affine(node, source) or self._pool(node, op, source)
            seen = seen or self._joint(node, op) or self._elementwise(node, op, source)
        elif not has_hooks(module):
            seen = self._joint(node, op)
        self._seen[node] = seen or self._pointwise(node, op) or self._operator(node)

    def _shape(self, node: object) -> Shape | None:
        full = self._shapes.get(node.name) if isinstance(node, fx.Node) else None
        return None if full is None or not full else tuple(full[1:])

    def _called(self, node: fx.Node) -> nn.Module | None:
        return self._module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _source(self, node: fx.Node, op: Op) -> fx.Node | None:
        """The one value that the node is a function of, or None."""
        source = getattr(op, "source", None)
        if source is None:
            sources = op.sources if isinstance(op, Elementwise) else tuple(node.all_input_nodes)
            source = sources[0] if len(sources) == 1 else None
        if not isinstance(source, fx.Node) or self._shape(source) is None:
            return None
        return None if self._seen[source].term.kind is Kind.CONSTANT else source

    def _leaf(self, node: fx.Node) -> _Seen | None:
        if node.op == "placeholder":
            signature = f"input {self._inputs}"
            self._inputs += 1
            shape = self._shape(node)
            term = HeadTerm(
                kind=Kind.INPUT, value=node.name, node=node.name, signature=signature, shape=shape
            )
            return _Seen(term=term, shape=shape)
        if node.op == "get_attr":
            constants = arrays_of([operator.attrgetter(str(node.target))(self._module)])
            term = HeadTerm(
                kind=Kind.CONSTANT,
                value=node.name,
                node=str(node.target),
                signature="constant",
                constants=constants,
            )
            return _Seen(term=term, shape=None)
        return None

    def _view(self, node: fx.Node, op: Op, source: fx.Node) -> _Seen | None:
        if is_identity(node, self._called(node)):
            return self._seen[source]
        before, after = self._shapes[source.name], self._shapes.get(node.name)
        # a pool to the extents that the map has; one of one cell is a pool, which at other sizes has several
        if isinstance(op, AdaptivePool) and before == after and set(before[2:]) != {1}:
            return self._seen[source]
        if not isinstance(op, _VIEWS) or after is None or len(after) < 2:
            return None
        if isinstance(op, Index) and not _keeps_batch(op):
            return None
        if before[0] != after[0] or math.prod(before) != math.prod(after):
            return None
        return dataclasses.replace(self._seen[source], shape=tuple(after[1:]), name=node.name)

    def _permutation(self, node: fx.Node, op: Op, source: fx.Node) -> _Seen | None:
        before = self._shape(source)
        if not isinstance(op, Permute) or before is None:
            return None
        axes = _axes(op, len(before) + 1)
        if axes is None or axes[0] != 0:
            return None
        seen = self._seen[source]
        grid = np.arange(math.prod(before)) if seen.order is None else seen.order
        moved = grid.reshape(before).transpose([axis - 1 for axis in axes[1:]])
        order = np.ascontiguousarray(moved).reshape(-1)
        is_same = bool((order == np.arange(order.size)).all())
        return _Seen(term=seen.term, shape=moved.shape, order=None if is_same else order, name=node.name)

    def _affine(self, node: fx.Node, source: fx.Node) -> _Seen | None:
        found = read_affine(node, self._vocabulary)
        before = self._shape(source)
        if found is None or before is None or not covers_map(found, before):
            return None
        seen, shape = self._seen[source], self._shape(node)
        affine = _normalized(found, before, seen.order, source.name, self._spelling(node))
        return _Seen(term=self._term(node, Kind.AFFINE, "affine", (seen,), shape, affine=affine), shape=shape)

    def _pool(self, node: fx.Node, op: Op, source: fx.Node) -> _Seen | None:
        before, after = self._shape(source), self._shape(node)
        seen = _materialized(self._seen[source])
        own = seen.term.shape
        if before is None or after is None or own is None:
            return None
        if own[:1] != before[:1] or math.prod(own) != math.prod(before):
            return None
        if not averages_map(op, node, self._called(node), before, after, self._shape):
            return None
        return _Seen(term=self._term(node, Kind.POOL, "average over the map", (seen,), after), shape=after)

    def _elementwise(self, node: fx.Node, op: Op, source: fx.Node) -> _Seen | None:
        seen, module = _materialized(self._seen[source]), self._called(node)
        if not isinstance(op, Elementwise) or seen.shape is None or self._shape(node) != seen.shape:
            return None
        function = None
        if op.channels:
            if any(extent != 1 for extent in seen.shape[1:]):
                return None
        else:
            function = _function(node, module)
        term = self._term(
            node, Kind.ELEMENTWISE, self._spelling(node), (seen,), seen.shape, function=function
        )
        return _Seen(term=term, shape=seen.shape)

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
        if not isinstance(op, Elementwise) or op.channels or has_hooks(self._called(node)):
            return None
        seen = tuple(_materialized(self._seen[source]) for source in op.sources)
        shape = self._shape(node)
        if len(seen) < 2 or shape is None or any(part.shape != shape for part in seen):
            return None
        return _Seen(term=self._term(node, Kind.ELEMENTWISE, self._spelling(node), seen, shape), shape=shape)

    def _operator(self, node: fx.Node) -> _Seen:
        seen = tuple(_materialized(self._seen[source]) for source in node.all_input_nodes)
        shape = self._shape(node)
        term = self._term(node, Kind.OP, self._spelling(node), seen, shape)
        if node.name not in self._shapes:  # no tensor, which could be tapped: several, or a size
            term = dataclasses.replace(term, value="")
        return _Seen(term=dataclasses.replace(term, pointwise=self._pointwise_site(node, seen)), shape=shape)

    def _pointwise_site(self, node: fx.Node, seen: Sequence[_Seen]) -> SiteWeights | None:
        """The site that a Linear or a convolution of one cell applies at every place, or None."""
        found = None if has_hooks(self._called(node)) else read_affine(node, self._vocabulary)
        if found is None or {*found.kernel_size, *found.op.stride} - {1} or not seen:
            return None
        if seen[0].name or seen[0].order is not None:
            return None
        affine = _normalized(found, (), None, found.op.source.name, self._spelling(node))
        rank = len(seen[0].shape or ()) + 1
        return at_every_position(affine, node.name, rank, 1 if found.kernel_size else rank - 1)

    def _spelling(self, node: fx.Node) -> str:
        module = self._called(node)
        return call_signature(node) if module is None else path_of(type(module))

    def _term(
        self,
        node: fx.Node,
        kind: Kind,
        signature: str,
        operands: tuple[_Seen, ...],
        shape: Shape | None,
        affine: SiteWeights | None = None,
        function: str | None = None,
    ) -> HeadTerm:
        return HeadTerm(
            kind=kind,
            value=node.name,
            node=str(node.target) if node.op == "call_module" else node.name,
            signature=signature,
            operands=tuple(seen.term for seen in operands),
            shape=shape,
            affine=affine,
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


def _normalized(
    found: FxAffine, operand: Shape, order: NDArray[np.int64] | None, reads: str, spelling: str
) -> SiteWeights:
    matrix = numpy_of(found.weight.flatten(1))
    if order is not None:
        plain = np.empty_like(matrix)
        plain[:, order] = matrix
        matrix = plain
    return SiteWeights(
        weight=matrix,
        bias=None if found.bias is None else numpy_of(found.bias),
        weight_name=found.weight_name,
        bias_name=found.bias_name,
        kernel_size=found.kernel_size,
        operand=operand,
        reads=reads,
        columns=order,
        spelling=spelling,
    )


def _keeps_batch(op: Index) -> bool:
    """True if the index leaves the batch as it is, at whatever size."""
    return bool(op.items) and (op.items[0] is ... or op.items[0] == slice(None))


def _axes(op: Permute, rank: int) -> tuple[int, ...] | None:
    dims = [dim % rank for dim in op.dims if isinstance(dim, int)]
    if op.swap and len(dims) == 2:
        axes = list(range(rank))
        axes[dims[0]], axes[dims[1]] = dims[1], dims[0]
        return tuple(axes)
    return tuple(dims) if sorted(dims) == list(range(rank)) else None


def _function(node: fx.Node, module: nn.Module | None) -> str | None:
    """Name under which ``activations`` knows the function with these arguments, or None."""
    name = operator_name(node, module)
    if name not in ACTIVATIONS:
        return None
    if name == "gelu":
        approximate = getattr(module, "approximate", node.kwargs.get("approximate", *node.args[1:2]))
        return name if approximate in (None, "none") else None
    plain = [value for value in node.args[1:] if not isinstance(value, bool)]
    return name if not plain else None
