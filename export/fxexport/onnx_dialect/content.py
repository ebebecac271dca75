"""An ONNX file's content: small messages parsed, weights where they lie, and an edited graph written back.

The file is walked as protobuf's wire format, so that weights are neither decoded nor copied, and what a
rewrite does not touch is written as the very bytes that were read.

Source:
    ``onnx.proto``: ModelProto.graph = 7, .metadata_props = 14; GraphProto.node = 1, .initializer = 5,
    .input = 11, .output = 12, .value_info = 13; NodeProto.attribute = 5; AttributeProto.t = 5;
    TensorProto.float_data = 4, .raw_data = 9, .double_data = 10.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper

from fxexport.onnx_dialect.pieces import MovedValues, Piece, Range, between, framed, size_of
from fxexport.onnx_graph import wire
from fxexport.onnx_graph.wire import WireField
from fxexport.onnx_node import array_of, held_tensors, is_standard
from fxexport.untrusted.inline import require_bounded
from fxexport.untrusted.limits import (
    MAX_DECODED_BYTES,
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    MAX_FIELDS,
    MAX_MESSAGE_BYTES,
)
from fxpasses.errors import first_line

GRAPH, METADATA, RAW = 7, 14, 9
_HELD: Mapping[str, Mapping[int, str]] = {
    "model": {GRAPH: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor"},
}
"""The messages in which a tensor of the graph lies."""
_EDITED: Mapping[str, Mapping[int, str]] = {
    "model": {METADATA: "metadata_props"},
    "graph": {1: "node", 5: "initializer", 11: "input", 12: "output", 13: "value_info"},
}
"""What a rewrite may change of a message."""
_PACKED = {4: onnx.TensorProto.FLOAT, RAW: None, 10: onnx.TensorProto.DOUBLE}
"""Fields that hold numbers as the machine has them, and of which type where not of any."""
LARGE_BYTES = 1024
"""Values of more than this are left in the file."""


class Content:
    """What an ONNX file holds.

    Args:
        folder: where its other files lie, if it has any.

    Attributes:
        proto: the model, in which large values are marked as left in the file.
        constants: its initialisers and the tensors of its ``Constant`` nodes, by name.

    Raises:
        ValueError: it is no ONNX file, or is damaged.
    """

    def __init__(self, data: wire.Buffer, name: str = "the ONNX model", folder: Path | None = None) -> None:
        self.data = data
        self.name = name
        self.folder = folder
        self._mark = f"fxhead:{secrets.token_hex(8)}"  # the location of what was left; no file can know it
        self._seen = self._decoded = 0
        self._left: list[tuple[int, Piece]] = []
        if len(data) > MAX_MESSAGE_BYTES:
            raise ValueError("it has more than 2 GiB, the limit of ONNX: larger weights lie in another file")
        self._whole = WireField(0, wire.DELIMITED, 0, 0, len(data))
        graphs = [field for field in self._fields(self._whole) if field.number == GRAPH]
        if len(graphs) != 1 or graphs[0].wire != wire.DELIMITED:
            raise ValueError("it holds no graph" if not graphs else "it holds several graphs")
        self.proto = onnx.ModelProto()
        _parse(self.proto, self._small("model", self._whole))
        self._large = [piece for _, piece in self._left if isinstance(piece, Range)]
        require_bounded(self.proto)
        self.initializers = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        for tensor in (*self.proto.graph.initializer, *held_tensors(self.proto)):
            _require_shape(tensor)
        nodes = [node for node in self.proto.graph.node if node.op_type == "Constant" and is_standard(node)]
        held = {node.output[0]: item.t for node in nodes for item in node.attribute if item.HasField("t")}
        self.constants = {**held, **self.initializers}
        for tensor in self.constants.values():
            self._require_whole(tensor)

    @property
    def view(self) -> memoryview:
        """The file's bytes."""
        return memoryview(self.data)

    # --- reading

    def _fields(self, field: WireField) -> list[WireField]:
        left = MAX_FIELDS - self._seen
        found = [*itertools.islice(wire.fields(self.data, field.content, field.end), left + 1)]
        self._seen += len(found)
        if len(found) > left:
            raise ValueError(f"it has more fields than the limit of {MAX_FIELDS:,}")
        return found

    def _small(self, kind: str, field: WireField) -> bytes:
        """A message without large values."""
        if kind == "tensor":
            return self._small_tensor(field)
        parts = []
        for part in self._fields(field):
            inner = _HELD[kind].get(part.number)
            if inner is None or part.wire != wire.DELIMITED or part.end - part.content <= LARGE_BYTES:
                parts.append(self._bytes(part.start, part.end))
            else:
                message = self._small(inner, part)
                parts.append(wire.head(part.number, len(message)) + message)
        return b"".join(parts)

    def _small_tensor(self, field: WireField) -> bytes:
        parts = self._fields(field)
        held = [part for part in parts if part.wire == wire.DELIMITED and part.number in _PACKED]
        if len(held) == 1 and held[0].end - held[0].content > LARGE_BYTES:
            (values,) = held
            tensor = onnx.TensorProto()
            _parse(tensor, b"".join(self._bytes(part.start, part.end) for part in parts if part != values))
            if _PACKED[values.number] in (None, tensor.data_type):
                self.leave(tensor, between(values.content, values.end), values.number)
                return bytes(tensor.SerializeToString())
        return self._bytes(field.content, field.end)

    def _bytes(self, start: int, end: int) -> bytes:
        self._decoded += end - start
        if self._decoded > MAX_DECODED_BYTES:
            raise ValueError(f"it has more than the limit of {MAX_DECODED_BYTES:,} bytes beside its weights")
        return self.data[start:end]

    def leave(self, tensor: onnx.TensorProto, values: Piece, number: int | None = None) -> None:
        """Gives a tensor of an edited graph its numbers, to be written in a field of this number."""
        found = self.left_of(tensor)
        number = number or (RAW if found is None else found[0])
        for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "raw_data"):
            tensor.ClearField(name)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.EXTERNAL  # so that nobody takes it for an empty one
        tensor.external_data.add(key="location", value=self._mark)
        tensor.external_data.add(key="offset", value=str(len(self._left)))
        self._left.append((number, values))

    def left_of(self, tensor: onnx.TensorProto) -> tuple[int, Piece] | None:
        """The field and the numbers of a tensor that were left in the file."""
        found = {entry.key: entry.value for entry in tensor.external_data}
        return self._left[int(found["offset"])] if found.get("location") == self._mark else None

    def place_of(self, tensor: onnx.TensorProto) -> tuple[wire.Buffer | memoryview, int]:
        """Where the numbers of a tensor of the file lie as the machine has them.

        Raises:
            ValueError: they are of no type that is known, or in another file.
        """
        found = self.left_of(tensor)
        if found is not None and isinstance(found[1], Range):
            return self.data, found[1].start
        raw = tensor.raw_data or numpy_helper.from_array(array_of(tensor)).raw_data
        return bytes(raw), 0

    def _require_whole(self, tensor: onnx.TensorProto) -> None:
        """Returns where its values are as many as the tensor's shape says; else raises ValueError."""
        left = self.left_of(tensor)
        size = len(tensor.raw_data) if left is None else size_of([left[1]])
        if size and bits_of(tensor.data_type) and bytes_of(tensor) != size:
            raise ValueError(f"{tensor.name!r} has another number of values than its shape says")

    def metadata(self, key: str) -> WireField | None:
        """Where the only entry of the model's metadata with this key lies."""
        fields = [
            field
            for field in self._fields(self._whole)
            if (field.number, field.wire) == (METADATA, wire.DELIMITED)
        ]
        pairs = zip(fields, self.proto.metadata_props, strict=True)
        found = [field for field, entry in pairs if entry.key == key]
        return found[0] if len(found) == 1 else None

    def digest(self, pieces: Iterable[Piece], values: Iterable[Range] = ()) -> str:
        """SHA-256 of pieces of the file without its large values, but for those that lie at ``values``."""
        found = hashlib.sha256()
        kept = {(place.start, place.end) for place in values}
        large = sorted({(place.start, place.end) for place in self._large} - kept)
        for piece in pieces:
            if isinstance(piece, bytes):
                found.update(piece)
            elif piece.order == (0,):
                position = piece.start
                for start, end in large:
                    if piece.start <= start and end <= piece.end:
                        found.update(self.data[position:start])
                        position = end
                found.update(self.data[position : piece.end])
        return found.hexdigest()

    # --- writing

    def whole(self) -> list[Piece]:
        """The file as it is."""
        return [between(0, len(self.data))]

    def pieces(self, edited: onnx.ModelProto) -> list[Piece]:
        """The file of an edited model: its graph's nodes, values and initialisers, and metadata."""
        return [*self._written("model", self._whole, self.proto, edited)]

    def _written(self, kind: str, place: WireField, before: Any, after: Any) -> Iterator[Piece]:
        """A message in its new form; what it holds of one kind stands where the first of them stood."""
        fields = self._fields(place)
        done: set[str] = set()
        for field in fields:
            name = _EDITED[kind].get(field.number)
            if field.number == GRAPH and kind == "model":
                yield from framed(GRAPH, self._written("graph", field, before.graph, after.graph))
            elif name is None:
                yield between(field.start, field.end)
            elif name not in done:
                done.add(name)
                own = [other for other in fields if other.number == field.number]
                yield from self._repeated(field.number, own, getattr(before, name), getattr(after, name))
        for number, name in _EDITED[kind].items():
            if name not in done:
                yield from self._repeated(number, [], [], getattr(after, name))

    def _repeated(self, number: int, fields: list[WireField], before: Any, after: Any) -> Iterator[Piece]:
        """The messages of one kind: those that were there before as they are in the file."""
        known: dict[bytes, list[WireField]] = {}
        for field, message in zip(fields, before, strict=True):
            known.setdefault(message.SerializeToString(), []).append(field)
        for message in after:
            content = message.SerializeToString()
            if known.get(content):
                field = known[content].pop(0)
                yield between(field.start, field.end)
            else:
                yield from framed(number, self._filled(_HELD["graph"].get(number, ""), content))

    def _filled(self, kind: str, message: bytes) -> list[Piece]:
        """A message with the values that its tensors left in the file."""
        if self._mark.encode() not in message:
            return [message]
        if kind == "tensor":
            return self.filled(onnx.TensorProto.FromString(message))
        out: list[Piece] = []
        for part in wire.fields(message, 0, len(message)):
            content = message[part.content : part.end]
            is_held = part.wire == wire.DELIMITED and part.number in _HELD[kind]
            out += (
                framed(part.number, self._filled(_HELD[kind][part.number], content))
                if is_held
                else [message[part.start : part.end]]
            )
        return out

    def filled(self, tensor: onnx.TensorProto) -> list[Piece]:
        """The message of a tensor with the values that it left in the file."""
        number, values = self.left_of(tensor) or (RAW, b"")
        bare = onnx.TensorProto()
        bare.CopyFrom(tensor)
        bare.ClearField("external_data")
        bare.ClearField("data_location")
        rest = bytes(bare.SerializeToString())
        at = next((part.start for part in wire.fields(rest, 0, len(rest)) if part.number > number), len(rest))
        return [rest[:at], *framed(number, [values]), rest[at:]]


class HeldContent(Content):
    """A model in memory, to be read only: its graph, and weights beside it."""

    def __init__(self, proto: onnx.ModelProto, weights: Mapping[str, NDArray[Any]]) -> None:
        self.proto = proto
        self.initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.constants = self.initializers
        self._weights = weights

    def left_of(self, tensor: onnx.TensorProto) -> tuple[int, Piece] | None:
        """Of weights, that they are not in the graph."""
        return (RAW, b"") if tensor.name in self._weights else None

    def place_of(self, tensor: onnx.TensorProto) -> tuple[wire.Buffer | memoryview, int]:
        """The numbers of a weight."""
        if tensor.name not in self._weights:
            return super().place_of(tensor)
        return self._weights[tensor.name].reshape(-1).view(np.uint8).data, 0


def values_in(pieces: Iterable[Piece]) -> Iterator[Range]:
    """Where numbers that a rewrite brought lie in the file that pieces give."""
    position = 0
    for piece in pieces:
        if isinstance(piece, MovedValues):
            yield between(position, position + len(piece))
        position += size_of([piece])


def _parse(proto: onnx.ModelProto | onnx.TensorProto, message: bytes) -> None:
    """Reads a message.

    Raises:
        ValueError: it is none of its kind.
    """
    try:
        proto.ParseFromString(message)
    except Exception as error:  # of protobuf's own, which none of our dependencies declares
        raise ValueError(first_line(error)) from error


def _require_shape(tensor: onnx.TensorProto) -> None:
    """Returns where a tensor can have its shape; two negative extents are as many numbers as two positive."""
    is_shape = all(extent >= 0 for extent in tensor.dims) and len(tensor.dims) <= MAX_DIMENSIONS
    if not is_shape or math.prod(extent or 1 for extent in tensor.dims) > MAX_ELEMENTS:
        raise ValueError(f"{tensor.name!r} is of a shape that no tensor has")


@functools.cache
def bits_of(element: int) -> int:
    """Bits of one number of an element type; 0 where that is not known."""
    try:
        return ir.DataType(element).bitwidth
    except (ValueError, TypeError):  # no type, or one of texts
        return 0


def bytes_of(tensor: onnx.TensorProto) -> int:
    """How many bytes a tensor's numbers take; 0 where that is not known."""
    return (int(math.prod(tensor.dims)) * bits_of(tensor.data_type) + 7) // 8
