"""Two operators that are written differently, run alone on the same values: the same function or not.

Where two graphs part, one of four things is looked for: an operator that only one of them has, between
values that belong together; an operator in the place of another; a few in a row in the place of others;
an operand that was left out. What is found is run alone in its own model, on seeded values of ordinary
size and on values of every size up to 2¹¹⁰, which reach limits that no sample does (``Clip(−1e30, 1e30)``).
Different results are a difference of the two functions, with its witness. Equal results on 2¹² values are
strong evidence, and no proof: what rests on them is held, not proved.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator

import numpy as np

from fxexport.proof.graphs.folded_norm import folded_apart, is_fold
from fxexport.subjects.subject import Subject
from fxexport.terms.term import Array, Kind, Shape, Term
from fxpasses.errors import FxHeadError

_ROWS = 3
_LARGEST = 2.0**110
_SMALLEST = 2.0**-60
_ORDINARY = 1e6
_NEAR = 2.0**-16
"""Relative difference that two orders of summation may leave."""
_LONGEST = 4
"""Most operators in a row that are tried in the place of others."""
_TRIALS = 4
"""Most pairs of values that are tried as what two parts read."""
_RANDOM = frozenset(
    ("Dropout", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli")
)

_BIAS = re.compile(r"\(vcc?(?=[,)])")

IsSame = Callable[[Term, Term], bool]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OperatorDifference:
    """An operator that computes something else, or stands in one of the two graphs only.

    Attributes:
        what: the difference as a clause.
        name: the node that it is about.
        expected: what the reference gives for some value; None where nothing was run.
        found: what the candidate gives for it.
        is_random: whether it draws random numbers, and by that is another function than any that does not.
    """

    what: str
    name: str
    expected: float | None = None
    found: float | None = None
    is_random: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resolution:
    """How two terms that are written differently belong together.

    Attributes:
        pairs: terms upstream of them that belong together.
        difference: in what the two differ as functions; None where they gave the same.
        held: why they are the same, where it is not that they gave the same.
    """

    pairs: tuple[tuple[Term, Term], ...]
    difference: OperatorDifference | None = None
    held: str | None = None


class Trials:
    """Runs parts of two models on the same values.

    Args:
        left: the reference.
        right: the candidate.
        providers: where ONNX files run; the first one is used.
    """

    def __init__(self, left: Subject, right: Subject, providers: tuple[str, ...]) -> None:
        self._sides = left, right
        self._provider = providers[0]

    def untried(self) -> Trials:
        """The same for the two models, but nothing is run."""
        return _Untried(*self._sides, (self._provider,))

    def resolve(self, a: Term, b: Term, is_same: IsSame) -> Resolution | None:
        """How ``a`` of the reference and ``b`` of the candidate belong together, or None."""
        return (
            self._source(a, b)
            or self._folded(a, b)
            or self._alone(a, b)
            or self._one_sided(1, a, b, is_same)
            or self._one_sided(0, a, b, is_same)
            or self._exchanged(a, b, is_same)
            or _left_out(a, b, is_same)
        )

    def are_same_input(self, a: Term, b: Term) -> bool:
        """True if the two models get the same samples by these inputs: by name, else by position."""
        names = self._sides[0].input_names, self._sides[1].input_names
        if set(names[0]) == set(names[1]):
            return a.value == b.value
        return a.signature == b.signature

    def _source(self, a: Term, b: Term) -> Resolution | None:
        """A difference between two that no operator's result can tell: inputs and random numbers."""
        return self._other_input(a, b) or self._random(a, b)

    def _other_input(self, a: Term, b: Term) -> Resolution | None:
        if a.kind is not Kind.INPUT or b.kind is not Kind.INPUT:
            return None
        what = f"the candidate reads its input {b.value!r} where the reference reads {a.value!r}"
        return Resolution(pairs=(), difference=OperatorDifference(what=what, name=b.node))

    def _random(self, a: Term, b: Term) -> Resolution | None:
        for term, side in ((a, "reference"), (b, "candidate")):
            if term.kind is Kind.OP and operator_of(term) in _RANDOM:
                what = f"{_told(term)} draws random numbers: two runs of the {side} differ"
                difference = OperatorDifference(what=what, name=term.node, is_random=True)
                return Resolution(pairs=(), difference=difference)
        return None

    def _folded(self, a: Term, b: Term) -> Resolution | None:
        """A batch norm that one of the two folded into the convolution before it."""
        for side, norm, other in ((0, a, b), (1, b, a)):
            source = _only_operand(norm)
            names = (operator_of(norm), "" if source is None else operator_of(source), operator_of(other))
            inner, outer = (None if item is None else _only_operand(item) for item in (source, other))
            if source is None or inner is None or outer is None or not is_fold(names):
                continue
            if _apart_from_bias(source) != _apart_from_bias(other) or cells(inner) != cells(outer):
                continue
            try:
                apart = folded_apart(norm, source, other, functools.partial(self._run, side))
            except ValueError:
                continue
            pairs = ((inner, outer),) if side == 0 else ((outer, inner),)
            if apart is None:
                return Resolution(pairs=pairs)
            expected, found = apart if side == 0 else apart[::-1]
            what = f"{_told(other)} is not {_told(source)} with {_told(norm)} folded into it"
            difference = OperatorDifference(what=what, name=b.node, expected=expected, found=found)
            return Resolution(pairs=pairs, difference=difference)
        return None

    def _alone(self, a: Term, b: Term) -> Resolution | None:
        """The two operators by themselves, each on what it reads."""
        left, right = _only_operand(a), _only_operand(b)
        if left is None or right is None or Kind.AFFINE in (a.kind, b.kind) or cells(a) != cells(b):
            return None
        if cells(left) != cells(right):
            return None
        found = self._tried(a, b, left, right)
        if found is None or (found.difference is not None and operator_of(a) != operator_of(b)):
            return None
        return found

    def _one_sided(self, side: int, a: Term, b: Term, is_same: IsSame) -> Resolution | None:
        """An operator that only one of the two has: no difference where it changes nothing."""
        term, other = (b, a) if side else (a, b)
        for source, _ in _upstream(term):
            pair = (a, source) if side else (source, b)
            if cells(source) != cells(term) or not is_same(*pair):
                continue
            values = self._against_identity(side, term, source)
            if values is not None:
                expected, found = values if side else values[::-1]
                what = f"{'only the candidate has' if side else 'the candidate lacks'} {_told(term)} behind"
                difference = OperatorDifference(
                    what=f"{what} {other.node!r}", name=term.node, expected=expected, found=found
                )
                return Resolution(pairs=(pair,), difference=None if _is_one(*values) else difference)
        return None

    def _against_identity(self, side: int, term: Term, source: Term) -> tuple[float, float] | None:
        """A value and what the operator makes of it, the most telling one; None where it does not run."""
        telling: tuple[float, float] | None = None
        for values in _values(source.shape):
            result = self._run(side, term, source, values)
            if result is None or result.size != values.size:
                return None
            result = result.reshape(values.shape)
            apart = np.flatnonzero(~((result == values) | (np.isnan(result) & np.isnan(values))))
            index = int(apart[0]) if apart.size else 0
            if telling is None or _is_one(*telling):
                telling = float(values.reshape(-1)[index]), float(result.reshape(-1)[index])
        return telling

    def _exchanged(self, a: Term, b: Term, is_same: IsSame) -> Resolution | None:
        if Kind.AFFINE in (a.kind, b.kind) or cells(a) != cells(b):
            return None
        bases = itertools.product(_upstream(a), _upstream(b))
        alike = [(x, y) for (x, _), (y, _) in sorted(bases, key=_depth) if cells(x) == cells(y)]
        for left, right in [pair for pair in alike if is_same(*pair)][:_TRIALS]:
            found = self._tried(a, b, left, right)
            if found is not None:
                return found
        return None

    def _tried(self, a: Term, b: Term, left: Term, right: Term) -> Resolution | None:
        for values in _values(left.shape):
            expected = self._run(0, a, left, values)
            found = self._run(1, b, right, values.reshape(_ROWS, *(right.shape or ())))
            if expected is None or found is None or expected.size != found.size:
                return None
            wide, other = expected.astype(np.float64).reshape(-1), found.astype(np.float64).reshape(-1)
            # one operator with other attributes: nothing but those can make a difference
            is_exact = self._sides[0].dialect == self._sides[1].dialect and operator_of(a) == operator_of(b)
            excess = _excess(wide, other, values, 0.0 if is_exact else _NEAR)
            if (excess > 0).any():
                index = int(np.argmax(excess))
                what = f"{_told(b)} stands in the place of {_told(a)}, and gives something else"
                if operator_of(a) == operator_of(b):
                    what = f"{operator_of(b)} has other attributes than {a.node!r}, and gives something else"
                difference = OperatorDifference(
                    what=what,
                    name=b.node,
                    expected=float(wide[index]),
                    found=float(other[index]),
                )
                return Resolution(pairs=((left, right),), difference=difference)
        return Resolution(pairs=((left, right),))

    def _run(self, side: int, term: Term, source: Term, values: Array) -> Array | None:
        try:
            return self._sides[side].run_part(term, source, values, self._provider)
        except (FxHeadError, RuntimeError, ValueError, TypeError):
            return None  # it does not run alone; the models themselves do, or that is reported elsewhere


class _Untried(Trials):
    """Runs nothing: the two belong together by what they say, or not at all."""

    def resolve(self, a: Term, b: Term, is_same: IsSame) -> Resolution | None:
        """A difference where inputs are exchanged or random numbers are drawn, else None."""
        return self._source(a, b)


def _left_out(a: Term, b: Term, is_same: IsSame) -> Resolution | None:
    """An operator of several operands in one model, one of its operands in the other."""
    for source in a.operands:
        if len(a.operands) > 1 and cells(source) == cells(a) and is_same(source, b):
            what = f"the candidate lacks {_told(a)} behind {b.node!r}"
            difference = OperatorDifference(what=what, name=a.node)
            return Resolution(pairs=((source, b),), difference=difference)
    for source in b.operands:
        if len(b.operands) > 1 and cells(source) == cells(b) and is_same(a, source):
            what = f"only the candidate has {_told(b)} behind {a.node!r}"
            difference = OperatorDifference(what=what, name=b.node)
            return Resolution(pairs=((a, source),), difference=difference)
    return None


def _apart_from_bias(term: Term) -> str:
    """A convolution's attributes, whether or not it has a bias."""
    return _BIAS.sub("(", term.signature, count=1).replace(", bias=False", "")


def _only_operand(term: Term) -> Term | None:
    dynamic = [item for item in term.operands if item.kind is not Kind.CONSTANT]
    return dynamic[0] if len(dynamic) == 1 else None


def _upstream(term: Term) -> list[tuple[Term, int]]:
    """Values that the term may be a function of, nearest first, with how many operators lie between."""
    found: dict[Term, int] = {}
    layer = [] if term.kind is Kind.AFFINE else [term]
    for depth in range(1, _LONGEST + 1):
        sources = dict.fromkeys(s for item in layer for s in item.operands if s.kind is not Kind.CONSTANT)
        layer = [source for source in sources if source not in found]
        found |= dict.fromkeys(layer, depth)
        layer = [source for source in layer if source.kind is not Kind.AFFINE]
    return list(found.items())


def cells(term: Term) -> Shape | None:
    """The term's shape up to extents of 1, which a view adds and takes away."""
    return None if term.shape is None else tuple(extent for extent in term.shape if extent != 1)


def _depth(pair: tuple[tuple[Term, int], tuple[Term, int]]) -> int:
    return pair[0][1] + pair[1][1]


def _values(shape: Shape | None) -> Iterator[Array]:
    """Values of ordinary size, then of every size and sign."""
    if shape is None or 0 in shape:
        return
    rng = np.random.Generator(np.random.PCG64(0))
    full = (_ROWS, *shape)
    yield rng.standard_normal(full).astype(np.float32)
    low, high = math.log2(_SMALLEST), math.log2(_LARGEST)
    count = math.prod(full)
    sizes = np.exp2(rng.permutation(np.linspace(low, high, count)))
    yield (sizes * rng.choice((-1.0, 1.0), count)).reshape(full).astype(np.float32)


def _is_one(x: float, y: float) -> bool:
    return x == y or (math.isnan(x) and math.isnan(y))


def _excess(expected: Array, found: Array, values: Array, near: float) -> Array:
    """By how much results lie further apart than orders of summation take them; NaN equals NaN.

    Where there is a result for each value it is judged by its own size and that of its value, else by
    the largest one.
    """
    finite = np.isfinite(expected) & np.isfinite(found)
    size = np.maximum(np.abs(expected), np.abs(found))
    if expected.size == values.size:
        allowed = near * np.maximum(size, np.minimum(np.abs(values.reshape(-1)), 1.0))
    else:
        allowed = np.full(expected.shape, near * float(size[finite].max(initial=0.0)))
    with np.errstate(invalid="ignore"):
        excess = np.where(finite, np.abs(expected - found) - allowed, 0.0)
    if float(np.abs(values).max()) > _ORDINARY:
        return excess  # squares overflow, and two spellings need not overflow alike
    is_apart = ~finite & ~((expected == found) | (np.isnan(expected) & np.isnan(found)))
    return np.where(is_apart, np.inf, excess)


def _told(term: Term) -> str:
    return f"{operator_of(term)} {term.node!r}"


def operator_of(term: Term) -> str:
    """The operator as a person knows it: ``Clip``, ``ReLU``, ``mul``."""
    if term.kind in (Kind.AFFINE, Kind.POOL, Kind.INPUT, Kind.CONSTANT):
        return {Kind.AFFINE: "the site", Kind.POOL: "the average pool"}.get(term.kind, f"the {term.kind}")
    head = term.signature.partition("(")[0].rpartition(" ")[2]
    return head.rpartition(".")[2].partition("-")[0] or term.signature
