"""Differences beside their bounds, on one logarithmic scale."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A difference and what it may be.

    Attributes:
        bound: the most that rounding explains; None where there is no bound.
        length: share of the plot's width that the bar takes.
        mark: where the bound is, as a share of the width.
        is_over: whether the difference lies beyond the bound.
    """

    label: str
    value: float
    bound: float | None
    length: float
    mark: float | None
    is_over: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Bars on one scale, which goes from ``low`` to ``high``, powers of ten."""

    bars: tuple[Bar, ...]
    low: int
    high: int


def plot(rows: Sequence[tuple[str, float, float | None]]) -> Plot | None:
    """The plot of labels, differences and bounds; None where there is nothing to show."""
    low, high = _decades(number for _, value, bound in rows for number in (value, bound))

    def place(number: float) -> float:
        if not number > 0:  # equal bit for bit, or no number
            return 0.0
        return min(1.0, max(0.0, (math.log10(number) - low) / (high - low)))

    bars = tuple(
        Bar(
            label=label,
            value=value,
            bound=bound,
            length=place(value) if math.isfinite(value) else 1.0,
            mark=None if bound is None else place(bound),
            is_over=not (bound is None or value <= bound),
        )
        for label, value, bound in rows
    )
    return Plot(bars=bars, low=low, high=high) if bars else None


def _decades(numbers: Iterable[float | None]) -> tuple[int, int]:
    logs = [math.log10(number) for number in numbers if number and 0 < number < math.inf]
    if not logs:
        return -1, 0
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    return (low if low < min(logs) else low - 1), max(high, low + 1)
