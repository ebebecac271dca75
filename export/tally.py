"""What has been seen over providers and batches, and what layers 4 and 5 make of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from export.bounds import TF32, Precision
from export.decision import OutputTally
from export.parts import Part
from export.results import Coverage, Failure, Flip, LayerName, LayerResult, OutputStatistics, Status
from export.rounding import OutputCheck
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
    """

    rounding: LayerResult
    decision: LayerResult
    statistics: tuple[OutputStatistics, ...]
    flips: tuple[Flip, ...]
    is_tf32: bool
    is_identical: bool
    has_same_features: bool


@dataclasses.dataclass(slots=True, kw_only=True)
class Tally:
    """What has been seen so far, over providers and batches."""

    failures: list[Failure] = dataclasses.field(default_factory=list)
    gaps: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    outputs: dict[tuple[str, str], OutputTally] = dataclasses.field(default_factory=dict)
    is_tf32: bool = False
    is_identical: bool = True
    has_same_features: bool = True

    def add(self, check: OutputCheck, part: Part, provider: str, precision: Precision) -> None:
        """Adds one output of a part, as ``provider`` ran it."""
        found = self.outputs.setdefault(
            (check.name, provider),
            OutputTally(output=check.name, provider=provider, precision=precision.name),
        )
        name = TF32.name if self.is_tf32 else precision.name
        found.add(check, part.sizes, name, start=part.start, fresh=part.fresh)


def measured(tally: Tally) -> Measured:
    """Layers 4 and 5 from all that was seen.

    Raises:
        CheckError: there was no value to compare.
    """
    statistics = tuple(found.record() for found in tally.outputs.values())
    logits = sum(record.values for record in statistics)
    if not logits and not tally.failures:
        raise CheckError("there is no value to compare", fix="check that the models have outputs")
    status = Status.HELD if not tally.gaps else Status.NOT_RUN
    rounding = LayerResult(
        layer=LayerName.ROUNDING,
        status=Status.FAILED if tally.failures else status,
        covered=Coverage(logits=logits),
        reason=next(iter((*tally.gaps, *tally.notes)), None),
        failures=worst_of_each(tally.failures)[:8],
    )
    return Measured(
        rounding=rounding,
        decision=_decision(tally, statistics),
        statistics=statistics,
        flips=tuple(flip for found in tally.outputs.values() for flip in found.flips),
        is_tf32=tally.is_tf32,
        is_identical=tally.is_identical,
        has_same_features=tally.has_same_features,
    )


def worst_of_each(failures: Sequence[Failure]) -> tuple[Failure, ...]:
    """The worst failure of each kind, in the order in which the kinds were first seen."""
    kinds: dict[tuple[str | None, ...], Failure] = {}
    for failure in failures:
        kind = (failure.what, failure.side, failure.provider, failure.name)
        if kind not in kinds or _excess(failure) > _excess(kinds[kind]):
            kinds[kind] = failure
    return tuple(kinds.values())


def _excess(failure: Failure) -> float:
    """How many times further apart the two values are than they may be."""
    if failure.expected is None or failure.found is None or not failure.bound:
        return 0.0
    distance = abs(failure.found - failure.expected)
    return distance / failure.bound if math.isfinite(distance) else math.inf


def _decision(tally: Tally, statistics: tuple[OutputStatistics, ...]) -> LayerResult:
    judged = [record for record in statistics if record.top1_agreement is not None]
    if not judged:
        reason = "no output has the shape [N, O] of class scores"
        return LayerResult(layer=LayerName.DECISION, status=Status.NOT_RUN, covered=Coverage(), reason=reason)
    wrong = [flip for found in tally.outputs.values() for flip in found.unexplained]
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
    count = sum(record.flips for record in judged)
    flips = f"{count} samples change class within the bounds" if count else None
    return LayerResult(
        layer=LayerName.DECISION,
        status=Status.FAILED if failures else Status.HELD,
        covered=Coverage(samples=sum(record.samples for record in judged)),
        reason=flips,
        failures=failures,
    )
