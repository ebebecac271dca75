"""Runs both models over several batches and establishes layers 4 and 5."""

from __future__ import annotations

import numpy as np

from export.bounds import FP32, TF32, Precision, precision_of
from export.compare import Comparison
from export.features import check_features
from export.inputs import BATCHES, Samples
from export.results import Failure
from export.rounding import OutputCheck, Pairing, check_side, joint, observable, sides_of, statistics_of
from export.subjects import EAGER, BatchError, Run, Subject
from export.tally import Measured, Tally, measured
from export.terms import Array, Head
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
) -> Measured:
    """Layers 4 and 5 over batches of 1, 2 and 5, on every provider.

    ``is_same_backbone``: whether what is upstream of the heads was proved to be the same function.
    """
    pairing = Pairing(
        reference=left.graph,
        candidate=right.graph,
        head=heads[0],
        outputs=outputs,
        observed=observable(*heads, walk),
        boundary=heads[0].boundary,
    )
    tally = Tally()
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
    runs = _runs(left, right, feeds, provider, tally)
    if runs is None:
        return
    base = _precision(pairing.head)
    on = _names(left, right, provider)
    for precision in (base, TF32) if provider == "cuda" and base is FP32 else (base,):
        sides = sides_of(runs, pairing, precision)
        failures = [
            *check_side(sides[0], pairing, "reference", on[0]),
            *check_side(sides[1], pairing, "candidate", on[1]),
        ]
        if not failures:
            break
    tally.is_tf32 = tally.is_tf32 or (precision is TF32 and not failures)
    has_same_features = check_features(
        (left, right), sides, feeds, pairing, tally, is_same_backbone=is_same_backbone
    )
    # two heads that are built differently and read different values may be one function all the same
    tally.has_same_features = tally.has_same_features and has_same_features
    is_telling = walk.parting is None or has_same_features
    tally.failures.extend(failures if is_telling else [f for f in failures if f.side == "reference"])
    label = "/".join(dict.fromkeys(on))
    for check in joint(sides[0], sides[1], pairing, base.result):
        _judge(check, label, sizes, precision, walk, tally)


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
