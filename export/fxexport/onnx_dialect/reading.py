"""ONNX operators as the ATen operators that equal them, one reader each.

A reader writes its node into the graph and says so, or leaves it a call of an ``Operator``: for attributes
that no ATen operator has, or operands that are not constants where they have to be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from fxexport.onnx_dialect.extents import torch_type
from fxexport.onnx_dialect.operators import ELEMENTWISE, QUANTIZED, is_along, operator
from fxexport.onnx_node import activation_of

if TYPE_CHECKING:
    from fxexport.onnx_dialect.open import NodeOpening

Reader = Callable[["NodeOpening"], bool]

_aten = torch.ops.aten
_CROSSED = ELEMENTWISE | set("Dropout Identity Cast Transpose Add Sub Mul Div".split())
"""What may stand between a pool and what reads its positions."""


def _gemm(call: NodeOpening) -> bool:
    alpha, beta = call.attribute("alpha"), call.attribute("beta")
    shape = call.shape()
    if shape is not None and len(shape) != 2:
        raise call.broken(f"reads {len(shape)} axes, and takes 2: a Flatten is missing before it")
    weight = call.weight(1, transposed=not call.attribute("transB"))
    if weight is None:
        return _computed_gemm(call)
    out = int(weight.meta["val"].shape[0])
    bias = call.input(2) if call.has(2) and beta != 0 else None
    source = call.input(0)
    if call.attribute("transA"):
        source = call.write(_aten.permute.default, source, [1, 0], name="transposed")
    is_plain = bias is None or (beta == 1 and call.shape(2) == (out,) and bias.op == "get_attr")
    if alpha == 1 and is_plain:
        return call.give(_aten.linear.default, source, weight, *([] if bias is None else [bias]))
    if bias is None:
        product = call.write(_aten.linear.default, source, weight, name="product")
        return call.give(_aten.mul.Tensor, product, alpha)
    product = call.write(_aten.linear.default, source, weight, name="product")
    if alpha != 1:
        product = call.write(_aten.mul.Tensor, product, alpha, name="scaled")
    if beta != 1:
        bias = call.write(_aten.mul.Tensor, bias, beta, name="bias")
    return call.give(_aten.add.Tensor, product, bias)


def _fused(read: Reader) -> Reader:
    """A reader of operators with an activation behind them, as ONNX Runtime's optimiser writes them."""

    def read_both(call: NodeOpening) -> bool:
        found = activation_of(call.proto)
        if found is None or found[1] or found[0] not in _FOLLOWING:
            return False
        call.follow = operator("", found[0])
        return read(call)

    return read_both


_FOLLOWING = ("Relu", "Sigmoid", "Tanh")
"""What may follow a product that is rewritten."""


def _computed_gemm(call: NodeOpening) -> bool:
    """One whose weight is no parameter: a Linear all the same, for its miss to be told."""
    if (call.attribute("alpha"), call.attribute("beta"), call.attribute("transA")) != (1, 1, 0):
        return False
    weight = call.input(1)
    if call.quantized(1):
        weight = call.write(QUANTIZED, weight, name="weight")
    elif not call.attribute("transB"):
        weight = call.write(_aten.permute.default, weight, [1, 0], name="weight")
    return call.give(_aten.linear.default, call.input(0), weight, *([call.input(2)] if call.has(2) else []))


def _matmul(call: NodeOpening) -> bool:
    shape = call.shape(1)
    weight = call.weight(1, transposed=True) if shape is not None and len(shape) == 2 else None
    if weight is None and call.quantized(1):
        packed = call.write(QUANTIZED, call.input(1), name="weight")
        return call.give(_aten.linear.default, call.input(0), packed)
    if weight is None:
        return call.give(_aten.matmul.default, call.input(0), call.input(1))
    bias = call.added_bias(int(shape[1]))  # type: ignore[index,arg-type]
    if bias is not None:
        call.defer(bias, call.input(0), weight)
        return True
    return call.give(_aten.linear.default, call.input(0), weight)


def _add(call: NodeOpening) -> bool:
    product = call.deferred()
    if product is not None:
        source, weight, bias = product
        return call.give(_aten.linear.default, source, weight, bias)
    return call.give(_aten.add.Tensor, call.input(0), call.input(1))


def _binary(target: Any) -> Reader:
    def read(call: NodeOpening) -> bool:
        return call.give(target, call.input(0), call.input(1))

    return read


def _padding(call: NodeOpening, rank: int) -> list[int] | str | None:
    """The padding of each axis, ``"same"``, or None where the two ends of an axis differ."""
    mode = call.attribute("auto_pad") or "NOTSET"
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return "same"
    pads = call.ints("pads") if mode == "NOTSET" else None
    pads = pads or (0,) * (2 * rank)
    return [*pads[:rank]] if pads[:rank] == pads[rank:] else None


def _conv(call: NodeOpening) -> bool:
    shape, weight = call.shape(1), call.weight(1)
    if weight is None and call.quantized(1):
        return _quantized(1, is_conv=True)(call)
    if shape is None or weight is None or not 3 <= len(shape) <= 5:
        return False
    rank = len(shape) - 2
    bias = call.input(2) if call.has(2) else None
    padding = _padding(call, rank)
    strides = [*(call.ints("strides") or (1,) * rank)]
    dilations = [*(call.ints("dilations") or (1,) * rank)]
    is_point = set(shape[2:]) == {1} and set(strides) == {1}
    if padding == "same":
        padding = [0] * rank if is_point else None  # another one at each end, or not; no site either way
    if padding is None:
        return False
    target = getattr(_aten, f"conv{rank}d").default
    return call.give(
        target, call.input(0), weight, bias, strides, padding, dilations, call.attribute("group")
    )


def _global_pool(name: str) -> Reader:
    def read(call: NodeOpening) -> bool:
        rank = len(call.shape() or ()) - 2
        if not 1 <= rank <= 3:
            return False
        if name == "max":
            return call.give(_aten.amax.default, call.input(), [*range(2, rank + 2)], True)
        return call.give(getattr(_aten, f"adaptive_avg_pool{rank}d").default, call.input(), [1] * rank)

    return read


def _max_pool(call: NodeOpening) -> bool:
    """One over the whole map, as exporters write a global one of a known size."""
    kernel, extents = call.ints("kernel_shape"), (call.shape() or ())[2:]
    padding = _padding(call, len(extents))
    is_whole = kernel == extents and isinstance(padding, list) and not any(padding)
    if not is_whole or call.attribute("ceil_mode") or set(call.ints("dilations") or (1,)) != {1}:
        return False
    return call.give(_aten.amax.default, call.input(), [*range(2, len(extents) + 2)], True)


def _quantized_pool(call: NodeOpening) -> bool:
    """A pool of integers: of what they stand for, which is quantised again."""
    shape, scales = call.shape(), [call.input(place) if call.has(place) else None for place in range(1, 5)]
    if shape is None or len(shape) != 4 or call.attribute("channels_last"):
        return False
    source = call.write(operator("", "DequantizeLinear"), call.input(), *scales[:2], name="values")
    pooled = call.write(_aten.adaptive_avg_pool2d.default, source, [1, 1], name="pooled")
    return call.give(operator("", "QuantizeLinear"), pooled, *scales[2:])


def _average_pool(call: NodeOpening) -> bool:
    kernel = call.ints("kernel_shape")
    rank = 0 if kernel is None else len(kernel)
    padding = _padding(call, rank)
    strides = call.ints("strides") or (1,) * rank
    if not 1 <= rank <= 3 or not isinstance(padding, list) or set(call.ints("dilations") or (1,)) != {1}:
        return False
    grid = _grid(call, kernel or (), strides, padding)
    if grid is not None:
        return call.give(getattr(_aten, f"adaptive_avg_pool{rank}d").default, call.input(), grid)
    target = getattr(_aten, f"avg_pool{rank}d").default
    is_ceil, counts_pad = bool(call.attribute("ceil_mode")), bool(call.attribute("count_include_pad"))
    return call.give(target, call.input(), [*kernel], [*strides], padding, is_ceil, counts_pad)  # type: ignore[misc]


def _grid(
    call: NodeOpening, kernel: tuple[int, ...], strides: tuple[int, ...], padding: list[int]
) -> list[int] | None:
    """The positions that a pool leaves for a head, as an adaptive pool says it; None for another pool."""
    extents = (call.shape() or ())[2:]
    if kernel != strides or any(padding) or len(extents) != len(kernel):
        return None
    pairs = [*zip(extents, kernel, strict=True)]
    if not all(isinstance(extent, int) and extent % window == 0 for extent, window in pairs):
        return None
    grid = [extent // window for extent, window in pairs if isinstance(extent, int)]
    reader = call.reader(crossing=_CROSSED)
    if reader is None or reader.op_type not in ("Flatten", "Reshape", "Conv"):
        return None
    if reader.op_type != "Conv":
        return grid
    weight = call.opened.constants.tensor(call.opened.constants.alias(reader.input[1]))
    return grid if weight is not None and [*weight.shape[2:]] == grid else None


def _reduce(target: Any) -> Reader:
    def read(call: NodeOpening) -> bool:
        axes, keeps = call.ints("axes", 1) or (), bool(call.attribute("keepdims"))
        source: Any = call.input()
        if source.target is _aten.permute.default and not keeps:  # of a map whose channels were moved last
            before, order = source.args
            left = [axis for place, axis in enumerate(order) if not {place, place - len(order)} & {*axes}]
            if left == sorted(left):
                source, axes = before, tuple(order[place] for place in axes)
        return bool(axes) and call.give(target, source, [*axes], keeps)

    return read


def _flatten(call: NodeOpening) -> bool:
    shape, axis = call.shape(), call.attribute("axis")
    axis = axis + len(shape) if axis < 0 and shape is not None else axis
    if axis == 1:
        return call.give(_aten.flatten.using_ints, call.input(), 1)
    return axis == 0 and call.give(_aten.reshape.default, call.input(), [1, -1])


def _reshape(call: NodeOpening) -> bool:
    sizes = call.sizes_at(1) if call.attribute("shape") is None else [*call.attribute("shape")]
    source = call.shape()
    if sizes is None or (0 in sizes and (call.attribute("allowzero") or source is None)):
        return False
    if any(isinstance(size, int) and size < -1 for size in sizes):
        raise call.broken(f"reads {sizes} as a shape")
    if any(size == 0 and axis >= len(source or ()) for axis, size in enumerate(sizes)):
        return False
    given = [call.size(call.input(), axis) if size == 0 else size for axis, size in enumerate(sizes)]
    return call.give(_aten.reshape.default, call.input(), given)


def _squeeze(call: NodeOpening) -> bool:
    axes = call.ints("axes", 1)
    if axes is None:
        return not call.has(1) and call.give(_aten.squeeze.default, call.input())
    return call.give(_aten.squeeze.dims, call.input(), [*axes])


def _unsqueeze(call: NodeOpening) -> bool:
    axes, shape = call.ints("axes", 1), call.shape()
    if axes is not None and len(axes) == 1:
        return call.give(_aten.unsqueeze.default, call.input(), axes[0])
    if axes is None or shape is None:
        return False
    rank = len(shape) + len(axes)
    places, kept = {axis % rank for axis in axes}, iter(range(len(shape)))
    sizes = [1 if axis in places else call.size(call.input(), next(kept)) for axis in range(rank)]
    return call.give(_aten.reshape.default, call.input(), sizes)


def _transpose(call: NodeOpening) -> bool:
    shape, order = call.shape(), call.ints("perm")
    if order is None and shape is not None:
        order = tuple(reversed(range(len(shape))))
    return order is not None and call.give(_aten.permute.default, call.input(), [*order])


def _identity(call: NodeOpening) -> bool:
    return call.give(_aten.clone.default, call.input())


def _dropout(call: NodeOpening) -> bool:
    if call.has(2) and not call.opened.constants.is_false(call.proto.input[2]):  # it may train
        return False
    return call.give(_aten.dropout.default, call.input(), 0.5, False)


def _cast(call: NodeOpening) -> bool:
    kind = torch_type(call.attribute("to"))
    return kind is not None and call.give(_aten.to.dtype, call.input(), kind)


def _softmax(target: Any) -> Reader:
    def read(call: NodeOpening) -> bool:
        shape, axis = call.shape(), call.attribute("axis")
        if not is_along(axis, len(shape or ()), call.opset):
            return False
        return call.give(target, call.input(), axis)

    return read


def _quantized(place: int, *, is_conv: bool = False) -> Reader:
    """A reader of products of integers: a Linear or convolution whose weight has scales of its own."""

    def read(call: NodeOpening) -> bool:
        shape = call.shape(place) or ()
        if is_conv and not 3 <= len(shape) <= 5:
            return False
        target = getattr(_aten, f"conv{len(shape) - 2}d").default if is_conv else _aten.linear.default
        return call.give(target, call.input(), call.write(QUANTIZED, call.input(place), name="weight"))

    return read


def _batch_norm(call: NodeOpening) -> bool:
    if call.attribute("training_mode"):
        return False
    statistics = [call.input(place) for place in range(1, 5)]
    momentum, epsilon = call.attribute("momentum"), call.attribute("epsilon")
    return call.give(_aten.batch_norm.default, call.input(), *statistics, False, momentum, epsilon, False)


def _layer_norm(call: NodeOpening) -> bool:
    shape, axis = call.shape(), call.attribute("axis")
    normed = () if shape is None else shape[axis:]
    are_known = bool(normed) and all(isinstance(extent, int) for extent in normed)
    if not are_known or call.attribute("stash_type") != 1:
        return False
    bias = call.input(2) if call.has(2) else None
    epsilon = call.attribute("epsilon")
    return call.give(_aten.layer_norm.default, call.input(), [*normed], call.input(1), bias, epsilon)


def _concat(call: NodeOpening) -> bool:
    read = [call.input(place) for place in range(len(call.proto.input))]
    return call.give(_aten.cat.default, read, call.attribute("axis"))


def _gather(call: NodeOpening) -> bool:
    places = call.ints("indices", 1) if call.shape(1) == () else None
    return places is not None and call.give(_aten.select.int, call.input(), call.attribute("axis"), places[0])


READERS: dict[str, Reader] = {
    "Add": _add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _binary(_aten.div.Tensor),
    "Dropout": _dropout,
    "Flatten": _flatten,
    "com.microsoft.FusedConv": _fused(_conv),
    "com.microsoft.FusedGemm": _fused(_gemm),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("average"),
    "GlobalMaxPool": _global_pool("max"),
    "Identity": _identity,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax(_aten.log_softmax.int),
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _binary(_aten.mul.Tensor),
    "ReduceMax": _reduce(_aten.amax.default),
    "ReduceMean": _reduce(_aten.mean.dim),
    "ReduceMin": _reduce(_aten.amin.default),
    "ReduceSum": _reduce(_aten.sum.dim_IntList),
    "ConvInteger": _quantized(1, is_conv=True),
    "MatMulInteger": _quantized(1),
    "QLinearConv": _quantized(3, is_conv=True),
    "QLinearMatMul": _quantized(3),
    "com.microsoft.DynamicQuantizeMatMul": _quantized(1),
    "com.microsoft.MatMulIntegerToFloat": _quantized(1),
    "com.microsoft.MatMulNBits": _quantized(1),
    "com.microsoft.QGemm": _quantized(3),
    "com.microsoft.QLinearGlobalAveragePool": _quantized_pool,
    "com.microsoft.QLinearConv": _quantized(3, is_conv=True),
    "Reshape": _reshape,
    "Softmax": _softmax(_aten.softmax.int),
    "Squeeze": _squeeze,
    "Sub": _binary(_aten.sub.Tensor),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
