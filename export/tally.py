"""What has been seen over providers and batches, and what layers 4 and 5 make of it."""

from __future__ import annotations

import dataclasses

from export.results import Coverage, Failure, Flip, LayerName, LayerResult, OutputStatistics, Status
from fxpasses.errors import CheckError


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
        is_apart: whether outputs lie further apart than rounding can explain, whatever the graphs.
    """

    rounding: LayerResult
    decision: LayerResult
    statistics: tuple[OutputStatistics, ...]
    flips: tuple[Flip, ...]
    is_tf32: bool
    is_identical: bool
    has_same_features: bool
    is_apart: bool


@dataclasses.dataclass(slots=True, kw_only=True)
class Tally:
    """What has been seen so far, over providers and batches."""

    failures: list[Failure] = dataclasses.field(default_factory=list)
    gaps: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    statistics: list[OutputStatistics] = dataclasses.field(default_factory=list)
    flips: list[Flip] = dataclasses.field(default_factory=list)
    is_tf32: bool = False
    is_identical: bool = True
    has_same_features: bool = True
    is_in_doubt: bool = False
    is_apart: bool = False


def measured(tally: Tally) -> Measured:
    """Layers 4 and 5 from all that was seen.

    Raises:
        CheckError: there was no value to compare.
    """
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
        is_apart=tally.is_apart,
    )


def _decision(tally: Tally) -> LayerResult:
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
