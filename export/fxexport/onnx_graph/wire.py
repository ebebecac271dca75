"""Protobuf's wire format, as far as an ONNX file needs it: where each field lies, and fields put together.

Source:
    Protocol Buffers, *Encoding*.
"""

from __future__ import annotations

import dataclasses
import mmap
from collections.abc import Iterator
from typing import TypeAlias

Buffer: TypeAlias = bytes | mmap.mmap

DELIMITED = 2
_VARINT, _EIGHT_BYTES, _FOUR_BYTES = 0, 1, 5


@dataclasses.dataclass(frozen=True, slots=True)
class WireField:
    """Where one field of a message lies: its tag, its content, its end."""

    number: int
    wire: int
    start: int
    content: int
    end: int


def fields(data: Buffer, start: int, end: int) -> Iterator[WireField]:
    """The fields of the message that lies from ``start`` to ``end``.

    Raises:
        ValueError: it is no message, or ends in the middle of a field.
    """
    position = start
    while position < end:
        tag, content = varint(data, position, end)
        wire = tag & 7
        if tag < 8:
            raise ValueError("no protobuf message: a field has no number")
        if wire == DELIMITED:
            length, content = varint(data, content, end)
            after = content + length
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            after = content + (8 if wire == _EIGHT_BYTES else 4)
        elif wire == _VARINT:
            _, after = varint(data, content, end)
        else:
            raise ValueError(f"no protobuf message: wire type {wire}")
        if after > end:
            raise ValueError("the file ends in the middle of a field")
        yield WireField(tag >> 3, wire, position, content, after)
        position = after


def varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    """The number that lies at ``position``, and where it ends.

    Raises:
        ValueError: it does not end before ``end``.
    """
    value = shift = 0
    while position < end and shift < 64:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError("no protobuf message: a number does not end")


def varint_bytes(value: int) -> bytes:
    """A number as the wire format writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def head(number: int, length: int) -> bytes:
    """What stands before the content of a field of ``length`` bytes."""
    return varint_bytes(number << 3 | DELIMITED) + varint_bytes(length)
