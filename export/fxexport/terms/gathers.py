"""Cells that are taken by constant indices along parts of a tensor's axes: slices, padding, windows.

A gather of a gather along the same part is one gather with a composed index, and gathers along different
parts do not care for their order. So a padded map of which windows are taken is told in one way, whether a
convolution, ``unfold``, or slices wrote it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fxexport.terms.axis_parts import AxisPart, Layout, in_order, merged, reshaped, within
from fxexport.terms.term import Shape

OUTSIDE = -1
"""The index of a cell that padding fills with zero."""

Index = NDArray[np.int64]
Key = tuple[AxisPart, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gather:
    """What is taken of a tensor.

    Attributes:
        free: the parts that are taken whole; they are the first axes of the result.
        groups: for others the index into their product; its axes follow, sorted by the parts.
    """

    free: tuple[AxisPart, ...]
    groups: Mapping[Key, Index]

    @property
    def shape(self) -> Shape:
        """Extents of the result's axes."""
        taken = (extent for key in sorted(self.groups) for extent in self.groups[key].shape)
        return (*(part.extent for part in self.free), *taken)

    def start(self, key: Key) -> int:
        """The first of a group's axes in the result."""
        before = (self.groups[other].ndim for other in sorted(self.groups) if other < key)
        return len(self.free) + sum(before)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A part of the tensor itself, where ``key`` is None, or of an axis of a group's index."""

    part: AxisPart
    key: Key | None = None


def nothing_taken(layout: Layout) -> Gather:
    """The tensor over which ``layout`` lies, as it is."""
    return Gather(free=in_order([part for parts in layout for part in parts]), groups={})


def taken(inner: Gather, layout: Layout, dim: int, index: Index) -> tuple[Gather, Layout] | None:
    """Cells of one dimension of a value that lies over ``inner``; or None where groups would mix.

    The axes of ``index`` stand in the place of the dimension. A dimension of one cell has no part to be
    told by, and what is taken of it is told in no way.
    """
    if not layout[dim]:
        return None
    pieces = [[_piece(inner, part) for part in parts] for parts in layout]
    groups = dict(inner.groups)
    keys = {piece.key for piece in pieces[dim]}
    if keys <= {None}:
        key, first = merged([piece.part for piece in pieces[dim]]), 0
        groups[key] = index
    else:
        key = keys.pop() or ()
        first = pieces[dim][0].part.axis
        whole = AxisPart(first, 1, groups[key].shape[first]) if key else None
        if keys or [piece.part for piece in pieces[dim]] != [whole]:
            return None
        groups[key] = _composed(groups[key], first, index)
        pieces = [[_shifted(piece, key, first, index.ndim - 1) for piece in parts] for parts in pieces]
    pieces[dim : dim + 1] = [
        [] if extent == 1 else [_Piece(part=AxisPart(first + i, 1, extent), key=key)]
        for i, extent in enumerate(index.shape)
    ]
    return _built(*_simplified(pieces, groups, key))


def _piece(inner: Gather, part: AxisPart) -> _Piece:
    if part.axis < len(inner.free):
        own = inner.free[part.axis]
        return _Piece(part=AxisPart(own.axis, own.stride * part.stride, part.extent))
    key = max((key for key in inner.groups if inner.start(key) <= part.axis), key=inner.start)
    return _Piece(part=AxisPart(part.axis - inner.start(key), part.stride, part.extent), key=key)


def _composed(inner: Index, axis: int, index: Index) -> Index:
    found = np.take(inner, np.maximum(index, 0), axis=axis)
    outside = (index == OUTSIDE).reshape((1,) * axis + index.shape + (1,) * (inner.ndim - axis - 1))
    return np.where(outside, OUTSIDE, found)


def _shifted(piece: _Piece, key: Key, first: int, by: int) -> _Piece:
    if piece.key != key or piece.part.axis <= first:
        return piece
    return dataclasses.replace(piece, part=dataclasses.replace(piece.part, axis=piece.part.axis + by))


def _simplified(
    pieces: list[list[_Piece]], groups: dict[Key, Index], key: Key
) -> tuple[list[list[_Piece]], dict[Key, Index]]:
    """Without the group if its index takes every cell in its place."""
    index = groups[key]
    if not np.array_equal(index.reshape(-1), np.arange(math.prod(part.extent for part in key))):
        return pieces, groups
    split = reshaped((key,), index.shape)
    used = [piece for parts in pieces for piece in parts if piece.key == key]
    is_whole = all(piece.part == AxisPart(piece.part.axis, 1, index.shape[piece.part.axis]) for piece in used)
    if split is None or not is_whole:
        return pieces, groups
    kept = {other: array for other, array in groups.items() if other != key}
    opened = [
        [
            inner
            for piece in parts
            for inner in ([_Piece(part=p) for p in split[piece.part.axis]] if piece.key == key else [piece])
        ]
        for parts in pieces
    ]
    return opened, kept


def _built(pieces: list[list[_Piece]], groups: dict[Key, Index]) -> tuple[Gather, Layout]:
    free = in_order([piece.part for parts in pieces for piece in parts if piece.key is None])
    gather = Gather(free=free, groups=groups)

    def placed(piece: _Piece) -> AxisPart:
        if piece.key is None:
            return within(piece.part, free)
        return dataclasses.replace(piece.part, axis=gather.start(piece.key) + piece.part.axis)

    return gather, tuple(merged([placed(piece) for piece in parts]) for parts in pieces)
