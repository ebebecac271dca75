"""Runs both models over several batches and establishes layers 4 and 5."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from fxexport.numerics.bounds import FP32, Precision, looser, precision_of
from fxexport.proof.graphs.compare import Comparison
from fxexport.proof.measured.batches import Batch, Streamed, parts_of
from fxexport.proof.measured.far_apart import far_apart
from fxexport.proof.measured.features import check_features
from fxexport.proof.measured.map_outputs import check_maps
from fxexport.proof.measured.rounding import (
    OutputCheck,
    Pairing,
    Side,
    check_side,
    joint,
    observable,
    sides_of,
)
from fxexport.proof.measured.tally import Tally, weakest
from fxexport.results import Failure
from fxexport.subjects.precisions import claims_of
from fxexport.subjects.samples import BATCHES, Samples
from fxexport.subjects.subject import EAGER, BatchError, Feeds, Run, Subject
from fxexport.terms.pool_first import spread_sites
from fxexport.terms.term import Head, Kind
from fxpasses.errors import CheckError, InternalError

_RunBy = tuple[Subject | Streamed, Subject | Streamed]


def measure(
    left: Subject,
    right: Subject,
    heads: tuple[Head, Head],
    walk: Comparison,
    outputs: tuple[tuple[str, int, int], ...],
    samples: Samples,
    target: str,
    *,
    is_same_backbone: bool,
    is_in_doubt: bool,
) -> Tally:
    """What layers 4 and 5 see on one target, over batches of 1, 2 and 5 and then all further samples.

    ``is_same_backbone``: whether what is upstream of the heads was proved to be the same function.
    ``is_in_doubt``: whether weights and features both differ, so that only outputs can tell.
    """
    pairing = Pairing(
        reference=left.graph,
        candidate=right.graph,
        head=heads[0],
        outputs=outputs,
        observed=observable(*heads, walk),
        boundary=heads[0].boundary,
        before_pool=spread_sites(heads[0], walk.partner),
    )
    tally = Tally(is_in_doubt=is_in_doubt)
    # infinite values have no bound, which is said as a failure or a gap; they are no warning
    with np.errstate(invalid="ignore", over="ignore"):
        _on_target(left, right, pairing, walk, samples, target, tally, is_same_backbone)
    return tally


def batch_sizes(left: Subject, right: Subject) -> tuple[int, ...]:
    """1, 2 and 5, or sizes in the range that an exported program has.

    The reference's only size where it has one, unless the candidate has another.
    """
    only = left.fixed_batch
    if only is None or right.fixed_batch not in (None, only):
        return right.batches(left.batches(BATCHES))
    return (only,)


def _on_target(
    left: Subject,
    right: Subject,
    pairing: Pairing,
    walk: Comparison,
    samples: Samples,
    target: str,
    tally: Tally,
    is_same_backbone: bool,
) -> None:
    sizes = batch_sizes(left, right)
    streamed = Streamed(left, target), Streamed(right, target)
    for part in parts_of(samples, left, right, sizes):
        run_by = (left, right) if part.is_first else streamed
        if not _on_part((left, right), run_by, part, pairing, walk, target, tally, is_same_backbone):
            return


def _on_part(
    subjects: tuple[Subject, Subject],
    run_by: _RunBy,
    part: Batch,
    pairing: Pairing,
    walk: Comparison,
    target: str,
    tally: Tally,
    is_same_backbone: bool,
) -> bool:
    """True unless the candidate does not run on the part."""
    left, right = subjects
    on = _names(left, right, target)
    claims = _claims(subjects, pairing.head, on)
    can_borrow = is_same_backbone and left.dialect == right.dialect == "onnx"
    found = _borrowed(run_by, part.feeds, pairing, target, claims[:1]) if can_borrow else None
    if found is None:
        runs = _runs(run_by, part.feeds, target, tally)
        found = None if runs is None else _within(runs, pairing, on, claims)
    if found is None:
        return False
    sides, failures = found.sides, [part.numbered(failure) for failure in found.failures]
    tally.precision = weakest((tally.precision, found.precision))
    tally.sites += found.sites
    tally.gaps.extend(found.gaps)
    if found.precision is not claims[0] and not failures:
        note = f"the bounds that held are those of {found.precision.name}"
        # bounds of sums in half precision are too wide to tell one operator from another
        is_vague = walk.parting is not None and not found.precision.operand
        (tally.gaps if is_vague else tally.notes).append(note)
    has_same_features = check_features(
        subjects, sides, part.leading, pairing, tally, is_same_backbone=is_same_backbone
    )
    # two heads that are built differently and read different values may be one function all the same
    tally.has_same_features = tally.has_same_features and has_same_features
    is_telling = walk.parting is None or has_same_features
    tally.failures.extend(failures if is_telling else [f for f in failures if f.side == "reference"])
    label = "/".join(dict.fromkeys(on))
    unit = _head_precision(pairing.head).result
    checks = joint(sides[0], sides[1], pairing, unit)
    for check in checks:
        _judge(check, label, part, found.precision, walk, tally)
    for subject, side, who, name in zip(subjects, sides, ("reference", "candidate"), on, strict=True):
        maps = check_maps(subject, side, who, walk, found.precision, name)
        tally.failures.extend(part.numbered(failure) for failure in maps.failures)
        tally.gaps.extend(maps.gaps)
        for check in maps.checks:
            _judge(check, name, part, found.precision, walk, tally)
    if part.is_first and ((tally.gaps and not tally.failures) or tally.is_in_doubt):
        paired = zip(checks, pairing.outputs, strict=True)
        values = [(check.name, i, check.reference, check.candidate) for check, (_, i, _) in paired]
        apart = far_apart(left, values, part.feeds[0], on[0], unit, walk.parting)
        tally.is_apart = tally.is_apart or bool(apart)
        tally.failures.extend(apart)
    return True


def _claims(subjects: tuple[Subject, Subject], head: Head, on: tuple[str, str]) -> tuple[Precision, ...]:
    """Precisions to try, tightest first; both models run at the same one."""
    kind = _head_dtype(head)
    both = [claims_of(kind, subject, target) for subject, target in zip(subjects, on, strict=True)]
    return max(both, key=len)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Within:
    """Both sides against float64: the first precision whose bounds hold, else the first tried.

    ``sites`` counts the values of sites that were compared.
    """

    precision: Precision
    sides: tuple[Side, Side]
    failures: list[Failure]
    gaps: list[str]
    sites: int


def _borrowed(
    run_by: _RunBy,
    feeds: tuple[Feeds, Feeds],
    pairing: Pairing,
    target: str,
    claims: tuple[Precision, ...],
) -> _Within | None:
    """The candidate's outputs against the reference's features, or None where they do not hold so.

    Such a bound says more than one on the candidate's own features: its outputs lie within the rounding
    of the head of the reference's features. So the candidate needs no second run to be tapped. An output
    without a bound says nothing about it, and then it is tapped.
    """
    try:
        reference = run_by[0].observe(feeds[0], target)
        outputs = run_by[1].outputs(feeds[1], target)
    except BatchError:
        return None
    pairs = [(a, b) for a, b in pairing.observed.items() if a.kind is not Kind.CONSTANT]
    candidate = Run(outputs=outputs, taps={b.value: reference.taps[a.value] for a, b in pairs})
    found = _within((reference, candidate), pairing, (target, target), claims)
    terms = [pairing.reference.outputs[position][1] for _, position, _ in pairing.outputs]
    has_bounds = all(term in found.sides[1].intervals for term in terms)
    return found if has_bounds and not found.failures and not found.gaps else None


def _within(
    runs: tuple[Run, Run], pairing: Pairing, on: tuple[str, str], claims: tuple[Precision, ...]
) -> _Within:
    first = None
    for claim in claims:
        sides = sides_of(runs, pairing, functools.partial(_claimed, is_weaker=claim is not claims[0]))
        checks = [
            check_side(sides[0], pairing, "reference", on[0]),
            check_side(sides[1], pairing, "candidate", on[1]),
        ]
        found = _Within(
            precision=claim,
            sides=sides,
            failures=[failure for failures, _ in checks for failure in failures],
            gaps=[gap for _, gaps in checks for gap in gaps],
            sites=sum(v.size for side in sides for t, v in side.observed.items() if t in side.intervals),
        )
        if not found.failures:
            return found
        first = first or found
    if first is None:
        raise InternalError("no precision was claimed")
    return first


def _claimed(kind: str, *, is_weaker: bool) -> Precision:
    first = precision_of(kind) or FP32
    return (looser(first) or first) if is_weaker else first


def _names(left: Subject, right: Subject, target: str) -> tuple[str, str]:
    first, second = (EAGER if side.dialect == "module" else target for side in (left, right))
    return first, second


def _runs(run_by: _RunBy, feeds: tuple[Feeds, Feeds], provider: str, tally: Tally) -> tuple[Run, Run] | None:
    """Both models' runs of all batches; None where the candidate does not run at one of them."""
    try:
        reference = run_by[0].observe(feeds[0], provider)
    except BatchError as error:
        raise CheckError(
            str(error), where=run_by[0].name, fix="give inputs that the reference runs on"
        ) from error
    try:
        return reference, run_by[1].observe(feeds[1], provider)
    except BatchError as error:
        tally.failures.append(Failure(what=str(error), side="candidate", provider=provider))
        return None


def _head_dtype(head: Head) -> str:
    return next((str(site.affine.weight.dtype.name) for site in head.sites if site.affine), "float32")


def _head_precision(head: Head) -> Precision:
    return precision_of(_head_dtype(head)) or FP32


def _judge(
    check: OutputCheck,
    provider: str,
    part: Batch,
    precision: Precision,
    walk: Comparison,
    tally: Tally,
) -> None:
    name, a, b = check.name, check.reference, check.candidate
    if a.shape != b.shape:
        what = f"shape {b.shape[1:]} a sample where {a.shape[1:]} is due"
        tally.failures.append(Failure(what=what, name=name, provider=provider, side="candidate"))
        return
    tally.add(check, part, provider, precision)
    is_same = np.array_equal(a, b)
    tally.is_identical = tally.is_identical and is_same
    if ((np.isfinite(a) != np.isfinite(b)) & ~check.overflow).any():
        what = "NaN or infinity in one model and not in the other"
        tally.failures.append(Failure(what=what, name=name, provider=provider))
    elif not (np.isfinite(a) & np.isfinite(b)).all():
        count = (~(np.isfinite(a) & np.isfinite(b))).sum()
        tally.gaps.append(f"{count} values of {name!r} are NaN or infinite: no evidence")
    elif check.bound is None:
        tally.unbounded.append(name)
        if not is_same:
            note = f"output {name!r} has no bound: an operator behind the last site has none"
            (tally.notes if walk.parting is None else tally.gaps).append(note)
