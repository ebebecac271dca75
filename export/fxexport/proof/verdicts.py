"""The verdict over all layers, for one target and for a certificate as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fxexport.numerics.bounds import TF32
from fxexport.precision import ProductFormat, precision_on
from fxexport.proof.measured.tally import Tally, measured
from fxexport.proof.pairing.derivation import Derived
from fxexport.providers import is_defaults, provider_of
from fxexport.results import LayerResult, Mode, Status, TargetResult, Verdict
from fxexport.subjects.subject import EAGER


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict, and what it rests on beside the layers 1 to 3: layers 4 and 5."""

    verdict: Verdict
    reason: str
    rounding: LayerResult
    decision: LayerResult


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Gives verdicts on two models.

    Attributes:
        weights: layer 1.
        backbone: layer 3.
        derived: whether identities turn one model into the other.
        tried: how many further inputs both models ran on, none of which tells them apart.
    """

    weights: LayerResult
    backbone: LayerResult
    derived: Derived
    tried: int = 0

    def judge(self, wiring: LayerResult, tally: Tally) -> Judged:
        """The verdict that follows from the layers."""
        rounding, decision, doubts = measured(tally)
        layers = self.weights, wiring, self.backbone, rounding, decision
        failed = next((layer for layer in layers if layer.status is Status.FAILED), None)
        if failed is not None:
            verdict, reason = Verdict.BROKEN, f"{failed.layer}: {failed.failures[0]}"
        elif rounding.status is Status.NOT_RUN:
            verdict, reason = Verdict.INCONCLUSIVE, f"{rounding.layer}: {rounding.reason}"
        else:
            verdict, reason = self._held(tally, doubts)
        return Judged(verdict=verdict, reason=reason, rounding=rounding, decision=decision)

    def _held(self, tally: Tally, doubts: Sequence[str]) -> tuple[Verdict, str]:
        """Of two models of which nothing that was run tells a difference."""
        names = ", ".join(dict.fromkeys(map(repr, tally.unbounded)))
        within = f"outputs lie within their bounds, but for {names} without one" if names else _WITHIN
        within = f"{within} of TF32" if tally.precision is TF32 else within
        if self.derived.is_proved and tally.loose:
            return Verdict.AGREES, f"{within}; {tally.loose[0]}"
        if self.derived.is_proved:
            return Verdict.PROVED, f"{self.derived.reason}; {within}"
        more = f", on {self.tried} further input{'s' * (self.tried > 1)} too" if self.tried else ""
        doubt = next(iter(doubts), None)
        return Verdict.AGREES, f"{within}{more}; {'; '.join(filter(None, (self.derived.reason, doubt)))}"

    def on_target(
        self, target: str, wiring: LayerResult, tally: Tally, repeats: Sequence[bool | None]
    ) -> TargetResult:
        """The result of one target.

        Args:
            target: provider and mode.
            wiring: layer 2 on it.
            tally: what the runs showed.
            repeats: for each model, whether a second run gave the same bits; None where none was made.
        """
        judged = self.judge(wiring, tally)
        found = None if target == EAGER else precision_on(target)
        made = [repeat for repeat in repeats if repeat is not None]
        return TargetResult(
            provider=provider_of(target),
            mode=Mode.DEFAULTS if is_defaults(target) else Mode.STRICT,
            verdict=judged.verdict,
            reason=judged.reason,
            wiring=wiring,
            rounding=judged.rounding,
            decision=judged.decision,
            is_repeatable=all(made) if made else None,
            same_bits=tally.is_identical,
            asked_precision=None if found is None or is_defaults(target) else ProductFormat.FP32,
            measured_precision=found,
        )


_WITHIN = "outputs lie within their bounds"
