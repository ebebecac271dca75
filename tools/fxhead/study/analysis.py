"""From finished runs to what they say: groups, comparisons, growth of rounding, answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fxhead.study.findings import Findings, GroupRecord, GrowthRecord, HeadComparison
from fxhead.study.initialisation import compare_initialisation, shapes_under_study
from fxhead.study.network import SCALE
from fxhead.study.records import PairRecord, RunRecord
from fxhead.study.settings import QUESTION, Dtype, StudyHead, StudyOptions, StudySubject
from fxhead.study.statistics import compare
from fxhead.study.verdict import conclude, judge, judge_pairs

_PERCENTILES = (10, 50, 90)
_NEGATIVE, _POSITIVE = "negative control", "positive control"


def analyse(
    runs: Mapping[tuple[StudyHead, int], RunRecord],
    pairs: Sequence[PairRecord],
    options: StudyOptions,
    classes: int,
) -> Findings:
    """The findings; they depend on the records and the options alone, not on how they came about."""
    even, odd = options.even_seeds, options.odd_seeds
    linear, other, conv, scaled = groups = (
        _group("Linear", [runs[StudyHead.LINEAR, seed] for seed in even]),
        _group("Linear, other seeds", [runs[StudyHead.LINEAR, seed] for seed in odd]),
        _group("Conv2d 1×1", [runs[StudyHead.CONV, seed] for seed in even]),
        _group(f"Linear, weights ×{SCALE:g}", [runs[StudyHead.SCALED, seed] for seed in even]),
    )
    grown = tuple(
        _growth([pair for pair in pairs if pair.subject is subject and pair.dtype is dtype])
        for subject in StudySubject
        for dtype in Dtype
    )
    initialisation = compare_initialisation(
        shapes_under_study(classes), seed=options.seed, alpha=options.rules.alpha
    )
    pairing = tuple(judge_pairs(subject, grown) for subject in StudySubject)
    question = _compared(other, conv, QUESTION, options)
    negative = _compared(other, linear, _NEGATIVE, options)
    positive = _compared(other, scaled, _POSITIVE, options)
    return Findings(
        initialisation=initialisation,
        growth=grown,
        pairing=pairing,
        groups=groups,
        comparisons=(
            question,
            _compared(linear, conv, QUESTION, options),
            negative,
            positive,
            _compared(linear, scaled, _POSITIVE, options),
        ),
        answer=conclude(
            initialisation,
            pairing,
            question=question,
            positive=positive,
            negative=negative,
            typical_gap_pp=_typical_gap(linear, other),
        ),
    )


def _compared(first: GroupRecord, second: GroupRecord, purpose: str, options: StudyOptions) -> HeadComparison:
    """The comparison of two groups: seed by seed where they have the same seeds."""
    paired = first.seeds == second.seeds
    counted = compare(first.correct, second.correct, paired=paired, rules=options.rules, seed=options.seed)
    evidence = counted.times(100 / first.held_out)
    return HeadComparison(
        first=first.name,
        second=second.name,
        purpose=purpose,
        paired=paired,
        first_mean_pp=float(np.mean(first.accuracy_pp)),
        second_mean_pp=float(np.mean(second.accuracy_pp)),
        difference_pp=evidence.difference,
        interval_pp=evidence.interval,
        p_value=evidence.p_value,
        smallest_effect_pp=evidence.smallest_effect,
        verdict=judge(evidence, options.rules),
    )


def _typical_gap(first: GroupRecord, second: GroupRecord) -> float:
    """The median difference of two single runs, one of each group."""
    gaps = np.subtract.outer(np.asarray(first.accuracy_pp), np.asarray(second.accuracy_pp))
    return float(np.median(np.abs(gaps)))


def _group(name: str, runs: Sequence[RunRecord]) -> GroupRecord:
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


def _growth(pairs: Sequence[PairRecord]) -> GrowthRecord:
    """The largest differences over pairs of one kind."""
    return GrowthRecord(
        subject=pairs[0].subject,
        dtype=pairs[0].dtype,
        seeds=tuple(pair.seed for pair in pairs),
        epsilon=pairs[0].epsilon,
        logits_of_bound=max(pair.logits_of_bound for pair in pairs),
        loss_difference=_over(np.max, [pair.loss_difference for pair in pairs]),
        weight_difference=_over(np.max, [pair.weight_difference for pair in pairs]),
        typical_weight_difference=_over(np.median, [pair.weight_difference for pair in pairs]),
        largest_weight=max(pair.largest_weight for pair in pairs),
    )


def _bands(curves: Sequence[Sequence[float]]) -> tuple[tuple[float, float, float], ...]:
    low, middle, high = np.percentile(np.asarray(curves, np.float64), _PERCENTILES, axis=0).tolist()
    return tuple(zip(low, middle, high, strict=True))


def _over(reduce: Callable[..., Any], curves: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(reduce(np.asarray(curves, np.float64), axis=0).tolist())
