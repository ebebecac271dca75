"""Whether two graphs are one: their outputs as terms of one table, walked together where they differ.

What is equal is the same object already, but for constants that one side folded: those are compared as
numbers where both walks meet them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from fxexport.language.arithmetic import are_moderate, parts_of, scaled
from fxexport.language.constants import FOLDS, STEPS, arranged, forget, is_folded, stored
from fxexport.language.contraction import SITES, scaled_weights
from fxexport.language.difference import Difference, Refolded, difference, is_recomputed, refolded
from fxexport.language.extents import Extent, Range, ranges, symbol
from fxexport.language.fold_rules import UNIT, Folded, NotFolded
from fxexport.language.graph import Dims, Graph, NotRead
from fxexport.language.identities import IDENTITIES, TIES
from fxexport.language.layout import extent_of, own_axes, plain
from fxexport.language.term import (
    FLOATS,
    Array,
    Operand,
    Origin,
    Term,
    Terms,
    Uninterpreted,
    Value,
    below,
    is_same,
    numpy_type,
)

EQUAL = "of equal values the two may tell others' places, as they may of values that rounding sets apart"
FINITE = "what is computed on the way is finite: where a value is NaN or infinite the two may differ"


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
class FoldedConstant:
    """A constant of one side that is a fold of constants of the other.

    Attributes:
        left: node of the left graph that holds or reads it.
        largest_ulp: how far the two lie apart at most, in units of the last place.
        unit: unit roundoff of their type.
        stored: names of what each side computes its own from, in the order of its operators.
    """

    left: str
    largest_ulp: float
    unit: float = 0.0
    stored: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


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
        left: node of the left graph, or the name of the parameter that it holds; empty for a factor or
            summand that it lacks.
        right: the same on the right.
        difference: in what the two differ.
        refolded: what they are, where that may be roundings of two folds of the same.
        unit: unit roundoff of their type.
        stored: names of what each side computes its own from, in the order of its operators.
    """

    left: str
    right: str
    difference: Difference
    refolded: Refolded | None = None
    unit: float = 0.0
    stored: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


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
        outside: extents of the left inputs at which one of the models may be another function.
        fixed: those at which one of them may run, though its graph shows one call alone.
        scope: what it is about.
        operators: number of operators that were compared, whatever identities made of them.
        steps: nodes of the left graph that round or compare what the two compute by other operators: where
            that lies between two steps, the two may take different ones.
    """

    is_proved: bool
    problem: str | None = None
    outputs: tuple[OutputPair, ...] = ()
    identities: tuple[str, ...] = ()
    folds: tuple[FoldedConstant, ...] = ()
    unrelated: tuple[Unrelated, ...] = ()
    constants: tuple[ConstantPair, ...] = ()
    sizes: tuple[str, ...] = ()
    outside: tuple[tuple[Dims, ...], ...] = ()
    fixed: tuple[tuple[Dims, ...], ...] = ()
    scope: tuple[str, ...] = ()
    operators: int = 0
    steps: tuple[str, ...] = ()


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
        forget()


_ROUNDS = 3
"""A graph that is recorded anew may fix an extent that was free."""


class _Differ(Exception):
    """Two graphs are not one with their linear maps merged, either."""


class _Proof:
    """Both graphs in one table, and what the walk has found."""

    def __init__(self, left: Graph, right: Graph) -> None:
        self._graphs = [left, right]
        self._terms = Terms()
        self._known: dict[tuple[Term, Term], bool] = {}
        self._folds: dict[tuple[str, str], FoldedConstant] = {}
        self._unrelated: dict[tuple[Origin, Origin], Unrelated] = {}
        self._constants: dict[tuple[str, str], ConstantPair] = {}
        self._differing: dict[tuple[int, Term], str] = {}
        self._explained = 0

    def derived(
        self, outputs: Sequence[tuple[int, int]] | None, inputs: Sequence[tuple[int, int]] | None
    ) -> Derivation:
        left, right = self._graphs
        pairs = _paired(len(left.inputs), len(right.inputs), inputs, "inputs")
        dims, sizes = _agreed(left, right, pairs)
        for _ in range(_ROUNDS):
            wanted = [[dims[k] for k, _ in _by(pairs, side)] for side in (0, 1)]
            self._graphs = [_fitting(graph, own) for graph, own in zip(self._graphs, wanted, strict=True)]
            before, (dims, sizes) = dims, _agreed(self._graphs[0], self._graphs[1], pairs)
            if dims == before:
                break
        else:
            raise NotRead("no extents suit both")
        names = _names(self._graphs, pairs)

        def read(side: int) -> list[Value]:
            with ranges(_ranges(self._graphs, pairs, names)):
                return self._read(side, _by(pairs, side), names, dims)

        found = [read(side) for side in (0, 1)]
        both = _paired(len(found[0]), len(found[1]), outputs, "outputs")
        if not both:
            raise NotRead("there is no output to compare")
        results = [self._same_value(found[0][first], found[1][second]) for first, second in both]
        merged = None if all(results) else self._merged(read, both)
        if merged is not None:
            found[0], results = merged, [not self._constants] * len(both)
        elif self._unrelated and self._terms.exchanged and self._is_one_but_for_constants(read, both):
            self._tell_exchanged()
        return Derivation(
            is_proved=all(results),
            outputs=tuple(
                OutputPair(left=left.outputs[first], right=right.outputs[second], is_equal=is_equal)
                for (first, second), is_equal in zip(both, results, strict=True)
            ),
            identities=tuple(sorted(self._terms.used)),
            folds=tuple(self._folds.values()),
            unrelated=tuple(self._unrelated.values()),
            constants=tuple(self._constants.values()),
            sizes=tuple(sizes),
            outside=_joined(left.outside, right.outside, pairs),
            fixed=_joined(left.fixed, right.fixed, pairs),
            scope=tuple(dict.fromkeys((*left.scope, *right.scope, *self._limits(found[0])))),
            operators=len({o for (side, _), o in self._terms.origins.items() if side == 0 and o.is_operator}),
            steps=tuple(dict.fromkeys(self._steps(found[0]))),
        )

    def _merged(
        self, read: Callable[[int], list[Value]], pairs: Sequence[tuple[int, int]]
    ) -> list[Value] | None:
        """What the left gives with linear maps read as one, where that is what the right gives; else None.

        Constants are kept that lie within the roundings of what was multiplied out, but are no fold of it.
        """
        terms = self._terms
        before = self._folds, self._unrelated, self._constants, self._known, terms.used, terms.exchanged
        self._folds, self._unrelated, self._constants, self._known = {}, {}, {}, {}
        terms.used, terms.exchanged, terms.merges = set(), {}, True
        try:
            own, other = read(0), read(1)
            if all([self._same_value(own[first], other[second]) for first, second in pairs]):
                return own
        except (NotRead, _Differ):
            pass
        finally:
            terms.merges = False
        self._folds, self._unrelated, self._constants, self._known, terms.used, terms.exchanged = before
        return None

    def _is_one_but_for_constants(
        self, read: Callable[[int], list[Value]], pairs: Sequence[tuple[int, int]]
    ) -> bool:
        """Whether the two graphs are one where both hold the same in the places of what differs.

        Identities look at numbers: a factor that is inserted may stand behind what reads it, in other terms.
        """
        before = self._folds, self._unrelated, self._constants, self._terms.used
        self._folds, self._unrelated, self._constants, self._terms.used = {}, {}, {}, set()
        try:
            own, other = read(0), read(1)
            return all([self._same_value(own[first], other[second]) for first, second in pairs])
        except NotRead:  # a graph may be none with another number: a size that it computes
            return False
        finally:
            self._folds, self._unrelated, self._constants, self._terms.used = before

    def _limits(self, outputs: Sequence[Value]) -> Iterator[str]:
        """For which values it is not: in some identities, and in kernels of two libraries or operators."""
        if TIES in self._terms.used:
            yield EQUAL
        if not (
            all(IDENTITIES[name].special for name in self._terms.used) and self._are_kernels_one(outputs)
        ):
            yield FINITE

    def _are_kernels_one(self, outputs: Sequence[Value]) -> bool:
        """Whether the same operators of one library give the terms on both sides.

        A largest value and a root go their own ways at NaN and infinities, by another name.
        """
        left, right = self._graphs
        terms = (term for value in outputs for term in below(value.term) if not term.is_closed)
        names = ([self._origin(side, term).operator for side in (0, 1)] for term in dict.fromkeys(terms))
        return left.scope == right.scope and all(own == other for own, other in names)

    def _steps(self, outputs: Sequence[Value]) -> Iterator[str]:
        """Names of nodes that round or compare what need not be the same bits on both sides."""
        counted = {term for value in outputs for term in below(value.term)}
        for (side, term), origin in self._terms.origins.items():
            if side == 0 and term in counted and _is_step(term):
                other = self._terms.origins.get((1, term))
                if not origin.twin or other is None or other.twin != origin.twin:
                    yield origin.module or origin.node

    def _read(
        self,
        side: int,
        order: Sequence[tuple[int, int]],
        names: Sequence[Sequence[str]],
        dims: Sequence[Dims],
    ) -> list[Value]:
        terms, graph = self._terms, self._graphs[side]
        terms.side = side
        values: list[Value] = []
        for number, _ in order:
            own = graph.inputs[len(values)]
            shape = tuple(
                symbol(names[number][axis]) if extent is None else extent
                for axis, extent in enumerate(dims[number])
            )
            terms.origin = Origin(operator="input", node=own.name)
            kept = tuple(extent for extent in shape if extent != 1)
            term = terms.term("input", (number,), (), own.dtype, kept, is_closed=False)
            values.append(Value(term=term, known_layout=own_axes(shape)))
        try:
            found = graph.read(terms, values)
        except Uninterpreted as error:  # outside of an operator, which would be foreign: what it stores
            raise NotRead(f"what it holds has no term ({error})") from error
        terms.origin = None
        return found

    def _same_value(self, left: Value, right: Value) -> bool:
        if left.known_layout is None and right.known_layout is None:  # what nobody has arranged
            return self._same(left.term, right.term)
        if left.dtype != right.dtype or left.known_layout is None or right.known_layout is None:
            self._note(left.term, right.term)
            return False
        first, second = Operand(left.term, left.layout), Operand(right.term, right.layout)
        if _are_closed(first, second) and left.shape == right.shape:
            return self._same_constant(first, second)
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
                below, cores = self._below(left_of, right_of)
                if below is not None and below[0] is not below[1] and below not in self._known:
                    stack.append(below)
                    continue
                is_same = below is not None and (below[0] is below[1] or self._known[below])
                self._known[pair] = is_same and cores is None
                if cores is not None and is_same:
                    self._differ_by_scale(left_of, *cores)
                elif below is None or (cores is not None and self._is_moved(*cores)):
                    self._note(left_of, right_of)
                stack.pop()
                continue
            needed = [
                (a.term, b.term)
                for a, b in _operand_pairs(left_of, right_of)
                if not _are_closed(a, b) and a.term is not b.term and (a.term, b.term) not in self._known
            ]
            if needed:
                stack.extend(reversed(needed))
                continue
            self._known[pair] = self._operands_same(left_of, right_of)
            stack.pop()
        return left is right or self._known[left, right]

    def _below(self, left: Term, right: Term) -> tuple[Pair | None, tuple[Scaled, Scaled] | None]:
        """What two terms rest on that are not alike: one is the other if these are one, but for the cores."""
        own, other = (self._absorbed(term) for term in (left, right))
        if own is not None or other is not None:
            return (own or left, other or right), None
        cores = _cores(left, right)
        return (None if cores is None else (cores[0][-1][0].term, cores[1][-1][0].term)), cores

    def _absorbed(self, term: Term) -> Term | None:
        """A site times a number as the site with its weights times that number."""
        if term.op != "affine" or term.shape is None:
            return None
        value = Value(term=term, known_layout=plain(term.shape))
        core, scale, shift = parts_of(value)
        is_taken = scale is not None and scale.is_scalar and are_moderate(scale)
        found = scaled_weights(self._terms, core, scale) if is_taken and scale is not None else None
        if found is None:
            return None
        self._terms.use("scale-of-affine-site")
        found = scaled(self._terms, found, shift=shift)
        return found.term if found.known_layout == value.known_layout else None

    def _is_moved(self, left: Scaled, right: Scaled) -> bool:
        """Whether two sites are one but for a factor in the weights, which half precision need not hold."""
        sides = []
        for chain in (left, right):
            core: Value | None = chain[-1][0]
            for _, scale, _ in chain[1:]:
                core = core and scaled_weights(self._terms, core, scale, is_held=True) if scale else core
            if core is None or core.term.op not in SITES:
                return False
            sides.append(core.term.operands[1])
        return all(side.term.is_closed for side in sides) and self._same_constant(*sides, is_told=False)

    def _differ_by_scale(self, like: Term, left: Scaled, right: Scaled) -> None:
        """Notes by which factors and summands two values of the same core differ."""
        unexplained = False
        neutral = self._terms.real(1.0, like.dtype), self._terms.real(0.0, like.dtype)
        for depth in range(max(len(left), len(right)) - 1):
            sides = [chain[-1 - depth][1:] if depth < len(chain) - 1 else neutral for chain in (left, right)]
            for first, second, unit in zip(*sides, neutral, strict=True):
                a, b = (
                    Operand(item.term, item.layout or ((),) * len(like.shape or ()))
                    for item in (first or unit, second or unit)
                )
                before = self._explained
                unexplained |= not self._same_constant(a, b) and self._explained == before
        if unexplained:
            self._note(left[0][0].term, right[0][0].term)

    def _operands_same(self, left: Term, right: Term) -> bool:
        """Whether terms that are alike read the same."""
        before = self._explained
        pairs = _operand_pairs(left, right)
        results = [
            self._same_constant(a, b, is_told=left.op != "map", has_signs=left.op == "foreign")
            if _are_closed(a, b)
            else a.access == b.access and (a.term is b.term or self._known[a.term, b.term])
            for a, b in pairs
        ]
        if self._terms.merges:
            forget(_LARGE)
        if (
            not all(results)
            and self._explained == before
            and all(_are_closed(a, b) or a.term is b.term or self._known[a.term, b.term] for a, b in pairs)
        ):
            self._note(left, right)  # nothing below them says why
        return all(results)

    def _same_constant(
        self, left: Operand, right: Operand, *, is_told: bool = True, has_signs: bool = False
    ) -> bool:
        """Whether two constants are one; if ``is_told`` another number is another function.

        A limit, a slope or a modulus may be another number and never matter: there an input has to show it.
        To what nobody interprets ``-0`` may be another number than ``0``, if ``has_signs``.
        """
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
        if has_signs and not np.array_equal(np.signbit(a.value), np.signbit(b.value)):
            return False
        if a.is_exact and b.is_exact:
            if is_same(a.value, b.value):
                return True
        else:
            ulp = _apart(a, b, left.term, right.term)
            if ulp is not None:
                self._terms.use("fold-of-constants")
                made_of = self._stored(0, left.term), self._stored(1, right.term)
                unit = UNIT.get(left.term.dtype, 0.0)
                fold = FoldedConstant(left=names[0], largest_ulp=ulp, unit=unit, stored=made_of)
                self._folds.setdefault(names, fold)
                return True
        if self._terms.merges:
            return self._is_near((left.term, right.term), names, a, b)
        if is_told:
            self._keep((left.term, right.term), names, a.value, b.value)
        return False

    def _is_near(self, terms: Pair, names: tuple[str, str], left: Folded, right: Folded) -> bool:
        """Keeps two constants no further apart than everything that was multiplied out can round.

        Raises:
            _Differ: they are.
        """
        found = difference(left.value, right.value) if left.value.dtype.kind == "f" else None
        if found is None:
            raise _Differ
        with np.errstate(all="ignore"):
            most = _granted_to_both(left, right, *terms, is_near=True)
            if not np.all(np.abs(left.value - right.value) <= most):
                raise _Differ
        pair = ConstantPair(left=names[0], right=names[1], difference=found, refolded="merged")
        self._constants.setdefault(names, pair)
        return True

    def _keep(self, terms: Pair, names: tuple[str, str], left: Array, right: Array) -> None:
        found = difference(left, right)
        if found is not None and left.dtype != np.int64:  # an axis or a place may be counted from behind
            self._explained += 1
            unit = UNIT.get(terms[0].dtype, 0.0)
            own = refolded(left, right, unit)
            if own is None and is_recomputed(left, right, self._grain(terms)):
                own = "computed"
            pair = ConstantPair(
                left=names[0],
                right=names[1],
                difference=found,
                refolded=own,
                unit=unit,
                stored=(self._stored(0, terms[0]), self._stored(1, terms[1])),
            )
            self._constants.setdefault(names, pair)
            self._exchange(*terms)

    def _exchange(self, left: Term, right: Term) -> None:
        """Notes what would make two constants one: one for the other, or 1 for a factor that one side has."""
        if left.array is not None and right.array is not None and not (left.rounded or right.rounded):
            if left.shape == right.shape:
                self._terms.exchanged.setdefault((1, right), left)
                self._differing.setdefault((1, right), self._node(0, left))
        elif left.shape == right.shape == ():
            numbers = [{item for item in stored(term) if item.shape == ()} for term in (left, right)]
            for side in (0, 1):
                for term in sorted(numbers[side] - numbers[1 - side], key=_serial):
                    self._exchange_factor(side, term, sorted(numbers[1 - side], key=_serial))

    def _exchange_factor(self, side: int, term: Term, others: Iterable[Term]) -> None:
        """Notes what stands for a number in the other graph: one that rounds to it, or 1."""
        value = float(np.asarray(term.array))
        most = STEPS * UNIT.get(term.dtype, 0.0) * abs(value)
        near = (item for item in others if abs(float(np.asarray(item.array)) - value) <= most)
        other = next(near, None)
        self._terms.exchanged.setdefault((side, term), other or self._terms.real(1.0, term.dtype).term)
        if other is None:
            self._differing.setdefault((side, term), "")

    def _tell_exchanged(self) -> None:
        """Keeps as what differs the exchanged constants alone, if any of them is another number."""
        operators, constants = self._unrelated, self._constants
        self._unrelated, self._constants = {}, {}
        for (side, term), name in list(self._differing.items()):
            sides = [(self._terms.exchanged[side, term], name), (term, self._node(side, term))]
            (left, own), (right, other) = sides if side else reversed(sides)
            self._keep((left, right), (own, other), np.asarray(left.array), np.asarray(right.array))
        if not self._constants:  # each stands for the same number: what they are folded into is in the way
            self._unrelated, self._constants = operators, constants

    def _note(self, left: Term, right: Term) -> None:
        if self._terms.merges:
            raise _Differ
        pair = (self._origin(0, _cause(left)), self._origin(1, _cause(right)))
        self._unrelated.setdefault(pair, Unrelated(left=pair[0], right=pair[1]))

    def _origin(self, side: int, term: Term) -> Origin:
        found = self._terms.origins.get((side, term))
        return found if found is not None else Origin(operator=term.op, node="")

    def _grain(self, terms: Pair) -> float:
        """How far roundings take what code computed while it was recorded, which is no weight of a model.

        Exporters write numbers beside float64 in the type of the weights.
        """
        if terms[0].dtype == "float64":
            return UNIT["float32"]
        made_of = ((side, item) for side, term in enumerate(terms) for item in below(term))
        is_computed = any(self._origin(side, item).operator == "constant" for side, item in made_of)
        return _CODE_ROUNDINGS * UNIT.get(terms[0].dtype, 0.0) if is_computed else 0.0

    def _stored(self, side: int, term: Term) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for item in stored(term) if (name := self._node(side, item))))

    def _node(self, side: int, term: Term) -> str:
        stack = [term]
        while stack:
            found = self._terms.origins.get((side, stack[-1]))
            if found is not None:
                return found.node
            stack = [operand.term for operand in stack.pop().operands] + stack
        return ""


def _serial(term: Term) -> int:
    return term.serial


_LARGE = 1 << 20
"""Constants of so many elements are not kept in float64, where many may be multiplied out."""
_CODE_ROUNDINGS = 16
"""Of a table that a model's code computes, by one library and by another."""
_STEPS = ("ceil", "floor", "quantize", "round", "sign", "eq", "ge", "gt", "le", "lt")


def _is_step(term: Term) -> bool:
    """Whether the smallest change of what it reads may change it by a whole step."""
    if term.is_closed or not term.operands or term.operands[0].term.dtype not in FLOATS:
        return False
    if term.op == "cast":
        return term.dtype not in FLOATS
    return term.op == "map" and term.attributes[0] in _STEPS


def _cause(term: Term) -> Term:
    """The first operator of unknown result among those that a term reads, or the term itself."""
    while term.shape is None:
        unknown = [operand.term for operand in term.operands if operand.term.shape is None]
        if not unknown:
            break
        term = unknown[0]
    return term


Pair: TypeAlias = tuple[Term, Term]
Scaled: TypeAlias = list[tuple[Value, Value | None, Value | None]]
"""A value, what it is without its scale and shift, and so on; each with what was taken away last."""


def _cores(left: Term, right: Term) -> tuple[Scaled, Scaled] | None:
    """Both down to where they are alike, if but factors and summands stand above; else None."""
    if left.dtype != right.dtype or left.shape != right.shape or left.shape is None:
        return None
    chains = [_peeled(Value(term=term, known_layout=plain(left.shape))) for term in (left, right)]
    places = [
        (i, j)
        for i, (a, *_) in enumerate(chains[0])
        for j, (b, *_) in enumerate(chains[1])
        if a.known_layout == b.known_layout and (a.term is b.term or _is_alike(a.term, b.term))
    ]
    if not places:
        return None
    i, j = min(places, key=sum)
    return chains[0][: i + 1], chains[1][: j + 1]


def _peeled(value: Value) -> Scaled:
    found: Scaled = [(value, None, None)]
    while value.term.op == "affine":
        value, scale, shift = parts_of(value)
        found.append((value, scale, shift))
    return found


def _operand_pairs(left: Term, right: Term) -> list[tuple[Operand, Operand]]:
    """The operands in pairs; summands and factors stand in any order, and pair with what they resemble."""
    if left.op not in _UNORDERED:
        return list(zip(left.operands, right.operands, strict=True))
    own, other = (
        [(_power(term, at), item) for at, item in enumerate(term.operands)] for term in (left, right)
    )
    pairs = []
    for key in (_itself, _but_for_numbers, _with_its_numbers, _likeness, _nothing):
        for power, item in list(own):
            found = next((x for x in other if x[0] == power and key(x[1]) == key(item)), None)
            if found is not None:
                own.remove((power, item))
                other.remove(found)
                pairs.append((item, found[1]))
    assert not own, "alike terms have the same powers"
    return pairs


def _itself(operand: Operand) -> object:
    return operand


def _but_for_numbers(operand: Operand) -> object:
    return operand.term.skeleton, operand.access


def _with_its_numbers(operand: Operand) -> object:
    """What an operand is, and its weights: a layer is itself whatever is other before it."""
    term = operand.term
    while term.op == "affine":
        term = term.operands[0].term
    held = tuple(item for item in term.operands if item.term.is_closed)
    return (term.op, term.attributes, operand.access, held) if held else operand


def _nothing(operand: Operand) -> object:
    return None


_UNORDERED = ("sum", "product")


def _power(term: Term, place: int) -> Hashable:
    """The exponent of a factor."""
    return term.attributes[place] if term.op == "product" else None


def _likeness(operand: Operand) -> object:
    """What an operand is, whatever it is scaled by."""
    term = operand.term
    while term.op == "affine":
        term = term.operands[0].term
    return term.op, term.attributes, operand.access


def _are_closed(left: Operand, right: Operand) -> bool:
    """Whether two constants are compared as numbers; others are compared by how they are computed."""
    return is_folded(left.term) and is_folded(right.term)


def _is_alike(left: Term, right: Term) -> bool:
    """Whether two terms can be equal by their operands."""
    return (
        left.op == right.op
        and _in_any_order(left) == _in_any_order(right)
        and left.dtype == right.dtype
        and left.shape == right.shape
        and len(left.operands) == len(right.operands)
        and left.op not in ("input", "constant", "foreign", "foreign-extents")
    ) or (left.op == right.op == "foreign" and _is_alike_foreign(left, right))


def _in_any_order(term: Term) -> tuple[Hashable, ...]:
    return tuple(sorted(term.attributes, key=str)) if term.op in _UNORDERED else term.attributes


def _is_alike_foreign(left: Term, right: Term) -> bool:
    return (
        left.attributes == right.attributes
        and left.dtype == right.dtype
        and left.shape == right.shape
        and bool(left.operands)
        and list(map(_extents, left.operands)) == list(map(_extents, right.operands))
    )


def _extents(operand: Operand) -> list[Extent] | None:
    """The shape in which a foreign operator reads a value: it may count what only repeats."""
    return None if operand.access is None else [extent_of(parts) for parts in operand.access]


def _written_out(left: Folded, right: Folded) -> tuple[Folded, Folded]:
    """Both with every element that either of them has; as they are where their extents do not fit."""
    try:
        shape = np.broadcast_shapes(left.value.shape, right.value.shape)
    except ValueError:
        return left, right
    first, second = (side.as_given(lambda array: np.broadcast_to(array, shape)) for side in (left, right))
    return first, second


def _granted(
    computed: Folded,
    folds: Folded,
    has: Counter[Term],
    holds: Counter[Term],
    dtype: str,
    *,
    is_near: bool,
) -> Array:
    """How far what one side computes may lie from the folds of it that the other may hold.

    By all of its roundings together if ``is_near``.

    What is stored may be the fold even where it is a number that the computed one is made of: a weight whose
    norm is its own.
    """
    others = (holds - has).total()  # one that both are made of may stand for another number once more
    count = min(FOLDS, max(others, int(folds.is_exact)))
    more = np.maximum(computed.error - folds.error, 0) + np.maximum(computed.defined - folds.defined, 0)
    if others and folds.is_exact and computed.value.size > 1 and not computed.defined.any():
        # of channels: whichever spelling was folded, a unit in the last place
        size = np.maximum(np.abs(computed.value), np.finfo(np.float32).tiny)
        more = np.where(more > 0, np.maximum(more, 2 * UNIT[dtype] * np.exp2(np.floor(np.log2(size)))), 0.0)
    most = np.inf if is_near and count else STEPS * count * computed.step
    return np.asarray(np.minimum(more, most))


def _granted_to_both(left: Folded, right: Folded, first: Term, second: Term, *, is_near: bool) -> Array:
    dtype, own, other = first.dtype, stored(first), stored(second)
    return (
        left.noise(dtype)
        + right.noise(dtype)
        + _granted(left, right, own, other, dtype, is_near=is_near)
        + _granted(right, left, other, own, dtype, is_near=is_near)
    )


def _apart(left: Folded, right: Folded, first: Term, second: Term) -> float | None:
    """How far two folds lie apart in units of the last place; None where rounding cannot take them so far.

    What both compute is folded by neither: granted is what the one rounds more often than the other, if the
    other holds constants that it lacks and that may be the folds, a few roundings for each; and whatever is
    rightly rounded.
    """
    dtype = first.dtype
    with np.errstate(all="ignore"):
        difference = np.abs(left.value - right.value)
        granted = _granted_to_both(left, right, first, second, is_near=False)
        near = np.isfinite(difference) & (difference <= granted)
        near |= (np.isnan(left.value) & np.isnan(right.value)) | (left.value == right.value)
        if left.is_exact or right.is_exact:
            kind = numpy_type(dtype)
            near |= left.value.astype(kind) == right.value.astype(kind)
        if not np.all(near):
            return None
        size = np.maximum(np.abs(left.value), np.finfo(np.float32).tiny)
        ulp = 2 * UNIT[dtype] * np.exp2(np.floor(np.log2(size)))
        return float(np.max(np.where(np.isfinite(difference), difference / ulp, 0.0), initial=0.0))


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
                most = min(bounds, default=None)
                end = f"every extent from {least} {'on' if most is None else f'to {most}'}"
                sizes.append(f"{a.name} axis {axis}: {least if least == most else end}")
        found.append(tuple(dims))
    told = (_told(graph) for graph in (left, right))
    return found, list(dict.fromkeys((*sizes, *(text for texts in told for text in texts))))


def _told(graph: Graph) -> Iterator[str]:
    """What a graph asks of several extents together."""
    first: dict[str, str] = {}
    for item in graph.inputs:
        for axis, key in enumerate(item.same):
            if key is not None and axis:
                other = first.setdefault(key, f"{item.name} axis {axis}")
                if other != f"{item.name} axis {axis}":
                    yield f"{item.name} axis {axis}: as {other}"
    yield from (f"where {text}" for text in graph.conditions)


def _joined(
    left: Sequence[tuple[Dims, ...]], right: Sequence[tuple[Dims, ...]], pairs: Sequence[tuple[int, int]]
) -> tuple[tuple[Dims, ...], ...]:
    """Extents of both, each once, in the order of the left inputs."""
    ordered = (tuple(extents[other] for _, other in sorted(pairs)) for extents in right)
    return tuple(dict.fromkeys((*left, *ordered)))


def _names(graphs: Sequence[Graph], pairs: Sequence[tuple[int, int]]) -> list[list[str]]:
    """Names of the symbols of each input's axes; axes that either graph wants equal have one name."""
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
        ["n{}.{}".format(*root((number, axis))) for axis in range(len(graphs[0].inputs[place].dims))]
        for number, (place, _) in enumerate(pairs)
    ]


def _ranges(
    graphs: Sequence[Graph], pairs: Sequence[tuple[int, int]], names: Sequence[Sequence[str]]
) -> dict[str, Range]:
    """What the symbols of the inputs' axes can be where both graphs are what they say."""
    found: dict[str, Range] = {}
    for axes, pair in zip(names, pairs, strict=True):
        for graph, place in zip(graphs, pair, strict=True):
            own = graph.inputs[place]
            for name, least, most in zip(axes, own.least, own.most, strict=True):
                low, high = found.get(name, (0, None))
                ends = [end for end in (high, most) if end is not None]
                found[name] = (max(low, least), min(ends, default=None))
    return found


def _fitting(graph: Graph, wanted: Sequence[Dims]) -> Graph:
    """The graph, recorded anew where it does not take these extents."""
    if graph.takes is None or graph.takes(wanted):
        return graph
    if graph.at is None:
        raise NotRead(f"it takes no inputs of {', '.join(map(str, wanted))}")
    return graph.at(wanted)
