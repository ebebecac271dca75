"""What has been seen over providers and batches, and what layers 4 and 5 make of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from fxexport.numerics.bounds import Precision
from fxexport.proof.measured.batches import Batch
from fxexport.proof.measured.decision import OutputTally
from fxexport.proof.measured.rounding import OutputCheck
from fxexport.results import Coverage, Failure, Flip, LayerName, LayerResult, OutputStatistics, Status
from fxexport.witness import Witness
from fxpasses.errors import CheckError


@dataclasses.dataclass(slots=True, kw_only=True)
class Tally:
    """What has been seen so far, over batches and, once joined, over targets.

    ``gaps`` are values that were not compared, ``doubts`` what keeps a comparison from telling more,
    ``loose`` names outputs that only one model has, and of which little is known;
    ``sites`` counts values of sites that were compared with float64; ``unbounded`` names outputs that have
    no bound; ``has_same_features`` says whether both heads read the same numbers, ``is_run`` whether the
    candidate ran on all samples.
    """

    failures: list[Failure] = dataclasses.field(default_factory=list)
    gaps: list[str] = dataclasses.field(default_factory=list)
    doubts: list[str] = dataclasses.field(default_factory=list)
    loose: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    sites: int = 0
    unbounded: list[str] = dataclasses.field(default_factory=list)
    outputs: dict[tuple[str, str], OutputTally] = dataclasses.field(default_factory=dict)
    precision: Precision | None = None
    is_identical: bool = True
    has_same_features: bool = True
    is_run: bool = True
    witness: Witness | None = None

    @property
    def statistics(self) -> tuple[OutputStatistics, ...]:
        """One record for each output and provider."""
        return tuple(found.record() for found in self.outputs.values())

    @property
    def flips(self) -> tuple[Flip, ...]:
        """Samples whose arg max differs."""
        return tuple(flip for found in self.outputs.values() for flip in found.flips)

    def add(self, check: OutputCheck, part: Batch, provider: str, precision: Precision) -> None:
        """Adds one output of a part, as ``provider`` ran it."""
        found = self.outputs.setdefault(
            (check.name, provider),
            OutputTally(output=check.name, provider=provider, precision=precision.name),
        )
        weakened = weakest((self.precision, precision)) or precision
        found.add(check, part.sizes, weakened.name, start=part.start, fresh=part.fresh)


def weakest(precisions: Iterable[Precision | None]) -> Precision | None:
    """The precision with the largest errors; None where there is none."""
    return max(filter(None, precisions), key=lambda p: (p.operand, p.sum, p.result), default=None)


def joined(tallies: Sequence[Tally]) -> Tally:
    """What was seen over several targets."""
    whole = Tally(precision=weakest(tally.precision for tally in tallies))
    for tally in tallies:
        whole.failures += tally.failures
        whole.gaps += tally.gaps
        whole.notes += tally.notes
        whole.outputs |= tally.outputs
        whole.unbounded += tally.unbounded
        whole.sites += tally.sites
        whole.is_identical &= tally.is_identical
        whole.doubts += tally.doubts
        whole.loose += tally.loose
        whole.witness = whole.witness or tally.witness
    return whole


def measured(tally: Tally) -> tuple[LayerResult, LayerResult, list[str]]:
    """Layers 4 and 5 from all that was seen, and what keeps the bounds from telling more.

    Raises:
        CheckError: there was no value to compare.
    """
    statistics = tally.statistics
    values = sum(record.values for record in statistics)
    logits = sum(record.values for record in statistics if record.max_bound is not None)
    if not values and not tally.failures:
        raise CheckError("there is no value to compare", fix="check that the models have outputs")
    doubts = list(dict.fromkeys(tally.doubts))
    doubts += [] if logits or tally.sites else ["neither an output nor a site has a bound"]
    status = Status.NOT_RUN if tally.gaps else Status.HELD
    rounding = LayerResult(
        layer=LayerName.ROUNDING,
        status=Status.FAILED if tally.failures else status,
        covered=Coverage(logits=logits),
        reason=next(iter((*tally.gaps, *doubts, *tally.notes)), None),
        failures=worst_of_each(tally.failures)[:8],
    )
    return rounding, _decision(tally, statistics), doubts


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
