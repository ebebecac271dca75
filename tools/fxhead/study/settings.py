"""What a study is asked to do; light, so that the command line can name the choices."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
from pathlib import Path
from typing import Any

from fxpasses.errors import InputError

MOMENTUM = 0.9
POWER = 0.8
"""Chance with which the smallest detectable effect is detected (Cohen's convention)."""
RESAMPLES = 9_999
"""Bootstrap samples, and permutations where not all can be tried."""
MOST_SEEDS = 10_000
"""Seeds a head; the next ``--seed`` starts twice as far on, so that two studies share none."""
PAIRED_SEEDS = 5
"""Seeds whose two heads are trained in lockstep; each costs a dozen runs."""


QUESTION = "question"
"""Purpose of the comparisons that the study is for; the others are controls."""


class StudyHead(enum.StrEnum):
    """What follows the backbone."""

    LINEAR = "linear"
    CONV = "conv"
    SCALED = "scaled"


class Optimizer(enum.StrEnum):
    """What trains."""

    SGD = "sgd"
    ADAM = "adam"


class StudySubject(enum.StrEnum):
    """What the convolution of a paired run gets from the Linear."""

    SAME = "same weights"
    OFF = "one weight 1 % off"


class Dtype(enum.StrEnum):
    """What a paired run computes in."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How every run of a study is trained.

    Attributes:
        learning_rate: at the first step; it falls along a cosine to 0 at the last.
    """

    optimizer: Optimizer
    learning_rate: float
    epochs: int
    batch_size: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "optimizer": str(self.optimizer),
            "momentum": MOMENTUM if self.optimizer is Optimizer.SGD else None,
            "learning_rate": self.learning_rate,
            "schedule": "cosine to 0",
            "epochs": self.epochs,
            "batch_size": self.batch_size,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What counts as evidence.

    Attributes:
        alpha: a p-value below it is "systematic"; intervals have the confidence ``1 - alpha``.
        margin_pp: the largest difference in accuracy that does not matter, in percentage points.
    """

    alpha: float
    margin_pp: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "alpha": self.alpha,
            "confidence": 1 - self.alpha,
            "power": POWER,
            "margin_pp": self.margin_pp,
            "resamples": RESAMPLES,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions:
    """The options of ``fxhead study``.

    Attributes:
        data: folder of images, one folder a class inside; None for scikit-learn's digits.
        image_size: edge in pixels to which a folder's images are resized and cropped.
        seeds: runs a head.
        seed: from which all other seeds follow.
        out: folder of the finished runs, the result and the picture.
        scheduler: address of a Dask scheduler whose workers train; None for this machine.
    """

    data: Path | None
    image_size: int
    training: Training
    rules: Rules
    seeds: int
    seed: int
    jobs: int
    out: Path
    scheduler: str | None = None

    @property
    def even_seeds(self) -> tuple[int, ...]:
        """Seeds of the first group; they do not depend on how many there are, so more can be added."""
        return tuple(2 * (self.seed * MOST_SEEDS + index) for index in range(self.seeds))

    @property
    def odd_seeds(self) -> tuple[int, ...]:
        """Seeds of the second group, none of them in the first."""
        return tuple(seed + 1 for seed in self.even_seeds)


def study_options(
    *, epochs: int, optimizer: str, learning_rate: float, batch_size: int, alpha: float, margin: float,
    data: str | None, jobs: int | None, out: str, **others: Any,
) -> StudyOptions:  # fmt: skip
    """The options that the command line's values stand for.

    Raises:
        InputError: a number is not finite, which the command line's ranges let through.
    """
    for name, value in (("--learning-rate", learning_rate), ("--alpha", alpha), ("--margin", margin)):
        if not math.isfinite(value):
            raise InputError(f"{value} is not a finite number", where=name, fix="give one, or leave it out")
    return StudyOptions(
        data=None if data is None else Path(data),
        training=Training(
            optimizer=Optimizer(optimizer), learning_rate=learning_rate, epochs=epochs, batch_size=batch_size
        ),
        rules=Rules(alpha=alpha, margin_pp=margin),
        jobs=jobs or _cores(),
        out=Path(out),
        **others,
    )


def _cores() -> int:
    """Cores that this process may use, which in a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
