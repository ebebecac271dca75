"""The result of ``fxhead study``, as a record and for a person."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import RenderableType
from rich.markup import escape

from fxhead.outcome import SCHEMA_VERSION, Outcome, WrittenFile
from fxhead.show.fitting_table import FittingTable
from fxhead.study.findings import Findings, GrowthRecord, HeadComparison, InitialisationRecord
from fxhead.study.records import DataInfo
from fxhead.study.settings import StudyOptions, StudySubject
from fxpasses.report import plain

_STYLES = {"chance": "bold green", "systematic": "bold red"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What rounding depends on: other versions or processors give other last digits."""

    torch: str
    machine: str
    cpu_capability: str

    @classmethod
    def here(cls) -> Environment:
        """That of this process."""
        return cls(
            torch=torch.__version__,
            machine=platform.machine(),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyOutcome(Outcome):
    """Result of ``fxhead study``; the same options give the same document on the same machine."""

    command = "study"

    options: StudyOptions
    data: DataInfo
    environment: Environment
    findings: Findings
    files: tuple[WrittenFile, ...] = ()

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        answer = self.findings.answer
        yield from _header(self)
        yield ""
        yield f"[bold]initialisation[/]: {'the same' if answer.same_initialisation else 'not the same'}"
        yield ""
        yield _initialisation_table(self.findings.initialisation)
        yield ""
        yield f"[bold]same seed, same weights[/]: {_function_line(self)}"
        yield ""
        yield _growth_table(self.findings.growth)
        yield ""
        gap = f"{answer.typical_gap_pp:.2f} points (median)"
        yield f"[bold]many seeds[/]: two runs of one head differ by {gap}"
        yield ""
        yield _comparison_table(self)
        yield ""
        yield f"verdict: [{_STYLES.get(answer.verdict, 'bold yellow')}]{answer.verdict}[/]"
        yield escape(answer.reason)
        yield ""
        yield f"picture: {escape(str(self.files[0].path))}"

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "data": plain(self.data),
            "training": self.options.training.to_dict(),
            "rules": self.options.rules.to_dict(),
            "seeds": self.options.seeds,
            "seed": self.options.seed,
            "environment": plain(self.environment),
            **plain(self.findings),
            # by name: the same study in another folder is the same document
            "files": [{"path": file.path.name, "size_bytes": file.size_bytes} for file in self.files],
        }


def _header(outcome: StudyOutcome) -> Iterator[str]:
    data, options = outcome.data, outcome.options
    training = options.training
    shape = "x".join(map(str, data.image_shape))
    yield (
        f"[bold]{escape(data.name)}[/]  {data.fit + data.held_out:,} images of {shape}, "
        f"{len(data.classes)} classes: {data.fit:,} trained on, {data.held_out:,} held out"
    )
    yield (
        f"{options.seeds} seeds a head, {training.epochs} epochs of batches of {training.batch_size}, "
        f"{training.optimizer}, learning rate {training.learning_rate:g}"
    )


def _function_line(outcome: StudyOutcome) -> str:
    if outcome.findings.answer.same_function:
        return "the same function; they differ by rounding, which training amplifies"
    same = next(record for record in outcome.findings.pairing if record.subject is StudySubject.SAME)
    if same.is_rounding:
        return "not shown: the control, a wrong weight, looks like rounding too"
    return "more than rounding"


def _initialisation_table(records: tuple[InitialisationRecord, ...]) -> FittingTable:
    table = FittingTable(
        "Linear", "Conv2d", "parameter", "scheme of both", "bound", "KS p", "same under one seed"
    )
    for record in records:
        schemes = dict.fromkeys((record.linear_scheme.name, record.conv_scheme.name))
        bound = record.linear_scheme.bound
        cells = (
            record.linear.removeprefix("Linear"),
            record.conv.removeprefix("Conv2d"),
            record.parameter,
            " / ".join(schemes),
            "" if bound is None else f"{bound:.3g}",
            f"{record.ks_p_value:.2g}",
            f"{record.identical_seeds} of {record.seeds}",
        )
        table.add(*cells)
    return table


def _growth_table(records: tuple[GrowthRecord, ...]) -> FittingTable:
    table = FittingTable(
        "convolution's start", "computed in", "epsilon", "first logits", "loss: first step", "largest",
        "weight: first step", "last step",
    )  # fmt: skip
    for record in records:
        cells = (
            str(record.subject),
            str(record.dtype),
            f"{record.epsilon:.1e}",
            f"{record.logits_of_bound:.2g} of bound",
            f"{record.loss_difference[0]:.1e}",
            f"{max(record.loss_difference):.1e}",
            f"{record.weight_difference[0]:.1e}",
            f"{record.weight_difference[-1]:.1e}",
        )
        table.add(*cells)
    return table


def _comparison_table(outcome: StudyOutcome) -> FittingTable:
    confidence = f"{100 * (1 - outcome.options.rules.alpha):g} % interval"
    table = FittingTable(
        "for",
        "first",
        "first mean %",
        "second",
        "second mean %",
        "points",
        confidence,
        "p",
        "could show",
        "verdict",
    )
    for record in outcome.findings.comparisons:
        table.add(*_comparison_cells(record))
    return table


def _comparison_cells(record: HeadComparison) -> tuple[str, ...]:
    low, high = record.interval_pp
    effect = record.smallest_effect_pp
    return (
        f"{record.purpose}, {'same seeds' if record.paired else 'other seeds'}",
        record.first,
        f"{record.first_mean_pp:.2f}",
        record.second,
        f"{record.second_mean_pp:.2f}",
        _points(record.difference_pp),
        f"{_points(low)} to {_points(high)}",
        f"{record.p_value:.2g}",
        "nothing" if effect is None else f"{effect:.2f}",
        str(record.verdict),
    )


def _points(value: float) -> str:
    """A difference with its sign, and no sign before a zero."""
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}"
