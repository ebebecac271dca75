"""What is stored of a study: its images and its finished runs, as frozen records."""

from __future__ import annotations

import dataclasses

from fxhead.study.settings import Dtype, StudyHead, StudySubject


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataInfo:
    """The images. Attributes: ``fit`` and ``held_out`` count images, ``sha256`` is of all values."""

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    fit: int
    held_out: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One finished run.

    Attributes:
        held_out: how many images it was measured on.
        correct: of those, read right after each epoch.
        fit_loss: mean loss of the steps of each epoch.
        held_out_loss: mean loss on the held-out images after each epoch.
    """

    head: StudyHead
    seed: int
    held_out: int
    correct: tuple[int, ...]
    fit_loss: tuple[float, ...]
    held_out_loss: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairRecord:
    """Two runs in lockstep.

    Attributes:
        logits_of_bound: largest difference of the first batch's logits over its rounding bound.
        largest_weight: the largest weight in the end, against which differences are read.
        loss: the Linear's, at each step.
        loss_difference: absolute difference of the two losses, at each step.
        weight_difference: largest absolute difference of two weights, after each step.
    """

    subject: StudySubject
    dtype: Dtype
    seed: int
    epsilon: float
    logits_of_bound: float
    largest_weight: float
    loss: tuple[float, ...]
    loss_difference: tuple[float, ...]
    weight_difference: tuple[float, ...]
