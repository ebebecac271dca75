"""How far outputs lie apart and whether they decide alike, summed up over parts of the samples."""

from __future__ import annotations

import dataclasses

import numpy as np

from fxexport.numerics.bounds import Float64
from fxexport.proof.measured.rounding import OutputCheck
from fxexport.results import Flip, OutputStatistics

FLIP_LIMIT = 1000
"""Flips that are listed for each output and provider; all of them are counted."""

_FIVE = 5


@dataclasses.dataclass(slots=True, kw_only=True)
class OutputTally:
    """One output on one provider, over all parts of the samples that were added.

    Attributes:
        output: name of the output.
        provider: what ran it.
        precision: error model of the bounds, the widest of all parts.
        flips: samples whose arg max differs, at most ``FLIP_LIMIT``.
        unexplained: those of them that rounding does not explain, at most ``FLIP_LIMIT``.
    """

    output: str
    provider: str
    precision: str
    flips: list[Flip] = dataclasses.field(default_factory=list)
    unexplained: list[Flip] = dataclasses.field(default_factory=list)
    _sizes: list[int] = dataclasses.field(default_factory=list)
    _values: int = 0
    _non_finite: int = 0
    _difference: float = 0.0
    _difference_ulp: float = 0.0
    _bound: float | None = 0.0
    _ratio: float | None = 0.0
    _worst: tuple[int, ...] | None = None
    _samples: int = 0
    _flips: int = 0
    _same_top5: int | None = 0
    _certified: int | None = 0

    def add(
        self, check: OutputCheck, sizes: tuple[int, ...], precision: str, *, start: int, fresh: int
    ) -> None:
        """Adds a part: batches of ``sizes`` from sample ``start`` on, of which ``fresh`` are new.

        Samples that only fill up a batch are compared, and decide nothing.
        """
        self._sizes.extend(size for size in sizes if size not in self._sizes)
        self.precision = precision
        self._add_difference(check, start, fresh)
        if check.is_decision and check.reference.shape[1] >= 2:
            bound = None if check.bound is None else check.bound[:fresh]
            self._add_decisions(check.reference[:fresh], check.candidate[:fresh], bound, start)

    def _add_difference(self, check: OutputCheck, start: int, fresh: int) -> None:
        a, b, bound = check.reference, check.candidate, check.bound
        finite = np.isfinite(a) & np.isfinite(b)
        with np.errstate(invalid="ignore"):
            difference = np.where(finite, np.abs(a - b), 0.0)
        size = np.where(finite, np.maximum(np.abs(a), np.abs(b)), 0.0).max(axis=1, keepdims=True, initial=0.0)
        # spacing of the binade of each sample's largest value; 2⁻¹²⁶ keeps it defined at zero
        place = np.exp2(np.floor(np.log2(np.maximum(size, 2.0**-126)))) * 2 * check.unit
        self._values += int(a.size)
        self._non_finite += int((~finite).sum())
        largest = float(difference.max(initial=0.0))
        if difference.size and (self._worst is None or largest > self._difference):
            row, *rest = np.unravel_index(int(np.argmax(difference)), difference.shape)
            self._worst = (start + int(row) % fresh, *map(int, rest))
        self._difference = max(self._difference, largest)
        self._difference_ulp = max(self._difference_ulp, float((difference / place).max(initial=0.0)))
        if bound is None or self._bound is None or self._ratio is None:
            self._bound = self._ratio = None
            return
        beyond = np.where(difference > 0, np.inf, 0.0)  # of a bound that is zero
        ratios = np.divide(difference, bound, out=beyond, where=bound > 0)
        self._ratio = max(self._ratio, float(ratios.max(initial=0.0)))
        self._bound = max(self._bound, float(bound.max(initial=0.0)))

    def _add_decisions(self, a: Float64, b: Float64, bound: Float64 | None, start: int) -> None:
        rows, top_a, top_b = np.arange(len(a)), a.argmax(axis=1), b.argmax(axis=1)
        flipped = np.flatnonzero(top_a != top_b)
        self._samples += len(a)
        self._flips += len(flipped)
        is_ranked = self._same_top5 is not None and a.shape[1] > _FIVE
        self._same_top5 = (self._same_top5 or 0) + _same_five(a, b) if is_ranked else None
        is_bounded = self._certified is not None and bound is not None
        self._certified = (self._certified or 0) + _certified(a, b, bound) if is_bounded else None
        with np.errstate(invalid="ignore"):
            margin = a[rows, top_a] - a[rows, top_b]
        allowed = None if bound is None else bound[rows, top_a] + bound[rows, top_b]
        for row in flipped:
            flip = Flip(
                output=self.output,
                provider=self.provider,
                sample=start + int(row),
                reference_class=int(top_a[row]),
                candidate_class=int(top_b[row]),
                margin=float(margin[row]),
                bound=None if allowed is None else float(allowed[row]),
            )
            is_unexplained = flip.bound is not None and flip.margin > flip.bound
            for kept in (self.flips, *([self.unexplained] if is_unexplained else [])):
                if len(kept) < FLIP_LIMIT:
                    kept.append(flip)

    def record(self) -> OutputStatistics:
        """The statistics over all that was added."""
        samples = self._samples
        return OutputStatistics(
            output=self.output,
            provider=self.provider,
            batches=tuple(self._sizes),
            values=self._values,
            non_finite=self._non_finite,
            max_difference=self._difference,
            max_difference_ulp=self._difference_ulp,
            max_bound=self._bound,
            max_ratio=self._ratio,
            worst=self._worst,
            samples=samples,
            flips=self._flips,
            top1_agreement=(samples - self._flips) / samples if samples else None,
            top5_agreement=_share(self._same_top5, samples),
            top1_certified=_share(self._certified, samples),
            precision=self.precision,
        )


def _share(part: int | None, samples: int) -> float | None:
    return None if part is None or not samples else part / samples


def _certified(a: Float64, b: Float64, bound: Float64 | None) -> int:
    """Samples within their bounds where the gap of each class to the top one exceeds the two bounds.

    Then no difference within the bounds can change the arg max.
    """
    if bound is None:
        return 0
    rows, top = np.arange(len(a)), a.argmax(axis=1)
    with np.errstate(invalid="ignore"):  # infinite scores are certified by nothing
        gap = a[rows, top][:, np.newaxis] - a
        is_within = np.abs(a - b) <= bound
    safe = gap > bound + bound[rows, top][:, np.newaxis]
    safe[rows, top] = True
    return int((safe & is_within).all(axis=1).sum())


def _same_five(a: Float64, b: Float64) -> int:
    """Samples whose five best classes are the same five, in any order."""
    best = [np.sort(np.argsort(-side, axis=1, kind="stable")[:, :_FIVE], axis=1) for side in (a, b)]
    return int((best[0] == best[1]).all(axis=1).sum())
