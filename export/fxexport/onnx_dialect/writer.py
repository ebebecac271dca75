"""Nodes of the graph as ONNX nodes, in the opset of the file: the way back from ``reading``."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch.fx import Node

from fxexport.onnx_dialect.extents import onnx_type
from fxexport.onnx_dialect.operators import Operator
from fxpasses.errors import InternalError

_aten = torch.ops.aten
_REDUCTIONS: dict[Any, str] = {
    _aten.mean.dim: "ReduceMean",
    _aten.sum.dim_IntList: "ReduceSum",
    _aten.amax.default: "ReduceMax",
    _aten.amin.default: "ReduceMin",
}


class Writer:
    """Writes nodes, and the small constants that they need.

    Args:
        opset: the version of ONNX's operators.
        names: the file's name of a node's value.
        unused: gives a name that nothing in the file has, like the one asked for.
        is_turned: whether the file holds a weight as ``[K, O]``.
        extents: the symbols that stand for one extent of the file each.
    """

    def __init__(
        self,
        opset: int,
        names: Callable[[Node], str],
        unused: Callable[[str], str],
        is_turned: Callable[[Node], bool],
        extents: Container[str],
    ) -> None:
        self.extents = extents
        self.opset = opset
        self.names = names
        self.unused = unused
        self.is_turned = is_turned
        self.constants: list[onnx.TensorProto] = []

    def write(self, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
        """The ONNX nodes for a node of the graph; the last one gives its value.

        Args:
            node: the node.
            like: the file's node that it was before, whose name and documentation it keeps.
        """
        if isinstance(node.target, Operator):  # one that was fused with another
            read = [self.names(source) for source in node.all_input_nodes]
            return [self.node(node.target.op_type, read, self.names(node), name=self.unused(node.name))]
        packet = getattr(node.target, "overloadpacket", None)
        write = _WRITERS.get(node.target) or _WRITERS.get(packet)
        if write is None:
            raise InternalError(f"{node.target} has no ONNX operator to be written as")
        made = write(self, node, like)
        if like is not None:
            last = made[-1]
            last.name, last.doc_string = like.name, like.doc_string
            last.metadata_props.extend(like.metadata_props)
        for proto in made:
            proto.name = proto.name or self.unused(node.name)
        return made

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        """A node of ONNX's own operators."""
        return helper.make_node(op_type, inputs, [output], **attributes)

    def ints(self, numbers: Sequence[int], name: str) -> str:
        """The name of a new constant that holds integers."""
        return self._constant(np.array(numbers, np.int64), name)

    def number(self, value: float, like: Node, name: str) -> str:
        """The name of a new constant, one number of the type of a node."""
        kind = _element_type(like)
        tensor = helper.make_tensor(self.unused(name), kind, [], [value])
        self.constants.append(tensor)
        return str(tensor.name)

    def _constant(self, array: np.ndarray[Any, Any], name: str) -> str:
        tensor = numpy_helper.from_array(array, self.unused(name))
        self.constants.append(tensor)
        return str(tensor.name)

    def with_axes(
        self, op_type: str, source: str, axes: Sequence[int], output: str, since: int, **attributes: Any
    ) -> onnx.NodeProto:
        """A node whose axes are an attribute, or since some version an input."""
        if self.opset < since:
            return self.node(op_type, [source], output, axes=[*axes], **attributes)
        return self.node(op_type, [source, self.ints(axes, f"{output}_axes")], output, **attributes)


def rank_of(node: Node) -> int | None:
    """How many axes a node's value has, where it is known."""
    value = node.meta.get("val")
    return value.ndim if isinstance(value, torch.Tensor) else None


def _element_type(node: Node) -> int:
    value = node.meta.get("val")
    return onnx_type(value.dtype if isinstance(value, torch.Tensor) else torch.float32)


def _linear(writer: Writer, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    source, weight, *rest = node.args
    bias = rest[0] if rest else node.kwargs.get("bias")
    assert isinstance(source, Node)
    assert isinstance(weight, Node)
    output, turned = writer.names(node), writer.is_turned(weight)
    read = [writer.names(source), writer.names(weight)]
    added = [writer.names(bias)] if isinstance(bias, Node) else []
    if rank_of(source) == 2:
        if not added and writer.opset < 11:  # before, Gemm had to have all three
            added = [writer.number(0.0, node, f"{output}_zero")]
        return [writer.node("Gemm", [*read, *added], output, **({} if turned else {"transB": 1}))]
    if not turned:
        raise InternalError(f"{node.name} reads more than two axes and a weight that is not [K, O]")
    if not added:
        return [writer.node("MatMul", read, output)]
    product = writer.unused(f"{output}_product")
    return [writer.node("MatMul", read, product), writer.node("Add", [product, *added], output)]


def _conv(writer: Writer, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    weight = given["weight"]
    assert isinstance(weight, Node)
    value = weight.meta["val"]
    kernel = [int(extent) for extent in value.shape[2:]]
    rank = len(kernel)
    operands = [given["input"], weight, given.get("bias")]
    read = [writer.names(operand) for operand in operands if isinstance(operand, Node)]
    attributes: dict[str, Any] = {  # some compilers know no defaults
        "kernel_shape": kernel,
        "strides": _numbers(given.get("stride", 1), rank),
        "dilations": _numbers(given.get("dilation", 1), rank),
        "pads": _numbers(given.get("padding", 0), rank) * 2,
        "group": given.get("groups", 1),
    }
    return [writer.node("Conv", read, writer.names(node), **attributes)]


def _numbers(value: Any, rank: int) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return numbers * rank if len(numbers) == 1 else numbers


def _flatten(writer: Writer, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    source = _source(node)
    if node.args[1:] not in ((1,), (1, -1)) or node.kwargs:
        raise InternalError(f"{node.name} flattens axes that Flatten does not")
    return [writer.node("Flatten", [writer.names(source)], writer.names(node), axis=1)]


def _unflatten(writer: Writer, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    _, axis, sizes = node.args
    assert isinstance(axis, int)
    assert isinstance(sizes, (tuple, list))
    after = _extents(_source(node))[axis + 1 :] if axis + 1 < (rank_of(_source(node)) or 0) else []
    return _reshaped(writer, node, [*([0] * axis), *sizes, *after])


def _extents(node: Node) -> list[int]:
    return [extent if isinstance(extent, int) else -1 for extent in node.meta["val"].shape]


def _reshape(writer: Writer, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    source, sizes = _source(node), node.args[1]
    assert isinstance(sizes, (tuple, list))
    known = [_copied(size, source, axis, writer.extents) for axis, size in enumerate(sizes)]
    return _reshaped(writer, node, known)


def _copied(size: Any, source: Node, axis: int, names: Container[str]) -> Any:
    """A size as Reshape says it: 0 where it is that of the source's own axis."""
    if not isinstance(size, Node):
        return size
    if size.args == (source, axis):
        return 0
    value, own = size.meta.get("val"), source.meta.get("val")
    if value is None or own is None or axis >= own.ndim or str(value) not in names:
        return size
    return 0 if str(value) == str(own.shape[axis]) else size


def _reshaped(writer: Writer, node: Node, sizes: list[Any]) -> list[onnx.NodeProto]:
    output = writer.names(node)
    open_ = [place for place, size in enumerate(sizes) if isinstance(size, Node)]
    if len(open_) == 1 and -1 not in sizes:
        sizes[open_[0]], open_ = -1, []
    if not open_:
        shape = writer.ints(sizes, f"{output}_shape")
        return [writer.node("Reshape", [writer.names(_source(node)), shape], output)]
    made, parts = [], []
    for place, size in enumerate(sizes):
        if not isinstance(size, Node):
            parts.append(writer.ints([size], f"{output}_size"))
            continue
        owner, axis = size.args
        assert isinstance(owner, Node)
        whole, part = writer.unused(f"{output}_of_{place}"), writer.unused(f"{output}_size_{place}")
        made.append(writer.node("Shape", [writer.names(owner)], whole))
        made.append(writer.node("Gather", [whole, writer.ints([axis], f"{output}_axis")], part))  # type: ignore[list-item]
        parts.append(part)
    shape = writer.unused(f"{output}_shape")
    made.append(writer.node("Concat", parts, shape, axis=0))
    return [*made, writer.node("Reshape", [writer.names(_source(node)), shape], output)]


def _permute(writer: Writer, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    source, order = _source(node), node.args[1]
    rank = len(order)  # type: ignore[arg-type]
    perm = [int(axis) % rank for axis in order]  # type: ignore[union-attr,arg-type]
    return [writer.node("Transpose", [writer.names(source)], writer.names(node), perm=perm)]


def _squeeze(writer: Writer, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    axes = _numbers(node.args[1], 1)
    return [writer.with_axes("Squeeze", writer.names(_source(node)), axes, writer.names(node), 13)]


def _unsqueeze(writer: Writer, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    axes = _numbers(node.args[1], 1)
    return [writer.with_axes("Unsqueeze", writer.names(_source(node)), axes, writer.names(node), 13)]


def _reduce(writer: Writer, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    given = dict(zip(("input", "dim", "keepdim"), node.args, strict=False)) | dict(node.kwargs)
    keeps = bool(given.get("keepdim", False))
    source, output = writer.names(_source(node)), writer.names(node)
    if like is not None and like.op_type == "GlobalMaxPool":
        pooled = output if keeps else writer.unused(f"{output}_map")
        made = [writer.node(like.op_type, [source], pooled)]
        return made if keeps else [*made, writer.node("Flatten", [pooled], output, axis=1)]
    name = _REDUCTIONS[node.target]
    since = 13 if name == "ReduceSum" else 18
    axes = _numbers(given["dim"], 1)
    return [writer.with_axes(name, source, axes, output, since, keepdims=int(keeps))]


def _global_pool(writer: Writer, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    if {*_numbers(node.args[1], 1)} != {1}:
        raise InternalError(f"{node.name} pools to more than one position")
    return [writer.node("GlobalAveragePool", [writer.names(_source(node))], writer.names(node))]


def _average_pool(writer: Writer, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    source, kernel, *rest = node.args
    if len(rest) > 1:
        raise InternalError(f"{node.name} pools in a way that is not written yet")
    assert isinstance(source, Node)
    extents = [*_numbers(kernel, 1)]
    strides = [*_numbers(rest[0], len(extents))] if rest else extents
    output = writer.names(node)
    return [writer.node("AveragePool", [writer.names(source)], output, kernel_shape=extents, strides=strides)]


def _binary(op_type: str) -> Write:
    def write(writer: Writer, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
        output = writer.names(node)
        first = next(operand for operand in node.args if isinstance(operand, Node))
        read = [
            writer.names(operand)
            if isinstance(operand, Node)
            else writer.number(operand, first, f"{output}_by")  # type: ignore[arg-type]
            for operand in node.args[:2]
        ]
        return [writer.node(op_type, read, output)]

    return write


def _source(node: Node) -> Node:
    source = node.args[0]
    assert isinstance(source, Node)
    return source


Write = Callable[[Writer, Node, "onnx.NodeProto | None"], list[onnx.NodeProto]]

_WRITERS: Mapping[Any, Write] = {
    _aten.linear: _linear,
    _aten.conv1d: _conv,
    _aten.conv2d: _conv,
    _aten.conv3d: _conv,
    _aten.flatten: _flatten,
    _aten.unflatten: _unflatten,
    _aten.reshape: _reshape,
    _aten.view: _reshape,
    _aten.permute: _permute,
    _aten.squeeze: _squeeze,
    _aten.unsqueeze: _unsqueeze,
    **dict.fromkeys(_REDUCTIONS, _reduce),
    _aten.adaptive_avg_pool1d: _global_pool,
    _aten.adaptive_avg_pool2d: _global_pool,
    _aten.adaptive_avg_pool3d: _global_pool,
    _aten.avg_pool1d: _average_pool,
    _aten.avg_pool2d: _average_pool,
    _aten.avg_pool3d: _average_pool,
    _aten.add: _binary("Add"),
    _aten.sub: _binary("Sub"),
    _aten.mul: _binary("Mul"),
    _aten.div: _binary("Div"),
}
