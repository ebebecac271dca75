"""Runs both models over several batches and establishes layers 4 and 5."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from export.bounds import FP32, TF32, Precision, precision_of
from export.compare import Comparison
from export.inputs import BATCHES, Samples
from export.results import Coverage, Failure, Flip, LayerName, LayerResult, OutputStatistics, Status
from export.rounding import (
    OutputCheck,
    Pairing,
    Side,
    check_side,
    joint,
    observable,
    sides_of,
    statistics_of,
)
from export.subjects import EAGER, ModuleSubject, Run, Subject
from export.terms import Array, Head, Kind, Term
from fxpasses.errors import CheckError, ProviderError

_FEATURE_FACTOR = 16.0
"""How many times further from the float64 features than the reference's the candidate's may lie."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the runs showed.

    Attributes:
        rounding: layer 4.
        decision: layer 5.
        statistics: one record for each output and provider.
        flips: samples whose arg max differs.
        is_tf32: whether fp32's bounds failed and TF32's held.
        is_identical: whether every output was equal bit for bit.
        has_same_features: whether both heads read the same features, as far as can be told.
    """

    rounding: LayerResult
    decision: LayerResult
    statistics: tuple[OutputStatistics, ...]
    flips: tuple[Flip, ...]
    is_tf32: bool
    is_identical: bool
    has_same_features: bool


@dataclasses.dataclass(slots=True, kw_only=True)
class _Tally:
    """What has been seen so far, over providers and batches."""

    failures: list[Failure] = dataclasses.field(default_factory=list)
    gaps: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    statistics: list[OutputStatistics] = dataclasses.field(default_factory=list)
    flips: list[Flip] = dataclasses.field(default_factory=list)
    is_tf32: bool = False
    is_identical: bool = True
    has_same_features: bool = True


def measure(
    left: Subject,
    right: Subject,
    heads: tuple[Head, Head],
    walk: Comparison,
    outputs: tuple[tuple[str, int, int], ...],
    samples: Samples,
    providers: tuple[str, ...],
) -> Measured:
    """Layers 4 and 5 over batches of 1, 2 and 5, on every provider."""
    pairing = Pairing(
        reference=left.graph,
        candidate=right.graph,
        head=heads[0],
        outputs=outputs,
        observed=observable(*heads, walk),
        boundary=heads[0].boundary,
    )
    tally = _Tally()
    for provider in providers:
        _on_provider(left, right, pairing, walk, samples, provider, tally)
    return _measured(tally)


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
    tally: _Tally,
) -> None:
    sizes = batch_sizes(left, right)
    feeds = _batches(samples, sizes, left), _batches(samples, sizes, right)
    runs = _runs(left, right, feeds, pairing, provider, tally)
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
    has_same_features = _check_features(left, right, sides, feeds, pairing, tally)
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
    pairing: Pairing,
    provider: str,
    tally: _Tally,
) -> tuple[Run, Run] | None:
    """Both models' runs of all batches; None where the candidate does not run at one of them."""
    wanted = [(a.value, b.value) for a, b in pairing.observed.items() if a.kind is not Kind.CONSTANT]
    reference = [left.run(feed, [a for a, _ in wanted], provider) for feed in feeds[0]]
    candidate = []
    for feed in feeds[1]:
        try:
            candidate.append(right.run(feed, [b for _, b in wanted], provider))
        except (ProviderError, RuntimeError) as error:
            what = f"it does not run at batch {len(feed[0])} ({str(error).splitlines()[0]})"
            tally.failures.append(Failure(what=what, side="candidate", provider=provider))
            return None
    return _joined(reference), _joined(candidate)


def _joined(runs: Sequence[Run]) -> Run:
    """The runs of several batches as one."""
    outputs = zip(*(run.outputs for run in runs), strict=True)
    return Run(
        outputs=tuple(np.concatenate([np.atleast_1d(part) for part in parts]) for parts in outputs),
        taps={name: np.concatenate([run.taps[name] for run in runs]) for name in runs[0].taps},
    )


def _precision(head: Head) -> Precision:
    for site in head.sites:
        if site.affine is not None:
            return precision_of(site.affine.weight.dtype.name) or FP32
    return FP32


def _check_features(
    left: Subject,
    right: Subject,
    sides: tuple[Side, Side],
    feeds: tuple[list[tuple[Array, ...]], list[tuple[Array, ...]]],
    pairing: Pairing,
    tally: _Tally,
) -> bool:
    """True if both heads got the same features: only then do equal heads mean equal models."""
    before = len(tally.gaps)
    a, b = sides[0].observed, sides[1].observed
    if not pairing.observed:
        tally.gaps.append("the features that the two heads read do not pair up")
        return False
    different = [t for t in pairing.boundary if t in a and not np.array_equal(a[t], b[t], equal_nan=True)]
    module = next((side for side in (left, right) if isinstance(side, ModuleSubject)), None)
    if different and (left.dialect == right.dialect or module is None):
        tally.gaps.append(f"the features {different[0].value!r} of the two models differ, without a bound")
    elif different and module is not None:
        index = 0 if module is left else 1
        _check_against_float64(module, index, different, sides, feeds[index], pairing, tally)
    return len(tally.gaps) == before


def _check_against_float64(
    module: ModuleSubject,
    index: int,
    different: Sequence[Term],
    sides: tuple[Side, Side],
    feeds: list[tuple[Array, ...]],
    pairing: Pairing,
    tally: _Tally,
) -> None:
    """Features of a module and of a file, by how far each lies from the module's in float64."""
    names = {t: (t if index == 0 else pairing.observed[t]).value for t in different}
    parts = [module.features64(feed, tuple(names.values())) for feed in feeds]
    for term in different:
        exact = np.concatenate([np.asarray(part[names[term]], np.float64) for part in parts])
        own = float(np.abs(sides[index].observed[term] - exact).max())
        other = float(np.abs(sides[1 - index].observed[term] - exact).max())
        if not other <= _FEATURE_FACTOR * max(own, FP32.sum * float(np.abs(exact).max())):
            tally.gaps.append(
                f"the features {term.value!r} lie {other:.3g} from float64 where eager ones lie {own:.3g}"
            )
    tally.notes.append("the features were compared with float64 on these inputs, without a bound")


def _judge(
    check: OutputCheck,
    provider: str,
    sizes: tuple[int, ...],
    precision: Precision,
    walk: Comparison,
    tally: _Tally,
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


def _measured(tally: _Tally) -> Measured:
    logits = sum(record.values for record in tally.statistics)
    if not logits and not tally.failures:
        raise CheckError("there is no value to compare", fix="check that the models have outputs")
    status = Status.HELD if not tally.gaps else Status.NOT_RUN
    rounding = LayerResult(
        layer=LayerName.ROUNDING,
        status=Status.FAILED if tally.failures else status,
        covered=Coverage(logits=logits),
        reason=next(iter((*tally.gaps, *tally.notes)), None),
        failures=tuple(tally.failures[:8]),
    )
    return Measured(
        rounding=rounding,
        decision=_decision(tally),
        statistics=tuple(tally.statistics),
        flips=tuple(tally.flips),
        is_tf32=tally.is_tf32,
        is_identical=tally.is_identical,
        has_same_features=tally.has_same_features,
    )


def _decision(tally: _Tally) -> LayerResult:
    judged = [record for record in tally.statistics if record.top1_agreement is not None]
    if not judged:
        reason = "no output has the shape [N, O] of class scores"
        return LayerResult(layer=LayerName.DECISION, status=Status.NOT_RUN, covered=Coverage(), reason=reason)
    samples = sum(sum(record.batches) for record in judged)
    wrong = [flip for flip in tally.flips if flip.bound is not None and flip.margin > flip.bound]
    failures = tuple(
        Failure(
            what=f"class {flip.candidate_class} in place of {flip.reference_class}, and not by rounding",
            side="candidate",
            provider=flip.provider,
            name=flip.output,
            index=(flip.sample,),
            expected=0.0,
            found=flip.margin,
            bound=flip.bound,
        )
        for flip in wrong[:8]
    )
    flips = f"{len(tally.flips)} samples change class within the bounds" if tally.flips else None
    return LayerResult(
        layer=LayerName.DECISION,
        status=Status.FAILED if failures else Status.HELD,
        covered=Coverage(samples=samples),
        reason=flips,
        failures=failures,
    )
