"""From numbers to words: the rules, each of which can come out either way."""

from __future__ import annotations

import math

from fxhead.study.findings import (
    GrowthRecord,
    HeadComparison,
    InitialisationRecord,
    PairingRecord,
    StudyAnswer,
    StudyVerdict,
)
from fxhead.study.settings import Dtype, Rules, StudySubject
from fxhead.study.statistics import SeedEvidence

EARLY_STEPS = 10
"""Steps in which rounding has not grown yet to where it no longer depends on the precision."""


def judge(evidence: SeedEvidence, rules: Rules) -> StudyVerdict:
    """What one comparison says.

    ``systematic``: the p-value is below alpha. ``chance``: it is not, these seeds would have shown a
    difference of the margin, and the interval lies within the margin. Else ``too few seeds to say``.
    """
    if evidence.p_value < rules.alpha:
        return StudyVerdict.SYSTEMATIC
    can_see = evidence.smallest_effect is not None and evidence.smallest_effect <= rules.margin_pp
    is_small = max(map(abs, evidence.interval)) <= rules.margin_pp
    return StudyVerdict.CHANCE if can_see and is_small else StudyVerdict.TOO_FEW


def judge_pairs(subject: StudySubject, growth: tuple[GrowthRecord, ...]) -> PairingRecord:
    """Whether the difference is rounding: within the bound at first, and shrinking with epsilon.

    Another function would differ by as much in float64 as in float32; rounding shrinks by the ratio
    of the epsilons, 1.9e-9. The line between them is the geometric middle, √1.9e-9 = 4.3e-5.
    """
    single, double = (
        next(g for g in growth if g.subject is subject and g.dtype is dtype)
        for dtype in (Dtype.FLOAT32, Dtype.FLOAT64)
    )
    within = max(single.logits_of_bound, double.logits_of_bound) <= 1
    shrinkage = _early(double) / max(_early(single), single.epsilon)
    shrinks = shrinkage <= math.sqrt(double.epsilon / single.epsilon)
    return PairingRecord(
        subject=subject, within_bound=within, shrinkage=shrinkage, is_rounding=within and shrinks
    )


def _early(record: GrowthRecord) -> float:
    return max(record.loss_difference[:EARLY_STEPS])


def conclude(
    initialisation: tuple[InitialisationRecord, ...],
    pairing: tuple[PairingRecord, ...],
    *,
    question: HeadComparison,
    positive: HeadComparison,
    negative: HeadComparison,
    typical_gap_pp: float,
) -> StudyAnswer:
    """The study's answer: that of the question, unless the controls show that it is worth nothing."""
    by_subject = {record.subject: record for record in pairing}
    same_initialisation = all(record.same for record in initialisation)
    same_function = by_subject[StudySubject.SAME].is_rounding and not by_subject[StudySubject.OFF].is_rounding
    verdict, reason = question.verdict, _reason(question)
    if positive.verdict is not StudyVerdict.SYSTEMATIC and verdict is StudyVerdict.CHANCE:
        verdict = StudyVerdict.TOO_FEW
        reason = "the positive control, a head that is different, was not found to be systematic either"
    if negative.verdict is StudyVerdict.SYSTEMATIC:
        verdict = StudyVerdict.TOO_FEW
        reason = "the negative control, two groups of one head, was found to be systematic"
    return StudyAnswer(
        same_initialisation=same_initialisation,
        same_function=same_function,
        typical_gap_pp=typical_gap_pp,
        verdict=verdict,
        reason=reason,
    )


def _reason(question: HeadComparison) -> str:
    low, high = question.interval_pp
    found = f"{question.second} less {question.first} is {question.difference_pp:+.2f} points"
    return f"{found} ({low:+.2f} to {high:+.2f}), p = {question.p_value:.2g}"
