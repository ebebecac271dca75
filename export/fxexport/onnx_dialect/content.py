"""An ONNX file's content: small messages parsed, weights where they lie, and what is written in their place.

The file is walked as protobuf's wire format, so that weights are neither decoded nor copied, and what a
rewrite does not touch is written as the very bytes that were read.

Source:
    ``onnx.proto``: ModelProto.graph = 7, .metadata_props = 14; GraphProto.node = 1, .initializer = 5,
    .input = 11, .output = 12, .value_info = 13; NodeProto.attribute = 5; AttributeProto.t = 5;
    TensorProto.dims = 1, .float_data = 4, .raw_data = 9, .double_data = 10.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx

from fxexport.onnx_dialect.pieces import Copy, Piece, framed, merged
from fxexport.onnx_graph import wire
from fxexport.onnx_graph.inline import require_bounded
from fxexport.onnx_graph.wire import Field

GRAPH, METADATA = 7, 14
NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO = 1, 5, 11, 12, 13
_NODE_ATTRIBUTE, _ATTRIBUTE_TENSOR = 5, 5
_DIMS, _RAW = 1, 9
_VALUES = frozenset((4, 5, 6, 7, _RAW, 10, 11))
"""Every field that holds numbers."""
_PACKED = {4: (onnx.TensorProto.FLOAT, 4), 10: (onnx.TensorProto.DOUBLE, 8)}
"""Fields that hold numbers as raw data does, where they are packed."""
LARGE_BYTES = 1024
"""Values of more than this are left in the file."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor of the file, without its values.

    Attributes:
        path: the fields that hold one another around its message, from the graph's to its own.
        proto: its message; where ``values`` are large, without them.
        values: where its numbers lie as the machine has them, or None where they are written otherwise.
    """

    path: tuple[Field, ...]
    proto: onnx.TensorProto
    values: Field | None

    @property
    def item_bytes(self) -> int | None:
        """Bytes of one number, or None where they are not whole bytes or are not known."""
        count = math.prod(self.proto.dims)
        size = 0 if self.values is None else self.values.end - self.values.content
        return size // count if count > 0 and size and size % count == 0 else None


class Content:
    """What an ONNX file holds.

    Args:
        data: the file.
        name: what to call it in errors.
        folder: where its other files lie, if it has any.

    Raises:
        ValueError: it is no ONNX file, or is damaged.
    """

    LEFT = "fxhead: in the file"
    """The location of values that were left in the file."""

    def __init__(self, data: wire.Buffer, name: str = "the ONNX model", folder: Path | None = None) -> None:
        self.data = data
        self.name = name
        self.folder = folder
        self.model_fields = [*wire.fields(data, 0, len(data))]
        graphs = [field for field in self.model_fields if field.number == GRAPH]
        if len(graphs) != 1 or graphs[0].wire != wire.DELIMITED:
            raise ValueError("it holds no graph" if not graphs else "it holds several graphs")
        self.graph_field = graphs[0]
        self.graph_fields = [*wire.fields(data, graphs[0].content, graphs[0].end)]
        self.nodes = [field for field in self.graph_fields if field.number == NODE]
        self.initializers: dict[str, StoredTensor] = {}
        self.constants: dict[str, StoredTensor] = {}
        self._large: list[Field] = []
        self.proto = onnx.ModelProto()
        _parse(self.proto, b"".join(self._small()))
        require_bounded(self.proto)
        self._locate_constants()

    # --- reading

    def _small(self) -> Iterator[bytes]:
        """The model's message without large values."""
        for field in self.model_fields:
            if field is not self.graph_field:
                yield self.data[field.start : field.end]
        graph = b"".join(self._small_graph())
        yield wire.head(GRAPH, len(graph))
        yield graph

    def _small_graph(self) -> Iterator[bytes]:
        for field in self.graph_fields:
            is_large = field.end - field.content > LARGE_BYTES
            if field.number == INITIALIZER and field.wire == wire.DELIMITED:
                tensor, message = self._tensor((field,), drop=is_large)
                self.initializers[tensor.proto.name] = tensor
                yield wire.head(INITIALIZER, len(message)) + message
            elif field.number == NODE and field.wire == wire.DELIMITED and is_large:
                yield self._small_node(field)
            else:
                yield self.data[field.start : field.end]

    def _small_node(self, node: Field) -> bytes:
        """A node's message without the values of a large constant."""
        parts: list[bytes] = []
        for field in wire.fields(self.data, node.content, node.end):
            inner = self._attribute_tensor(field)
            if inner is None or field.end - field.content <= LARGE_BYTES:
                parts.append(self.data[field.start : field.end])
                continue
            _, message = self._tensor((node, field, inner), drop=True)
            body = b"".join(
                wire.head(_ATTRIBUTE_TENSOR, len(message)) + message
                if part.start == inner.start
                else self.data[part.start : part.end]
                for part in wire.fields(self.data, field.content, field.end)
            )
            parts.append(wire.head(_NODE_ATTRIBUTE, len(body)) + body)
        body = b"".join(parts)
        return wire.head(NODE, len(body)) + body

    def _attribute_tensor(self, field: Field) -> Field | None:
        if field.number != _NODE_ATTRIBUTE or field.wire != wire.DELIMITED:
            return None
        inner = wire.fields(self.data, field.content, field.end)
        return next((part for part in inner if part.number == _ATTRIBUTE_TENSOR), None)

    def _tensor(self, path: tuple[Field, ...], *, drop: bool) -> tuple[StoredTensor, bytes]:
        """A tensor, and its message; without its values where they are large."""
        parts = [*wire.fields(self.data, path[-1].content, path[-1].end)]
        held = [part for part in parts if part.wire == wire.DELIMITED and part.number in (_RAW, *_PACKED)]
        values = held[0] if len(held) == 1 else None
        _require_whole(parts, self.data, values)
        drop = drop and values is not None and values.end - values.content > LARGE_BYTES
        message = b"".join(self.data[p.start : p.end] for p in parts if not drop or p is not values)
        proto = onnx.TensorProto()
        _parse(proto, message)
        if drop and values is not None:
            self._large.append(values)
            proto.data_location = onnx.TensorProto.EXTERNAL  # so that nobody takes it for an empty one
            proto.external_data.add(key="location", value=self.LEFT)
            message = bytes(proto.SerializeToString())
        return StoredTensor(path=path, proto=proto, values=values), message

    def _locate_constants(self) -> None:
        """Where the tensors of ``Constant`` nodes lie."""
        for field, node in zip(self.nodes, self.proto.graph.node, strict=True):
            if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
                continue
            for part in wire.fields(self.data, field.content, field.end):
                inner = self._attribute_tensor(part)
                if inner is not None:
                    self.constants[node.output[0]] = self._tensor((field, part, inner), drop=True)[0]

    def digest(self, hidden: Field | None = None) -> str:
        """SHA-256 of the file without its large values, and without the field ``hidden``."""
        whole = [Copy(0, len(self.data))]
        if hidden is not None:
            whole = [Copy(0, hidden.start), Copy(hidden.end, len(self.data))]
        return self.digest_of(whole)

    def digest_of(self, pieces: Iterable[Piece]) -> str:
        """SHA-256 of pieces of the file without its large values."""
        found = hashlib.sha256()
        large = sorted({(field.content, field.end) for field in self._large})
        for piece in pieces:
            if isinstance(piece, bytes):
                found.update(piece)
            elif isinstance(piece, Copy):
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
        return [Copy(0, len(self.data))]

    def reshaped(self, tensor: StoredTensor, dims: Sequence[int], values: Piece | None) -> list[Piece]:
        """The outermost field that holds a tensor, its dimensions being others now.

        Args:
            tensor: the tensor.
            dims: its new dimensions.
            values: its numbers in another order; None leaves them as they lie.
        """
        *around, own = tensor.path
        parts = [*wire.fields(self.data, own.content, own.end)]
        first = next((part.start for part in parts if part.number == _DIMS), own.content)
        message: list[Piece] = []
        for part in parts:
            if part.start == first:
                message.append(_dims(dims))
            if part.number != _DIMS and (values is None or part.number not in _VALUES):
                message.append(Copy(part.start, part.end))
            elif values is not None and part == tensor.values:
                message += framed(part.number, [values])
        if not parts:
            message.append(_dims(dims))
        if values is not None and tensor.values is None:
            message += framed(_RAW, [values])
        pieces = framed(own.number, message)
        for outer, inner in zip(reversed(around), reversed(tensor.path[1:]), strict=True):
            content: list[Piece] = []
            for part in wire.fields(self.data, outer.content, outer.end):
                content += pieces if part.start == inner.start else [Copy(part.start, part.end)]
            pieces = framed(outer.number, content)
        return pieces

    def rewritten(
        self,
        nodes: Sequence[int | Sequence[Piece]],
        changed: Mapping[int, Sequence[Piece]],
        added: Mapping[int, Sequence[bytes]],
    ) -> list[Piece]:
        """The file with another graph.

        Args:
            nodes: its nodes in order: the number of an old one, or the field of a new one.
            changed: what stands in the place of other fields of the graph, by where they start.
            added: messages of new fields of the graph, by their number.
        """
        places = self._placed(nodes)
        last = {field.number: field.start for field in self.graph_fields}
        after: dict[int, list[Piece]] = {}
        for number, messages in added.items():
            pieces = [piece for message in messages for piece in framed(number, [message])]
            after.setdefault(last.get(number, self.graph_fields[-1].start), []).extend(pieces)
        graph: list[Piece] = []
        for field in self.graph_fields:
            if field.start in places:
                graph += places[field.start]
            else:
                graph += changed.get(field.start, [Copy(field.start, field.end)])
            graph += after.get(field.start, ())
        out: list[Piece] = []
        for field in self.model_fields:
            out += framed(GRAPH, graph) if field is self.graph_field else [Copy(field.start, field.end)]
        return merged(out)

    def _placed(self, nodes: Sequence[int | Sequence[Piece]]) -> dict[int, list[Piece]]:
        """What is written in the place of each node's field, by where that starts."""
        places: dict[int, list[Piece]] = {field.start: [] for field in self.nodes}
        place, latest = places[self.nodes[0].start], -1
        for entry in nodes:
            if not isinstance(entry, int):
                place += entry
                continue
            field = self.nodes[entry]
            if entry > latest:
                place, latest = places[field.start], entry
            place.append(Copy(field.start, field.end))
        return places


def _parse(proto: onnx.ModelProto | onnx.TensorProto, message: bytes) -> None:
    """Reads a message.

    Raises:
        ValueError: it is none of its kind.
    """
    try:
        proto.ParseFromString(message)
    except Exception as error:  # of protobuf's own, which none of our dependencies declares
        raise ValueError(str(error).splitlines()[0]) from error


def _require_whole(parts: Sequence[Field], data: wire.Buffer, values: Field | None) -> None:
    """Returns where raw values are as many as the tensor's shape says.

    Raises:
        ValueError: they are not.
    """
    if values is None or values.number != _RAW:
        return
    proto = onnx.TensorProto()
    _parse(proto, b"".join(data[part.start : part.end] for part in parts if part is not values))
    bits = _bits(proto.data_type)
    if bits and (math.prod(proto.dims) * bits + 7) // 8 != values.end - values.content:
        raise ValueError(f"{proto.name!r} has another number of values than its shape says")


def _bits(element: int) -> int:
    """Bits of one number of an element type; 0 where that is not known."""
    name = onnx.TensorProto.DataType.Name(element) if element in onnx.TensorProto.DataType.values() else ""
    packed = re.fullmatch(r"(?:U?INT|FLOAT)(2|4)(?:E\d+M\d+)?", name)
    if packed is not None:
        return int(packed[1])
    if name in ("", "UNDEFINED", "STRING"):
        return 0
    return 8 * onnx.helper.tensor_dtype_to_np_dtype(element).itemsize


def _dims(dims: Sequence[int]) -> bytes:
    """The field, or fields, of a tensor's dimensions; proto2 writes each by itself."""
    return b"".join(wire.varint_bytes(_DIMS << 3) + wire.varint_bytes(extent) for extent in dims)
