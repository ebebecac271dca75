"""How a value lies over the axes of what it views: which part of which axis each of its dimensions walks.

A permutation, a reshape and a unit axis move no number. A value behind any chain of them is told by its
*source* (a tensor with axes of its own) and a *layout*: for each dimension the parts of the source's axes
that its index counts through, the most significant first. ``[N, H, W, C]`` permuted to ``[N, C, H·W]`` is
``((0,), (3,), (1, 2))``; ``C`` split into heads is two parts of axis 3. Two values with one source and equal
layouts are the same tensor, at every batch size: the batch is an axis like any other.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from fxexport.terms.term import Array, Shape
from fxpasses.errors import InternalError


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class AxisPart:
    """``(i // stride) % extent`` of the index ``i`` of one axis."""

    axis: int
    stride: int
    extent: int


Layout: TypeAlias = tuple[tuple[AxisPart, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """A stretch of a dimension that is one part of each operand, or none of those broadcast along it."""

    parts: tuple[AxisPart | None, ...]
    extent: int


def plain(shape: Sequence[int]) -> Layout | None:
    """The layout of a tensor over its own axes; axes of one cell have no part. None where it has no cells."""
    if 0 in shape:
        return None
    return tuple(() if extent == 1 else (AxisPart(axis, 1, extent),) for axis, extent in enumerate(shape))


def extents_of(layout: Layout) -> Shape:
    """The shape of a value with this layout."""
    return tuple(math.prod(part.extent for part in parts) for parts in layout)


def merged(parts: Sequence[AxisPart]) -> tuple[AxisPart, ...]:
    """The same parts, neighbours that count through one longer part joined."""
    left: list[AxisPart] = []
    for part in parts:
        last = left[-1] if left else None
        if last is not None and last.axis == part.axis and last.stride == part.stride * part.extent:
            left[-1] = AxisPart(part.axis, part.stride, last.extent * part.extent)
        else:
            left.append(part)
    return tuple(left)


def in_order(parts: Sequence[AxisPart]) -> tuple[AxisPart, ...]:
    """The parts as they follow one another in the source's memory, joined."""
    return merged(sorted(parts, key=_place))


def reshaped(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """The layout after a reshape, or None where an extent would be cut at no multiple."""
    pending = [part for parts in reversed(layout) for part in reversed(parts)]
    if 0 in shape or math.prod(shape) != math.prod(part.extent for part in pending):
        return None
    found: list[tuple[AxisPart, ...]] = []
    for extent in shape:
        taken = _taken(pending, extent)
        if taken is None:
            return None
        found.append(taken)
    return tuple(found)


def _taken(pending: list[AxisPart], extent: int) -> tuple[AxisPart, ...] | None:
    """Takes parts of this product off the end of ``pending``, the last one in two where it is too long."""
    taken: list[AxisPart] = []
    while extent > 1:
        part = pending.pop()
        if extent % part.extent == 0:
            taken.append(part)
            extent //= part.extent
        elif part.extent % extent == 0:
            rest = part.extent // extent
            taken.append(AxisPart(part.axis, part.stride * rest, extent))
            pending.append(AxisPart(part.axis, part.stride, rest))
            extent = 1
        else:
            return None
    return merged(taken)


def aligned(dimension: Sequence[tuple[AxisPart, ...] | None]) -> tuple[Slot, ...] | None:
    """One dimension of several operands cut where any of them changes parts.

    None where the cuts cross, or the extents are not the same.

    Args:
        dimension: the parts of each operand; None where it is broadcast.
    """
    walked = [_cuts(parts) for parts in dimension if parts is not None]
    cuts = sorted({cut for walk in walked for cut in walk})
    if len({walk[-1] for walk in walked}) > 1 or any(
        larger % smaller for smaller, larger in itertools.pairwise(cuts)
    ):
        return None
    steps = [larger // smaller for smaller, larger in itertools.pairwise(cuts)]
    columns: list[list[AxisPart | None]] = []
    for parts in dimension:
        if parts is None:
            columns.append([None] * len(steps))
            continue
        pending = list(reversed(parts))
        column: list[AxisPart | None] = []
        for extent in reversed(steps):
            taken = _taken(pending, extent)
            if taken is None or len(taken) != 1:
                return None
            column.append(taken[0])
        columns.append(column)
    rows = zip(*columns, strict=True)
    return tuple(Slot(tuple(row), extent) for row, extent in zip(rows, reversed(steps), strict=True))


def _cuts(parts: tuple[AxisPart, ...]) -> list[int]:
    cuts = [1]
    for part in reversed(parts):
        cuts.append(cuts[-1] * part.extent)
    return cuts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Several operands over axes of their own, in an order that depends on none of their layouts.

    Attributes:
        slots: the axes, each with the part of every operand that it walks.
        layout: the result of the operands' own dimensions over these axes.
    """

    slots: tuple[Slot, ...]
    layout: Layout


def joined(dimensions: Sequence[tuple[Slot, ...]], order: Sequence[int]) -> Joined:
    """The slots of all dimensions, sorted and joined; those of the first operand in ``order`` lead.

    They are sorted by where they lie in the operands' sources, so that two graphs which hold the same
    operands in different layouts get the same axes.
    """
    pieces = [(slot, number) for number, slot in enumerate(s for slots in dimensions for s in slots)]
    pieces.sort(key=lambda piece: _slot_place(piece[0], order))
    axes: list[Slot] = []
    chains: list[list[int]] = []
    for slot, number in pieces:
        whole = _chained(axes[-1], slot) if axes else None
        if whole is None:
            axes.append(slot)
            chains.append([number])
        else:
            axes[-1] = whole
            chains[-1].append(number)
    extents = {number: slot.extent for slot, number in pieces}
    parts: dict[int, AxisPart] = {}
    for axis, chain in enumerate(chains):
        stride = 1
        for number in reversed(chain):
            parts[number] = AxisPart(axis, stride, extents[number])
            stride *= extents[number]
    layout: list[tuple[AxisPart, ...]] = []
    count = 0
    for slots in dimensions:
        layout.append(merged([parts[number] for number in range(count, count + len(slots))]))
        count += len(slots)
    return Joined(slots=tuple(axes), layout=tuple(layout))


def _slot_place(slot: Slot, order: Sequence[int]) -> tuple[int, int, int]:
    for rank, operand in enumerate(order):
        part = slot.parts[operand]
        if part is not None:
            return (rank, *_place(part))
    return (len(order), 0, 0)


def _place(part: AxisPart) -> tuple[int, int]:
    return part.axis, -part.stride


def _chained(first: Slot, second: Slot) -> Slot | None:
    """Both as one slot, where every operand goes on from the one to the other."""
    whole: list[AxisPart | None] = []
    for a, b in zip(first.parts, second.parts, strict=True):
        if a is None and b is None:
            whole.append(None)
            continue
        if a is None or b is None or a.axis != b.axis or a.stride != b.stride * b.extent:
            return None
        whole.append(AxisPart(b.axis, b.stride, a.extent * b.extent))
    return Slot(tuple(whole), first.extent * second.extent)


def arranged(array: Array, parts: Sequence[AxisPart]) -> Array:
    """The array's elements along ``parts``, one axis for each.

    Args:
        array: the source itself.
        parts: all of the source's axes in parts, each element in exactly one place.
    """
    places = sorted(range(len(parts)), key=lambda index: _place(parts[index]))
    cells = array.reshape([parts[index].extent for index in places])
    return cells.transpose(np.argsort(places)) if parts else cells


def within(part: AxisPart, axes: Sequence[AxisPart]) -> AxisPart:
    """``part`` of a tensor as a part of another one, whose axes are longer parts of the first.

    Raises:
        InternalError: no axis holds it.
    """
    for number, axis in enumerate(axes):
        is_inside = axis.stride <= part.stride and part.stride * part.extent <= axis.stride * axis.extent
        if axis.axis == part.axis and is_inside:
            return AxisPart(number, part.stride // axis.stride, part.extent)
    raise InternalError(f"{part} is in none of {tuple(axes)}")
