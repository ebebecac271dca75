"""What a study found: frozen records, as they are stored and as the JSON document holds them."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from fxhead.results import SCHEMA_VERSION, ExitCode, WrittenFile
from fxhead.study.settings import Dtype, Head, StudyOptions, Subject


class StudyVerdict(enum.StrEnum):
    """What a comparison of accuracies says."""

    CHANCE = "chance"
    SYSTEMATIC = "systematic"
    TOO_FEW = "too few seeds to say"


class _Plain:
    """A record whose fields are plain data, enums or records of that kind."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataInfo(_Plain):
    """The images. Attributes: ``fit`` and ``held_out`` count images, ``sha256`` is of all values."""

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    fit: int
    held_out: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord(_Plain):
    """One finished run.

    Attributes:
        head: what followed the backbone.
        seed: of the weights and of the order of the images.
        held_out: how many images it was measured on.
        correct: of those, read right after each epoch.
        fit_loss: mean loss of the steps of each epoch.
        held_out_loss: mean loss on the held-out images after each epoch.
    """

    head: Head
    seed: int
    held_out: int
    correct: tuple[int, ...]
    fit_loss: tuple[float, ...]
    held_out_loss: tuple[float, ...]

    @property
    def accuracy_pp(self) -> float:
        """Percentage of the held-out images that are read right in the end."""
        return 100 * self.correct[-1] / self.held_out

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RunRecord:
        """The record that ``to_dict`` wrote."""
        return cls(
            head=Head(data["head"]),
            seed=int(data["seed"]),
            held_out=int(data["held_out"]),
            correct=tuple(map(int, data["correct"])),
            fit_loss=tuple(map(float, data["fit_loss"])),
            held_out_loss=tuple(map(float, data["held_out_loss"])),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairRecord(_Plain):
    """Two runs in lockstep.

    Attributes:
        subject: what the convolution got from the Linear.
        dtype: what both computed in.
        seed: of the weights and of the order of the images.
        epsilon: machine epsilon of ``dtype``.
        logits_of_bound: largest difference of the first batch's logits over its rounding bound.
        largest_weight: the largest weight in the end, against which differences are read.
        loss: the Linear's, at each step.
        loss_difference: absolute difference of the two losses, at each step.
        weight_difference: largest absolute difference of two weights, after each step.
    """

    subject: Subject
    dtype: Dtype
    seed: int
    epsilon: float
    logits_of_bound: float
    largest_weight: float
    loss: tuple[float, ...]
    loss_difference: tuple[float, ...]
    weight_difference: tuple[float, ...]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PairRecord:
        """The record that ``to_dict`` wrote."""
        return cls(
            subject=Subject(data["subject"]),
            dtype=Dtype(data["dtype"]),
            seed=int(data["seed"]),
            epsilon=float(data["epsilon"]),
            logits_of_bound=float(data["logits_of_bound"]),
            largest_weight=float(data["largest_weight"]),
            loss=tuple(map(float, data["loss"])),
            loss_difference=tuple(map(float, data["loss_difference"])),
            weight_difference=tuple(map(float, data["weight_difference"])),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scheme(_Plain):
    """How torch fills a parameter by default.

    Attributes:
        function: of ``torch.nn.init``, as it was called.
        name: in words.
        bound: the values lie in ±bound; None where the function draws from no interval.
        source: where the layer calls it, in the installed torch.
    """

    function: str
    name: str
    bound: float | None
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InitialisationRecord(_Plain):
    """One parameter of two layers of the same size.

    Attributes:
        linear, conv: the layers as Python writes them.
        parameter: ``weight`` or ``bias``.
        linear_scheme, conv_scheme: how each is filled.
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
class GrowthRecord(_Plain):
    """How far the paired runs of one kind came apart; the largest over the seeds.

    Attributes:
        subject: what the convolution got from the Linear.
        dtype: what both computed in.
        seeds: pairs that were trained.
        epsilon: machine epsilon of ``dtype``.
        logits_of_bound: first logits' difference over its rounding bound; at most 1 if it is rounding.
        loss_difference: absolute, at each step.
        weight_difference: absolute, after each step.
        typical_weight_difference: the same, but the median over the seeds.
        largest_weight: against which ``weight_difference`` is read.
    """

    subject: Subject
    dtype: Dtype
    seeds: tuple[int, ...]
    epsilon: float
    logits_of_bound: float
    loss_difference: tuple[float, ...]
    weight_difference: tuple[float, ...]
    typical_weight_difference: tuple[float, ...]
    largest_weight: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairingRecord(_Plain):
    """Whether what one kind of pair differs by is rounding.

    Attributes:
        subject: what the convolution got from the Linear.
        within_bound: whether the first logits differ by no more than rounding can make them differ.
        shrinkage: early difference in float64 over that in float32; epsilon's is 1.9e-9.
        is_rounding: both of these say so.
    """

    subject: Subject
    within_bound: bool
    shrinkage: float
    is_rounding: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord(_Plain):
    """The runs of one head over one group of seeds.

    Attributes:
        name: of the group, for tables and legends.
        head: what followed the backbone.
        seeds: one a run.
        accuracy_pp: held-out accuracy of each run in the end, in percent.
        fit_loss, held_out_accuracy_pp: after each epoch, the 10th, 50th and 90th percentile over the runs.
    """

    name: str
    head: Head
    seeds: tuple[int, ...]
    accuracy_pp: tuple[float, ...]
    fit_loss: tuple[tuple[float, float, float], ...]
    held_out_accuracy_pp: tuple[tuple[float, float, float], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(_Plain):
    """Two groups' accuracies compared.

    Attributes:
        first, second: names of the groups.
        purpose: what the comparison is for.
        paired: whether runs of one seed are compared with each other.
        first_mean_pp, second_mean_pp: means in percent.
        difference_pp: second minus first, in percentage points.
        interval_pp: bootstrap interval of the difference (BCa), of confidence ``1 - alpha``.
        p_value: of the permutation test, two-sided.
        smallest_effect_pp: difference that these seeds would have shown with 80 % power, or None where
            no difference could have: there are too few permutations for a p-value below alpha.
        verdict: what follows by the study's rules.
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
class Answer(_Plain):
    """The verdict of the whole study, and why.

    Attributes:
        same_initialisation: nothing tells the two layers' first weights apart.
        same_function: with the same weights they differ by rounding, and a wrong weight by more.
        typical_gap_pp: median difference of two single runs of one head under different seeds.
        verdict: on the accuracies.
        reason: what the verdict rests on.
    """

    same_initialisation: bool
    same_function: bool
    typical_gap_pp: float
    verdict: StudyVerdict
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment(_Plain):
    """What rounding depends on: other versions or processors give other last digits."""

    torch: str
    machine: str
    cpu_capability: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyOutcome:
    """Result of ``fxhead study``; the same options give the same document on the same machine.

    Attributes:
        options: what was asked for.
        data: the images.
        environment: where it ran.
        initialisation: one record a parameter and pair of shapes.
        growth: how the paired runs came apart.
        pairing: whether that is rounding.
        groups: accuracies and curves.
        comparisons: of the groups.
        answer: to the question that the study is for.
        files: what was written, besides the runs.
    """

    options: StudyOptions
    data: DataInfo
    environment: Environment
    initialisation: tuple[InitialisationRecord, ...]
    growth: tuple[GrowthRecord, ...]
    pairing: tuple[PairingRecord, ...]
    groups: tuple[GroupRecord, ...]
    comparisons: tuple[Comparison, ...]
    answer: Answer
    files: tuple[WrittenFile, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """DONE: every answer is one."""
        return ExitCode.DONE

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "study",
            "data": self.data.to_dict(),
            "training": self.options.training.to_dict(),
            "rules": self.options.rules.to_dict(),
            "seeds": self.options.seeds,
            "seed": self.options.seed,
            "environment": self.environment.to_dict(),
            "answer": self.answer.to_dict(),
            "initialisation": [record.to_dict() for record in self.initialisation],
            "pairing": [record.to_dict() for record in self.pairing],
            "growth": [record.to_dict() for record in self.growth],
            "groups": [record.to_dict() for record in self.groups],
            "comparisons": [record.to_dict() for record in self.comparisons],
            # by name: the same study in another folder is the same document
            "files": [file.to_dict() | {"path": file.path.name} for file in self.files],
        }
