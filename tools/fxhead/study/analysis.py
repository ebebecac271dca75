"""From finished runs to what they say: groups, comparisons, growth of rounding, answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fxhead.study.findings import Findings, GroupRecord, HeadComparison
from fxhead.study.initialisation import compare_initialisation, shapes_under_study
from fxhead.study.network import SCALE
from fxhead.study.records import PairRecord, RunRecord
from fxhead.study.settings import QUESTION, Dtype, StudyHead, StudyOptions, StudySubject
from fxhead.study.statistics import compare
from fxhead.study.summary import group, growth
from fxhead.study.verdict import conclude, judge, judge_pairs

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
        group("Linear", [runs[StudyHead.LINEAR, seed] for seed in even]),
        group("Linear, other seeds", [runs[StudyHead.LINEAR, seed] for seed in odd]),
        group("Conv2d 1×1", [runs[StudyHead.CONV, seed] for seed in even]),
        group(f"Linear, weights ×{SCALE:g}", [runs[StudyHead.SCALED, seed] for seed in even]),
    )
    grown = tuple(
        growth([pair for pair in pairs if pair.subject is subject and pair.dtype is dtype])
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
