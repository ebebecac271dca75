"""An ONNX file for a session: a small graph, and its weights as arrays beside it.

Parsing a file copies every weight, ONNX's shape inference copies them twice more, and a session made from
bytes again. Here they are copied once, straight from the file, and the graph refers to them as external data.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import uses_external_data

from fxexport.onnx_dialect.content import Content, bytes_of
from fxexport.onnx_dialect.external import mapped, others_elsewhere, values_elsewhere
from fxexport.onnx_dialect.pieces import BLOCK, let_go, written
from fxexport.onnx_graph.normalised import drop_unread
from fxexport.onnx_graph.wire import Buffer
from fxexport.terms.term import Array
from fxpasses.errors import FileError

_TYPES = frozenset(
    getattr(onnx.TensorProto, name) for name in "FLOAT DOUBLE FLOAT16 INT8 UINT8 INT32 INT64".split()
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxFile:
    """A file's graph and its weights.

    Attributes:
        proto: the model; initialisers named in ``weights`` are marked as external data.
    """

    proto: onnx.ModelProto
    weights: dict[str, Array]


class WeightPool:
    """Arrays that were read, those held once that are equal: forms of a model have most weights in common."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], list[Array]] = {}

    def shared(self, array: Array) -> Array:
        """``array``, or one with the same bits and shape that was given before."""
        known = self._known.setdefault((array.dtype.name, array.nbytes), [])
        for other in known:
            if _has_same_bits(other, array):
                return other.reshape(array.shape)
        known.append(array)
        return array


def _has_same_bits(a: Array, b: Array) -> bool:
    """True if two contiguous arrays of the same type and size hold the same bits."""
    left, right = a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8)
    return all(
        np.array_equal(left[start : start + BLOCK], right[start : start + BLOCK])
        for start in range(0, len(left), BLOCK)
    )


def read_onnx(path: Path, pool: WeightPool) -> OnnxFile:
    """The file's graph and its weights, read once; weights that ``pool`` has already are not held again.

    Raises:
        FileError: it cannot be read.
        ValueError: it is no ONNX file, or is damaged, or its weights lie outside its folder.
    """
    return arrays_of(Content(mapped(path), str(path), path.parent), pool)


def arrays_of(content: Content, pool: WeightPool) -> OnnxFile:
    """A content as a session takes it; its model becomes that of the result.

    Raises:
        FileError: weights are not where it says, or not as many.
    """
    try:
        return _arrays_of(content, pool)
    except ValueError as error:
        raise FileError(
            f"its weights cannot be read ({error})", where=content.name, fix="export it again"
        ) from error


def _arrays_of(content: Content, pool: WeightPool) -> OnnxFile:
    weights: dict[str, Array] = {}
    drop_unread(content.proto.graph)
    for tensor in content.proto.graph.initializer:
        left = content.left_of(tensor)
        if left is None and uses_external_data(tensor):
            weights[tensor.name] = pool.shared(_array(*values_elsewhere(content, tensor), tensor))
        elif left is not None and tensor.data_type in _TYPES:
            weights[tensor.name] = pool.shared(_array(*content.place_of(tensor), tensor))
        elif left is not None:
            _put_back(content, tensor)
    for tensor in others_elsewhere(content):  # whoever reads them later would open what they name
        data, start = values_elsewhere(content, tensor)
        values = data[start : start + bytes_of(tensor)]
        for name in ("data_location", "external_data"):
            tensor.ClearField(name)
        tensor.raw_data = values
    for item in (item for node in content.proto.graph.node for item in node.attribute):
        if content.left_of(item.t) is not None:
            _put_back(content, item.t)
    return OnnxFile(proto=content.proto, weights=weights)


def _put_back(content: Content, tensor: onnx.TensorProto) -> None:
    """Gives a tensor the values that were left in the file."""
    tensor.CopyFrom(onnx.TensorProto.FromString(b"".join(written(content.filled(tensor), content.view))))


def _array(data: Buffer | memoryview, start: int, tensor: onnx.TensorProto) -> Array:
    """A copy of a tensor's values: in a file they lie at any address, and kernels may want aligned ones."""
    values = np.empty(tuple(tensor.dims), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    flat = values.reshape(-1).view(np.uint8)
    for done in range(0, flat.size, BLOCK):
        count = min(BLOCK, flat.size - done)
        flat[done : done + count] = np.frombuffer(data, np.uint8, count, start + done)
        let_go(data)
    return values
