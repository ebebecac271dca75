"""The study as one picture: curves, accuracies, differences with intervals, growth of rounding."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from fxhead.study.findings import GroupRecord, HeadComparison
from fxhead.study.network import SCALE
from fxhead.study.outcome import StudyOutcome
from fxhead.study.settings import QUESTION, Dtype, StudyHead, StudySubject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which the colour-blind can tell apart; line and marker differ as well.
_BLUE, _ORANGE, _GREEN, _PURPLE, _GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#555555"
_HEADS = {
    StudyHead.LINEAR: (_BLUE, "-", 3.5, "o"),
    StudyHead.CONV: (_ORANGE, "--", 2.0, "s"),
    StudyHead.SCALED: (_PURPLE, "-.", 2.0, "^"),
}
_SHORT = {StudyHead.LINEAR: "Linear", StudyHead.CONV: "Conv2d", StudyHead.SCALED: f"Linear ×{SCALE:g}"}
_PAIRS = {
    (StudySubject.OFF, Dtype.FLOAT64): (_PURPLE, "-.", "one weight 1 % off, float64"),
    (StudySubject.SAME, Dtype.FLOAT32): (_ORANGE, "-", "same weights, float32"),
    (StudySubject.SAME, Dtype.FLOAT64): (_GREEN, "--", "same weights, float64"),
}
_PALETTE = 128
_STYLE: dict[Any, Any] = {
    "font.size": 13.0,
    "axes.titlesize": 14.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 12.0,
}


def draw(outcome: StudyOutcome, path: Path) -> None:
    """Writes the picture as PNG; the same outcome gives the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    drawn = io.BytesIO()
    with mpl.rc_context(_STYLE):
        picture(outcome).savefig(drawn, format="png")
    # a palette is a third of the size, and there are few colours in it
    Image.open(drawn).convert("RGB").quantize(_PALETTE).save(path, format="png", optimize=True)


def picture(outcome: StudyOutcome) -> Figure:
    """The four panels."""
    figure = Figure(figsize=(11.5, 9.0), dpi=100, layout="constrained")
    (curves, growth), (points, differences) = figure.subplots(2, 2)
    _draw_curves(curves, outcome.findings.groups)
    _draw_growth(growth, outcome)
    _draw_points(points, outcome.findings.groups)
    _draw_differences(differences, outcome)
    return figure


def _draw_curves(axes: Axes, groups: tuple[GroupRecord, ...]) -> None:
    """Median and middle 80 % of the held-out accuracy, for one group of each head."""
    shown = {group.head: group for group in reversed(groups)}  # the first group of each head stays
    for head in StudyHead:
        group = shown[head]
        colour, line, width, marker = _HEADS[head]
        low, middle, high = np.asarray(group.held_out_accuracy_pp).T
        epochs = np.arange(1, len(middle) + 1)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            epochs, middle, line, color=colour, linewidth=width, marker=marker, markersize=5, label=group.name
        )
    count = len(groups[0].seeds)
    axes.set(
        title=f"Learning curves, {count} seeds each",
        xlabel="epoch",
        ylabel="held-out accuracy (%)",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(title="median, and band of the middle 80 %", loc="lower right")


def _draw_growth(axes: Axes, outcome: StudyOutcome) -> None:
    """Largest difference of two weights after each step, for pairs that started alike."""
    for record in outcome.findings.growth:
        if (record.subject, record.dtype) not in _PAIRS:
            continue
        colour, line, label = _PAIRS[record.subject, record.dtype]
        weights = np.asarray(record.weight_difference)
        steps = np.arange(1, len(weights) + 1)
        axes.plot(steps, _on_log(weights), line, color=colour, linewidth=2.5, label=label)
        typical = np.asarray(record.typical_weight_difference)
        axes.plot(steps, _on_log(typical), line, color=colour, linewidth=1)
        if record.subject is StudySubject.SAME:
            axes.axhline(record.epsilon, color=colour, linestyle=":", linewidth=1.5)
            axes.annotate(
                f"machine epsilon, {record.dtype}",
                (1.0, record.epsilon),
                xycoords=("axes fraction", "data"),
                xytext=(0, -4),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=12,
            )
    axes.set(
        title="Linear and Conv2d trained in lockstep",
        xlabel="training step",
        ylabel="largest difference of a weight",
        yscale="log",
        ylim=(1e-18, 1e9),  # with room for the legend
        yticks=[10.0**power for power in range(-18, 1, 3)],
    )
    seeds = len(outcome.findings.growth[0].seeds)
    axes.legend(title=f"thick: largest of {seeds} seeds, thin: median", loc="upper right")


def _draw_points(axes: Axes, groups: tuple[GroupRecord, ...]) -> None:
    """Every run's accuracy at the end, and each group's mean."""
    # a fixed jitter, so that equal runs do not hide each other and the picture does not vary
    jitter = np.random.default_rng(0)
    for row, group in enumerate(groups):
        colour, *_, marker = _HEADS[group.head]
        values = np.asarray(group.accuracy_pp)
        offsets = row + jitter.uniform(-0.25, 0.25, len(values))
        axes.plot(values, offsets, marker, color=colour, markersize=5, alpha=0.7, markeredgewidth=0)
        label = "mean" if row == 0 else None
        axes.plot([values.mean()] * 2, [row - 0.38, row + 0.38], color="black", linewidth=2.5, label=label)
    axes.set(
        title="Accuracy at the end, one point a run",
        xlabel="held-out accuracy (%)",
        yticks=range(len(groups)),
        yticklabels=[group.name.replace(", ", ",\n") for group in groups],
        ylim=(len(groups) - 0.5, -0.9),
    )
    axes.legend(loc="upper left")


def _draw_differences(axes: Axes, outcome: StudyOutcome) -> None:
    """Each comparison's difference with its interval; the rows are in the order of the table."""
    margin, heads = (
        outcome.options.rules.margin_pp,
        {group.name: group.head for group in outcome.findings.groups},
    )
    axes.axvspan(-margin, margin, color=_GREY, alpha=0.15, linewidth=0, label=f"margin, ±{margin:g} points")
    axes.axvline(0, color=_GREY, linewidth=1)
    for row, comparison in enumerate(outcome.findings.comparisons):
        low, high = comparison.interval_pp
        axes.plot([low, high], [row, row], color=_BLUE, linewidth=2.5)
        axes.plot(comparison.difference_pp, row, "D", color=_BLUE, markersize=7)
        axes.annotate(
            _remark(comparison), (comparison.difference_pp, row), xytext=(0, 9),
            textcoords="offset points", ha="center", fontsize=12,
        )  # fmt: skip
    confidence = 100 * (1 - outcome.options.rules.alpha)
    axes.plot([], [], "D-", color=_BLUE, linewidth=2.5, label=f"difference, {confidence:g} % interval")
    axes.set(
        title="Differences in accuracy",
        xlabel="second less first (percentage points)",
        yticks=range(len(outcome.findings.comparisons)),
        yticklabels=[_row_name(comparison, heads) for comparison in outcome.findings.comparisons],
        ylim=(len(outcome.findings.comparisons) - 0.5, -1.6),
    )
    axes.margins(x=0.45)  # room for the words
    axes.legend(loc="upper left")


def _row_name(comparison: HeadComparison, heads: Mapping[str, StudyHead]) -> str:
    first, second = (_SHORT[heads[name]] for name in (comparison.first, comparison.second))
    return f"{second} less {first},\n{'same' if comparison.paired else 'other'} seeds"


def _remark(comparison: HeadComparison) -> str:
    role = "" if comparison.purpose == QUESTION else f"{comparison.purpose}: "
    return f"{role}{comparison.verdict}"


def _on_log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values with a gap where they are 0, which has no place on a logarithmic axis."""
    return np.where(values > 0, values, np.nan)
