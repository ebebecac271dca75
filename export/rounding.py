"""Layers 4 and 5: real inputs, the float64 reference, the bound of every logit, and the decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from export.bounds import Float64, Interval, Precision
from export.compare import Comparison
from export.evaluate import evaluate_head, flat, has_bound
from export.results import Failure, Flip, OutputStatistics
from export.subjects import Run
from export.terms import Array, Head, Kind, Term, TermGraph


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairing:
    """Which values of the two models belong together.

    Attributes:
        reference: the reference as terms.
        candidate: the candidate as terms.
        head: the reference's head.
        outputs: positions of paired outputs, (name, in the reference, in the candidate).
        observed: terms of the reference whose values are tapped, with the candidate's terms.
        boundary: those of them at which the head begins.
    """

    reference: TermGraph
    candidate: TermGraph
    head: Head
    outputs: tuple[tuple[str, int, int], ...]
    observed: Mapping[Term, Term]
    boundary: tuple[Term, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """One model's run of all batches: outputs, and the float64 reference with its bound for each."""

    outputs: tuple[Array, ...]
    observed: Mapping[Term, Array]
    intervals: Mapping[Term, Interval]


def observable(reference: Head, candidate: Head, walk: Comparison) -> dict[Term, Term]:
    """The reference's terms to tap and the candidate's to tap for them.

    Where the heads are built alike: the boundary, every site and every operator without a bound. Else the
    boundary alone, and only where it is one value of the same shape: with more, their order may differ.
    """
    if walk.parting is None:
        partner = walk.partner
        wanted = (*reference.boundary, *(t for t in reference.terms if t.affine or not has_bound(t)))
        return {term: partner[term] for term in wanted if term in partner and term.value}
    pairs = [(a, b) for a in reference.boundary for b in candidate.boundary]
    return dict(pairs) if len(pairs) == 1 and pairs[0][0].shape == pairs[0][1].shape else {}


def sides_of(runs: tuple[Run, Run], pairing: Pairing, precision: Precision) -> tuple[Side, Side]:
    """Both runs by the reference's terms, with the reference's head in float64 on what each observed.

    The two are evaluated together: a large head's weights are then widened to float64 once.
    """
    pairs = [(a, b) for a, b in pairing.observed.items() if a.kind is not Kind.CONSTANT]
    seen = ({a: runs[0].taps[a.value] for a, _ in pairs}, {a: runs[1].taps[b.value] for a, b in pairs})
    alike = all(seen[0][a].shape == seen[1][a].shape for a, _ in pairs)
    if not alike:
        intervals = tuple(evaluate_head(pairing.head, part, precision) for part in seen)
    else:
        both = {a: np.concatenate([seen[0][a], seen[1][a]]) for a, _ in pairs}
        whole = evaluate_head(pairing.head, both, precision)
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
class OutputCheck:
    """One output of both sides over all batches.

    Attributes:
        name: the output.
        reference: ``[N, …]`` values of the reference.
        candidate: those of the candidate.
        bound: ``[N, …]`` bound on their difference, or None.
        unit: unit roundoff of the stored type.
    """

    name: str
    reference: Float64
    candidate: Float64
    bound: Float64 | None
    unit: float


def check_side(side: Side, pairing: Pairing, who: str, provider: str) -> list[Failure]:
    """Where a side's values lie further from the float64 reference than rounding can take them."""
    failures = []
    places: list[tuple[str, Array, Term]] = []
    for output, left, right in pairing.outputs:
        position = left if who == "reference" else right
        places.append((output, side.outputs[position], pairing.reference.outputs[left][1]))
    for term, value in side.observed.items():
        if term.affine is not None:
            places.append((term.affine.weight_name, value, term))
    for place, value, term in places:
        interval = side.intervals.get(term)
        if interval is not None:
            failure = _outside(place, flat(value), interval, who, provider)
            failures.extend([] if failure is None else [failure])
    return failures


def _outside(name: str, found: Float64, interval: Interval, who: str, provider: str) -> Failure | None:
    expected, bound = flat(interval.value), flat(interval.error)
    if expected.shape != found.shape:
        what = f"shape {found.shape[1:]} a sample where {expected.shape[1:]} is due"
        return Failure(what=what, side=who, provider=provider, name=name)
    finite = np.isfinite(found) & np.isfinite(expected)
    excess = np.where(finite, np.abs(found - expected) - bound, -np.inf)
    mismatch = np.isfinite(found) != np.isfinite(expected)
    excess = np.where(mismatch, np.inf, excess)
    if not (excess > 0).any():
        return None
    index = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(excess)), excess.shape))
    return Failure(
        what="further from the float64 reference than rounding can take it",
        side=who,
        provider=provider,
        name=name,
        index=index,
        expected=float(expected[index]),
        found=float(found[index]),
        bound=float(bound[index]),
    )


def joint(reference: Side, candidate: Side, pairing: Pairing, unit: float) -> list[OutputCheck]:
    """Both sides' outputs with the bound on their difference.

    With ``v`` and ``e`` the float64 value and the bound of each side from its own observed values,
    ``|y_r − y_c| ≤ |v_r − v_c| + e_r + e_c``.
    """
    checks = []
    for name, left, right in pairing.outputs:
        term = pairing.reference.outputs[left][1]
        a, b = reference.intervals.get(term), candidate.intervals.get(term)
        y_a, y_b = flat(reference.outputs[left]), flat(candidate.outputs[right])
        bound = None
        if a is not None and b is not None and flat(a.value).shape == y_a.shape == y_b.shape:
            bound = flat(np.abs(a.value - b.value) + a.error + b.error)
        checks.append(OutputCheck(name=name, reference=y_a, candidate=y_b, bound=bound, unit=unit))
    return checks


def statistics_of(
    check: OutputCheck, provider: str, batches: tuple[int, ...], precision: str
) -> tuple[OutputStatistics, tuple[Flip, ...]]:
    """Statistics of one output over all batches, and the samples whose arg max differs."""
    a, b, bound = check.reference, check.candidate, check.bound
    finite = np.isfinite(a) & np.isfinite(b)
    difference = np.where(finite, np.abs(a - b), 0.0)
    worst = np.unravel_index(int(np.argmax(difference)), difference.shape) if difference.size else None
    size = np.where(finite, np.maximum(np.abs(a), np.abs(b)), 0.0).max(axis=1, keepdims=True, initial=0.0)
    # spacing of the binade of each sample's largest value; 2⁻¹²⁶ keeps it defined at zero
    place = np.exp2(np.floor(np.log2(np.maximum(size, 2.0**-126)))) * 2 * check.unit
    ratio = None
    if bound is not None:
        ratio = float(np.divide(difference, bound, out=np.zeros_like(difference), where=bound > 0).max())
    agreement, certified, flips = _decisions(check.name, provider, a, b, bound)
    record = OutputStatistics(
        output=check.name,
        provider=provider,
        batches=batches,
        values=int(a.size),
        non_finite=int((~finite).sum()),
        max_difference=float(difference.max(initial=0.0)),
        max_difference_ulp=float((difference / place).max(initial=0.0)),
        max_bound=None if bound is None else float(bound.max(initial=0.0)),
        max_ratio=ratio,
        worst=None if worst is None else tuple(int(axis) for axis in worst),
        top1_agreement=agreement,
        top1_certified=certified,
        precision=precision,
    )
    return record, flips


def _decisions(
    name: str, provider: str, a: Float64, b: Float64, bound: Float64 | None
) -> tuple[float | None, float | None, tuple[Flip, ...]]:
    """Share of equal arg max, share certified, and the flips.

    A sample is certified where the gap of each class to the top one exceeds the sum of the two bounds:
    then no difference within the bounds can change the arg max.
    """
    if a.shape[1] < 2 or not len(a):
        return None, None, ()
    rows = np.arange(len(a))
    top_a, top_b = a.argmax(axis=1), b.argmax(axis=1)
    certified = None
    if bound is not None:
        gap = a[rows, top_a][:, np.newaxis] - a
        safe = gap > bound + bound[rows, top_a][:, np.newaxis]
        safe[rows, top_a] = True
        certified = float(safe.all(axis=1).mean())
    flips = tuple(
        Flip(
            output=name,
            provider=provider,
            sample=int(row),
            reference_class=int(top_a[row]),
            candidate_class=int(top_b[row]),
            margin=float(a[row, top_a[row]] - a[row, top_b[row]]),
            bound=None if bound is None else float(bound[row, top_a[row]] + bound[row, top_b[row]]),
        )
        for row in np.flatnonzero(top_a != top_b)
    )
    return float((top_a == top_b).mean()), certified, flips
