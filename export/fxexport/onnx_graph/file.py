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
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper

from fxexport.onnx_graph.weight_pool import WeightPool
from fxexport.onnx_graph.wire import DELIMITED, Field, fields, head
from fxexport.terms.term import Array
from fxexport.untrusted.archive import open_regular

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_LARGE_BYTES = 4096
"""Smaller initialisers stay in the graph, where shape inference reads them."""
_BLOCK = 2**24
"""Bytes of a weight that are copied at a time."""
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


def read_onnx(path: Path, pool: WeightPool) -> OnnxFile:
    """The file's graph and its weights, read once; weights that ``pool`` has already are not held again.

    Raises:
        google.protobuf.message.DecodeError: it is no protobuf message.
        ValueError: it is empty or ends in the middle of a field, or its weights lie outside its folder.
    """
    weights: dict[str, Array] = {}
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        parts: list[bytes] = []
        for field in fields(data, 0, len(data)):
            if field.number == _GRAPH and field.wire == DELIMITED:
                graph = _graph(data, field, weights, pool)
                parts += [head(_GRAPH, len(graph)), graph]
            else:
                parts.append(data[field.start : field.end])
    proto = onnx.ModelProto()
    proto.ParseFromString(b"".join(parts))
    _open_negative(proto.graph)
    for tensor in proto.graph.initializer:
        if tensor.name not in weights and external_data_helper.uses_external_data(tensor):
            weights[tensor.name] = pool.shared(_external(tensor, path.parent))
    return OnnxFile(proto=proto, weights=weights)


def _open_negative(graph: onnx.GraphProto) -> None:
    """Leaves extents open that are declared as -1, as PaddlePaddle writes them."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 0:
                dim.ClearField("dim_value")


def external_files(path: Path) -> tuple[str, ...]:
    """Names of the files beside an ONNX file that hold its weights, as it spells them.

    Raises:
        google.protobuf.message.DecodeError: it is no protobuf message.
        ValueError: it is empty or ends in the middle of a field.
    """
    locations = []
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        graphs = [f for f in fields(data, 0, len(data)) if f.number == _GRAPH and f.wire == DELIMITED]
        items = [item for graph in graphs for item in fields(data, graph.content, graph.end)]
        for item in items:
            if item.number == _INITIALIZER and item.wire == DELIMITED:
                held = fields(data, item.content, item.end)
                rest = b"".join(data[f.start : f.end] for f in held if f.number != _RAW_DATA)
                tensor = onnx.TensorProto()
                tensor.ParseFromString(rest)
                if external_data_helper.uses_external_data(tensor):
                    locations.append(external_data_helper.ExternalDataInfo(tensor).location)
    return tuple(sorted({*locations}))


def _graph(data: mmap.mmap, graph: Field, weights: dict[str, Array], pool: WeightPool) -> bytes:
    """The graph's message without the bytes of large initialisers, which are added to ``weights``."""
    parts: list[bytes] = []
    for field in fields(data, graph.content, graph.end):
        is_large = field.number == _INITIALIZER and field.end - field.content > _LARGE_BYTES
        tensor = _taken_out(data, field, weights, pool) if is_large else None
        if tensor is None:
            parts.append(data[field.start : field.end])
        else:
            parts += [head(_INITIALIZER, len(tensor)), tensor]
    return b"".join(parts)


def _taken_out(
    data: mmap.mmap, initializer: Field, weights: dict[str, Array], pool: WeightPool
) -> bytes | None:
    """The initialiser's message as external data, its values added to ``weights``; None where it stays."""
    parts = list(fields(data, initializer.content, initializer.end))
    raw = [field for field in parts if field.number == _RAW_DATA and field.wire == DELIMITED]
    if len(raw) != 1 or raw[0].end - raw[0].content <= _LARGE_BYTES:
        return None
    tensor = onnx.TensorProto()
    tensor.ParseFromString(b"".join(data[field.start : field.end] for field in parts if field is not raw[0]))
    if tensor.data_type not in _ARRAY_TYPES or tensor.name in weights:
        return None
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if int(np.prod(tensor.dims)) * kind.itemsize != raw[0].end - raw[0].content:
        raise ValueError(f"initialiser {tensor.name!r} has another number of values than its shape says")
    # a copy, since values in a message lie at any address and kernels may want aligned ones
    values = np.empty(tuple(tensor.dims), kind)
    flat = values.reshape(-1).view(np.uint8)
    for start in range(0, len(flat), _BLOCK):
        part = flat[start : start + _BLOCK]
        part[:] = np.frombuffer(data, np.uint8, len(part), raw[0].content + start)
        _let_go(data, raw[0].content + start, len(part))
    weights[tensor.name] = pool.shared(values)
    mark_external(tensor)
    return bytes(tensor.SerializeToString())


def _let_go(data: mmap.mmap, start: int, size: int) -> None:
    """Tells the system that this part of the file will not be read again, so that it takes no memory."""
    if hasattr(mmap, "MADV_DONTNEED"):
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = (start + size - first) // mmap.PAGESIZE * mmap.PAGESIZE
        if whole > 0:
            data.madvise(mmap.MADV_DONTNEED, first, whole)


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
