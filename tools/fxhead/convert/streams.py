"""Bytes of weights from one file to another in pieces; they are copied, never interpreted."""

from __future__ import annotations

import dataclasses
import math
import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch

from fxhead.convert.stored_tensors import TensorEdit
from fxpasses.errors import FileError

CHUNK_BYTES = 4 << 20
_ZEROS = bytes(CHUNK_BYTES)
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


class Copier:
    """Copies from one open file to another, and adds up the checksum of what it copied if that is wanted."""

    def __init__(self, source: BinaryIO, out: BinaryIO, *, adds_up: bool = False) -> None:
        self.source = source
        self.out = out
        self.adds_up = adds_up
        self.checksum = 0

    def copy(self, offset: int, size: int) -> None:
        """Copies ``size`` bytes from ``offset``.

        Raises:
            FileError: the file ends before.
        """
        self.source.seek(offset)
        while size:
            chunk = self.source.read(min(size, CHUNK_BYTES))
            if not chunk:
                raise _cut_short(self.source.name)
            if chunk == _ZEROS[: len(chunk)]:  # a hole stays one: a file of a few bytes may say terabytes
                self.checksum = zlib.crc32(chunk, self.checksum) if self.adds_up else 0
                self.out.seek(len(chunk), os.SEEK_CUR)
            else:
                self.write(chunk)
            size -= len(chunk)

    def write(self, chunk: Any) -> None:
        """Writes bytes that were made here."""
        if self.adds_up:
            self.checksum = zlib.crc32(chunk, self.checksum)
        self.out.write(chunk)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """Bytes of a file whose weights get another order; ``start`` counts from the start of the file."""

    start: int
    edit: TensorEdit

    @property
    def end(self) -> int:
        """Behind its last byte."""
        return self.start + self.edit.tensor.size_bytes


def copy_with(copier: Copier, offset: int, size: int, regions: list[ByteRange]) -> None:
    """Copies ``size`` bytes from ``offset``, the regions in the order that they get.

    Two that begin at one place are the same, of weights that are tied.
    """
    position = offset
    for _, region in sorted({region.start: region for region in regions}.items()):
        copier.copy(position, region.start - position)
        for chunk in reordered(copier.source, region):
            copier.write(chunk)
        position = region.end
    copier.copy(position, offset + size - position)


def reordered(source: BinaryIO, region: ByteRange) -> Iterator[Any]:
    """The region's bytes in their new order, some rows at a time."""
    edit, tensor = region.edit, region.edit.tensor
    kernel, rows = edit.move.conv_shape[1:], tensor.shape[0]
    if not tensor.size_bytes:
        return
    row_bytes = tensor.size_bytes // rows
    # only where rows lie one after the other can some be read without the others
    is_by_rows = tensor.stride[0] * tensor.item_bytes == row_bytes
    step = max(1, CHUNK_BYTES // row_bytes) if is_by_rows else rows
    source.seek(region.start)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        data = bytearray(count * row_bytes)
        if source.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise _cut_short(source.name)
        flat = torch.frombuffer(data, dtype=_INTEGERS[tensor.item_bytes])
        move = dataclasses.replace(
            edit.move, linear_shape=(count, math.prod(kernel)), conv_shape=(count, *kernel)
        )
        part = move.convert(flat.as_strided((count, *tensor.shape[1:]), tensor.stride), edit.to)
        yield part.contiguous().view(-1).view(torch.uint8).numpy().data


def _cut_short(where: str) -> FileError:
    return FileError("the file is cut short", where=where, fix="copy or save the file again")
