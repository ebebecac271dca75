"""What each value's axes mean: ``[N, C, *k]``, ``[N, C·∏k]``, channels-last, or anything between.

A layout writes every axis of a value as a tuple of *atoms*: the batch ``N``, the channels ``C`` and
the spatial axes ``0 … rank-1``. Flattening merges tuples, a permute reorders them, a squeeze drops an
empty one; an atom of extent 1 is nowhere, so that ``[N, C, 1, 1]`` is ``(N)(C)()()`` and its flat form
``(N)(C)``. Whatever the spelling, two values with one layout are laid out alike.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from torch.fx import Node

from fxpasses.miss_codes import MissCode
from fxpasses.report import Problem
from fxpasses.vocabulary.ops import (
    BATCH,
    CHANNELS,
    Flatten,
    Index,
    Permute,
    Squeeze,
    Unflatten,
    Unsqueeze,
    View,
    ViewOp,
)
from fxpasses.vocabulary.sizes import factors_of, size_of
from fxpasses.weights.move import WeightOrder

Atom: TypeAlias = str | int
Axis: TypeAlias = tuple[Atom, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The axes of a pooled value.

    Attributes:
        axes: one tuple of atoms per axis.
        channels: extent of ``C``, or None where nothing says it.
        extents: extent of each spatial axis, None where nothing says it.
        batch: extent of ``N`` where the program itself fixes it (exported with static shapes), else None.
    """

    axes: tuple[Axis, ...]
    channels: int | None
    extents: tuple[int | None, ...]
    batch: int | None = None

    @property
    def rank(self) -> int:
        """Number of spatial axes of the map."""
        return len(self.extents)

    @property
    def is_point(self) -> bool:
        """Whether the map is a single position."""
        return {1}.issuperset(self.extents)

    @property
    def is_map(self) -> bool:
        """Whether the axes are ``[N, C, *k]``."""
        return self.axes == map_axes(self.extents)

    @property
    def is_flat(self) -> bool:
        """Whether the axes are ``[N, C·∏k]``, channels first."""
        return self.axes == flat_axes(self.extents)

    @property
    def order(self) -> WeightOrder | None:
        """Order in which a flat value holds the map, or None where it is not flat."""
        spatial = tuple(atom for atom in range(self.rank) if self.extents[atom] != 1)
        if len(self.axes) != 2 or self.axes[0] != (BATCH,):
            return None
        if self.axes[1] == (CHANNELS, *spatial):
            return WeightOrder.CHANNELS_FIRST
        return WeightOrder.CHANNELS_LAST if self.axes[1] == (*spatial, CHANNELS) else None

    @property
    def features(self) -> int | None:
        """``C·∏k``, or None where an extent is unknown."""
        if self.channels is None or None in self.extents:
            return None
        return self.channels * math.prod(extent or 0 for extent in self.extents)

    def with_axes(self, axes: Sequence[Axis]) -> Layout:
        """The same value with other axes."""
        return Layout(tuple(axes), self.channels, self.extents, self.batch)

    def size(self, atom: Atom) -> int | None:
        """Extent of an atom, or None where it is not known."""
        if atom == BATCH:
            return self.batch
        return self.channels if atom == CHANNELS else self.extents[int(atom)]

    def extent(self, axis: Axis) -> int | None:
        """Extent of an axis, or None where it is not known."""
        sizes = [self.size(atom) for atom in axis]
        return None if None in sizes else math.prod(size or 0 for size in sizes)


@functools.cache
def map_axes(extents: tuple[int | None, ...]) -> tuple[Axis, ...]:
    """Axes of ``[N, C, *k]``."""
    return ((BATCH,), (CHANNELS,), *(() if extent == 1 else (axis,) for axis, extent in enumerate(extents)))


@functools.cache
def flat_axes(extents: tuple[int | None, ...]) -> tuple[Axis, ...]:
    """Axes of ``[N, C·∏k]``, channels first."""
    return ((BATCH,), (CHANNELS, *(axis for axis, extent in enumerate(extents) if extent != 1)))


def map_layout(channels: int | None, extents: Sequence[int | None], batch: int | None = None) -> Layout:
    """Layout of ``[N, C, *k]``; of what would be an empty map, nothing is known."""
    extents = tuple(None if extent is not None and extent < 1 else extent for extent in extents)
    return Layout(map_axes(extents), channels, extents, batch)


def flat_layout(channels: int | None, rank: int, batch: int | None = None) -> Layout:
    """Layout of ``[N, C]`` under a map of one position and ``rank`` spatial axes."""
    return Layout(flat_axes((1,) * rank), channels, (1,) * rank, batch)


def view(layout: Layout, op: ViewOp) -> Layout | Problem:
    """Layout after a view, or why it cannot be followed."""
    match op:
        case Flatten():
            return _flatten(layout, op)
        case Unflatten():
            return _unflatten(layout, op)
        case View():
            return _reshape(layout, op.sizes)
        case Squeeze():
            return _squeeze(layout, op)
        case Unsqueeze():
            at = op.dim % (len(layout.axes) + 1)
            return layout.with_axes((*layout.axes[:at], (), *layout.axes[at:]))
        case Permute():
            return _permute(layout, op)
        case Index():
            return _index(layout, op)


def reduced(layout: Layout, dims: Sequence[int], *, keepdim: bool) -> Layout | None:
    """Layout after a reduction over ``dims``, or None where it reduces more than spatial axes."""
    count = len(layout.axes)
    if not all(-count <= dim < count for dim in dims):
        return None
    over = {dim % count for dim in dims}
    atoms = sum((layout.axes[dim] for dim in over), ())
    if not all(isinstance(atom, int) for atom in atoms):
        return None
    extents = tuple(1 if axis in atoms else extent for axis, extent in enumerate(layout.extents))
    kept = [() if dim in over else axis for dim, axis in enumerate(layout.axes) if keepdim or dim not in over]
    return Layout(tuple(kept), layout.channels, extents, layout.batch)


def _unfollowed(reason: str) -> Problem:
    fix = "pass example_inputs (--input-shape), or flatten the pooled map with torch.flatten(x, 1)"
    return Problem(MissCode.UNKNOWN_LAYOUT, reason, fix)


def _batch_merged(text: str) -> Problem:
    return Problem(
        MissCode.BATCH_FLATTENED,
        f"{text} merges the batch axis with the features",
        "flatten from axis 1: torch.flatten(x, 1)",
    )


def _flatten(layout: Layout, op: Flatten) -> Layout | Problem:
    count = len(layout.axes)
    start, end = op.start % count, op.end % count
    if not -count <= op.start < count or start > end:
        return _unfollowed(f"flatten({op.start}, {op.end}) of {count} axes")
    merged = sum(layout.axes[start : end + 1], ())
    if BATCH in merged and merged != (BATCH,):
        return _batch_merged(f"flatten({op.start}, {op.end})")
    return layout.with_axes((*layout.axes[:start], merged, *layout.axes[end + 1 :]))


def _unflatten(layout: Layout, op: Unflatten) -> Layout | Problem:
    dim = op.dim % len(layout.axes)
    split = _split(layout, layout.axes[dim], op.sizes)
    if isinstance(split, Problem):
        return split
    return layout.with_axes((*layout.axes[:dim], *split, *layout.axes[dim + 1 :]))


def _reshape(layout: Layout, sizes: tuple[Any, ...]) -> Layout | Problem:
    axes = _split(layout, sum(layout.axes, ()), sizes)
    return axes if isinstance(axes, Problem) else layout.with_axes(axes)


def _split(layout: Layout, atoms: Axis, sizes: tuple[Any, ...]) -> tuple[Axis, ...] | Problem:
    """``atoms`` distributed over ``sizes``: from the front up to a -1, from the back down to it."""
    text = f"view{tuple(size if isinstance(size, int) else '?' for size in sizes)}"
    wild = [index for index, size in enumerate(sizes) if isinstance(size, int) and size == -1]
    if len(wild) > 1:
        return _unfollowed(f"{text} has more than one -1")
    stop = wild[0] if wild else len(sizes)
    rest = list(atoms)
    front: list[Axis] = []
    back: list[Axis] = []
    ends = ((sizes[:stop], False), (reversed(sizes[stop + 1 :]), True))
    for size, from_end in ((size, from_end) for part, from_end in ends for size in part):
        taken = _take(layout, rest, size, text, from_end=from_end)
        if isinstance(taken, Problem):
            return taken
        back.insert(0, taken) if from_end else front.append(taken)
    if not wild:
        return (*front, *back) if not rest else _unfollowed(f"{text} does not hold the whole map")
    middle = tuple(rest)
    if BATCH in middle and middle != (BATCH,):
        return _batch_merged(text)
    return (*front, middle, *back)


def _take(layout: Layout, rest: list[Atom], size: Any, text: str, *, from_end: bool) -> Axis | Problem:
    """Removes from ``rest`` the atoms that make up ``size``."""
    if isinstance(size, Node | str):
        return _take_named(layout, rest, size, text, from_end=from_end)
    is_batch = bool(rest) and rest[0] == BATCH and not from_end
    if is_batch and size == layout.batch:
        return (rest.pop(0),)
    if size == 1:
        return ()
    taken: list[Atom] = []
    extent = 1
    while rest and extent != size:
        atom = rest[-1 if from_end else 0]
        if atom == BATCH:
            if taken or from_end:
                return _batch_merged(text)
            return Problem(
                MissCode.BAKED_BATCH,
                f"{text} fixes the batch at {size}",
                "write view(x.size(0), -1) or torch.flatten(x, 1)",
            )
        known = layout.size(atom)
        if known is None:
            return _take_unknown(layout, rest, taken, text, from_end=from_end)
        extent *= known
        taken.append(rest.pop(-1 if from_end else 0))
        if extent > size:
            return _unfollowed(f"{text} splits an axis of extent {extent}")
    if extent != size:
        there = f"asks for {size} features where there are {extent}"
        return _unfollowed(f"{text} {there if taken else f'has an axis of {size} beside those of the map'}")
    return tuple(reversed(taken)) if from_end else tuple(taken)


def _take_unknown(
    layout: Layout, rest: list[Atom], taken: list[Atom], text: str, *, from_end: bool
) -> Axis | Problem:
    """All features as one axis where nothing says how many they are; the reader's weight will."""
    features = [atom for atom in rest if atom != BATCH]
    if None in layout.extents or len(features) + len(taken) < 1:
        return _unknown_extent(text)
    for atom in features:
        rest.remove(atom)
    return (*features, *reversed(taken)) if from_end else (*taken, *features)


def _take_named(
    layout: Layout, rest: list[Atom], size: Node | str, text: str, *, from_end: bool
) -> Axis | Problem:
    """The atoms whose sizes a node holds: the batch, the channels, or a product of a map's sizes."""
    atoms = [size] if isinstance(size, str) else _sized_atoms(size, layout)
    if atoms is None or (rest[len(rest) - len(atoms) :] if from_end else rest[: len(atoms)]) != atoms:
        return _unfollowed(f"{text} has a size that cannot be followed ({size})")
    for atom in atoms:
        rest.remove(atom)
    return tuple(atoms)


def _sized_atoms(size: Node, layout: Layout) -> list[Atom] | None:
    """The atoms of a map whose sizes a node multiplies, or None."""
    atoms: list[Atom] = []
    for factor in factors_of(size):
        owner = size_of(factor)
        if owner is None or owner[1] < 0 or owner[1] >= layout.rank + 2:
            return None
        axis = owner[1] - 2
        if axis < 0 or layout.extents[axis] != 1:
            atoms.append((BATCH, CHANNELS)[owner[1]] if axis < 0 else axis)
    return atoms


def _squeeze(layout: Layout, op: Squeeze) -> Layout | Problem:
    if op.dims is None and layout.batch not in (None, 1):
        return _squeeze(layout, Squeeze(op.source, tuple(range(1, len(layout.axes)))))
    if op.dims is None:
        return Problem(
            MissCode.AMBIGUOUS_SQUEEZE,
            "squeeze() without an axis also drops the batch axis when N = 1",
            "name the axes: squeeze((2, 3)), or torch.flatten(x, 1)",
        )
    count = len(layout.axes)
    dropped = {dim % count for dim in op.dims}
    for dim in dropped:
        if layout.axes[dim] == (BATCH,) and layout.batch in (None, 1):
            return Problem(
                MissCode.AMBIGUOUS_SQUEEZE,
                f"squeeze({dim}) drops the batch axis when N = 1",
                "squeeze the spatial axes only",
            )
        if any(layout.size(atom) is None for atom in layout.axes[dim] if isinstance(atom, int)):
            return _unknown_extent(f"squeeze({dim})")
        if layout.axes[dim] == (CHANNELS,) and layout.channels in (None, 1):
            return _unfollowed(f"squeeze({dim}) drops the channels where there is one")
    axes = [axis for dim, axis in enumerate(layout.axes) if not (dim in dropped and axis == ())]
    return layout.with_axes(axes)


def _unknown_extent(text: str) -> Problem:
    return Problem(
        MissCode.UNKNOWN_EXTENT,
        f"{text} depends on the extent of the pooled map, which nothing in the graph says",
        "pass example_inputs (--input-shape)",
    )


def _permute(layout: Layout, op: Permute) -> Layout | Problem:
    order = op.order(len(layout.axes))
    if order is None:
        return _unfollowed(f"permute{op.dims} of {len(layout.axes)} axes")
    return layout.with_axes([layout.axes[dim] for dim in order])


def _index(layout: Layout, op: Index) -> Layout | Problem:
    items = list(op.items)
    consumed = sum(1 for item in items if item is not None and item is not ...)
    if ... in items:
        at = items.index(...)
        items[at : at + 1] = [slice(None)] * (len(layout.axes) - consumed)
    axes: list[Axis] = []
    source = iter(layout.axes)
    for item in items:
        if item is None:
            axes.append(())
            continue
        axis = next(source, None)
        if axis is None:
            return _unfollowed("an index with more parts than axes")
        if isinstance(item, slice):
            if item != slice(None):
                return _unfollowed("a slice takes a part of the value")
            axes.append(axis)
        elif axis != () or item not in (0, -1):
            if any(layout.size(atom) is None for atom in axis if isinstance(atom, int)):
                return _unknown_extent("an index")
            return _unfollowed("an index takes one position of an axis")
    return layout.with_axes([*axes, *source])
