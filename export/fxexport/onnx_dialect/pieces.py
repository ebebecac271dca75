"""A new file as pieces of an old one: ranges of it, some with their numbers in another order, and new bytes.

A rewrite changes some hundred bytes of a file, and its pieces say which: what was written from them can be
turned back into the old file, byte for byte, by the pieces of the way back.
"""

from __future__ import annotations

import base64
import dataclasses
import math
import mmap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from fxexport.onnx_graph.wire import head
from fxexport.untrusted.limits import MAX_DIMENSIONS

BLOCK = 2**22


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Numbers that lie at ``start`` in the shape ``shape``, with their axes in the order ``order``."""

    start: int
    shape: tuple[int, ...]
    order: tuple[int, ...] = (0,)
    item_bytes: int = 1

    @property
    def size(self) -> int:
        """How many bytes it gives."""
        return math.prod(self.shape) * self.item_bytes

    @property
    def end(self) -> int:
        """Where it ends in the old file."""
        return self.start + self.size

    def inverse(self, start: int) -> Range:
        """The piece that gives the numbers back in their old order, from ``start`` in the new file."""
        shape = tuple(self.shape[axis] for axis in self.order)
        order = tuple(self.order.index(axis) for axis in range(len(self.order)))
        return Range(start, shape, order, self.item_bytes)


class MovedValues(bytes):
    """Numbers of a tensor that lay elsewhere, or otherwise, in the old file."""


Piece: TypeAlias = bytes | Range


def between(start: int, end: int) -> Range:
    """The bytes of the old file from ``start`` to ``end``."""
    return Range(start, (end - start,))


def size_of(pieces: Iterable[Piece]) -> int:
    """How many bytes the pieces give."""
    return sum(len(piece) if isinstance(piece, bytes) else piece.size for piece in pieces)


def framed(number: int, content: Iterable[Piece]) -> list[Piece]:
    """A field with this content."""
    pieces = [*content]
    return [head(number, size_of(pieces)), *pieces]


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """The same bytes in as few pieces as possible."""
    out: list[Piece] = []
    for piece in pieces:
        last = out[-1] if out else None
        if isinstance(piece, bytes) and isinstance(last, bytes):
            out[-1] = last + piece
        elif (
            isinstance(piece, Range)
            and isinstance(last, Range)
            and last.end == piece.start
            and (last.order == piece.order == (0,))
        ):
            out[-1] = between(last.start, piece.end)
        elif size_of([piece]):
            out.append(piece)
    return out


def inverse(pieces: Iterable[Piece], old: memoryview) -> list[Piece]:
    """The pieces that give the old file back from the one that ``pieces`` gave."""
    position = 0
    kept: list[tuple[Range, Range]] = []  # a range of the old file, and what gives it back
    for piece in pieces:
        if isinstance(piece, Range):
            kept.append((piece, piece.inverse(position)))
        position += size_of([piece])
    out: list[Piece] = []
    done = 0
    for piece, back in sorted(kept, key=lambda pair: pair[0].start):
        if piece.start < done:
            raise ValueError("a range of the old file is used twice")
        out += [bytes(old[done : piece.start]), back]
        done = piece.end
    return merged([*out, bytes(old[done:])])


def around(pieces: Iterable[Piece], start: int, end: int) -> Iterator[Piece]:
    """Pieces of a file without the bytes from ``start`` to ``end``, as pieces of the file with them."""
    for piece in pieces:
        if isinstance(piece, bytes) or piece.end <= start:
            yield piece
        elif piece.start >= start:
            yield dataclasses.replace(piece, start=piece.start + end - start)
        else:
            yield from (between(piece.start, start), between(end, piece.end + end - start))


def written(pieces: Iterable[Piece], old: memoryview) -> Iterator[bytes]:
    """The new file, block by block; of an old one that is mapped, what was read takes no memory."""
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        kind = np.dtype((np.void, piece.item_bytes))
        turned = np.frombuffer(old[piece.start : piece.end], kind).reshape(piece.shape).transpose(piece.order)
        rows = max(1, BLOCK // max(1, turned[:1].nbytes))
        for start in range(0, len(turned), rows):
            yield turned[start : start + rows].tobytes()
            if len(piece.shape) == 1 or start + rows >= len(turned):
                let_go(old.obj)


def let_go(data: object) -> None:
    """Tells the system that what was read of a mapped file need not be kept in memory."""
    if isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED)


def to_data(pieces: Iterable[Piece]) -> list[object]:
    """The pieces as plain data for JSON."""
    return [
        base64.b64encode(piece).decode() if isinstance(piece, bytes) else [*dataclasses.astuple(piece)]
        for piece in pieces
    ]


def from_data(data: Sequence[Any], size: int) -> Iterator[Piece]:
    """The pieces that ``to_data`` wrote, for a file of ``size`` bytes.

    Raises:
        ValueError, TypeError: they are no such pieces.
    """
    used = 0
    for entry in data:
        if isinstance(entry, str):
            yield base64.b64decode(entry, validate=True)
            continue
        start, shape, order, item_bytes = entry
        numbers = (start, item_bytes, *shape, *order)
        is_sound = 0 < len(shape) <= MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in numbers)
        if not is_sound or not item_bytes or sorted(order) != [*range(len(shape))]:
            raise ValueError("no numbers of a tensor")
        piece = Range(start, tuple(shape), tuple(order), item_bytes)
        used += piece.size
        if max(used, piece.end) > size:  # small to write, and without a bound once it is written out
            raise ValueError("a range outside the file, or used twice")
        yield piece
