"""Whether two graphs are one: their outputs as terms of one table, walked together where they differ.

What is equal is the same object already, but for constants that one side folded: those are compared as
numbers where both walks meet them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fxexport.language.constants import UNIT, Folded, NotFolded, arranged, folded
from fxexport.language.extents import symbol
from fxexport.language.graph import Dims, Graph, NotRead
from fxexport.language.layout import Layout, plain
from fxexport.language.term import Operand, Origin, Term, Terms, Value, is_same


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutputPair:
    """Two outputs that were compared.

    Attributes:
        left: name of the one.
        right: name of the other.
        is_equal: whether the identities turn one into the other.
    """

    left: str
    right: str
    is_equal: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """A constant of one side that is a fold of constants of the other.

    Attributes:
        left: node of the left graph that holds or reads it.
        right: the same on the right.
        largest_ulp: how far the two lie apart at most, in units of the last place.
    """

    left: str
    right: str
    largest_ulp: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unrelated:
    """Two operators in the same place that no identity relates.

    Attributes:
        left: the one.
        right: the other.
    """

    left: Origin
    right: Origin


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConstantPair:
    """Constants in the same place that are not equal.

    Attributes:
        left: node of the left graph.
        right: node of the right graph.
        largest_difference: by how much an element differs.
    """

    left: str
    right: str
    largest_difference: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """What was derived about two graphs.

    Attributes:
        is_proved: whether every output of the one is that of the other.
        problem: why nothing was compared at all; None where something was.
        outputs: the outputs in pairs.
        identities: names of the identities that were used.
        folds: constants that are equal up to the rounding of a fold.
        unrelated: the topmost operators that no identity relates.
        constants: constants that differ.
        sizes: for which extents of the inputs it holds.
        scope: what it is about.
    """

    is_proved: bool
    problem: str | None = None
    outputs: tuple[OutputPair, ...] = ()
    identities: tuple[str, ...] = ()
    folds: tuple[Fold, ...] = ()
    unrelated: tuple[Unrelated, ...] = ()
    constants: tuple[ConstantPair, ...] = ()
    sizes: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()


def derive(
    left: Graph,
    right: Graph,
    *,
    outputs: Sequence[tuple[int, int]] | None = None,
    inputs: Sequence[tuple[int, int]] | None = None,
) -> Derivation:
    """What the identities prove about two graphs.

    Args:
        left: the one.
        right: the other.
        outputs: which output of the left is which of the right; None pairs by place.
        inputs: the same for inputs.
    """
    try:
        return _Proof(left, right).derived(outputs, inputs)
    except NotRead as error:
        return Derivation(is_proved=False, problem=error.reason, scope=(*left.scope, *right.scope))
    finally:
        folded.cache_clear()


class _Proof:
    """Both graphs in one table, and what the walk has found."""

    def __init__(self, left: Graph, right: Graph) -> None:
        self._graphs = [left, right]
        self._terms = Terms()
        self._known: dict[tuple[Term, Term], bool] = {}
        self._folds: dict[tuple[str, str], Fold] = {}
        self._unrelated: dict[tuple[Origin, Origin], Unrelated] = {}
        self._constants: dict[tuple[str, str], ConstantPair] = {}

    def derived(
        self, outputs: Sequence[tuple[int, int]] | None, inputs: Sequence[tuple[int, int]] | None
    ) -> Derivation:
        left, right = self._graphs
        pairs = _paired(len(left.inputs), len(right.inputs), inputs, "inputs")
        dims, sizes = _agreed(left, right, pairs)
        wanted = [[dims[k] for k, _ in _by(pairs, side)] for side in (0, 1)]
        graphs = [_fitting(graph, own) for graph, own in zip(self._graphs, wanted, strict=True)]
        found = [self._read(side, graph, pairs, dims) for side, graph in enumerate(graphs)]
        both = _paired(len(found[0]), len(found[1]), outputs, "outputs")
        if not both:
            raise NotRead("there is no output to compare")
        results = []
        for first, second in both:
            a, b = found[0][first], found[1][second]
            results.append(
                OutputPair(
                    left=left.outputs[first], right=right.outputs[second], is_equal=self._same_value(a, b)
                )
            )
        return Derivation(
            is_proved=all(pair.is_equal for pair in results),
            outputs=tuple(results),
            identities=tuple(sorted(self._terms.used)),
            folds=tuple(self._folds.values()),
            unrelated=tuple(self._unrelated.values()),
            constants=tuple(self._constants.values()),
            sizes=tuple(sizes),
            scope=tuple(dict.fromkeys((*left.scope, *right.scope))),
        )

    def _read(
        self, side: int, graph: Graph, pairs: Sequence[tuple[int, int]], dims: Sequence[Dims]
    ) -> list[Value]:
        terms = self._terms
        terms.side = side
        values: list[Value] = []
        for number, _ in _by(pairs, side):
            own = graph.inputs[len(values)]
            names = _names(self._graphs, pairs, number)
            shape = tuple(
                symbol(names[axis]) if extent is None else extent for axis, extent in enumerate(dims[number])
            )
            terms.origin = Origin(operator="input", node=own.name)
            kept = tuple(extent for extent in shape if extent != 1)
            term = terms.term("input", (number,), (), own.dtype, kept, is_closed=False)
            axes = iter(range(len(kept)))
            layout: Layout = tuple(
                () if e == 1 else tuple(dataclasses.replace(p, axis=next(axes)) for p in plain((e,))[0])
                for e in shape
            )
            values.append(Value(term=term, known_layout=layout))
        found = graph.read(terms, values)
        terms.origin = None
        return found

    def _same_value(self, left: Value, right: Value) -> bool:
        if left.dtype != right.dtype or left.known_layout is None or right.known_layout is None:
            if left.term is right.term and left.known_layout == right.known_layout:
                return True
            self._note(left.term, right.term)
            return False
        if left.is_closed and right.is_closed:
            return self._same_constant(Operand(left.term, left.layout), Operand(right.term, right.layout))
        if not self._same(left.term, right.term):
            return False
        if left.layout != right.layout:
            self._note(left.term, right.term)
            return False
        return True

    def _same(self, left: Term, right: Term) -> bool:
        """Whether the terms are one; without recursion, since graphs are deep."""
        stack = [(left, right)]
        while stack:
            pair = stack[-1]
            if pair in self._known or pair[0] is pair[1]:
                stack.pop()
                continue
            left_of, right_of = pair
            if not _is_alike(left_of, right_of):
                self._known[pair] = False
                self._note(left_of, right_of)
                stack.pop()
                continue
            needed = [
                (a.term, b.term)
                for a, b in zip(left_of.operands, right_of.operands, strict=True)
                if not _are_closed(a, b) and a.term is not b.term and (a.term, b.term) not in self._known
            ]
            if needed:
                stack.extend(reversed(needed))
                continue
            self._known[pair] = self._operands_same(left_of, right_of)
            stack.pop()
        return left is right or self._known[left, right]

    def _operands_same(self, left: Term, right: Term) -> bool:
        """Whether terms that are alike read the same."""
        results = [
            self._same_constant(a, b)
            if _are_closed(a, b)
            else a.access == b.access and (a.term is b.term or self._known[a.term, b.term])
            for a, b in zip(left.operands, right.operands, strict=True)
        ]
        if not all(results) and all(
            _are_closed(a, b) or a.term is b.term or self._known[a.term, b.term]
            for a, b in zip(left.operands, right.operands, strict=True)
        ):
            self._note(left, right)  # nothing below them says why
        return all(results)

    def _same_constant(self, left: Operand, right: Operand) -> bool:
        if left == right:
            return True
        if left.term.dtype != right.term.dtype or left.access is None or right.access is None:
            return False
        names = (self._node(0, left.term), self._node(1, right.term))
        try:
            a, b = arranged(left), arranged(right)
        except NotFolded:
            return False
        if a.value.ndim != b.value.ndim:
            return False
        # one side may repeat what the other has written out: the readers' axes are the same
        a, b = _written_out(a, b)
        if a.value.shape != b.value.shape:
            return False
        if a.is_exact and b.is_exact:
            if is_same(a.value, b.value):
                return True
        else:
            ulp = _apart(a, b, left.term.dtype)
            if ulp is not None:
                self._terms.use("fold-of-constants")
                self._folds.setdefault(names, Fold(left=names[0], right=names[1], largest_ulp=ulp))
                return True
        with np.errstate(all="ignore"):
            worst = float(
                np.max(np.abs(a.value.astype(np.float64) - b.value.astype(np.float64)), initial=0.0)
            )
        pair = ConstantPair(left=names[0], right=names[1], largest_difference=worst)
        self._constants.setdefault(names, pair)
        return False

    def _note(self, left: Term, right: Term) -> None:
        pair = (self._origin(0, _cause(left)), self._origin(1, _cause(right)))
        self._unrelated.setdefault(pair, Unrelated(left=pair[0], right=pair[1]))

    def _origin(self, side: int, term: Term) -> Origin:
        found = self._terms.origins.get((side, term))
        return found if found is not None else Origin(operator=term.op, node="")

    def _node(self, side: int, term: Term) -> str:
        stack = [term]
        while stack:
            found = self._terms.origins.get((side, stack[-1]))
            if found is not None:
                return found.node
            stack = [operand.term for operand in stack.pop().operands] + stack
        return ""


def _cause(term: Term) -> Term:
    """The first operator of unknown result among those that a term reads, or the term itself."""
    while term.shape is None:
        unknown = [operand.term for operand in term.operands if operand.term.shape is None]
        if not unknown:
            break
        term = unknown[0]
    return term


def _are_closed(left: Operand, right: Operand) -> bool:
    return left.term.is_closed and right.term.is_closed


def _is_alike(left: Term, right: Term) -> bool:
    """Whether two terms can be equal by their operands."""
    return (
        left.op == right.op
        and left.attributes == right.attributes
        and left.dtype == right.dtype
        and left.shape == right.shape
        and len(left.operands) == len(right.operands)
        and left.op not in ("input", "constant", "foreign", "foreign-extents")
    ) or (left.op == right.op == "foreign" and _is_alike_foreign(left, right))


def _is_alike_foreign(left: Term, right: Term) -> bool:
    return (
        left.attributes == right.attributes
        and left.dtype == right.dtype
        and left.shape == right.shape
        and len(left.operands) == len(right.operands)
        and bool(left.operands)
    )


def _written_out(left: Folded, right: Folded) -> tuple[Folded, Folded]:
    """Both with every element that either of them has; as they are where their extents do not fit."""
    try:
        values = np.broadcast_arrays(left.value, left.error, right.value, right.error)
    except ValueError:
        return left, right
    return Folded(value=values[0], error=values[1]), Folded(value=values[2], error=values[3])


def _apart(left: Folded, right: Folded, dtype: str) -> float | None:
    """How far two folds lie apart in units of the last place; None where rounding cannot take them so far."""
    with np.errstate(all="ignore"):
        difference = np.abs(left.value - right.value)
        both = (np.isnan(left.value) & np.isnan(right.value)) | (left.value == right.value)
        near = difference <= left.error + right.error
        if not np.all(near | both):
            return None
        size = np.maximum(np.abs(left.value), np.finfo(np.float32).tiny)
        ulp = 2 * UNIT[dtype] * np.exp2(np.floor(np.log2(size)))
        return float(np.max(np.where(both, 0.0, difference / ulp), initial=0.0))


def _by(pairs: Sequence[tuple[int, int]], side: int) -> list[tuple[int, int]]:
    """For each input of a side, in its order: the pair's number, and the input's."""
    return sorted(((k, pair[side]) for k, pair in enumerate(pairs)), key=lambda item: item[1])


def _paired(
    first: int, second: int, given: Sequence[tuple[int, int]] | None, what: str
) -> Sequence[tuple[int, int]]:
    if given is not None:
        return given
    if first != second:
        raise NotRead(f"{first} {what} beside {second}")
    return [(number, number) for number in range(first)]


def _agreed(left: Graph, right: Graph, pairs: Sequence[tuple[int, int]]) -> tuple[list[Dims], list[str]]:
    """The extents at which both are read, and what they say about sizes."""
    if len(pairs) != len(left.inputs) or len(pairs) != len(right.inputs):
        raise NotRead("an input without partner")
    found: list[Dims] = []
    sizes: list[str] = []
    for first, second in pairs:
        a, b = left.inputs[first], right.inputs[second]
        if a.dtype != b.dtype or len(a.dims) != len(b.dims):
            raise NotRead(f"input {a.name} is {a.dtype}{list(a.dims)}, {b.name} is {b.dtype}{list(b.dims)}")
        dims: list[int | None] = []
        for axis, (x, y) in enumerate(zip(a.dims, b.dims, strict=True)):
            if x is not None and y is not None and x != y:
                raise NotRead(f"axis {axis} of input {a.name} is {x} on one side and {y} on the other")
            extent = y if x is None else x
            dims.append(extent)
            if extent is not None:
                sizes.append(f"{a.name} axis {axis}: {extent}")
            else:
                least = max(a.least[axis], b.least[axis])
                bounds = [item for item in (a.most[axis], b.most[axis]) if item is not None]
                end = f"to {min(bounds)}" if bounds else "on"
                sizes.append(f"{a.name} axis {axis}: every extent from {least} {end}")
        found.append(tuple(dims))
    return found, sizes


def _names(graphs: Sequence[Graph], pairs: Sequence[tuple[int, int]], number: int) -> list[str]:
    """Names of the symbols of an input's axes; axes that either graph wants equal have one name."""
    places = [
        (k, axis) for k, pair in enumerate(pairs) for axis in range(len(graphs[0].inputs[pair[0]].dims))
    ]
    parent = {place: place for place in places}

    def root(place: tuple[int, int]) -> tuple[int, int]:
        while parent[place] != place:
            place = parent[place]
        return place

    for side, graph in enumerate(graphs):
        first: dict[str, tuple[int, int]] = {}
        for place in places:
            key = graph.inputs[pairs[place[0]][side]].same[place[1]]
            if key is not None:
                other = first.setdefault(key, place)
                low, high = sorted([root(other), root(place)])
                parent[high] = low
    return [
        "n{}.{}".format(*root((number, axis))) for axis in range(len(graphs[0].inputs[pairs[number][0]].dims))
    ]


def _fitting(graph: Graph, wanted: Sequence[Dims]) -> Graph:
    """The graph, recorded anew where it does not take these extents."""
    for own, dims in zip(graph.inputs, wanted, strict=True):
        for axis, extent in enumerate(dims):
            most = own.most[axis]
            if extent is not None and own.dims[axis] is None:
                if own.least[axis] <= extent and (most is None or extent <= most):
                    continue
                if graph.at is None:
                    raise NotRead(f"{own.name} takes no extent {extent} along axis {axis}")
                return graph.at(wanted)
    return graph
