"""Frozen results of a certificate: layers, statistics, flips, verdict; no tensors inside."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from fxexport.witness import Witness
from fxpasses.report import JsonRecord

SCHEMA_VERSION = 2
"""1: until ``agrees`` took the place of ``within rounding`` and ``within TF32 rounding``."""


class LayerName(enum.StrEnum):
    """The five layers of the proof, in the order in which a failure is named."""

    WEIGHTS = "weights"
    WIRING = "wiring"
    BACKBONE = "backbone"
    ROUNDING = "rounding"
    DECISION = "decision"


class Status(enum.StrEnum):
    """What a layer established."""

    PROVED = "proved"
    HELD = "held"
    FAILED = "failed"
    NOT_RUN = "not run"


class Verdict(enum.StrEnum):
    """The verdict over all layers, from best to worst; ``certify`` says what each has to show."""

    PROVED = "proved"
    AGREES = "agrees"
    INCONCLUSIVE = "inconclusive"
    BROKEN = "broken"

    def is_enough(self, required: Verdict) -> bool:
        """True if this says at least as much as ``required`` does."""
        order = list(Verdict)
        return order.index(self) <= order.index(required)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much a layer looked at; what does not apply is 0.

    Attributes:
        parameters: weights and biases compared, counted as scalars.
        probes: feature vectors run through the head alone, over all forms and providers.
        nodes: graph nodes compared pairwise.
        logits: scalars compared with the float64 reference.
        samples: input samples whose decision was compared.
    """

    parameters: int = 0
    probes: int = 0
    nodes: int = 0
    logits: int = 0
    samples: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Where two things differ that must not.

    Attributes:
        what: the failure as a clause.
        side: ``"reference"`` or ``"candidate"`` where one of them is wrong by itself, else None.
        provider: provider that ran, ``"eager"`` for PyTorch; None where nothing ran.
        name: output, parameter or node that it is about.
        index: position of the worst scalar in it.
        expected: value that should have been there.
        found: value that was there.
        bound: largest difference that would have been accepted; None where equality was due.
    """

    what: str
    side: str | None = None
    provider: str | None = None
    name: str | None = None
    index: tuple[int, ...] | None = None
    expected: float | None = None
    found: float | None = None
    bound: float | None = None

    def __str__(self) -> str:
        place = "" if self.index is None else f"[{', '.join(map(str, self.index))}]"
        where = "" if self.name is None else f"{self.name!r}{place}: "
        values = "" if self.expected is None else f", expected {self.expected:.9g}, found {self.found:.9g}"
        bound = "" if self.bound is None else f", bound {self.bound:.3g}"
        who = " ".join(part for part in (self.side, self.provider and f"on {self.provider}") if part)
        return f"{where}{self.what}{values}{bound}" + (f" ({who})" if who else "")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerResult:
    """What one layer established.

    Attributes:
        layer: which layer.
        status: what it established.
        covered: how much it looked at.
        reason: why it is not proved, as a clause; None where nothing is to be said.
        failures: the worst failure of each kind, empty unless the status is ``failed``.
    """

    layer: LayerName
    status: Status
    covered: Coverage
    reason: str | None = None
    failures: tuple[Failure, ...] = ()


class Mode(enum.StrEnum):
    """How a provider's sessions are made."""

    STRICT = "strict"
    DEFAULTS = "defaults"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TargetResult:
    """The layers that are established anew on each provider, in each mode.

    Attributes:
        provider: provider that ran, ``"eager"`` for PyTorch.
        mode: strict, or the provider's own defaults, which the certificate's verdict does not rest on.
        verdict: what is known of this provider in this mode, weights and backbone included.
        reason: why, as a clause.
        wiring: layer 2.
        rounding: layer 4.
        decision: layer 5.
        is_repeatable: whether a second run gave the same bits; None where none was made.
        same_bits: whether every output is equal, bit for bit, in both models.
        asked_precision: what its sessions were asked to take products of fp32 values in; None where they
            were asked for nothing.
        measured_precision: what they really take them in, as products with the identity show; None where no
            such product was run.
    """

    provider: str
    mode: Mode
    verdict: Verdict
    reason: str
    wiring: LayerResult
    rounding: LayerResult
    decision: LayerResult
    is_repeatable: bool | None
    same_bits: bool
    asked_precision: str | None = None
    measured_precision: str | None = None

    @property
    def coarser(self) -> str | None:
        """That products are taken in less than fp32, as a sentence; None where they are not."""
        if self.measured_precision in (None, "fp32"):
            return None
        asked = self.asked_precision
        who = f"was asked for {asked}, and takes" if asked else "takes, with its defaults,"
        return f"{self.provider} {who} products in {self.measured_precision} (measured)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutputStatistics:
    """How far reference and candidate lie apart in one output on one provider.

    Attributes:
        output: name of the output in the reference.
        provider: provider that ran both, ``"eager"`` for PyTorch; ``"eager/cpu"`` for two.
        batches: batch sizes that were run.
        values: number of scalars compared.
        non_finite: number of scalars that are NaN or infinite in either.
        max_difference: largest absolute difference over the finite ones.
        max_difference_ulp: the same in units of the last place of the sample's largest value.
        max_bound: largest bound on that difference; None where the output has none.
        max_ratio: largest difference ÷ bound over all scalars; at most 1 where all is well; None without.
        worst: index (sample, …) of the largest difference.
        samples: number of samples whose decision was compared, each once.
        flips: number of them whose arg max differs.
        top1_agreement: share of samples with the same arg max; None unless the output is ``[N, O]``.
        top5_agreement: share with the same five best classes, in any order; None up to five classes.
        top1_certified: share of samples that lie within their bounds and whose gap to the runner-up
            exceeds them.
        precision: name of the error model that the bounds were computed with.
    """

    output: str
    provider: str
    batches: tuple[int, ...]
    values: int
    non_finite: int
    max_difference: float
    max_difference_ulp: float
    max_bound: float | None
    max_ratio: float | None
    worst: tuple[int, ...] | None
    samples: int
    flips: int
    top1_agreement: float | None
    top5_agreement: float | None
    top1_certified: float | None
    precision: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A sample whose top-1 class differs between reference and candidate.

    Attributes:
        output: name of the output.
        provider: provider that ran both.
        sample: number of the sample among all that were given, from 0.
        reference_class: the reference's top class.
        candidate_class: the candidate's.
        margin: how far the reference puts its own class above the candidate's.
        bound: how much of that rounding explains; None where there is no bound.
    """

    output: str
    provider: str
    sample: int
    reference_class: int
    candidate_class: int
    margin: float
    bound: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SizeResult:
    """What was found at another size of the input, for heads that work on maps.

    Attributes:
        size: extents behind the channels, ``"280x252"``.
        verdict: of the two models at that size; None where they were not compared.
        reason: why, as a clause.
        statistics: as those of the certificate.
    """

    size: str
    verdict: Verdict | None
    reason: str
    statistics: tuple[OutputStatistics, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Certificate(JsonRecord):
    """What is known about two models being the same function.

    Attributes:
        reference: name of the reference (class or file name).
        candidate: name of the candidate.
        verdict: see ``certify`` for what each verdict stands on.
        reason: what the verdict rests on, or what is missing, as a sentence.
        weights: layer 1.
        wiring: layer 2.
        backbone: layer 3.
        rounding: layer 4.
        decision: layer 5.
        statistics: one record for each output and provider.
        flips: samples whose decision differs, at most 1,000 for each output and provider; the statistics
            count all of them.
        heads: affine sites that were compared.
        providers: providers that ran, ``"eager"`` for PyTorch.
        targets: the layers on each provider, strict and, where they differ, with its own defaults.
        seed: seed of every random number that was used.
        sizes: what was found at other sizes of the input, where a head works on maps.
        by_default: one record for each output and provider where a file is quantised: how far outputs lie
            apart where ONNX Runtime takes its integer kernels, as it does by default. They have no bounds,
            and the verdict does not rest on them.
        scope: what it is about where that is less than all inputs, as sentences.
        witness: a batch on which the two differ by more than rounding, which its text tells; None where none
            was run.
    """

    reference: str
    candidate: str
    verdict: Verdict
    reason: str
    weights: LayerResult
    wiring: LayerResult
    backbone: LayerResult
    rounding: LayerResult
    decision: LayerResult
    statistics: tuple[OutputStatistics, ...]
    flips: tuple[Flip, ...]
    heads: tuple[str, ...]
    providers: tuple[str, ...]
    targets: tuple[TargetResult, ...]
    seed: int
    sizes: tuple[SizeResult, ...] = ()
    by_default: tuple[OutputStatistics, ...] = ()
    scope: tuple[str, ...] = ()
    witness: Witness | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """The five layers in order."""
        return (self.weights, self.wiring, self.backbone, self.rounding, self.decision)

    @property
    def integer_kernels(self) -> tuple[str, ...]:
        """What ``by_default`` has, as sentences."""
        told = []
        for each in self.by_default:
            kept = f"{each.samples - each.flips} of {each.samples} samples keep their class"
            decided = "" if each.top1_agreement is None else f", and {kept}"
            apart = f"{each.output!r} differs by at most {each.max_difference:.2g}{decided}"
            told.append(f"{apart} (measured on {each.provider}, beside the verdict)")
        return tuple(told)

    @property
    def is_accepted(self) -> bool:
        """True if the verdict is ``proved`` or ``agrees``."""
        return self.verdict.is_enough(Verdict.AGREES)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for strict JSON, with a schema version; NaN and infinities become strings."""
        return {"schema_version": SCHEMA_VERSION, **JsonRecord.to_dict(self)}
