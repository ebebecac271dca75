"""An ONNX file read without copying its weights through protobuf: a small graph, and arrays beside it.

Parsing a file copies every weight, ONNX's shape inference copies them twice more, and a session made from
bytes again. Here the file is walked as protobuf's wire format: large initialisers are read straight into
arrays, and the graph refers to them as external data, which a session takes from the arrays.

Source:
    Protocol Buffers, *Encoding*; ``onnx.proto``: ModelProto.graph = 7, GraphProto.initializer = 5,
    TensorProto.raw_data = 9.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper

from export.terms import Array

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_LARGE_BYTES = 4096
"""Smaller initialisers stay in the graph, where shape inference reads them."""
_EIGHT_BYTES, _DELIMITED, _FOUR_BYTES = 1, 2, 5
_ARRAY_TYPES = frozenset(
    getattr(onnx.TensorProto, name) for name in "FLOAT DOUBLE FLOAT16 INT8 UINT8 INT32 INT64".split()
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxFile:
    """A file's graph and its weights.

    Attributes:
        proto: the model; initialisers named in ``weights`` are marked as external data.
        weights: the large initialisers by name.
    """

    proto: onnx.ModelProto
    weights: dict[str, Array]


def read_onnx(path: Path) -> OnnxFile:
    """The file's graph and its weights, read once.

    Raises:
        google.protobuf.message.DecodeError: it is no protobuf message.
        ValueError: it is empty or ends in the middle of a field, or its weights lie outside its folder.
    """
    weights: dict[str, Array] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        parts: list[bytes] = []
        for field in _fields(data, 0, len(data)):
            if field.number == _GRAPH and field.wire == _DELIMITED:
                graph = _graph(data, field, weights)
                parts += [data[field.start : field.tag_end], _varint_bytes(len(graph)), graph]
            else:
                parts.append(data[field.start : field.end])
    proto = onnx.ModelProto()
    proto.ParseFromString(b"".join(parts))
    for tensor in proto.graph.initializer:
        if tensor.name not in weights and external_data_helper.uses_external_data(tensor):
            weights[tensor.name] = _external(tensor, path.parent)
    return OnnxFile(proto=proto, weights=weights)


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    """Where one field of a message lies: its tag, its content, its end."""

    number: int
    wire: int
    start: int
    tag_end: int
    content: int
    end: int


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    position = start
    while position < end:
        tag, tag_end = _varint(data, position, end)
        wire, content = tag & 7, tag_end
        if wire == _DELIMITED:
            length, content = _varint(data, tag_end, end)
            after = content + length
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            after = content + (8 if wire == _EIGHT_BYTES else 4)
        elif wire == 0:
            _, after = _varint(data, tag_end, end)
        else:
            raise ValueError(f"no protobuf message: wire type {wire}")
        if after > end:
            raise ValueError("the file ends in the middle of a field")
        yield _Field(tag >> 3, wire, position, tag_end, content, after)
        position = after


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 64:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError("no protobuf message: a number does not end")


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _graph(data: mmap.mmap, graph: _Field, weights: dict[str, Array]) -> bytes:
    """The graph's message without the bytes of large initialisers, which are added to ``weights``."""
    parts: list[bytes] = []
    for field in _fields(data, graph.content, graph.end):
        is_large = field.number == _INITIALIZER and field.end - field.content > _LARGE_BYTES
        tensor = _taken_out(data, field, weights) if is_large else None
        if tensor is None:
            parts.append(data[field.start : field.end])
        else:
            parts += [data[field.start : field.tag_end], _varint_bytes(len(tensor)), tensor]
    return b"".join(parts)


def _taken_out(data: mmap.mmap, initializer: _Field, weights: dict[str, Array]) -> bytes | None:
    """The initialiser's message as external data, its values added to ``weights``; None where it stays."""
    fields = list(_fields(data, initializer.content, initializer.end))
    raw = [field for field in fields if field.number == _RAW_DATA and field.wire == _DELIMITED]
    if len(raw) != 1 or raw[0].end - raw[0].content <= _LARGE_BYTES:
        return None
    tensor = onnx.TensorProto()
    tensor.ParseFromString(b"".join(data[field.start : field.end] for field in fields if field is not raw[0]))
    if tensor.data_type not in _ARRAY_TYPES or tensor.name in weights:
        return None
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if int(np.prod(tensor.dims)) * kind.itemsize != raw[0].end - raw[0].content:
        raise ValueError(f"initialiser {tensor.name!r} has another number of values than its shape says")
    # a copy, since values in a message lie at any address and kernels may want aligned ones
    weights[tensor.name] = np.empty(tuple(tensor.dims), kind)
    flat = weights[tensor.name].reshape(-1).view(np.uint8)
    flat[:] = np.frombuffer(data, np.uint8, len(flat), raw[0].content)
    mark_external(tensor)
    return bytes(tensor.SerializeToString())


def mark_external(tensor: onnx.TensorProto) -> None:
    """Says in ``tensor`` that its values are given beside the graph."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "given"


def _external(tensor: onnx.TensorProto, folder: Path) -> Array:
    """Values of an initialiser that lie in a file of their own, below ``folder``."""
    info = external_data_helper.ExternalDataInfo(tensor)
    path = (folder / info.location).resolve()
    if folder.resolve() not in path.parents:
        raise ValueError(f"the weights of {tensor.name!r} lie outside the file's folder")
    if not path.is_file():  # reading a pipe would never end
        raise ValueError(f"the weights of {tensor.name!r} lie in {info.location!r}, which is no file")
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count, offset = math.prod(tensor.dims), info.offset or 0
    wanted = count * kind.itemsize
    is_inside = count >= 0 and offset >= 0 and offset + wanted <= path.stat().st_size
    if not is_inside or info.length not in (None, 0, wanted):
        raise ValueError(f"the weights of {tensor.name!r} are cut short, or of another size than they should")
    return np.fromfile(path, kind, count, offset=offset).reshape(tuple(tensor.dims))
