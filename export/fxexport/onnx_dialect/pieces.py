"""A new file as pieces of an old one: ranges copied as they are, weights in another order, new bytes.

A rewrite changes some hundred bytes of a file, and its pieces say which: what was written from them can be
turned back into the old file, byte for byte, by the pieces of the way back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from fxexport.onnx_graph.wire import head
from fxexport.untrusted.limits import MAX_DIMENSIONS

_BLOCK = 2**22


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """The bytes of the old file from ``start`` to ``end``."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """How many bytes it gives."""
        return self.end - self.start


@dataclasses.dataclass(frozen=True, slots=True)
class Reordered:
    """Numbers that lie at ``start`` in the shape ``shape``, with their axes in the order ``order``."""

    start: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    item_bytes: int

    @property
    def size(self) -> int:
        """How many bytes it gives."""
        return math.prod(self.shape) * self.item_bytes

    def inverse(self, start: int) -> Reordered:
        """The piece that gives the numbers back in their old order, from ``start`` in the new file."""
        shape = tuple(self.shape[axis] for axis in self.order)
        order = tuple(self.order.index(axis) for axis in range(len(self.order)))
        return Reordered(start, shape, order, self.item_bytes)


Piece: TypeAlias = bytes | Copy | Reordered


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
        elif isinstance(piece, Copy) and isinstance(last, Copy) and last.end == piece.start:
            out[-1] = Copy(last.start, piece.end)
        elif not (isinstance(piece, bytes) and not piece) and not (
            isinstance(piece, Copy) and not piece.size
        ):
            out.append(piece)
    return out


def inverse(pieces: Sequence[Piece], old: memoryview) -> list[Piece]:
    """The pieces that give the old file back from the one that ``pieces`` gave."""
    position = 0
    kept: list[tuple[int, int, Piece]] = []  # where a piece lies in the old file, and what gives it back
    for piece in pieces:
        size = size_of([piece])
        if isinstance(piece, Copy):
            kept.append((piece.start, piece.end, Copy(position, position + size)))
        elif isinstance(piece, Reordered):
            kept.append((piece.start, piece.start + size, piece.inverse(position)))
        position += size
    out: list[Piece] = []
    done = 0
    for start, end, piece in sorted(kept, key=lambda entry: entry[:2]):
        if start < done:
            raise ValueError("a range of the old file is used twice")
        out += [bytes(old[done:start]), piece]
        done = end
    return merged([*out, bytes(old[done:])])


def written(pieces: Iterable[Piece], old: memoryview) -> Iterator[bytes | memoryview]:
    """The new file, block by block."""
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
        elif isinstance(piece, Copy):
            for start in range(piece.start, piece.end, _BLOCK):
                yield old[start : min(start + _BLOCK, piece.end)]
        else:
            yield from _reordered(piece, old)


def _reordered(piece: Reordered, old: memoryview) -> Iterator[bytes]:
    kind = np.dtype((np.void, piece.item_bytes))
    values = np.frombuffer(old[piece.start : piece.start + piece.size], kind).reshape(piece.shape)
    turned = values.transpose(piece.order)
    rows = max(1, _BLOCK // max(1, turned[:1].nbytes))
    for start in range(0, len(turned), rows):
        yield turned[start : start + rows].tobytes()


def to_data(pieces: Iterable[Piece]) -> list[object]:
    """The pieces as plain data for JSON."""
    import base64

    def plain(piece: Piece) -> object:
        if isinstance(piece, bytes):
            return base64.b64encode(piece).decode()
        if isinstance(piece, Copy):
            return [piece.start, piece.end]
        return [piece.start, list(piece.shape), list(piece.order), piece.item_bytes]

    return [plain(piece) for piece in pieces]


def from_data(data: object, size: int) -> list[Piece]:
    """The pieces that ``to_data`` wrote, for a file of ``size`` bytes.

    Raises:
        ValueError: they are no such pieces.
    """
    import base64

    pieces: list[Piece] = []
    used = 0
    for entry in data if isinstance(data, list) else ():
        if isinstance(entry, str):
            pieces.append(base64.b64decode(entry, validate=True))
            continue
        numbers = _flat(entry)
        if len(entry) == 2:
            pieces.append(Copy(*numbers))
        else:
            start, shape, order, item_bytes = entry
            if len(shape) > MAX_DIMENSIONS or item_bytes < 1:
                raise ValueError("no numbers of a tensor")
            pieces.append(Reordered(start, tuple(shape), tuple(order), item_bytes))
            if sorted(order) != list(range(len(shape))):
                raise ValueError("no order of axes")
        taken = size_of(pieces[-1:])
        if min(numbers) < 0 or taken < 0 or numbers[0] + taken > size:
            raise ValueError("a range outside the file")
        used += taken
        if used > size:  # small to write, and without a bound once it is written out
            raise ValueError("a range of the file is used twice")
    return pieces


def _flat(entry: object) -> list[int]:
    if not isinstance(entry, list) or len(entry) not in (2, 4):
        raise ValueError("no range")
    numbers = [item for part in entry for item in (part if isinstance(part, list) else [part])]
    if any(type(item) is not int for item in numbers):
        raise ValueError("no numbers")
    return numbers
