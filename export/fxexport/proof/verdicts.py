"""The verdict over all layers, for one target and for a certificate as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fxexport.numerics.bounds import TF32
from fxexport.proof.measured.tally import Measured, Tally, measured
from fxexport.providers import is_defaults, provider_of
from fxexport.results import LayerResult, Mode, Status, TargetResult, Verdict


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one target showed.

    Attributes:
        target: provider and mode.
        wiring: layer 2 on it.
        tally: what the runs showed.
        repeats: for each model, whether a second run gave the same bits; None where none was made.
    """

    target: str
    wiring: LayerResult
    tally: Tally
    repeats: Sequence[bool | None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict, and the layers that it rests on."""

    verdict: Verdict
    reason: str
    weights: LayerResult
    backbone: LayerResult
    rounding: LayerResult
    measured: Measured


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Gives verdicts on two models.

    Attributes:
        weights: layer 1.
        backbone: layer 3.
        has_sites: whether the reference has a head.
        is_restructured: whether what is upstream of the heads could not be told to be the same.
    """

    weights: LayerResult
    backbone: LayerResult
    has_sites: bool
    is_restructured: bool

    def judge(self, wiring: LayerResult, tally: Tally) -> Judged:
        """The verdict that follows from the layers."""
        found = measured(tally)
        weights, backbone, rounding = self.weights, self.backbone, found.rounding
        is_moved = self.is_restructured and not found.has_same_features and not found.is_apart
        if is_moved and weights.status is Status.FAILED:
            weights, backbone, rounding = map(_undecided, (weights, backbone, rounding))
        verdict, reason = _verdict(
            (weights, wiring, backbone, rounding, found.decision), found, self.has_sites
        )
        return Judged(
            verdict=verdict,
            reason=reason,
            weights=weights,
            backbone=backbone,
            rounding=rounding,
            measured=found,
        )

    def on_target(self, seen: Seen) -> TargetResult:
        """The result of one target."""
        judged = self.judge(seen.wiring, seen.tally)
        made = [repeat for repeat in seen.repeats if repeat is not None]
        return TargetResult(
            provider=provider_of(seen.target),
            mode=Mode.DEFAULTS if is_defaults(seen.target) else Mode.STRICT,
            verdict=judged.verdict,
            reason=judged.reason,
            wiring=seen.wiring,
            rounding=judged.rounding,
            decision=judged.measured.decision,
            is_repeatable=all(made) if made else None,
            same_bits=judged.measured.is_identical,
        )


def _undecided(layer: LayerResult) -> LayerResult:
    """A failed layer as one that was not run.

    Where weights and features both differ, a factor may have moved from one to the other: neither the
    weights nor the reference's head on the candidate's features tells whether the function differs.
    """
    if layer.status is not Status.FAILED or any(item.side == "reference" for item in layer.failures):
        return layer
    reason = f"the heads read different features, and {layer.failures[0]}"
    return dataclasses.replace(layer, status=Status.NOT_RUN, reason=reason, failures=())


def _verdict(layers: tuple[LayerResult, ...], found: Measured, has_sites: bool) -> tuple[Verdict, str]:
    weights, wiring, backbone, rounding, _ = layers
    failed = next((layer for layer in layers if layer.status is Status.FAILED), None)
    if failed is not None:
        return Verdict.BROKEN, f"{failed.layer}: {failed.failures[0]}"
    if not has_sites:
        if backbone.status is Status.PROVED and found.is_identical:
            return Verdict.PROVED, "no head was found; the two graphs are the same, with the same constants"
        return Verdict.INCONCLUSIVE, "no head was found in the reference, so nothing is bounded"
    lacking = [layer for layer in (weights, wiring, rounding) if layer.status is Status.NOT_RUN]
    if lacking:
        return Verdict.INCONCLUSIVE, f"{lacking[0].layer}: {lacking[0].reason}"
    if found.precision is TF32:
        return Verdict.WITHIN_TF32_ROUNDING, "the outputs lie within TF32's bounds, not within those of fp32"
    names = ", ".join(map(repr, found.unbounded))
    within = f"outputs lie within their bounds, but for {names} without one" if names else _WITHIN
    if all(layer.status is Status.PROVED for layer in (weights, wiring, backbone)):
        return Verdict.PROVED, f"weights, wiring and backbone are the same; {within}"
    short = next(layer for layer in (weights, wiring, backbone) if layer.status is not Status.PROVED)
    return Verdict.WITHIN_ROUNDING, f"{within}; {short.layer}: {short.reason}"


_WITHIN = "outputs lie within their bounds"
