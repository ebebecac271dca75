"""In what two arrays differ: ``-0`` is ``0`` and NaN is NaN, whatever their type."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fxexport.language.term import Array, is_same
from fxpasses.wall.clock import require_room

Refolded: TypeAlias = Literal["weights", "bias", "computed", "merged"]
_FOLD_ROUNDINGS = 4
_SHARE, _CELLS = 1 / 4, 8
"""Of the weights of channels that differ, and how many do at least: one that was changed is no fold."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two arrays that hold other numbers.

    Attributes:
        index: place that is furthest off; None where shape or type differ.
        expected: the one's value there.
        found: the other's.
        digests: of both arrays.
        share: how large the differences are beside the larger of the numbers that differ, as vectors;
            infinite where shape or type differ.
    """

    index: tuple[int, ...] | None
    expected: float | None
    found: float | None
    digests: tuple[int, int]
    share: float = float("inf")

    @property
    def size(self) -> float:
        """How far the two are apart at most; infinite where shape or type differ."""
        if self.expected is None or self.found is None:
            return float("inf")
        return abs(self.expected - self.found)


def difference(reference: Array, candidate: Array) -> Difference | None:
    """In what the two differ, or None where they hold the same numbers."""
    if is_same(reference, candidate):
        return None
    require_room(3 * 8 * reference.size)
    digests = (zlib.crc32(reference.tobytes()), zlib.crc32(candidate.tobytes()))
    if reference.shape != candidate.shape or reference.dtype != candidate.dtype:
        return Difference(index=None, expected=None, found=None, digests=digests)
    with np.errstate(all="ignore"):
        wide = reference.astype(np.float64), candidate.astype(np.float64)
        apart = np.where(wide[0] == wide[1], 0.0, np.abs(wide[0] - wide[1]))
        apart = np.where(np.isnan(apart) & ~(np.isnan(wide[0]) & np.isnan(wide[1])), np.inf, apart)
    index = tuple(int(axis) for axis in np.unravel_index(int(np.nanargmax(apart)), apart.shape))
    return Difference(
        index=index,
        expected=float(wide[0][index]),
        found=float(wide[1][index]),
        digests=digests,
        share=_share(apart, np.maximum(np.abs(wide[0]), np.abs(wide[1]))),
    )


def _share(apart: Array, size: Array) -> float:
    largest = size.max(initial=0.0)
    if not (np.isfinite(largest) and np.isfinite(apart).all() and largest):
        return float("inf")
    own = np.where(apart > 0, size / largest, 0.0)  # whose squares are in range
    return float(np.linalg.norm((apart / largest).ravel()) / np.linalg.norm(own.ravel()))


def refolded(left: Array, right: Array, unit: float) -> Refolded | None:
    """As what both may be the same numbers, with the same norm folded in by two libraries; None as nothing.

    Each folds with at most four roundings, of ``unit`` each. Its factors are those of channels, on axis 0 or
    on the last ones of a matrix, so where one was rounded otherwise, much of a channel is. A bias is a
    difference: its roundings are those of what was taken away.
    """
    if left.size < 2:  # one number is none of channels
        return None
    with np.errstate(all="ignore"):
        apart, size = np.abs(left - right), np.maximum(np.abs(left), np.abs(right))
        is_bias = apart.size == max(apart.shape, default=0)
        most = 2 * _FOLD_ROUNDINGS * unit * (size.max(initial=0.0) if is_bias else size)
        if not (apart <= most).all():
            return None
    if is_bias:
        return "bias"
    return "weights" if any(map(_are_channels, _by_channels(apart > 0))) else None


def _by_channels(apart: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """``[channels, weights]`` of an array, wherever its channels may be."""
    if apart.shape[0] > 1:
        yield apart.reshape(len(apart), -1)
        return
    for axis in range(1, apart.ndim):
        yield apart.reshape(-1, math.prod(apart.shape[axis:])).T


def _are_channels(apart: NDArray[np.bool_]) -> bool:
    """Whether where something differs much of a channel does."""
    changed = apart[apart.any(axis=1)]
    return int(changed.sum()) >= _CELLS and float(changed.mean()) >= _SHARE


def is_recomputed(left: Array, right: Array, most: float) -> bool:
    """Whether both may be what one code computed: they differ by no more than this share of the largest."""
    if left.shape != right.shape or left.dtype.kind != "f":
        return False
    with np.errstate(all="ignore"):
        apart = np.where(left == right, 0.0, np.abs(left - right))
        return bool((apart <= most * np.abs(left).max(initial=0.0)).all())
