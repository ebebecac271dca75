"""Bytes of weights from one file to another in pieces; they are copied, never interpreted."""

from __future__ import annotations

import dataclasses
import math
import mmap
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch

from fxhead.stored_tensors import Edit
from fxpasses.errors import FileError

CHUNK_BYTES = 4 << 20
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


class Copier:
    """Copies from one open file to another, and adds up the checksum of what it copied."""

    def __init__(self, source: BinaryIO, out: BinaryIO) -> None:
        self.source = source
        self.out = out
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
                raise FileError(
                    "the file is cut short", where=self.source.name, fix="copy or save the file again"
                )
            self.write(chunk)
            size -= len(chunk)

    def write(self, chunk: Any) -> None:
        """Writes bytes that were made here."""
        self.checksum = zlib.crc32(chunk, self.checksum)
        self.out.write(chunk)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Bytes of a file whose weights get another order; ``start`` counts from the start of the file."""

    start: int
    edit: Edit

    @property
    def end(self) -> int:
        """Behind its last byte."""
        return self.start + self.edit.tensor.size_bytes


def copy_with(copier: Copier, offset: int, size: int, regions: list[Region]) -> None:
    """Copies ``size`` bytes from ``offset``, the regions in the order that they get."""
    position = offset
    for region in sorted(regions, key=lambda region: region.start):
        copier.copy(position, region.start - position)
        for chunk in reordered(copier.source, region):
            copier.write(chunk)
        position = region.end
    copier.copy(position, offset + size - position)


def reordered(source: BinaryIO, region: Region) -> Iterator[Any]:
    """The region's bytes in their new order, some rows at a time; the file is mapped, not read."""
    edit, tensor = region.edit, region.edit.tensor
    kernel = edit.move.conv_shape[1:]
    rows = tensor.shape[0]
    step = max(1, CHUNK_BYTES // max(1, tensor.size_bytes // max(1, rows)))
    if not tensor.size_bytes:
        return
    # a private mapping, as torch refuses to view memory that may not be written
    with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_COPY) as memory:
        flat = torch.frombuffer(memory, dtype=torch.uint8, count=tensor.size_bytes, offset=region.start)
        weights = flat.view(_INTEGERS[tensor.item_bytes]).as_strided(tensor.shape, tensor.stride)
        for first in range(0, rows, step):
            part = weights[first : first + step]
            move = dataclasses.replace(
                edit.move,
                linear_shape=(len(part), math.prod(kernel)),
                conv_shape=(len(part), *kernel),
            )
            yield move.convert(part, edit.to).contiguous().numpy().reshape(-1).view("uint8").data
        del part, weights, flat  # or the mapping could not be closed
