"""Two samples of accuracies compared: an interval, a p-value, and what could have been seen at all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fxhead.study.settings import POWER, RESAMPLES, Rules

Sample = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SeedEvidence:
    """What two samples say of the difference of their means, second minus first.

    Attributes:
        smallest_effect: difference that would have been shown with the power asked for, or None where
            no difference can have a p-value below alpha.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float
    smallest_effect: float | None

    def times(self, factor: float) -> SeedEvidence:
        """The same evidence in another unit."""
        low, high = self.interval
        return SeedEvidence(
            difference=self.difference * factor,
            interval=(low * factor, high * factor),
            p_value=self.p_value,
            smallest_effect=None if self.smallest_effect is None else self.smallest_effect * factor,
        )


def compare(
    first: Sequence[int], second: Sequence[int], *, paired: bool, rules: Rules, seed: int
) -> SeedEvidence:
    """The evidence; paired samples have one value a seed, in the same order.

    The values are counts, as permutations are often tied, and only sums of whole numbers show it.

    Source:
        ``scipy.stats.bootstrap`` (BCa, Efron 1987) and ``scipy.stats.permutation_test``.
    """
    ours, theirs = np.asarray(first, np.float64), np.asarray(second, np.float64)
    difference = float(_difference(theirs, ours))
    return SeedEvidence(
        difference=difference,
        interval=_interval(ours, theirs, difference, paired, rules, seed),
        p_value=_p_value(ours, theirs, paired, seed),
        smallest_effect=smallest_effect(ours, theirs, paired=paired, alpha=rules.alpha),
    )


def _difference(second: Sample, first: Sample, axis: int = -1) -> Any:
    return np.mean(second, axis=axis) - np.mean(first, axis=axis)


def _interval(
    first: Sample, second: Sample, difference: float, paired: bool, rules: Rules, seed: int
) -> tuple[float, float]:
    data = (second - first,) if paired else (second, first)
    if all(np.ptp(part) == 0 for part in data):  # then every bootstrap sample is the same
        return difference, difference
    found = stats.bootstrap(
        data,
        np.mean if paired else _difference,
        n_resamples=RESAMPLES,
        confidence_level=1 - rules.alpha,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _p_value(first: Sample, second: Sample, paired: bool, seed: int) -> float:
    return float(
        stats.permutation_test(
            (second, first),
            _difference,
            permutation_type="samples" if paired else "independent",
            n_resamples=RESAMPLES,
            vectorized=True,
            rng=np.random.default_rng(seed),
        ).pvalue
    )


def smallest_effect(first: Sample, second: Sample, *, paired: bool, alpha: float) -> float | None:
    """The minimum detectable effect: ``(t_{1-α/2, ν} + t_{power, ν}) · standard error``.

    The standard error is ``s_d / √n`` with ν = n - 1 for pairs, else the pooled
    ``s_p · √(1/n₁ + 1/n₂)`` with ν = n₁ + n₂ - 2. None where even the most extreme permutation has a
    p-value of alpha or more.

    Source:
        Bloom, "Minimum detectable effects", *Evaluation Review* 19(5), 1995.
    """
    if least_p_value(len(first), len(second), paired=paired) >= alpha:
        return None
    if paired:
        freedom = len(first) - 1
        error = float(np.std(second - first, ddof=1)) / math.sqrt(len(first))
    else:
        freedom = len(first) + len(second) - 2
        squares = sum(float(np.var(part, ddof=1)) * (len(part) - 1) for part in (first, second))
        error = math.sqrt(squares / freedom * (1 / len(first) + 1 / len(second)))
    quantiles = stats.t.ppf(1 - alpha / 2, freedom) + stats.t.ppf(POWER, freedom)
    return float(quantiles) * error


def least_p_value(first: int, second: int, *, paired: bool) -> float:
    """The smallest two-sided p-value that any permutation of samples of these sizes can have."""
    permutations = 2**first if paired else math.comb(first + second, first)
    return min(1.0, 2 / permutations)
