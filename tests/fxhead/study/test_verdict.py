"""The rules that turn numbers into words, each case of them."""

from __future__ import annotations

import dataclasses

import pytest

from fxhead.study.findings import GrowthRecord, HeadComparison, PairingRecord, StudyVerdict
from fxhead.study.outcome import StudyOutcome
from fxhead.study.settings import Dtype, Rules, StudySubject
from fxhead.study.statistics import SeedEvidence
from fxhead.study.verdict import EARLY_STEPS, conclude, judge, judge_pairs

CHANCE, SYSTEMATIC, TOO_FEW = StudyVerdict.CHANCE, StudyVerdict.SYSTEMATIC, StudyVerdict.TOO_FEW


@pytest.mark.parametrize(
    ("p_value", "interval", "smallest_effect", "verdict"),
    [
        (0.4, (-0.5, 0.6), 0.8, CHANCE),
        (0.01, (-0.5, 0.6), 0.8, CHANCE),
        (0.0099, (0.1, 0.6), 0.8, SYSTEMATIC),
        (0.0099, (0.1, 0.6), 3.0, SYSTEMATIC),
        (0.4, (-0.5, 1.1), 0.8, TOO_FEW),
        (0.4, (-1.1, 0.5), 0.8, TOO_FEW),
        (0.4, (-0.5, 0.6), 1.1, TOO_FEW),
        (0.4, (0.0, 0.0), None, TOO_FEW),
    ],
)
def test_a_verdict(
    p_value: float, interval: tuple[float, float], smallest_effect: float | None, verdict: StudyVerdict
) -> None:
    evidence = SeedEvidence(
        difference=sum(interval) / 2, interval=interval, p_value=p_value, smallest_effect=smallest_effect
    )
    assert judge(evidence, Rules(alpha=0.01, margin_pp=1.0)) is verdict


def grown(dtype: Dtype, *, difference: float, late: float = 0.0, of_bound: float = 0.1) -> GrowthRecord:
    loss = (difference,) * EARLY_STEPS + (late,)
    return GrowthRecord(
        subject=StudySubject.SAME,
        dtype=dtype,
        seeds=(0,),
        epsilon=2.0**-23 if dtype is Dtype.FLOAT32 else 2.0**-52,
        logits_of_bound=of_bound,
        loss_difference=loss,
        weight_difference=loss,
        typical_weight_difference=loss,
        largest_weight=1.0,
    )


@pytest.mark.parametrize(
    ("single", "double", "is_rounding"),
    [
        ({"difference": 1e-7}, {"difference": 1e-16}, True),
        ({"difference": 0.0}, {"difference": 1e-16}, True),
        ({"difference": 0.0}, {"difference": 0.0}, True),
        # it may grow, in both
        ({"difference": 1e-7, "late": 0.1}, {"difference": 1e-16, "late": 0.1}, True),
        ({"difference": 1e-4}, {"difference": 1e-4}, False),
        ({"difference": 1e-7}, {"difference": 1e-11}, False),
        ({"difference": 0.0}, {"difference": 1e-11}, False),
        ({"difference": 1e-7, "of_bound": 1.01}, {"difference": 1e-16}, False),
        ({"difference": 1e-7}, {"difference": 1e-16, "of_bound": 1.01}, False),
    ],
)
def test_rounding_shrinks_with_epsilon(
    single: dict[str, float], double: dict[str, float], is_rounding: bool
) -> None:
    growth = (grown(Dtype.FLOAT32, **single), grown(Dtype.FLOAT64, **double))
    assert judge_pairs(StudySubject.SAME, growth).is_rounding is is_rounding


def test_an_answer_needs_controls_that_come_out(outcome: StudyOutcome) -> None:
    any_comparison = outcome.findings.comparisons[0]

    def answer(question: StudyVerdict, positive: StudyVerdict, negative: StudyVerdict) -> StudyVerdict:
        def as_if(verdict: StudyVerdict) -> HeadComparison:
            return dataclasses.replace(any_comparison, verdict=verdict)

        return conclude(
            outcome.findings.initialisation,
            outcome.findings.pairing,
            question=as_if(question),
            positive=as_if(positive),
            negative=as_if(negative),
            typical_gap_pp=1.0,
        ).verdict

    assert answer(CHANCE, SYSTEMATIC, CHANCE) is CHANCE
    assert answer(CHANCE, SYSTEMATIC, TOO_FEW) is CHANCE
    assert answer(SYSTEMATIC, SYSTEMATIC, CHANCE) is SYSTEMATIC
    assert answer(SYSTEMATIC, CHANCE, CHANCE) is SYSTEMATIC  # what was found does not need what was not
    assert answer(CHANCE, CHANCE, CHANCE) is TOO_FEW
    assert answer(CHANCE, TOO_FEW, CHANCE) is TOO_FEW
    assert answer(CHANCE, SYSTEMATIC, SYSTEMATIC) is TOO_FEW
    assert answer(SYSTEMATIC, SYSTEMATIC, SYSTEMATIC) is TOO_FEW


@pytest.mark.parametrize(
    ("same", "off", "shown"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_the_same_function_is_shown_only_if_a_wrong_weight_is_seen(
    outcome: StudyOutcome, same: bool, off: bool, shown: bool
) -> None:
    comparison = outcome.findings.comparisons[0]
    pairing = tuple(
        PairingRecord(subject=subject, within_bound=is_rounding, shrinkage=0.0, is_rounding=is_rounding)
        for subject, is_rounding in ((StudySubject.SAME, same), (StudySubject.OFF, off))
    )
    answer = conclude(
        outcome.findings.initialisation,
        pairing,
        question=comparison,
        positive=comparison,
        negative=comparison,
        typical_gap_pp=1.0,
    )
    assert answer.same_function is shown
    assert answer.same_initialisation
