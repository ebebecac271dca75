"""Two graphs of terms side by side: the same operators over the same constants, or where they part."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from fxexport.proof.graphs.run_alone import OperatorDifference, Resolution, Trials, cells, operator_of
from fxexport.terms.term import Array, Head, Kind, Term, affine_of

_UNITS, _BIAS_UNITS = 4, 16
"""Units in the last place that two foldings of a batch norm may lie apart, in weights and in biases."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConstantDifference:
    """A constant of two paired operators that differs.

    Attributes:
        name: node in the reference.
        index: first position that differs; None where shape or type differ.
        expected: value in the reference.
        found: value in the candidate.
        is_small: whether all values differ by no more than two ways of folding a batch norm into them may.
        is_rounding: whether it is that, and several values differ.
        digests: of the reference's constant and of the candidate's.
    """

    name: str
    index: tuple[int, ...] | None
    expected: float | None
    found: float | None
    is_small: bool = False
    is_rounding: bool = False
    digests: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """How two sets of terms compare.

    Attributes:
        nodes: pairs of terms compared.
        parting: first place where the operators differ, as a clause; None where they never do.
        constants: constants that differ between operators that are the same.
        operators: operators that compute something else, or that only one of the two has.
        tried: operators that are written differently, and why they are taken for the same all the same.
        partner: the candidate's term for each of the reference's terms.
    """

    nodes: int
    parting: str | None
    constants: tuple[ConstantDifference, ...]
    operators: tuple[OperatorDifference, ...]
    tried: tuple[str, ...]
    partner: Mapping[Term, Term]


def compare_heads(
    reference: Head, candidate: Head, roots: tuple[tuple[Term, Term], ...], trials: Trials
) -> Comparison:
    """The heads side by side, from paired outputs down to the boundaries; weights are not compared.

    Boundaries must pair one to one: the same features must reach the same sites.
    """
    return _Walk(trials, frozenset(reference.boundary), frozenset(candidate.boundary)).over(roots)


def compare_backbones(
    reference: Head, candidate: Head, head: Comparison | None, trials: Trials
) -> Comparison:
    """What is upstream of both heads side by side, constants included.

    The weights of affine sites are no constants: ``weights_layer`` compares them in normalised form.
    ``head`` says which of the values that the heads read belong together; without it their order does.
    """
    left, right = (
        tuple(term for term in side.boundary if term.kind is not Kind.CONSTANT)
        for side in (reference, candidate)
    )
    partner = {} if head is None or head.parting is not None else head.partner
    if all(term in partner for term in left) and left:
        roots = tuple((term, partner[term]) for term in left)
    elif len(left) == len(right):
        roots = tuple(zip(left, right, strict=True))
    else:
        parting = f"the reference's head reads {len(left)} values, the candidate's {len(right)}"
        return nothing_compared(parting)
    return _Walk(trials, frozenset(), frozenset()).over(roots)


def nothing_compared(reason: str) -> Comparison:
    """A comparison that could not be made."""
    return Comparison(nodes=0, parting=reason, constants=(), operators=(), tried=(), partner={})


def is_clean(*comparisons: Comparison) -> bool:
    """True if nothing differs, and nothing was only tried."""
    return not any(c.parting or c.constants or c.operators or c.tried for c in comparisons)


def compare_whole(roots: tuple[tuple[Term, Term], ...], trials: Trials) -> Comparison:
    """Everything upstream of the roots side by side, constants included; weights are not compared."""
    return _Walk(trials, frozenset(), frozenset()).over(roots)


class _Walk:
    """Goes up both graphs from values that belong together; holds what it saw.

    Args:
        trials: what decides on operators that are written differently.
        left: terms of the reference at which to end.
        right: those of the candidate.
    """

    def __init__(self, trials: Trials, left: frozenset[Term], right: frozenset[Term]) -> None:
        self._trials = trials
        self._ends = left, right
        self._partner: dict[Term, Term] = {}
        self._taken: dict[Term, Term] = {}
        self._constants: list[ConstantDifference] = []
        self._operators: list[OperatorDifference] = []
        self._tried: list[str] = []
        self._parting: str | None = None

    def over(self, roots: tuple[tuple[Term, Term], ...]) -> Comparison:
        """What there is upstream of the roots."""
        stack = list(reversed(roots))
        while stack:
            a, b = stack.pop()
            if self._partner.get(a) is not b:
                stack.extend(reversed(self._step(a, b)))
        return Comparison(
            nodes=len(self._partner),
            parting=self._parting,
            constants=tuple(self._constants),
            operators=tuple(self._operators),
            tried=tuple(self._tried),
            partner=self._partner,
        )

    def _step(self, a: Term, b: Term) -> tuple[tuple[Term, Term], ...]:
        """The pairs upstream of a pair, after it was looked at."""
        is_end = self._are_ends(a, b)
        reason = None if is_end else self._part(a, b)
        if reason is not None:
            found = self._trials.resolve(a, b, self._are_alike)
            if found is not None:
                return self._resolved(a, b, found)
        mixed = None if reason is not None else _mixed_up(self._partner, self._taken, a, b)
        if mixed is not None:
            self._operators.append(mixed)
            return ()
        if (a in self._ends[0]) != (b in self._ends[1]):
            reason = reason or f"the head ends at {a.node!r} in one and not at {b.node!r} in the other"
        self._partner[a], self._taken[b] = b, a
        self._parting = self._parting or reason
        if reason is not None or is_end:
            return ()
        self._constants.extend(_constant_differences(a, b))
        return tuple(zip(a.operands, b.operands, strict=True))

    def _part(self, a: Term, b: Term) -> str | None:
        if a.kind is Kind.INPUT and b.kind is Kind.INPUT:
            return None if self._trials.are_same_input(a, b) else "another input"
        return _part(a, b)

    def _resolved(self, a: Term, b: Term, found: Resolution) -> tuple[tuple[Term, Term], ...]:
        sources = {term for pair in found.pairs for term in pair}
        if a not in sources and b not in sources:
            self._partner[a], self._taken[b] = b, a
        if found.difference is None:
            alone = f"{a.node!r} and {b.node!r} are written differently; run alone they gave the same"
            self._tried.append(found.held or alone)
        else:
            self._operators.append(found.difference)
        return found.pairs

    def _are_ends(self, a: Term, b: Term) -> bool:
        return a in self._ends[0] and b in self._ends[1]

    def _are_alike(self, a: Term, b: Term) -> bool:
        """True if the two may well belong together, by what they are themselves."""
        is_free = self._partner.get(a, b) is b and self._taken.get(b, a) is a
        return is_free and cells(a) == cells(b) and (self._are_ends(a, b) or self._part(a, b) is None)


def _mixed_up(
    partner: dict[Term, Term], taken: dict[Term, Term], a: Term, b: Term
) -> OperatorDifference | None:
    """A value of one model that stands for two values of the other that are not the same."""
    other, twin = partner.get(a, b), taken.get(b, a)
    if not (_same_source(other, b) or are_one_value(other, b)):
        what = f"the candidate has {other.node!r} and {b.node!r} where the reference has {a.node!r} twice"
        return OperatorDifference(what=what, name=b.node)
    if not (_same_source(twin, a) or are_one_value(twin, a)):
        what = f"the candidate has {b.node!r} in two places, for {twin.node!r} and for {a.node!r}"
        return OperatorDifference(what=what, name=b.node)
    return None


def are_one_value(a: Term, b: Term) -> bool:
    """True for two terms of one graph that compute the same from the same: an optimiser merges them."""
    seen: set[tuple[Term, Term]] = set()
    stack = [(a, b)]
    while stack:
        left, right = stack.pop()
        if left is right or (left, right) in seen:
            continue
        seen.add((left, right))
        if left.kind is Kind.INPUT or _part(left, right) is not None or _constant_differences(left, right):
            return False
        if left.affine is not None and right.affine is not None and not _same_weights(left, right):
            return False
        stack.extend(zip(left.operands, right.operands, strict=True))
    return True


def _same_weights(a: Term, b: Term) -> bool:
    x, y = affine_of(a), affine_of(b)
    if constant_difference("", x.weight, y.weight) is not None or (x.bias is None) != (y.bias is None):
        return False
    return x.bias is None or y.bias is None or constant_difference("", x.bias, y.bias) is None


def _same_source(a: Term, b: Term) -> bool:
    """True for two constants: which of two equal ones an operator reads is no difference."""
    return a.kind is Kind.CONSTANT and b.kind is Kind.CONSTANT


def _part(a: Term, b: Term) -> str | None:
    if a.kind is not b.kind or not _same_operator(a, b):
        return f"{_told(a)} in the reference, {_told(b)} in the candidate"
    if len(a.operands) != len(b.operands):
        return f"{a.node!r} reads {len(a.operands)} values, {b.node!r} reads {len(b.operands)}"
    if a.kind is Kind.OP and a.operand_shapes != b.operand_shapes:
        return f"{a.node!r} reads shapes {a.operand_shapes}, {b.node!r} reads {b.operand_shapes}"
    if a.affine is not None and b.affine is not None and a.affine.weight.shape != b.affine.weight.shape:
        return f"{a.node!r} has weights {a.affine.weight.shape}, {b.node!r} {b.affine.weight.shape}"
    return None


def _same_operator(a: Term, b: Term) -> bool:
    """Equal signatures; a known function is the same in both dialects, whatever its spelling."""
    return a.signature == b.signature or (a.function is not None and a.function == b.function)


def _told(term: Term) -> str:
    return f"{term.node!r} is {operator_of(term)}"


def _constant_differences(a: Term, b: Term) -> list[ConstantDifference]:
    if len(a.constants) != len(b.constants):
        return [ConstantDifference(name=a.node, index=None, expected=None, found=None)]
    return [
        difference
        for left, right in zip(a.constants, b.constants, strict=True)
        if (difference := constant_difference(a.node, left, right)) is not None
    ]


def constant_difference(name: str, reference: Array, candidate: Array) -> ConstantDifference | None:
    """The largest difference of two arrays, or None where they hold the same numbers.

    -0 is 0, and NaN is NaN.
    """
    if reference.shape != candidate.shape or reference.dtype != candidate.dtype:
        return ConstantDifference(name=name, index=None, expected=None, found=None)
    if reference is candidate or _same_memory(reference, candidate):
        return None
    different = _bits(reference) != _bits(candidate)
    if different.any():
        with np.errstate(invalid="ignore"):
            different &= ~((reference == candidate) | (_is_nan(reference) & _is_nan(candidate)))
    if not different.any():
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(different, np.abs(reference.astype(np.float64) - candidate.astype(np.float64)), 0.0)
    apart = np.where(np.isnan(apart), np.inf, apart)
    index = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(apart)), apart.shape))
    is_small = _is_small(reference, apart)
    return ConstantDifference(
        name=name,
        index=index,
        expected=float(reference[index]),
        found=float(candidate[index]),
        is_small=is_small,
        is_rounding=is_small and int(different.sum()) > 1,
        digests=(zlib.crc32(reference.tobytes()), zlib.crc32(candidate.tobytes())),
    )


def _is_small(reference: Array, apart: Array) -> bool:
    """True for a few units in the last place of each row, or for biases, in which terms cancel, of all."""
    if reference.dtype.kind not in "fV":
        return False
    unit = float(ml_dtypes.finfo(reference.dtype).eps)  # type: ignore[no-untyped-call]
    size = np.abs(np.where(np.isfinite(reference), reference, 0).astype(np.float64))
    if reference.ndim < 2:
        return bool((apart <= _BIAS_UNITS * unit * size.max(initial=0.0)).all())
    rows = size.reshape(len(size), -1).max(axis=1, initial=0.0)
    return bool((apart.reshape(len(apart), -1) <= _UNITS * unit * rows[:, np.newaxis]).all())


def _is_nan(array: Array) -> Array:
    """Where an array of any type holds NaN, the only number that is not equal to itself."""
    different: Array = array != array
    return different


def _same_memory(a: Array, b: Array) -> bool:
    same_start = a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    return same_start and a.strides == b.strides


def _bits(array: Array) -> Array:
    """The array as unsigned integers, which types of NumPy and others compare alike."""
    if array.dtype.kind in "fV" and array.dtype.itemsize in (1, 2, 4, 8):
        return array.view(f"u{array.dtype.itemsize}")
    return array
