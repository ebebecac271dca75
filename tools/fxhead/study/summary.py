"""Many runs as a few records: groups with their curves, and the growth of rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxhead.study.findings import GroupRecord, GrowthRecord
from fxhead.study.records import PairRecord, RunRecord

_PERCENTILES = (10, 50, 90)


def group(name: str, runs: Sequence[RunRecord]) -> GroupRecord:
    """The runs of one head as a group."""
    accuracy = [[100 * count / run.held_out for count in run.correct] for run in runs]
    return GroupRecord(
        name=name,
        head=runs[0].head,
        seeds=tuple(run.seed for run in runs),
        held_out=runs[0].held_out,
        correct=tuple(run.correct[-1] for run in runs),
        fit_loss=_bands([run.fit_loss for run in runs]),
        held_out_accuracy_pp=_bands(accuracy),
    )


def growth(pairs: Sequence[PairRecord]) -> GrowthRecord:
    """The largest differences over pairs of one kind."""
    return GrowthRecord(
        subject=pairs[0].subject,
        dtype=pairs[0].dtype,
        seeds=tuple(pair.seed for pair in pairs),
        epsilon=pairs[0].epsilon,
        logits_of_bound=max(pair.logits_of_bound for pair in pairs),
        loss_difference=_largest([pair.loss_difference for pair in pairs]),
        weight_difference=_largest([pair.weight_difference for pair in pairs]),
        typical_weight_difference=_median([pair.weight_difference for pair in pairs]),
        largest_weight=max(pair.largest_weight for pair in pairs),
    )


def _bands(curves: Sequence[Sequence[float]]) -> tuple[tuple[float, float, float], ...]:
    low, middle, high = np.percentile(np.asarray(curves, np.float64), _PERCENTILES, axis=0).tolist()
    return tuple(zip(low, middle, high, strict=True))


def _largest(curves: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(np.max(np.asarray(curves, np.float64), axis=0).tolist())


def _median(curves: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(np.median(np.asarray(curves, np.float64), axis=0).tolist())
