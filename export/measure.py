"""Runs both models over several batches and establishes layers 4 and 5."""

from __future__ import annotations

import dataclasses

import numpy as np

from export.apart import far_apart
from export.bounds import FP32, TF32, Precision, precision_of
from export.compare import Comparison
from export.features import check_features
from export.inputs import BATCHES, Samples
from export.results import Failure
from export.rounding import OutputCheck, Pairing, Side, check_side, joint, observable, sides_of, statistics_of
from export.subjects import EAGER, BatchError, Run, Subject
from export.tally import Measured, Tally, measured
from export.terms import Array, Head, Kind
from fxpasses.errors import CheckError


def measure(
    left: Subject,
    right: Subject,
    heads: tuple[Head, Head],
    walk: Comparison,
    outputs: tuple[tuple[str, int, int], ...],
    samples: Samples,
    providers: tuple[str, ...],
    *,
    is_same_backbone: bool,
    is_in_doubt: bool,
) -> Measured:
    """Layers 4 and 5 over batches of 1, 2 and 5, on every provider.

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
    )
    tally = Tally(is_in_doubt=is_in_doubt)
    # infinite values have no bound, which is said as a failure or a gap; they are no warning
    with np.errstate(invalid="ignore", over="ignore"):
        for provider in providers:
            _on_provider(left, right, pairing, walk, samples, provider, tally, is_same_backbone)
    return measured(tally)


def batch_sizes(left: Subject, right: Subject) -> tuple[int, ...]:
    """1, 2 and 5; the one fixed size where both models were written for the same one."""
    fixed = {left.fixed_batch, right.fixed_batch}
    only = next(iter(fixed)) if len(fixed) == 1 else None
    return BATCHES if only is None else (only,)


def _on_provider(
    left: Subject,
    right: Subject,
    pairing: Pairing,
    walk: Comparison,
    samples: Samples,
    provider: str,
    tally: Tally,
    is_same_backbone: bool,
) -> None:
    sizes = batch_sizes(left, right)
    feeds = _batches(samples, sizes, left), _batches(samples, sizes, right)
    on = _names(left, right, provider)
    can_borrow = is_same_backbone and left.dialect == right.dialect == "onnx"
    found = _borrowed(left, right, feeds, pairing, provider, on) if can_borrow else None
    if found is None:
        runs = _runs(left, right, feeds, provider, tally)
        found = None if runs is None else _within(runs, pairing, provider, on)
    if found is None:
        return
    precision, sides, failures = found.precision, found.sides, found.failures
    tally.is_tf32 = tally.is_tf32 or (precision is TF32 and not failures)
    has_same_features = check_features(
        (left, right), sides, feeds, pairing, tally, is_same_backbone=is_same_backbone
    )
    # two heads that are built differently and read different values may be one function all the same
    tally.has_same_features = tally.has_same_features and has_same_features
    is_telling = walk.parting is None or has_same_features
    tally.failures.extend(failures if is_telling else [f for f in failures if f.side == "reference"])
    label = "/".join(dict.fromkeys(on))
    checks = joint(sides[0], sides[1], pairing, _precision(pairing.head).result)
    for check in checks:
        _judge(check, label, sizes, precision, walk, tally)
    if (tally.gaps and not tally.failures) or tally.is_in_doubt:
        paired = zip(checks, pairing.outputs, strict=True)
        values = [(check.name, i, check.reference, check.candidate) for check, (_, i, _) in paired]
        unit = _precision(pairing.head).result
        apart = far_apart(left, values, feeds[0], on[0], unit, walk.parting)
        tally.is_apart = tally.is_apart or bool(apart)
        tally.failures.extend(apart)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Within:
    """Both sides against float64: the first precision whose bounds hold, else the last tried."""

    precision: Precision
    sides: tuple[Side, Side]
    failures: list[Failure]


def _borrowed(
    left: Subject,
    right: Subject,
    feeds: tuple[list[tuple[Array, ...]], list[tuple[Array, ...]]],
    pairing: Pairing,
    provider: str,
    on: tuple[str, str],
) -> _Within | None:
    """The candidate's outputs against the reference's features, or None where they do not hold so.

    Such a bound says more than one on the candidate's own features: its outputs lie within the rounding
    of the head of the reference's features. So the candidate needs no second run to be tapped.
    """
    try:
        reference, outputs = left.observe(feeds[0], provider), right.outputs(feeds[1], provider)
    except BatchError:
        return None
    pairs = [(a, b) for a, b in pairing.observed.items() if a.kind is not Kind.CONSTANT]
    candidate = Run(outputs=outputs, taps={b.value: reference.taps[a.value] for a, b in pairs})
    found = _within((reference, candidate), pairing, provider, on)
    return None if found.failures or found.precision is TF32 else found


def _within(runs: tuple[Run, Run], pairing: Pairing, provider: str, on: tuple[str, str]) -> _Within:
    base = _precision(pairing.head)
    tries = [base, TF32] if provider == "cuda" and base is FP32 else [base]
    while True:
        precision = tries.pop(0)
        sides = sides_of(runs, pairing, precision)
        failures = [
            *check_side(sides[0], pairing, "reference", on[0]),
            *check_side(sides[1], pairing, "candidate", on[1]),
        ]
        if not failures or not tries:
            return _Within(precision=precision, sides=sides, failures=failures)


def _batches(samples: Samples, sizes: tuple[int, ...], side: Subject) -> list[tuple[Array, ...]]:
    ordered = samples.ordered(side.input_names)
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [ordered.batch(start, size) for start, size in zip(starts, sizes, strict=True)]


def _names(left: Subject, right: Subject, provider: str) -> tuple[str, str]:
    first, second = (EAGER if side.dialect == "module" else provider for side in (left, right))
    return first, second


def _runs(
    left: Subject,
    right: Subject,
    feeds: tuple[list[tuple[Array, ...]], list[tuple[Array, ...]]],
    provider: str,
    tally: Tally,
) -> tuple[Run, Run] | None:
    """Both models' runs of all batches; None where the candidate does not run at one of them."""
    try:
        reference = left.observe(feeds[0], provider)
    except BatchError as error:
        raise CheckError(str(error), where=left.name, fix="give inputs that the reference runs on") from error
    try:
        return reference, right.observe(feeds[1], provider)
    except BatchError as error:
        tally.failures.append(Failure(what=str(error), side="candidate", provider=provider))
        return None


def _precision(head: Head) -> Precision:
    for site in head.sites:
        if site.affine is not None:
            return precision_of(site.affine.weight.dtype.name) or FP32
    return FP32


def _judge(
    check: OutputCheck,
    provider: str,
    sizes: tuple[int, ...],
    precision: Precision,
    walk: Comparison,
    tally: Tally,
) -> None:
    name, a, b = check.name, check.reference, check.candidate
    if a.shape != b.shape:
        what = f"shape {b.shape[1:]} a sample where {a.shape[1:]} is due"
        tally.failures.append(Failure(what=what, name=name, provider=provider, side="candidate"))
        return
    record, flips = statistics_of(check, provider, sizes, precision.name)
    tally.statistics.append(record)
    tally.flips.extend(flips)
    is_same = np.array_equal(a, b)
    tally.is_identical = tally.is_identical and is_same
    if (np.isfinite(a) != np.isfinite(b)).any():
        what = "NaN or infinity in one model and not in the other"
        tally.failures.append(Failure(what=what, name=name, provider=provider))
    elif record.non_finite:
        tally.gaps.append(f"{record.non_finite} values of {name!r} are NaN or infinite in both: no evidence")
    elif record.max_bound is None and not is_same:
        note = f"output {name!r} has no bound: an operator behind the last site has none"
        (tally.notes if walk.parting is None else tally.gaps).append(note)
