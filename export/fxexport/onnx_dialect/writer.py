"""Nodes of the graph as ONNX nodes, in the opset of the file: the way back from ``reading``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch.fx import Node

from fxexport.onnx_dialect.extents import onnx_type
from fxexport.onnx_dialect.operators import Operator, is_along
from fxpasses.errors import InternalError

_aten = torch.ops.aten
Arguments: TypeAlias = Mapping[str, Any]
"""The arguments of a node by name, those left out with the defaults of its overload."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NodeWriter:
    """Writes nodes, and the small constants that they need.

    Attributes:
        names: gives the file's name of a node's value.
        unused: gives a name that nothing in the file has, like the one asked for.
        is_turned: whether the file holds a weight as ``[K, O]``.
        extents: the symbols that stand for one extent of the file each.
        constants: what was needed so far.
    """

    opset: int
    names: Callable[[Node], str]
    unused: Callable[[str], str]
    is_turned: Callable[[Node], bool]
    extents: Container[str]
    constants: list[onnx.TensorProto] = dataclasses.field(default_factory=list)

    def write(self, node: Node, like: onnx.NodeProto | None) -> list[onnx.NodeProto]:
        """The ONNX nodes for a node of the graph; the last one gives its value.

        It keeps the name and documentation of ``like``, the file's node that it was before.
        """
        if isinstance(node.target, Operator):  # one that was fused with another
            return [self.node(node.target.op_type, node.all_input_nodes, node, name=self.unused(node.name))]
        write = _WRITERS.get(node.target) or _WRITERS.get(getattr(node.target, "overloadpacket", None))
        if write is None:
            raise InternalError(f"{node.target} has no ONNX operator to be written as")
        is_global = like is not None and like.op_type == "GlobalMaxPool"
        made = (_global_max if is_global else write)(self, node, _bound(node))
        if like is not None:
            made[-1].name, made[-1].doc_string = like.name, like.doc_string
            made[-1].metadata_props.extend(like.metadata_props)
        for proto in made:
            proto.name = proto.name or self.unused(node.name)
        return made

    def node(
        self, op_type: str, inputs: Sequence[Node | str], output: Node | str, **attributes: Any
    ) -> onnx.NodeProto:
        """A node of ONNX's own operators."""
        read = [item if isinstance(item, str) else self.names(item) for item in inputs]
        given = output if isinstance(output, str) else self.names(output)
        return helper.make_node(op_type, read, [given], **attributes)

    def ints(self, numbers: Sequence[int], name: str) -> str:
        """The name of a new constant that holds integers."""
        return self._constant(numpy_helper.from_array(np.array(numbers, np.int64), self.unused(name)))

    def number(self, value: float, like: Node, name: str) -> str:
        """The name of a new constant, one number of the type of a node."""
        known = like.meta.get("val")
        kind = onnx_type(known.dtype if isinstance(known, torch.Tensor) else torch.float32)
        return self._constant(helper.make_tensor(self.unused(name), kind, [], [value]))

    def _constant(self, tensor: onnx.TensorProto) -> str:
        self.constants.append(tensor)
        return str(tensor.name)


SOFTMAXES = (_aten.softmax.int, _aten.log_softmax.int)

Write = Callable[[NodeWriter, Node, Arguments], list[onnx.NodeProto]]


def rank_of(node: Node) -> int | None:
    """How many axes a node's value has, where it is known."""
    value = node.meta.get("val")
    return value.ndim if isinstance(value, torch.Tensor) else None


def _bound(node: Node) -> Arguments:
    schema = node.target._schema.arguments  # type: ignore[union-attr]  # an overload of ATen
    defaults = {item.name: item.default_value for item in schema if item.has_default_value()}
    return defaults | dict(zip((item.name for item in schema), node.args, strict=False)) | dict(node.kwargs)


def _numbers(value: Any, rank: int) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return numbers * rank if len(numbers) == 1 else numbers


def _linear(writer: NodeWriter, node: Node, given: Arguments) -> list[onnx.NodeProto]:
    source, weight, bias = given["input"], given["weight"], given["bias"]
    output, turned = writer.names(node), writer.is_turned(weight)
    added = [] if bias is None else [bias]
    if rank_of(source) == 2:
        if not added and writer.opset < 11:  # before, Gemm had to have all three
            added = [writer.number(0.0, node, f"{output}_zero")]
        return [writer.node("Gemm", [source, weight, *added], node, **({} if turned else {"transB": 1}))]
    if not turned:
        raise InternalError(f"{node.name} reads more than two axes and a weight that is not [K, O]")
    if not added:
        return [writer.node("MatMul", [source, weight], node)]
    product = writer.unused(f"{output}_product")
    return [
        writer.node("MatMul", [source, weight], product),
        writer.node("Add", [product, *added], node),
    ]


def _conv(writer: NodeWriter, node: Node, given: Arguments) -> list[onnx.NodeProto]:
    kernel = [int(extent) for extent in given["weight"].meta["val"].shape[2:]]
    attributes: dict[str, Any] = {  # some compilers know no defaults
        "kernel_shape": kernel,
        "strides": _numbers(given["stride"], len(kernel)),
        "dilations": _numbers(given["dilation"], len(kernel)),
        "pads": _numbers(given["padding"], len(kernel)) * 2,
        "group": given["groups"],
    }
    operands = [given["input"], given["weight"], given["bias"]]
    return [writer.node("Conv", [item for item in operands if item is not None], node, **attributes)]


def _flatten(writer: NodeWriter, node: Node, given: Arguments) -> list[onnx.NodeProto]:
    if (given["start_dim"], given["end_dim"]) != (1, -1):
        raise InternalError(f"{node.name} flattens axes that Flatten does not")
    return [writer.node("Flatten", [given["self"]], node, axis=1)]


def _unflatten(writer: NodeWriter, node: Node, given: Arguments) -> list[onnx.NodeProto]:
    axis, value = given["dim"], given["self"].meta.get("val")
    after = () if value is None else value.shape[axis + 1 :]  # of no known rank is what a site gave: [N, C]
    sizes = [*given["sizes"], *(extent if isinstance(extent, int) else -1 for extent in after)]
    before = [-1] if axis == 1 and -1 not in sizes else [0] * axis
    return _reshaped(writer, node, given["self"], [*before, *sizes])


def _reshape(writer: NodeWriter, node: Node, given: Arguments) -> list[onnx.NodeProto]:
    source, sizes = given["self"], given.get("shape", given.get("size"))
    known = [_copied(size, source, axis, writer.extents) for axis, size in enumerate(sizes)]
    return _reshaped(writer, node, source, known)


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


def _reshaped(writer: NodeWriter, node: Node, source: Node, sizes: list[Any]) -> list[onnx.NodeProto]:
    output = writer.names(node)
    open_ = [place for place, size in enumerate(sizes) if isinstance(size, Node)]
    if len(open_) == 1 and -1 not in sizes:
        sizes[open_[0]], open_ = -1, []
    if not open_:
        return [writer.node("Reshape", [source, writer.ints(sizes, f"{output}_shape")], node)]
    made, parts = [], []
    for place, size in enumerate(sizes):
        if not isinstance(size, Node):
            parts.append(writer.ints([size], f"{output}_size"))
            continue
        owner, axis = size.args
        whole, part = writer.unused(f"{output}_of_{place}"), writer.unused(f"{output}_size_{place}")
        made.append(writer.node("Shape", [owner], whole))  # type: ignore[list-item]  # a node
        made.append(writer.node("Gather", [whole, writer.ints([axis], f"{output}_axis")], part))  # type: ignore[list-item]
        parts.append(part)
    shape = writer.unused(f"{output}_shape")
    made.append(writer.node("Concat", parts, shape, axis=0))
    return [*made, writer.node("Reshape", [source, shape], node)]


def _permute(writer: NodeWriter, node: Node, given: Arguments) -> list[onnx.NodeProto]:
    perm = [axis % len(given["dims"]) for axis in given["dims"]]
    return [writer.node("Transpose", [given["self"]], node, perm=perm)]


def _along(op_type: str, since: int = 13) -> Write:
    """An operator along axes that an input says since some version; a reduction says what it keeps, too."""

    def write(writer: NodeWriter, node: Node, given: Arguments) -> list[onnx.NodeProto]:
        keeps = {"keepdims": int(given["keepdim"])} if "keepdim" in given else {}
        numbers, source = _numbers(given["dim"], 1), given["self"]
        if writer.opset < since:
            return [writer.node(op_type, [source], node, axes=numbers, **keeps)]
        axes = writer.ints(numbers, f"{writer.names(node)}_axes")
        return [writer.node(op_type, [source, axes], node, **keeps)]

    return write


def _global_max(writer: NodeWriter, node: Node, given: Arguments) -> list[onnx.NodeProto]:
    """A maximum over the map as the operator that the file had for it, which some compilers ask for."""
    pooled = writer.names(node) if given["keepdim"] else writer.unused(f"{writer.names(node)}_map")
    flat = [] if given["keepdim"] else [writer.node("Flatten", [pooled], node, axis=1)]
    return [writer.node("GlobalMaxPool", [given["self"]], pooled), *flat]


def _global_pool(writer: NodeWriter, node: Node, given: Arguments) -> list[onnx.NodeProto]:
    if {*_numbers(given["output_size"], 1)} != {1}:
        raise InternalError(f"{node.name} pools to more than one position")
    return [writer.node("GlobalAveragePool", [given["self"]], node)]


def _average_pool(writer: NodeWriter, node: Node, given: Arguments) -> list[onnx.NodeProto]:
    if len(node.args) > 3 or node.kwargs:
        raise InternalError(f"{node.name} pools in a way that is not written yet")
    kernel = _numbers(given["kernel_size"], 1)
    strides = _numbers(given["stride"] or kernel, len(kernel))
    return [writer.node("AveragePool", [given["self"]], node, kernel_shape=kernel, strides=strides)]


def _binary(op_type: str) -> Write:
    def write(writer: NodeWriter, node: Node, given: Arguments) -> list[onnx.NodeProto]:
        first, by = node.all_input_nodes[0], f"{writer.names(node)}_by"
        operands: list[Any] = [*node.args[:2]]
        read = [item if isinstance(item, Node) else writer.number(item, first, by) for item in operands]
        return [writer.node(op_type, read, node)]

    return write


def _softmax(op_type: str) -> Write:
    def write(writer: NodeWriter, node: Node, given: Arguments) -> list[onnx.NodeProto]:
        source, rank = given["self"], rank_of(node) or 0
        last = rank - 1
        if is_along(given["dim"], rank, writer.opset):
            return [writer.node(op_type, [source], node, axis=given["dim"])]
        order = [*range(rank)]
        order[given["dim"]], order[last] = order[last], order[given["dim"]]
        turned, scores = (writer.unused(f"{writer.names(node)}_{name}") for name in ("turned", "scores"))
        return [
            writer.node("Transpose", [source], turned, perm=order),
            writer.node(op_type, [turned], scores, axis=last),
            writer.node("Transpose", [scores], node, perm=order),
        ]

    return write


_WRITERS: Mapping[Any, Write] = {
    _aten.linear: _linear,
    **dict.fromkeys((_aten.conv1d, _aten.conv2d, _aten.conv3d), _conv),
    _aten.flatten: _flatten,
    _aten.unflatten: _unflatten,
    **dict.fromkeys((_aten.reshape, _aten.view), _reshape),
    _aten.permute: _permute,
    _aten.squeeze: _along("Squeeze"),
    _aten.unsqueeze: _along("Unsqueeze"),
    _aten.mean.dim: _along("ReduceMean", since=18),
    _aten.sum.dim_IntList: _along("ReduceSum"),
    _aten.amax.default: _along("ReduceMax", since=18),
    _aten.amin.default: _along("ReduceMin", since=18),
    **{getattr(_aten, f"adaptive_avg_pool{rank}d"): _global_pool for rank in (1, 2, 3)},
    **{getattr(_aten, f"avg_pool{rank}d"): _average_pool for rank in (1, 2, 3)},
    **dict(zip(SOFTMAXES, map(_softmax, ("Softmax", "LogSoftmax")), strict=True)),
    _aten.add: _binary("Add"),
    _aten.sub: _binary("Sub"),
    _aten.mul: _binary("Mul"),
    _aten.div: _binary("Div"),
}
