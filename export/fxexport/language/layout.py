"""How a value lies over the axes of a term: which part of which axis each of its dimensions walks.

A permutation, a reshape and a unit axis move no number. A value behind any chain of them is a *term* (with
axes of its own) and a *layout*: for each dimension the parts of the term's axes that its index counts
through, the most significant first. ``[N, H, W, C]`` permuted to ``[N, C, H·W]`` is ``((0), (3), (1, 2))``;
``C`` split into heads is two parts of axis 3. Two values with one term and equal layouts are the same
tensor. An axis along which a value only repeats itself is a part of no axis (``REPEATED``).

Source:
    TVM, ``arith/iter_affine_map``: split-and-stride terms of iterators.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TypeAlias

from fxexport.language.extents import Extent, divided, size_at_sample, times

REPEATED = -1
"""``Part.axis`` of an extent along which the value repeats itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """``(i // stride) % extent`` of the index ``i`` of one axis."""

    axis: int
    stride: Extent
    extent: Extent

    @property
    def is_repeated(self) -> bool:
        """Whether the value is the same all along it."""
        return self.axis == REPEATED


Parts: TypeAlias = tuple[Part, ...]
Layout: TypeAlias = tuple[Parts, ...]
Shape: TypeAlias = tuple[Extent, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """A stretch of a dimension that is one part of each operand, or None of those that repeat along it."""

    parts: tuple[Part | None, ...]
    extent: Extent


def plain(shape: Sequence[Extent]) -> Layout:
    """The layout of a tensor over its own axes; an axis of one cell has no part."""
    return tuple(() if extent == 1 else (Part(axis, 1, extent),) for axis, extent in enumerate(shape))


def plain_axis(axis: int, extent: Extent) -> Parts:
    """The parts of a dimension that is one whole axis."""
    return () if extent == 1 else (Part(axis, 1, extent),)


def own_axes(extents: Sequence[Extent], first: int = 0) -> Layout:
    """The layout of a tensor whose term has an axis for each extent that is not 1, from ``first`` on."""
    axes = itertools.count(first)
    return tuple(() if extent == 1 else plain_axis(next(axes), extent) for extent in extents)


def accesses(slots: Sequence[Slot], number: int = 0) -> tuple[Parts, ...]:
    """What each of the slots walks of one operand."""
    return tuple(() if (part := slot.parts[number]) is None else (part,) for slot in slots)


def repeated(extent: Extent) -> Parts:
    """The parts of a dimension along which the value repeats itself."""
    return () if extent == 1 else (Part(REPEATED, 0, extent),)


def extent_of(parts: Sequence[Part]) -> Extent:
    """The extent of a dimension with these parts."""
    return times(*(part.extent for part in parts))


def extents_of(layout: Layout) -> Shape:
    """The shape of a value with this layout."""
    return tuple(extent_of(parts) for parts in layout)


def merged(parts: Sequence[Part]) -> Parts:
    """The same parts, neighbours that count through one longer part joined."""
    left: list[Part] = []
    for part in parts:
        last = left[-1] if left else None
        if last is not None and last.is_repeated and part.is_repeated:
            left[-1] = Part(REPEATED, 0, times(last.extent, part.extent))
        elif last is not None and _goes_on(last, part):
            left[-1] = Part(part.axis, part.stride, times(last.extent, part.extent))
        else:
            left.append(part)
    return tuple(left)


def _goes_on(outer: Part, inner: Part) -> bool:
    return (
        outer.axis == inner.axis
        and not outer.is_repeated
        and outer.stride == times(inner.stride, inner.extent)
    )


def reshaped(layout: Layout, shape: Sequence[Extent]) -> Layout | None:
    """The layout after a reshape, or None where an extent would be cut at no multiple."""
    stack = [part for parts in layout for part in parts]
    if any(extent == 0 for extent in shape) or times(*shape) != extent_of(stack):
        return None
    found: list[Parts] = []
    for extent in reversed(shape):
        taken = taken_last(stack, extent)
        if taken is None:
            return None
        found.append(taken)
    return tuple(reversed(found))


def taken_last(stack: list[Part], extent: Extent) -> Parts | None:
    """Takes parts of this product off the end of ``stack``, the last one in two where it is too long."""
    taken: list[Part] = []
    while extent != 1:
        if not stack:
            return None
        part = stack.pop()
        rest = divided(extent, part.extent)
        if rest is not None:
            taken.append(part)
            extent = rest
            continue
        left = divided(part.extent, extent)
        if left is None:
            return None
        inner, outer = _cut(part, extent, left)
        taken.append(inner)
        stack.append(outer)
        extent = 1
    taken.reverse()
    return merged(taken)


def _cut(part: Part, inner: Extent, outer: Extent) -> tuple[Part, Part]:
    if part.is_repeated:
        return Part(REPEATED, 0, inner), Part(REPEATED, 0, outer)
    return Part(part.axis, part.stride, inner), Part(part.axis, times(part.stride, inner), outer)


def cut_at(parts: Sequence[Part], products: Sequence[Extent]) -> Parts:
    """The parts, cut where what lies behind comes to one of these products, the largest of them first."""
    pieces: list[Part] = []
    behind: Extent = 1
    for whole in reversed(parts):
        part = whole
        for product in reversed(products):
            inner = divided(product, behind)
            outer = None if inner in (None, 1) else divided(part.extent, inner)
            if inner is None or outer in (None, 1):
                continue
            piece, part = _cut(part, inner, outer)
            pieces.append(piece)
            behind = product
        pieces.append(part)
        behind = times(behind, part.extent)
    return tuple(reversed(pieces))


def aligned(dimension: Sequence[Parts | None]) -> tuple[Slot, ...] | None:
    """One dimension of several operands cut where any of them changes parts.

    None where the cuts cross, or the extents are not the same.

    Args:
        dimension: the parts of each operand; None where it is broadcast along all of it.
    """
    stacks = [None if parts is None else list(parts) for parts in dimension]
    walked = [stack for stack in stacks if stack is not None]
    slots: list[Slot] = []
    while any(walked):
        if not all(walked):
            return None
        extent = _common(tuple(stack[-1].extent for stack in walked))
        if extent is None:
            return None
        cut = tuple(None if stack is None else _one(stack, extent) for stack in stacks)
        slots.append(Slot(tuple(None if p is None or p.is_repeated else p for p in cut), extent))
    return tuple(reversed(slots))


def _common(extents: tuple[Extent, ...]) -> Extent | None:
    """The shortest of the extents, if all others are multiples of it."""
    shortest = min(extents, key=size_at_sample)
    return shortest if all(divided(extent, shortest) is not None for extent in extents) else None


def _one(stack: list[Part], extent: Extent) -> Part:
    (part,) = taken_last(stack, extent) or ()
    return part


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Several operands over axes of their own, in an order that depends on none of their layouts.

    Attributes:
        slots: the axes, each with the part of every operand that it walks.
        layout: the result of the operands' own dimensions over these axes.
    """

    slots: tuple[Slot, ...]
    layout: Layout


def joined(dimensions: Sequence[tuple[Slot, ...]]) -> Joined:
    """The slots of all dimensions, sorted and joined; those of the first operand lead.

    They are sorted by where they lie in the operands' terms, so that two graphs which hold the same
    operands in different layouts get the same axes. Along a slot that no operand walks the result repeats.
    """
    pieces = [(slot, number) for number, slot in enumerate(s for slots in dimensions for s in slots)]
    walked = [piece for piece in pieces if any(part is not None for part in piece[0].parts)]
    walked.sort(key=lambda piece: _slot_place(piece[0]))
    axes: list[Slot] = []
    chains: list[list[int]] = []
    for slot, number in walked:
        whole = _chained(axes[-1], slot) if axes else None
        if whole is None:
            axes.append(slot)
            chains.append([number])
        else:
            axes[-1] = whole
            chains[-1].append(number)
    extents = {number: slot.extent for slot, number in pieces}
    parts = {number: Part(REPEATED, 0, extent) for number, extent in extents.items()}
    for axis, chain in enumerate(chains):
        stride: Extent = 1
        for number in reversed(chain):
            parts[number] = Part(axis, stride, extents[number])
            stride = times(stride, extents[number])
    layout: list[Parts] = []
    count = 0
    for slots in dimensions:
        layout.append(merged([parts[number] for number in range(count, count + len(slots))]))
        count += len(slots)
    return Joined(slots=tuple(axes), layout=tuple(layout))


def _slot_place(slot: Slot) -> tuple[int, int, int]:
    for operand, part in enumerate(slot.parts):
        if part is not None:
            return (operand, part.axis, -size_at_sample(part.stride))
    return (len(slot.parts), 0, 0)


def _chained(first: Slot, second: Slot) -> Slot | None:
    """Both as one slot, where every operand goes on from the one to the other."""
    whole: list[Part | None] = []
    for a, b in zip(first.parts, second.parts, strict=True):
        if a is None and b is None:
            whole.append(None)
        elif a is None or b is None or not _goes_on(a, b):
            return None
        else:
            whole.append(Part(b.axis, b.stride, times(a.extent, b.extent)))
    return Slot(tuple(whole), times(first.extent, second.extent))


def behind(parts: Parts, slots: Sequence[Part | None]) -> Parts:
    """Parts of a result's axes as parts of one operand, which walks ``slots[axis]`` along each of them."""
    found: list[Part] = []
    for part in parts:
        inner = None if part.is_repeated else slots[part.axis]
        if inner is None:
            found.append(Part(REPEATED, 0, part.extent))
        else:
            found.append(Part(inner.axis, times(inner.stride, part.stride), part.extent))
    return merged(found)


def within(parts: Parts, stride: Extent, extent: Extent) -> Parts | None:
    """The stretch ``(i // stride) % extent`` of a dimension's index, or None where a part would be torn."""
    stack = list(parts)
    if taken_last(stack, stride) is None:
        return None
    return taken_last(stack, extent)
