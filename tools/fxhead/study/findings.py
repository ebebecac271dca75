"""What follows from the runs of a study: frozen records, as the JSON document holds them."""

from __future__ import annotations

import dataclasses
import enum

from fxhead.study.settings import Dtype, StudyHead, StudySubject


class StudyVerdict(enum.StrEnum):
    """What a comparison of accuracies says."""

    CHANCE = "chance"
    SYSTEMATIC = "systematic"
    TOO_FEW = "too few seeds to say"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How torch fills a parameter by default.

    Attributes:
        bound: the values lie in ±bound; None where the function draws from no interval.
        source: where the layer calls it, in the installed torch.
    """

    function: str
    name: str
    bound: float | None
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InitialisationRecord:
    """One parameter of two layers of the same size.

    Attributes:
        parameter: ``weight`` or ``bias``.
        draws: values drawn from each layer, under different seeds.
        fills_bound: whether both layers' values lie in the bound and reach up to it.
        ks_statistic: the largest distance between the two samples' distribution functions.
        ks_p_value: of the two-sample Kolmogorov-Smirnov test.
        seeds: how many seeds were given to both layers,
        identical_seeds: and under how many of them all values were the same bit for bit.
        same: whether nothing above tells the two apart.
    """

    linear: str
    conv: str
    parameter: str
    linear_scheme: Scheme
    conv_scheme: Scheme
    draws: int
    fills_bound: bool
    ks_statistic: float
    ks_p_value: float
    seeds: int
    identical_seeds: int
    same: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GrowthRecord:
    """How far the paired runs of one kind came apart; the largest over the seeds.

    Attributes:
        logits_of_bound: first logits' difference over its rounding bound; at most 1 if it is rounding.
        loss_difference: absolute, at each step.
        weight_difference: absolute, after each step.
        typical_weight_difference: the same, but the median over the seeds.
        largest_weight: against which ``weight_difference`` is read.
    """

    subject: StudySubject
    dtype: Dtype
    seeds: tuple[int, ...]
    epsilon: float
    logits_of_bound: float
    loss_difference: tuple[float, ...]
    weight_difference: tuple[float, ...]
    typical_weight_difference: tuple[float, ...]
    largest_weight: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairingRecord:
    """Whether what one kind of pair differs by is rounding.

    Attributes:
        within_bound: whether the first logits differ by no more than rounding can make them differ.
        shrinkage: early difference in float64 over that in float32; epsilon's is 1.9e-9.
        is_rounding: both of these say so.
    """

    subject: StudySubject
    within_bound: bool
    shrinkage: float
    is_rounding: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """The runs of one head over one group of seeds.

    Attributes:
        held_out: images that each run was measured on.
        correct: of those, read right by each run in the end.
        fit_loss, held_out_accuracy_pp: after each epoch, the 10th, 50th and 90th percentile over the runs.
    """

    name: str
    head: StudyHead
    seeds: tuple[int, ...]
    held_out: int
    correct: tuple[int, ...]
    fit_loss: tuple[tuple[float, float, float], ...]
    held_out_accuracy_pp: tuple[tuple[float, float, float], ...]

    @property
    def accuracy_pp(self) -> tuple[float, ...]:
        """Held-out accuracy of each run in the end, in percent."""
        return tuple(100 * count / self.held_out for count in self.correct)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeadComparison:
    """Two groups' accuracies compared.

    Attributes:
        paired: whether runs of one seed are compared with each other.
        difference_pp: second minus first, in percentage points.
        interval_pp: bootstrap interval of the difference (BCa), of confidence ``1 - alpha``.
        p_value: of the permutation test, two-sided.
        smallest_effect_pp: difference that these seeds would have shown with 80 % power, or None where
            no difference could have: there are too few permutations for a p-value below alpha.
    """

    first: str
    second: str
    purpose: str
    paired: bool
    first_mean_pp: float
    second_mean_pp: float
    difference_pp: float
    interval_pp: tuple[float, float]
    p_value: float
    smallest_effect_pp: float | None
    verdict: StudyVerdict


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyAnswer:
    """The verdict of the whole study, and why.

    Attributes:
        same_initialisation: nothing tells the two layers' first weights apart.
        same_function: with the same weights they differ by rounding, and a wrong weight by more.
        typical_gap_pp: median difference of two single runs of one head under different seeds.
    """

    same_initialisation: bool
    same_function: bool
    typical_gap_pp: float
    verdict: StudyVerdict
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that follows from the runs."""

    answer: StudyAnswer
    initialisation: tuple[InitialisationRecord, ...]
    pairing: tuple[PairingRecord, ...]
    growth: tuple[GrowthRecord, ...]
    groups: tuple[GroupRecord, ...]
    comparisons: tuple[HeadComparison, ...]
