"""A window that slides along axes: where it stops, and how often."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from fxexport.language.extents import Extent, ceiling_divided, floor_divided, minus, plus, times
from fxexport.language.term import Uninterpreted

Pair: TypeAlias = tuple[Extent, Extent]
_Axis: TypeAlias = tuple[Extent, Extent, int, Pair, int]
"""Extent, and the window's cells, step, padding and gaps along it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SlidingWindow:
    """A window of some cells along each axis.

    Attributes:
        kernel: how many cells.
        stride: how far neighbouring places of the window lie apart.
        padding: how many cells are added to an axis before and behind.
        dilation: how far the cells of the window lie apart.
        ceil: whether it may hang over the end; it never starts in the padding there.
    """

    kernel: tuple[Extent, ...]
    stride: tuple[int, ...]
    padding: tuple[Pair, ...]
    dilation: tuple[int, ...]
    ceil: bool = False

    @classmethod
    def of(
        cls,
        kernel: Sequence[Extent],
        stride: Sequence[int] = (),
        padding: Sequence[Pair] = (),
        dilation: Sequence[int] = (),
        *,
        ceil: bool = False,
    ) -> SlidingWindow:
        """The window; steps of one, no padding and no gaps where nothing else is given."""
        ones = (1,) * len(kernel)
        found = cls(
            kernel=tuple(kernel),
            stride=tuple(stride) or ones,
            padding=tuple(padding) or ((0, 0),) * len(kernel),
            dilation=tuple(dilation) or ones,
            ceil=ceil,
        )
        if not len(kernel) == len(found.stride) == len(found.padding) == len(found.dilation):
            raise Uninterpreted("windows of several ranks")
        return found

    @property
    def is_padded(self) -> bool:
        """Whether it reads cells that are no axis's."""
        return any(pair != (0, 0) for pair in self.padding)

    @property
    def is_single_cell(self) -> bool:
        """Whether it stops at every cell, and reads this one alone."""
        return not self.is_padded and all(size == 1 for size in self.kernel) and set(self.stride) == {1}

    @property
    def holds_cells(self) -> bool:
        """Whether it never reads padding alone."""
        pads = (pad for pair in self.padding for pad in pair)
        sizes = (size for size in self.kernel for _ in range(2))
        is_short = all(
            isinstance(pad, int) and isinstance(size, int) and pad < size
            for pad, size in zip(pads, sizes, strict=True)
        )
        return is_short and set(self.dilation) == {1}

    def axes(self, extents: Sequence[Extent]) -> Iterator[_Axis]:
        """What it is along each axis."""
        return zip(extents, self.kernel, self.stride, self.padding, self.dilation, strict=True)

    def places(self, extents: Sequence[Extent]) -> tuple[Extent, ...]:
        """How many windows fit along axes of these extents."""
        return tuple(_rounded_up(*axis) if self.ceil else _rounded_down(*axis) for axis in self.axes(extents))

    def settled(self, extents: Sequence[Extent]) -> SlidingWindow:
        """The same, hanging over nowhere where that adds no window along any axis."""
        comes_out = not self.ceil or all(_comes_out(*axis) for axis in self.axes(extents))
        return dataclasses.replace(self, ceil=not comes_out)


def _rest(extent: Extent, size: Extent, pair: Pair, gap: int) -> Extent:
    """How far the window can move."""
    return minus(plus(extent, *pair), _span(size, gap))


def _span(size: Extent, gap: int) -> Extent:
    """From the window's first cell to its last."""
    return plus(times(gap, minus(size, 1)), 1)


def _rounded_down(extent: Extent, size: Extent, step: int, pair: Pair, gap: int) -> Extent:
    return plus(floor_divided(_rest(extent, size, pair, gap), step), 1)


def _rounded_up(extent: Extent, size: Extent, step: int, pair: Pair, gap: int) -> Extent:
    count = plus(ceiling_divided(_rest(extent, size, pair, gap), step), 1)
    reach = minus(plus(pair[1], step), _span(size, gap))
    if isinstance(reach, int) and reach <= 0:
        return count  # the last one starts no later than the axis ends
    if not isinstance(count, int) or not isinstance(extent, int) or not isinstance(pair[0], int):
        raise Uninterpreted("a pool that rounds up over a free extent")
    return count - 1 if (count - 1) * step >= extent + pair[0] else count


def _comes_out(extent: Extent, size: Extent, step: int, pair: Pair, gap: int) -> bool:
    rest = _rest(extent, size, pair, gap)
    if step == 1 or (isinstance(rest, int) and rest % step == 0):
        return True
    return _rounded_down(extent, size, step, pair, gap) == _rounded_up(extent, size, step, pair, gap)
