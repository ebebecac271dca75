"""Every single edit of a graph that keeps all shapes: wrong layouts, operands, constants and attributes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

Proto = onnx.ModelProto
Edit = tuple[str, Proto]


def edits(proto: Proto) -> Iterator[Edit]:
    """Damaged copies with their names, one edit each."""
    for index, node in enumerate(proto.graph.node):
        for kind, made in EDITS.items():
            for number, damaged in enumerate(made(proto, index)):
                yield f"{kind}-{node.name or index}-{number}", damaged


def _copy(proto: Proto) -> Proto:
    copy = Proto()
    copy.CopyFrom(proto)
    return copy


def _stored(proto: Proto, name: str) -> onnx.TensorProto | None:
    return next((tensor for tensor in proto.graph.initializer if tensor.name == name), None)


def _with_constant(proto: Proto, index: int, position: int, array: np.ndarray) -> Proto:
    """The node reads ``array``; others that share the initialiser keep theirs."""
    copy = _copy(proto)
    copy.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), "damaged"))
    copy.graph.node[index].input[position] = "damaged"
    return copy


def _with_attribute(proto: Proto, index: int, name: str, value: object) -> Proto:
    copy = _copy(proto)
    node = copy.graph.node[index]
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
    return copy


def _floats(proto: Proto, index: int) -> Iterator[tuple[int, np.ndarray]]:
    for position, name in enumerate(proto.graph.node[index].input):
        tensor = _stored(proto, name)
        if tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT:
            yield position, numpy_helper.to_array(tensor)


def _one_ulp(proto: Proto, index: int) -> Iterator[Proto]:
    for position, array in _floats(proto, index):
        changed = array.copy()
        flat = changed.reshape(-1)
        flat[flat.size // 2] = np.nextafter(flat[flat.size // 2], np.float32(np.inf))
        yield _with_constant(proto, index, position, changed)


def _turned(proto: Proto, index: int) -> Iterator[Proto]:
    """Constants with two axes exchanged: a transposed weight, a scale along another axis."""
    for position, array in _floats(proto, index):
        for a, b in itertools.combinations(range(array.ndim), 2):
            changed = array.swapaxes(a, b)
            if changed.shape == array.shape or array.size == max(array.shape):
                yield _with_constant(proto, index, position, changed)


def _exchanged_weights(proto: Proto, index: int) -> Iterator[Proto]:
    """A site reads the weight of another one of the same shape."""
    if proto.graph.node[index].op_type not in ("Conv", "MatMul", "Gemm"):
        return
    own = _stored(proto, proto.graph.node[index].input[1])
    for node in proto.graph.node:
        other = _stored(proto, node.input[1]) if node.op_type in ("Conv", "MatMul", "Gemm") else None
        if own is not None and other is not None and own is not other and own.dims == other.dims:
            yield _with_constant(proto, index, 1, numpy_helper.to_array(other))


def _without_bias(proto: Proto, index: int) -> Iterator[Proto]:
    if proto.graph.node[index].op_type == "Conv" and len(proto.graph.node[index].input) == 3:
        copy = _copy(proto)
        del copy.graph.node[index].input[2]
        yield copy


def _skipped(proto: Proto, index: int) -> Iterator[Proto]:
    """One operand in the place of the node: a residual, a bias, an activation or a permutation is lost."""
    node = proto.graph.node[index]
    if node.op_type in ("Add", "Mul", "Relu", "Gelu", "Softmax", "LayerNormalization", "Transpose"):
        for name in node.input[: 1 if len(node.input) != 2 else 2]:
            if _stored(proto, name) is None:
                copy = _copy(proto)
                copy.graph.node[index].CopyFrom(helper.make_node("Identity", [name], list(node.output)))
                yield copy


def _permuted(proto: Proto, index: int) -> Iterator[Proto]:
    node = proto.graph.node[index]
    if node.op_type != "Transpose":
        return
    own = list(node.attribute[0].ints)
    for perm in itertools.permutations(range(len(own))):
        if (
            perm[0] == own[0]
            and list(perm) != own
            and sum(a != b for a, b in zip(perm, own, strict=True)) == 2
        ):
            yield _with_attribute(proto, index, "perm", list(perm))


def _attributes(proto: Proto, index: int) -> Iterator[Proto]:
    node = proto.graph.node[index]
    given: dict[str, list[tuple[str, object]]] = {
        "Gelu": [("approximate", "tanh")],
        "Softmax": [("axis", 1), ("axis", 2)],
        "LayerNormalization": [("epsilon", 1e-2)],
    }
    for name, value in given.get(node.op_type, []):
        yield _with_attribute(proto, index, name, value)
    pads = next((list(item.ints) for item in node.attribute if item.name == "pads"), [])
    if node.op_type == "Conv" and any(pads):
        half = len(pads) // 2
        yield _with_attribute(
            proto, index, "pads", [0] * half + [a + b for a, b in zip(pads[:half], pads[half:], strict=True)]
        )


def _indices(proto: Proto, index: int) -> Iterator[Proto]:
    """Gather and Slice take the next cell, where there is one."""
    node = proto.graph.node[index]
    if node.op_type == "Gather":
        stored = _stored(proto, node.input[1])
        cells = np.zeros(()) if stored is None else numpy_helper.to_array(stored)
        yield _with_constant(
            proto, index, 1, ((cells + 1) % (cells.max() + 1 if cells.max() else 2)).astype(np.int64)
        )
    if node.op_type == "Concat":
        copy = _copy(proto)
        copy.graph.node[index].input[:] = list(reversed(node.input))
        yield copy


def _misread(proto: Proto, index: int) -> Iterator[Proto]:
    """An operand is another value of its shape, from further upstream."""
    shapes = {value.name: _shape(value) for value in proto.graph.value_info}
    node = proto.graph.node[index]
    for position, name in enumerate(node.input):
        before = [output for earlier in proto.graph.node[:index] for output in earlier.output]
        alike = [other for other in before if other != name and shapes.get(other) == shapes.get(name, ())]
        for other in alike[-2:]:
            copy = _copy(proto)
            copy.graph.node[index].input[position] = other
            yield copy


def _shape(value: onnx.ValueInfoProto) -> tuple[object, ...]:
    return tuple(dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim)


EDITS: dict[str, Callable[[Proto, int], Iterator[Proto]]] = {
    "one_ulp": _one_ulp,
    "turned": _turned,
    "exchanged_weights": _exchanged_weights,
    "without_bias": _without_bias,
    "skipped": _skipped,
    "permuted": _permuted,
    "attributes": _attributes,
    "indices": _indices,
    "misread": _misread,
}
