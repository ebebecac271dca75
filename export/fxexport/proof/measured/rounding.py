"""Layers 4 and 5: real inputs, the float64 reference, the bound of every logit, and the decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set

import numpy as np
from numpy.typing import NDArray

from fxexport.numerics.bounds import Float64, Interval, Precision, precision_of
from fxexport.numerics.evaluate import PrecisionOf, evaluate_head, flat, has_bound
from fxexport.proof.measured.far_apart import Compared, Scale
from fxexport.proof.pairing.heads import PairedHeads
from fxexport.results import Failure
from fxexport.subjects.subject import Run, tapped
from fxexport.terms.term import Array, Head, HeadTerm, Kind, TermGraph


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairing:
    """Which values of the two models belong together.

    Attributes:
        reference: the reference as terms.
        head: the reference's head.
        outputs: positions of paired outputs, (name, in the reference, in the candidate).
        observed: terms of the reference whose values are tapped, with the candidate's terms.
        boundary: those of them at which the head begins.
        before_pool: sites of the reference that one of the two applies before its pool.
    """

    reference: TermGraph
    head: Head
    outputs: tuple[tuple[str, int, int], ...]
    observed: Mapping[HeadTerm, HeadTerm]
    boundary: tuple[HeadTerm, ...]
    before_pool: Set[HeadTerm] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """One model's run of all batches: outputs, and the float64 reference with its bound for each."""

    outputs: tuple[Array, ...]
    observed: Mapping[HeadTerm, Array]
    intervals: Mapping[HeadTerm, Interval]


def observable(reference: Head, candidate: Head, walk: PairedHeads) -> dict[HeadTerm, HeadTerm]:
    """The reference's terms to tap and the candidate's to tap for them.

    Where the heads are built alike: the boundary, and where all that pairs is known to be the same every site
    and every operator without a bound. Else the boundary alone, and only where it is one value of the same
    shape: with more, their order may differ.
    """
    if walk.parting is None:
        partner = walk.partner
        inner = (t for t in reference.terms if walk.is_known and (t.affine or not has_bound(t)))
        wanted = (*reference.boundary, *inner)
        # a value that only one of the two computes, in its order of pools and sites, has no name in the other
        theirs = {*tapped(candidate)}
        named = [term for term in wanted if term in partner and term.value and partner[term].value in theirs]
        return {term: partner[term] for term in named}
    pairs = [(a, b) for a in reference.boundary for b in candidate.boundary]
    is_one = len(pairs) == 1 and pairs[0][0].shape == pairs[0][1].shape
    return dict(pairs) if is_one and pairs[0][0].value and pairs[0][1].value else {}


def sides_of(runs: tuple[Run, Run], pairing: Pairing, precision: PrecisionOf) -> tuple[Side, Side]:
    """Both runs by the reference's terms, with the reference's head in float64 on what each observed.

    The two are evaluated together: a large head's weights are then widened to float64 once.
    """
    pairs = [(a, b) for a, b in pairing.observed.items() if a.kind is not Kind.CONSTANT]
    seen = ({a: runs[0].taps[a.value] for a, _ in pairs}, {a: runs[1].taps[b.value] for a, b in pairs})
    alike = all(seen[0][a].shape == seen[1][a].shape for a, _ in pairs)
    if not alike:
        intervals = tuple(evaluate_head(pairing.head, part, precision, pairing.before_pool) for part in seen)
    else:
        both = {a: np.concatenate([seen[0][a], seen[1][a]]) for a, _ in pairs}
        whole = evaluate_head(pairing.head, both, precision, pairing.before_pool)
        intervals = tuple({t: _half(interval, i) for t, interval in whole.items()} for i in (0, 1))
    first, second = (
        Side(outputs=run.outputs, observed=part, intervals=known)
        for run, part, known in zip(runs, seen, intervals, strict=True)
    )
    return first, second


def _half(interval: Interval, index: int) -> Interval:
    rows = len(interval.value) // 2
    part = slice(index * rows, (index + 1) * rows)
    return Interval(value=interval.value[part], error=interval.error[part])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutputCheck(Compared):
    """One output of both sides over all batches.

    Attributes:
        bound: ``[N, …]`` bound on their difference, or None; ``error`` is the part of it that does not depend
            on what the heads read.
        overflow: where either may be too large for its type, so that infinity is no failure; None: nowhere.
        unit: unit roundoff of the stored type.
        is_decision: whether its largest value is a decision.
    """

    bound: Float64 | None
    unit: float
    overflow: NDArray[np.bool_] | None = None
    is_decision: bool = True


def check_side(side: Side, pairing: Pairing, who: str, provider: str) -> tuple[list[Failure], list[str]]:
    """Where a side's values lie further from the float64 reference than rounding can take them.

    Also why a site shows nothing: it holds NaN or infinities, or its bound is not finite.
    """
    failures, gaps = [], []
    places: list[tuple[str, Array, HeadTerm]] = []
    for output, left, right in pairing.outputs:
        position = left if who == "reference" else right
        places.append((output, side.outputs[position], pairing.reference[left]))
    for term, value in side.observed.items():
        if term.affine is not None:
            places.append((term.affine.weight_name, value, term))
    for place, value, term in places:
        interval = side.intervals.get(term)
        if interval is None:
            continue
        failure = _outside(place, value, interval, who, provider)
        failures.extend([] if failure is None else [failure])
        unknown = int((~np.isfinite(flat(value))).sum())
        if unknown:
            gaps.append(f"{unknown} values of {place!r} are NaN or infinite: no evidence")
        elif not (np.isfinite(interval.error) & np.isfinite(interval.value)).all():
            gaps.append(f"what {place!r} should be has no finite bound: no evidence")
    return failures, gaps


def _may_overflow(kind: str, interval: Interval) -> NDArray[np.bool_]:
    """Where a value of this storage type is known to be finite neither by itself nor by what it reads."""
    precision = precision_of(kind)
    largest = np.inf if precision is None else precision.largest
    too_large: NDArray[np.bool_] = ~(flat(np.abs(interval.value) + interval.error) < largest)
    return too_large


def _outside(name: str, array: Array, interval: Interval, who: str, provider: str) -> Failure | None:
    found, expected, bound = flat(array), flat(interval.value), flat(interval.error)
    if expected.shape != found.shape:
        what = f"shape {found.shape[1:]} a sample where {expected.shape[1:]} is due"
        return Failure(what=what, side=who, provider=provider, name=name)
    finite = np.isfinite(found) & np.isfinite(expected)
    with np.errstate(invalid="ignore"):
        excess = np.where(finite, np.abs(found - expected) - bound, -np.inf)
    mismatch = (np.isfinite(found) != np.isfinite(expected)) & ~_may_overflow(array.dtype.name, interval)
    excess = np.where(mismatch, np.inf, excess)
    apart = Compared(name=name, reference=expected, candidate=found)
    what = "further from the float64 reference than rounding can take it"
    return apart.furthest(excess, bound, what, who, provider)


def joint(reference: Side, candidate: Side, pairing: Pairing, unit: float) -> list[OutputCheck]:
    """Both sides' outputs with the bound on their difference.

    With ``v`` and ``e`` the float64 value and the bound of each side from its own observed values,
    ``|y_r − y_c| ≤ |v_r − v_c| + e_r + e_c``.
    """
    checks = []
    for name, left, right in pairing.outputs:
        term = pairing.reference[left]
        a, b = reference.intervals.get(term), candidate.intervals.get(term)
        y_a, y_b = flat(reference.outputs[left]), flat(candidate.outputs[right])
        bound, error, overflow = None, None, None
        if a is not None and b is not None and flat(a.value).shape == y_a.shape == y_b.shape:
            kinds = reference.outputs[left].dtype.name, candidate.outputs[right].dtype.name
            overflow = _may_overflow(kinds[0], a) | _may_overflow(kinds[1], b)
            with np.errstate(invalid="ignore"):  # two infinite features
                error = flat(a.error) + flat(b.error)
                bound = np.abs(flat(a.value) - flat(b.value)) + error
        checks.append(
            OutputCheck(
                name=name,
                positions=(left, right),
                reference=y_a,
                candidate=y_b,
                bound=bound,
                overflow=overflow,
                unit=unit,
                error=error,
            )
        )
    return checks


def read_same_features(
    sides: tuple[Side, Side], pairing: Pairing, precision: Precision
) -> tuple[bool, str | None]:
    """True if both heads got the same features up to rounding; and what is to be said of them.

    Only then does what one makes of them tell of the other.
    """
    if not pairing.observed:
        return False, "the features that the two heads read do not pair up"
    a, b = sides[0].observed, sides[1].observed
    seen = [term for term in pairing.boundary if term in a]
    if any(flat(a[term]).shape != flat(b[term]).shape for term in seen):
        return False, "the features that the two heads read have different shapes"
    # a view may stand between the two, which adds or drops axes of one cell
    different = [
        term for term in seen if not np.array_equal(a[term].ravel(), b[term].ravel(), equal_nan=True)
    ]
    if not different:
        return True, None
    scale = Scale.of(precision)
    allowed = scale.floor * scale.unit
    for term in different:
        own, other = flat(a[term]), flat(b[term])
        with np.errstate(invalid="ignore"):
            apart = np.nanmax(np.abs(own - other), initial=0.0)
        if not apart <= allowed * np.nanmax(np.abs(own), initial=0.0):
            return False, f"the features {term.value!r} of the two models differ by up to {apart:.3g}"
    return True, "the features differ by rounding"


def positions_of(maps: Array) -> Array:
    """Every position of a map as a row, ``[N · positions, C]``."""
    return np.moveaxis(maps, 1, -1).reshape(-1, maps.shape[1])
