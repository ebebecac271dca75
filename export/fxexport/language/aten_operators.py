"""What each ATen operator means, argument by argument."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from fxexport.language import arithmetic, definitions, moves, recurrent, sizes, windows
from fxexport.language.call import Call, Handler
from fxexport.language.constant_tensor import torch_value
from fxexport.language.constants import exact_array
from fxexport.language.contraction import convolution, linear, matmul, spelled_sum, transposed_convolution
from fxexport.language.extents import Extent, Polynomial, divided, minus, plus
from fxexport.language.fold_rules import UNIT
from fxexport.language.graph import NotRead
from fxexport.language.layout import extent_of
from fxexport.language.maps import cast, elementwise, terms_of_contents
from fxexport.language.sliding_window import Pair, SlidingWindow
from fxexport.language.term import FLOATS, Rounded, Terms, Uninterpreted, Value, numpy_type
from fxexport.untrusted.limits import MAX_SEQUENCE
from fxpasses.private_names import OpOverload

OPERATORS: dict[str, Handler] = {}
"""By overload: ``aten.conv2d.default``."""


def _handles(*names: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        OPERATORS.update({f"aten.{name}": handler for name in names})
        return handler

    return register


def _dim(value: Value, dim: int) -> int:
    if not -value.rank <= dim < value.rank:  # torch lets a number be a vector of one
        raise Uninterpreted("a dimension that is none")
    return dim % value.rank


def _reduced(call: Call, value: Value) -> tuple[list[int], bool]:
    """The dimensions that are reduced, all where none are given, and whether they stay."""
    given = call.optional_integers("dim") if call.has("dim") else None
    dims = [_dim(value, dim) for dim in given] if given and value.rank else list(range(value.rank))
    return dims, call.has("keepdim") and call.flag("keepdim")


def _result(call: Call) -> str:
    if not call.results or call.results[0] is None:
        raise Uninterpreted("a result of unknown type")
    return call.results[0]


def _operand(call: Call, name: str, dtype: str) -> Value:
    """A tensor, or a number, as a tensor of this type."""
    found = call.any(name)
    if isinstance(found, Value) and UNIT.get(found.dtype, 1) < UNIT.get(dtype, 0):
        stored = exact_array(found)
        if stored is None or stored.ndim:  # what is written in place is computed before it is rounded
            raise Uninterpreted("a type that loses digits")
        found = float(stored)  # a tensor without dimensions takes part as a number
    if isinstance(found, Value):
        return cast(call.terms, found, dtype)
    if isinstance(found, int | float):
        return definitions.number(call.terms, found, dtype)
    if isinstance(found, Polynomial) and dtype in ("float32", "float64"):  # which holds it as a file does
        return cast(call.terms, terms_of_contents(call.terms, [found], 0), dtype)
    raise Uninterpreted(f"{name} is no number")


def _held(call: Call, name: str, dtype: str) -> Value:
    """A tensor, or a number as the elements' type holds it: so it is before anything is compared with it."""
    found = call.any(name)
    if isinstance(found, int | float) and dtype in FLOATS:
        return call.terms.constant(np.asarray(found).astype(numpy_type(dtype)))
    return _operand(call, name, dtype)


def _both(call: Call, first: str, second: str, dtype: str) -> tuple[Value, Value]:
    return _operand(call, first, dtype), _operand(call, second, dtype)


def _promoted(call: Call, *names: str) -> str:
    """The type in which torch compares its operands; numbers take part as their own category."""
    items = [call.any(name) for name in names]
    tensors = [item for item in items if isinstance(item, Value)]
    kinds = {item.dtype for item in tensors}
    if len(kinds) != 1:
        raise Uninterpreted("operands of several types")
    (kind,) = kinds
    if any(isinstance(item, float) for item in items) and kind not in FLOATS:
        raise Uninterpreted("a fraction beside integers")
    return kind


@_handles(
    "conv1d.default", "conv2d.default", "conv3d.default", "conv1d.padding", "conv2d.padding",
    "conv3d.padding", "convolution.default",
)  # fmt: skip
def _conv(call: Call) -> Value:
    if call.has("transposed") and call.flag("transposed"):
        return _spread_out(call)
    if call.has("transposed"):
        call.ignore("output_padding")  # of transposed ones only
    value, weight, bias = call.tensor("input"), call.tensor("weight"), call.optional_tensor("bias")
    window = _window(call, weight.shape[2:])
    return convolution(call.terms, value, weight, bias, window, call.integer("groups"))


def _window(call: Call, kernel: Sequence[Extent]) -> SlidingWindow:
    """A window of this kernel with the call's steps, padding and gaps."""
    stride, dilation = (
        _spread(call.integers(name), len(kernel)) if call.has(name) else [] for name in ("stride", "dilation")
    )
    padding = call.any("padding")
    if padding == "valid":
        pairs: list[Pair] = []
    elif padding == "same":
        totals = [gap * (_fixed(size) - 1) for gap, size in zip(dilation, kernel, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(size, size) for size in _spread(call.integers("padding"), len(kernel))]
    is_ceil = call.has("ceil_mode") and call.flag("ceil_mode")
    return SlidingWindow.of(kernel, stride, pairs, dilation, ceil=is_ceil)


def _spread_out(call: Call) -> Value:
    value, weight = call.tensor("input"), call.tensor("weight")
    bias, window = call.optional_tensor("bias"), _window(call, weight.shape[2:])
    further = _spread(call.integers("output_padding"), len(window.kernel))
    pairs = zip(window.padding, further, strict=True)
    padding = tuple((before, minus(behind, more)) for (before, behind), more in pairs)
    window = dataclasses.replace(window, padding=padding)
    return transposed_convolution(call.terms, value, weight, bias, window, call.integer("groups"))


for _name in ("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input"):
    OPERATORS[f"aten.{_name}"] = _spread_out


@_handles("im2col.default")
def _unfold(call: Call) -> Value:
    terms, value = call.terms, call.tensor("self")
    window = _window(call, call.integers("kernel_size"))
    if value.rank != 4:
        raise Uninterpreted("blocks of another rank")
    return windows.unfolded(terms, value, window)


@_handles("col2im.default")
def _fold(call: Call) -> Value:
    window = _window(call, call.integers("kernel_size"))
    return windows.folded(call.terms, call.tensor("self"), call.extents("output_size"), window)


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    return list(numbers) * count if len(numbers) == 1 else list(numbers)


def _fixed(extent: Extent) -> int:
    if not isinstance(extent, int) or extent < 1:
        raise Uninterpreted("a free extent, or none")
    return extent


@_handles("linear.default")
def _linear(call: Call) -> Value:
    weight = call.tensor("weight")
    if weight.rank != 2:
        raise Uninterpreted("no matrix")
    return linear(call.terms, call.tensor("input"), weight, call.optional_tensor("bias"))


@_handles("addmm.default", "baddbmm.default")
def _addmm(call: Call) -> Value:
    if call.number("beta") != 1 or call.number("alpha") != 1:
        raise Uninterpreted("a scaled product")
    first, second = (call.tensor(f"{'mat' if call.has('mat1') else 'batch'}{place}") for place in (1, 2))
    return arithmetic.plus_within(call.terms, matmul(call.terms, first, second), call.tensor("self"))


@_handles("matmul.default", "mm.default", "bmm.default")
def _matmul(call: Call) -> Value:
    return matmul(call.terms, call.tensor("self"), call.tensor("other" if call.has("other") else "mat2"))


@_handles("mv.default", "dot.default", "vdot.default")
def _with_vector(call: Call) -> Value:
    other = next(name for name in ("vec", "tensor", "other") if call.has(name))
    return matmul(call.terms, call.real("self"), call.tensor(other))


@_handles("_weight_norm.default")
def _weight_norm(call: Call) -> Value:
    value, kept = call.real("v"), call.integer("dim")  # -1 keeps none
    dims = [axis for axis in range(value.rank) if axis != kept]
    length = definitions.euclidean_norm(call.terms, value, dims, keep=True)
    return arithmetic.multiply(call.terms, value, arithmetic.divide(call.terms, call.tensor("g"), length))


@_handles("einsum.default")
def _einsum(call: Call) -> Value:
    if call.any("path") is not None:
        raise Uninterpreted("a path")
    return spelled_sum(call.terms, call.text("equation"), call.tensors("tensors"))


@_handles("batch_norm.default")
def _batch_norm(call: Call) -> Value:
    call.ignore("cudnn_enabled", "momentum")  # another way to the same; of training only
    value = call.tensor("input")
    if not call.has("training") or not call.flag("training"):
        mean, variance = call.tensor("running_mean"), call.tensor("running_var")
    elif call.any("running_mean") is not None or call.any("running_var") is not None:
        raise NotRead("a batch norm in training changes its own state")
    else:
        dims = [dim for dim in range(value.rank) if dim != 1]  # of what it reads: standardised weights
        centred = arithmetic.subtract(
            call.terms, value, windows.reduce(call.terms, "mean", value, dims, keep=True)
        )
        squares = arithmetic.power(call.terms, centred, Fraction(2))
        mean, variance = (
            windows.reduce(call.terms, "mean", item, dims, keep=False) for item in (value, squares)
        )
    weight, bias = call.optional_tensor("weight"), call.optional_tensor("bias")
    return definitions.batch_norm(call.terms, value, weight, bias, mean, variance, _epsilon(call, value))


def _epsilon(call: Call, value: Value) -> Value:
    return definitions.number(call.terms, call.number("eps"), value.dtype)


@_handles("layer_norm.default")
def _layer_norm(call: Call) -> Value:
    call.ignore("cudnn_enable")
    value, shape = call.tensor("input"), call.extents("normalized_shape")
    if not shape or list(value.shape[value.rank - len(shape) :]) != shape:
        raise Uninterpreted("a norm over another shape")
    dims = list(range(value.rank - len(shape), value.rank))
    found = definitions.normalised(call.terms, value, dims, _epsilon(call, value))
    weight, bias = call.optional_tensor("weight"), call.optional_tensor("bias")
    return definitions.weighted(call.terms, found, weight, bias)


@_handles("rms_norm.default")
def _rms_norm(call: Call) -> Value:
    if call.any("eps") is None:
        raise Uninterpreted("a small number that each type has, and in 16 bits that of 32: torch defines it")
    value, shape = call.tensor("input"), call.extents("normalized_shape")
    weight = call.optional_tensor("weight")
    is_one = value.is_float and (weight is None or weight.dtype == value.dtype)
    if not shape or list(value.shape[value.rank - len(shape) :]) != shape or not is_one:
        raise Uninterpreted("a norm over another shape, or of several types")
    dims = range(value.rank - len(shape), value.rank)
    return definitions.root_mean_square_norm(call.terms, value, dims, _epsilon(call, value), weight)


@_handles("group_norm.default")
def _group_norm(call: Call) -> Value:
    call.ignore("cudnn_enabled")
    value, groups = call.tensor("input"), call.integer("num_groups")
    weight, bias = call.optional_tensor("weight"), call.optional_tensor("bias")
    return definitions.group_norm(call.terms, value, groups, _epsilon(call, value), weight, bias)


@_handles("instance_norm.default")
def _instance_norm(call: Call) -> Value:
    call.ignore("cudnn_enabled", "momentum", "running_var")  # another way to the same; told by the mean's
    value, weight, bias = call.tensor("input"), call.optional_tensor("weight"), call.optional_tensor("bias")
    if not call.flag("use_input_stats"):
        statistics = call.tensor("running_mean"), call.tensor("running_var")
        return definitions.batch_norm(call.terms, value, weight, bias, *statistics, _epsilon(call, value))
    if call.any("running_mean") is not None:
        raise Uninterpreted("running statistics")
    return definitions.instance_norm(call.terms, value, _epsilon(call, value), weight, bias)


def _first_of(handler: Handler, count: int) -> Handler:
    """What has so many results, of which the first is the handler's and the others have no term."""
    return lambda call: (handler(call), *[None] * (count - 1))


OPERATORS["aten._native_batch_norm_legit_no_training.default"] = _first_of(_batch_norm, 3)
OPERATORS["aten.native_layer_norm.default"] = _first_of(_layer_norm, 3)


@_handles("relu6.default")
def _relu6(call: Call) -> Value:
    value = call.real("self")
    bounds = [definitions.number(call.terms, bound, value.dtype) for bound in (0, 6)]
    return arithmetic.clamp(call.terms, value, *bounds)


def _clamped(call: Call, low: str | None, high: str | None) -> Value:
    value = call.real("self")

    def bound(name: str | None) -> Value | None:
        return None if name is None or call.any(name) is None else _held(call, name, value.dtype)

    return arithmetic.clamp(call.terms, value, bound(low), bound(high))


for _name, _low, _high in (
    ("hardtanh", "min_val", "max_val"),
    ("clamp", "min", "max"),
    ("clamp_min", "min", None),
    ("clamp_max", None, "max"),
):
    OPERATORS[f"aten.{_name}.default"] = functools.partial(_clamped, low=_low, high=_high)


def _function(function: Callable[..., Value], *numbers: str, is_real: bool = True) -> Handler:
    """A function of each element, and of these numbers."""

    def applied(call: Call) -> Value:
        value = call.real("self") if is_real else call.tensor("self")
        return function(call.terms, value, *(_operand(call, name, value.dtype) for name in numbers))

    return applied


for _name in definitions.UNARY:
    OPERATORS[f"aten.{_name}.default"] = _function(
        definitions.unary_of(_name), is_real=_name not in definitions.OF_INTEGERS
    )
OPERATORS["aten.expm1.default"] = _function(definitions.exp_minus_one)
OPERATORS["aten.log1p.default"] = _function(definitions.log_of_one_more)
OPERATORS["aten.log2.default"] = _function(functools.partial(definitions.log_of_base, base=2))
OPERATORS["aten.log10.default"] = _function(functools.partial(definitions.log_of_base, base=10))
OPERATORS["aten.reciprocal.default"] = _function(definitions.inverse)
OPERATORS["aten.trunc.default"] = _function(definitions.rounded_to_zero)
for _name, _exponent in (
    ("sqrt", Fraction(1, 2)),
    ("rsqrt", Fraction(-1, 2)),
    ("square", Fraction(2)),
):
    OPERATORS[f"aten.{_name}.default"] = _function(definitions.power_of(_exponent))
for _name, _own, *_numbers in (
    ("relu", definitions.relu),
    ("silu", definitions.silu),
    ("hardswish", definitions.hard_swish),
    ("hardsigmoid", definitions.hard_sigmoid_of_sixth),
    ("mish", definitions.mish),
    ("leaky_relu", definitions.leaky_relu, "negative_slope"),
    ("celu", definitions.celu, "alpha"),
    ("sinc", definitions.sinc),
    ("log_sigmoid", definitions.log_sigmoid),
):
    OPERATORS[f"aten.{_name}.default"] = _function(_own, *_numbers)


@_handles("neg.default")
def _neg(call: Call) -> Value:
    return arithmetic.negate(call.terms, call.tensor("self"))


@_handles("pow.Tensor_Scalar")
def _pow(call: Call) -> Value:
    value, exponent = call.real("self"), call.number("exponent")
    own = arithmetic.exponent_of(definitions.number(call.terms, float(exponent), "float64"))
    if own is not None:
        return arithmetic.power(call.terms, value, own)
    stored = definitions.number(call.terms, exponent, value.dtype)
    return elementwise(call.terms, "pow", [value, stored], value.dtype)


@_handles("exp2.default")
def _power_of_two(call: Call) -> Value:
    value = call.real("self")
    return definitions.raised(call.terms, definitions.number(call.terms, 2, value.dtype), value)


@_handles("logaddexp.default")
def _log_of_sum(call: Call) -> Value:
    """``log(exp(a) + exp(b))``, which torch computes of their difference."""
    dtype = _result(call)
    if dtype not in ("float32", "float64"):
        raise Uninterpreted("exponentials that half precision need not hold")
    raised = (definitions.unary(call.terms, "exp", item) for item in _both(call, "self", "other", dtype))
    call.terms.use("log-of-sum")
    return definitions.logarithm(call.terms, arithmetic.add(call.terms, next(raised), next(raised)))


@_handles("rrelu.default")
def _random_slope(call: Call) -> Value:
    """In evaluation a leaky ReLU, whose slope is the middle of those that training draws."""
    value = call.real("self")
    if call.flag("training"):
        raise Uninterpreted("a slope that is drawn")
    call.ignore("generator")
    slope = (call.number("lower") + call.number("upper")) / 2
    return definitions.leaky_relu(call.terms, value, definitions.number(call.terms, slope, value.dtype))


@_handles("pow.Scalar", "pow.Tensor_Tensor")
def _pow_of(call: Call) -> Value:
    dtype = _result(call)
    if dtype not in FLOATS:
        raise Uninterpreted("a power of integers")
    return definitions.raised(call.terms, *_both(call, "self", "exponent", dtype))


@_handles("gelu.default")
def _gelu(call: Call) -> Value:
    return definitions.gelu(call.terms, call.real("self"), call.text("approximate"))


@_handles("elu.default")
def _elu(call: Call) -> Value:
    value = call.real("self")
    if call.number("scale") != 1 or call.number("input_scale") != 1:
        raise Uninterpreted("a scaled elu")
    return definitions.elu(call.terms, value, _operand(call, "alpha", value.dtype))


@_handles("selu.default")
def _selu(call: Call) -> Value:
    value = call.real("self")
    alpha, scale = (
        definitions.number(call.terms, item, value.dtype) for item in (1.6732632423543772, 1.0507009873554805)
    )
    return definitions.elu(call.terms, value, alpha, scale)


@_handles("softplus.default")
def _softplus(call: Call) -> Value:
    """``softplus(beta·x) / beta``, but x itself where beta·x is above the limit."""
    value, scale = call.real("self"), call.number("beta")
    limit = definitions.number(call.terms, call.number("threshold"), value.dtype)
    if scale == 1:
        is_large = elementwise(call.terms, "gt", [value, limit], "bool")
        return definitions.choose(call.terms, is_large, value, definitions.softplus(call.terms, value))
    factor = definitions.number(call.terms, scale, _rounded_thrice(value.dtype))
    scaled = arithmetic.multiply(call.terms, value, factor)
    found = arithmetic.divide(call.terms, definitions.softplus(call.terms, scaled), factor)
    is_large = elementwise(call.terms, "gt", [scaled, limit], "bool")
    return definitions.choose(call.terms, is_large, value, found)


@_handles("glu.default")
def _glu(call: Call) -> Value:
    value = call.real("self")
    dim = _dim(value, call.integer("dim"))
    half = _fixed(extent_of(value.layout[dim])) // 2
    first, gate = moves.pieces(call.terms, value, dim, [half, half])
    return arithmetic.multiply(call.terms, first, definitions.sigmoid(call.terms, gate))


@_handles("threshold.default")
def _threshold(call: Call) -> Value:
    value = call.real("self")
    instead = _operand(call, "value", value.dtype)
    kind = "float64" if value.dtype == "float64" else "float32"  # which 16 bits are compared in
    limit = call.terms.real(float(np.asarray(call.number("threshold"), kind)), value.dtype)
    is_small = elementwise(call.terms, "le", [value, limit], "bool")
    return definitions.choose(call.terms, is_small, instead, value)


@_handles("hardshrink.default")
def _hardshrink(call: Call) -> Value:
    value = call.real("self")
    size = definitions.unary(call.terms, "abs", value)
    is_small = elementwise(call.terms, "le", [size, _held(call, "lambd", value.dtype)], "bool")
    return definitions.choose(call.terms, is_small, definitions.number(call.terms, 0, value.dtype), value)


def _rounded_thrice(dtype: str) -> str:
    """A type in which what is rounded once is what is rounded after each of its operators."""
    if dtype == "float16":
        raise Uninterpreted("a sum that half precision holds, of what it does not hold")
    return dtype


def _plus_combined(combine: Callable[[Terms, Value, Value], Value]) -> Handler:
    """``self + value · combine(tensor1, tensor2)``."""

    def combined(call: Call) -> Value:
        dtype = _rounded_thrice(_result(call))
        own, first, second = (_operand(call, name, dtype) for name in ("self", "tensor1", "tensor2"))
        found, factor = combine(call.terms, first, second), call.number("value")
        if factor != 1:
            found = arithmetic.multiply(call.terms, found, definitions.number(call.terms, factor, dtype))
        return arithmetic.add(call.terms, own, found)

    return combined


OPERATORS["aten.addcmul.default"] = _plus_combined(arithmetic.multiply)
OPERATORS["aten.addcdiv.default"] = _plus_combined(arithmetic.divide)


@_handles("lerp.Scalar")
def _lerp(call: Call) -> Value:
    value, end = _both(call, "self", "end", _rounded_thrice(call.real("self").dtype))
    weight = definitions.number(call.terms, call.number("weight"), value.dtype)
    gap = arithmetic.subtract(call.terms, end, value)
    return arithmetic.add(call.terms, value, arithmetic.multiply(call.terms, gap, weight))


@_handles("fmod.Scalar", "fmod.Tensor")
def _fmod(call: Call) -> Value:
    value = call.real("self")
    return elementwise(call.terms, "fmod", [value, _operand(call, "other", value.dtype)], value.dtype)


def _logical(name: str, *operands: str) -> Handler:
    def combined(call: Call) -> Value:
        # of bits of integers the result is another type
        return elementwise(call.terms, name, [call.tensor(operand) for operand in operands], "bool")

    return combined


for _name, _spellings in (
    ("and", ("__and__.Tensor", "bitwise_and.Tensor", "logical_and.default")),
    ("or", ("__or__.Tensor", "bitwise_or.Tensor", "logical_or.default")),
):
    OPERATORS.update({f"aten.{spelling}": _logical(_name, "self", "other") for spelling in _spellings})
for _spelling in ("bitwise_not.default", "logical_not.default"):
    OPERATORS[f"aten.{_spelling}"] = _logical("not", "self")


def _plus_alpha(combine: Callable[[Terms, Value, Value], Value]) -> Handler:
    """One value with ``alpha`` times the other."""

    def combined(call: Call) -> Value:
        dtype, alpha = _result(call), call.number("alpha")
        value, other = _both(call, "self", "other", dtype)
        if alpha != 1:
            factor = definitions.number(call.terms, alpha, _rounded_thrice(dtype))
            other = arithmetic.multiply(call.terms, other, factor)
        return combine(call.terms, value, other)

    return combined


for _overload in ("Tensor", "Scalar"):
    OPERATORS[f"aten.add.{_overload}"] = _plus_alpha(arithmetic.add)
    OPERATORS[f"aten.sub.{_overload}"] = _plus_alpha(arithmetic.subtract)


@_handles("mul.Tensor", "mul.Scalar")
def _mul(call: Call) -> Value:
    return definitions.multiplied(call.terms, *_both(call, "self", "other", _result(call)))


@_handles("div.Tensor", "div.Scalar")
def _div(call: Call) -> Value:
    dtype = _result(call)
    if dtype not in FLOATS:
        raise Uninterpreted("a quotient of integers")
    return definitions.quotient(call.terms, *_both(call, "self", "other", dtype))


@_handles("div.Tensor_mode", "div.Scalar_mode")
def _div_rounded(call: Call) -> Value:
    mode, dtype = call.any("rounding_mode"), _result(call)
    first, second = _both(call, "self", "other", dtype)
    if mode is None and dtype in FLOATS:
        return definitions.quotient(call.terms, first, second)
    left, right = exact_array(first), exact_array(second)
    if mode != "floor" or left is None or right is None or not right.all() or dtype not in _FLOORED:
        raise Uninterpreted("a quotient that is rounded")
    return call.terms.constant(np.asarray(np.floor_divide(left, right)).astype(numpy_type(dtype)))


_FLOORED = ("float32", "float64", "int64", "int32")
"""Types in which numpy divides and rounds down as torch does."""


def _comparison(name: str) -> Handler:
    def compare(call: Call) -> Value:
        dtype = _promoted(call, "self", "other")
        values = [_held(call, operand, dtype) for operand in ("self", "other")]
        if name == "ne":
            return definitions.unequal(call.terms, *values)
        return elementwise(call.terms, name, values, "bool")

    return compare


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    OPERATORS[f"aten.{_name}.Tensor"] = OPERATORS[f"aten.{_name}.Scalar"] = _comparison(_name)


@_handles("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(call: Call) -> Value:
    first, second = _both(call, "self", "other", _result(call))
    return definitions.choose(call.terms, call.tensor("condition"), first, second)


@_handles("masked_fill.Scalar")
def _masked_fill(call: Call) -> Value:
    value, mask = call.tensor("self"), call.tensor("mask")
    if not value.is_float or mask.dtype != "bool":
        raise Uninterpreted("a fill of what is no fraction, or by what is no mask")
    fill = _operand(call, "value", value.dtype)
    return definitions.choose(call.terms, mask, fill, value)


def _extreme(name: str) -> Handler:
    def compared(call: Call) -> Value:
        first, second = _both(call, "self", "other", _promoted(call, "self", "other"))
        return definitions.extreme(call.terms, name, first, second)

    return compared


for _name in ("maximum", "minimum"):
    OPERATORS[f"aten.{_name}.default"] = _extreme(_name)


def _pool_window(call: Call, spatial: int) -> SlidingWindow:
    """That of a pool, whose steps are as long as it is where no others are given."""
    kernel = _spread(call.integers("kernel_size"), spatial)
    window = _window(call, kernel)
    return window if call.integers("stride") else dataclasses.replace(window, stride=tuple(kernel))


def _max_pool(call: Call, spatial: int) -> Value:
    return windows.maximum_pool(call.terms, call.real("self"), _pool_window(call, spatial))


def _average_pool(call: Call, spatial: int) -> Value:
    divisor = call.any("divisor_override") if call.has("divisor_override") else None
    if divisor is not None and not isinstance(divisor, int):
        raise Uninterpreted("a divisor that is no integer")
    window, counts = _pool_window(call, spatial), call.flag("count_include_pad")
    return windows.average_pool(call.terms, call.real("self"), window, counts_padding=counts, divisor=divisor)


for _spatial in (1, 2, 3):
    OPERATORS[f"aten.max_pool{_spatial}d.default"] = functools.partial(_max_pool, spatial=_spatial)
    OPERATORS[f"aten.avg_pool{_spatial}d.default"] = functools.partial(_average_pool, spatial=_spatial)
for _spatial in (2, 3):
    OPERATORS[f"aten.max_pool{_spatial}d_with_indices.default"] = _first_of(
        functools.partial(_max_pool, spatial=_spatial), 2
    )


def _adaptive_pool(call: Call, name: str) -> Value:
    return windows.adaptive_pool(call.terms, name, call.real("self"), call.extents("output_size"))


for _name in (*(f"adaptive_avg_pool{n}d" for n in (1, 2, 3)), "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"):
    OPERATORS[f"aten.{_name}.default"] = functools.partial(_adaptive_pool, name="mean")
for _spatial in (1, 2, 3):
    OPERATORS[f"aten.adaptive_max_pool{_spatial}d.default"] = _first_of(
        functools.partial(_adaptive_pool, name="max"), 2
    )


@_handles("prod.dim_int")
def _prod(call: Call) -> Value:
    value = call.real("self")
    call.ignore("dtype")  # the result's own
    dim = _dim(value, call.integer("dim"))
    found = cast(call.terms, value, _result(call))
    return windows.reduce(call.terms, "prod", found, [dim], keep=call.flag("keepdim"))


def _deviation(power: Fraction | None) -> Handler:
    """A variance, or its power."""

    def deviated(call: Call) -> Value:
        value = call.real("self")
        dims, keep = _reduced(call, value)
        given = call.any("correction")
        correction = 1 if given is None else given
        if not isinstance(correction, int | float):
            raise Uninterpreted("a correction that is no number")
        found = definitions.variance(call.terms, value, dims, correction, keep=keep)
        return found if power is None else arithmetic.power(call.terms, found, power)

    return deviated


OPERATORS["aten.var.correction"] = _deviation(None)
OPERATORS["aten.std.correction"] = _deviation(Fraction(1, 2))


def _with_mean(name: str) -> Handler:
    """A variance, or its root, and the mean."""

    def both(call: Call) -> list[Value]:
        value = call.real("self")
        dims, keep = _reduced(call, value)
        return [OPERATORS[name](call), windows.reduce(call.terms, "mean", value, dims, keep=keep)]

    return both


for _name in ("var", "std"):
    OPERATORS[f"aten.{_name}_mean.correction"] = _with_mean(f"aten.{_name}.correction")


@_handles("logsumexp.default")
def _logsumexp(call: Call) -> Value:
    value = call.real("self")
    dims, keep = _reduced(call, value)
    return definitions.log_sum_exp(call.terms, value, dims, keep=keep)


@_handles("topk.default")
def _topk(call: Call) -> tuple[Value, ...]:
    value = call.tensor("self")
    if not call.flag("sorted"):
        raise Uninterpreted("cells in any order")
    dim, is_largest = _dim(value, call.integer("dim")), call.flag("largest")
    return windows.sorted_along(call.terms, value, dim, call.extent("k"), is_largest=is_largest)


@_handles("sort.default", "sort.stable")
def _sort(call: Call) -> tuple[Value, ...]:
    value = call.tensor("self")
    is_stable = bool(call.any("stable")) if call.has("stable") else False
    dim, is_largest = _dim(value, call.integer("dim")), call.flag("descending")
    extent = extent_of(value.layout[dim])
    return windows.sorted_along(call.terms, value, dim, extent, is_largest=is_largest, is_stable=is_stable)


@_handles("cumsum.default")
def _cumsum(call: Call) -> Value:
    value = cast(call.terms, call.tensor("self"), _result(call))
    call.ignore("dtype")  # the result's own
    return windows.summed_up(call.terms, value, _dim(value, call.integer("dim")))


@_handles("linalg_vector_norm.default")
def _vector_norm(call: Call) -> Value:
    order = call.number("ord")
    if order not in (1, 2):
        raise Uninterpreted("a norm of another order")
    value = cast(call.terms, call.tensor("self"), _result(call))
    call.ignore("dtype")  # the result's own
    dims, keep = _reduced(call, value)
    if order == 1 and value.is_float:
        return windows.reduce(call.terms, "sum", definitions.unary(call.terms, "abs", value), dims, keep=keep)
    return definitions.euclidean_norm(call.terms, value, dims, keep=keep)


def _extreme_along(call: Call, name: str) -> list[Value]:
    value, keep = call.tensor("self"), call.flag("keepdim")
    dims = [_dim(value, call.integer("dim"))]
    return [windows.reduce(call.terms, name, value, dims, keep=keep), _place(call, name)]


def _place(call: Call, name: str) -> Value:
    value = call.tensor("self")
    return windows.place(call.terms, name, value, _dim(value, call.integer("dim")), keep=call.flag("keepdim"))


def _reduction(call: Call, name: str) -> Value:
    value = cast(call.terms, call.tensor("self"), _result(call))
    call.ignore("dtype")  # the result's own
    dims, keep = _reduced(call, value)
    return windows.reduce(call.terms, name, value, dims, keep=keep)


for _overload, _name in (
    ("mean.dim", "mean"),
    ("mean.default", "mean"),
    ("sum.dim_IntList", "sum"),
    ("sum.default", "sum"),
    ("amax.default", "max"),
    ("amin.default", "min"),
):
    OPERATORS[f"aten.{_overload}"] = functools.partial(_reduction, name=_name)
for _name in ("max", "min"):
    OPERATORS[f"aten.{_name}.dim"] = functools.partial(_extreme_along, name=_name)
    OPERATORS[f"aten.arg{_name}.default"] = functools.partial(_place, name=_name)


@_handles("aminmax.default")
def _both_extremes(call: Call) -> list[Value]:
    value, keep, dim = call.tensor("self"), call.flag("keepdim"), call.any("dim")
    dims = [*range(value.rank)] if dim is None else [_dim(value, dim)]
    return [windows.reduce(call.terms, name, value, dims, keep=keep) for name in ("min", "max")]


@_handles("flatten.using_ints")
def _flatten(call: Call) -> Value:
    value = call.tensor("self")
    places = [call.integer(name) for name in ("start_dim", "end_dim")]
    if not value.rank:
        return moves.unsqueeze(value, [0])
    return moves.written_out(call.terms, moves.flatten(value, *(_dim(value, at) for at in places)))


@_handles("view.default", "_unsafe_view.default", "reshape.default")
def _view(call: Call) -> Value:
    return moves.reshape(
        call.terms, call.tensor("self"), call.extents("size" if call.has("size") else "shape")
    )


@_handles("repeat.default")
def _repeat(call: Call) -> Value:
    return moves.written_out(call.terms, moves.tile(call.tensor("self"), call.extents("repeats")))


@_handles("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec")
def _upsample_nearest(call: Call) -> Value:
    value, factors = call.tensor("input"), call.any("scale_factors")
    if factors is None or call.any("output_size") is not None:
        sizes = call.extents("output_size")
        extents = value.shape[value.rank - len(sizes) :]
        factors = [divided(size, extent) for size, extent in zip(sizes, extents, strict=True)]
    if not all(isinstance(factor, int | float) for factor in factors):
        raise Uninterpreted("cells that are repeated unevenly")
    return windows.nearest(call.terms, value, factors)


def _upsample(mode: str) -> Handler:
    def upsampled(call: Call) -> Value:
        factors = call.any("scale_factors")
        return windows.resized(
            call.terms,
            call.tensor("input"),
            mode,
            None if call.any("output_size") is None else call.extents("output_size"),
            factors,
            aligns_corners=call.flag("align_corners"),
        )

    return upsampled


for _name in ("linear1d", "bilinear2d", "trilinear3d", "bicubic2d"):
    OPERATORS[f"aten.upsample_{_name}.vec"] = _upsample("cubic" if "cubic" in _name else "linear")
for _name in ("bilinear2d", "bicubic2d"):
    OPERATORS[f"aten._upsample_{_name}_aa.vec"] = _upsample("antialiased")


@_handles("permute.default")
def _permute(call: Call) -> Value:
    value = call.tensor("self")
    return value.permuted([_dim(value, dim) for dim in call.integers("dims")])


@_handles("transpose.int")
def _transpose(call: Call) -> Value:
    value = call.tensor("self")
    order = list(range(value.rank))
    first, second = (_dim(value, call.integer(name)) for name in ("dim0", "dim1"))
    order[first], order[second] = second, first
    return value.permuted(order)


@_handles("t.default")
def _t(call: Call) -> Value:
    value = call.tensor("self")
    return value.permuted(list(reversed(range(value.rank))))


@_handles("flip.default")
def _flip(call: Call) -> Value:
    value = call.tensor("self")
    for given in call.integers("dims"):
        value = moves.flip(call.terms, value, _dim(value, given))
    return value


@_handles("squeeze.dim", "squeeze.dims")
def _squeeze(call: Call) -> Value:
    value = call.tensor("self")
    given = call.any("dim")
    dims = [_dim(value, dim) for dim in (given if isinstance(given, list | tuple) else [given])]
    return moves.squeeze(value, [dim for dim in dims if value.layout[dim] == ()])


@_handles("squeeze.default")
def _squeeze_all(call: Call) -> Value:
    value = call.tensor("self")  # torch does not record a free extent that may be 1
    return moves.squeeze(value, [dim for dim, parts in enumerate(value.layout) if not parts])


@_handles("unsqueeze.default")
def _unsqueeze(call: Call) -> Value:
    value, dim = call.tensor("self"), call.integer("dim")
    return moves.unsqueeze(value, [dim % (value.rank + 1)])


@_handles("expand.default")
def _expand(call: Call) -> Value:
    call.ignore("implicit")  # says who wrote it
    return moves.expand(call.tensor("self"), call.extents("size"))


@_handles("slice.Tensor")
def _slice(call: Call) -> Value:
    value = call.tensor("self")
    dim, step = _dim(value, call.integer("dim")), call.integer("step")
    extent = extent_of(value.layout[dim])
    start, end = (call.any(name) for name in ("start", "end"))
    start = _within(0 if start is None else start, extent)
    end = extent if end is None else _within(end, extent)
    return moves.take(call.terms, value, dim, start, step, moves.slice_count(start, end, step))


def _within(place: Any, extent: Extent) -> Extent:
    return moves.held_within(place, extent, end=2**62)


@_handles("select.int")
def _select(call: Call) -> Value:
    value, index = call.tensor("self"), call.integer("index")
    dim = _dim(value, call.integer("dim"))
    place: Extent = plus(extent_of(value.layout[dim]), index) if index < 0 else index
    return moves.select(call.terms, value, dim, place)


@_handles("index.Tensor")
def _index(call: Call) -> Value:
    value, given = call.tensor("self"), _without_masks(call.terms, call.any("indices"))
    dims = [dim for dim, index in enumerate(given) if index is not None]
    indices = [given[dim] for dim in dims]
    if not dims or not all(isinstance(index, Value) for index in indices):
        raise Uninterpreted("no index")
    if len(dims) == 1:
        return moves.gather(call.terms, value, dims[0], indices[0])
    found = moves.gather_several(call.terms, value, dims, indices)
    if dims[-1] - dims[0] >= len(dims):
        return found  # what stands between them tells no place
    rank = found.rank - (value.rank - len(dims))
    before, behind = range(rank, rank + dims[0]), range(rank + dims[0], found.rank)
    return found.permuted([*before, *range(rank), *behind])


def _without_masks(terms: Terms, given: Sequence[Any]) -> list[Any]:
    """Indices with the places of what is true in the place of a mask, one for each of its dimensions."""
    found: list[Any] = []
    for index in given:
        if not isinstance(index, Value) or index.dtype != "bool":
            found.append(index)
            continue
        places = moves.places_of_true(terms, index)
        found.extend(moves.select(terms, places, 0, dim) for dim in range(index.rank))
    return found


@_handles("nonzero.default")
def _non_zero(call: Call) -> Value:
    return moves.places_of_true(call.terms, call.tensor("self")).permuted([1, 0])


@_handles("index_select.default")
def _index_select(call: Call) -> Value:
    value, index = call.tensor("self"), call.tensor("index")
    return moves.gather(call.terms, value, _dim(value, call.integer("dim")), index)


@_handles("embedding.default")
def _embedding(call: Call) -> Value:
    call.ignore("padding_idx", "scale_grad_by_freq", "sparse")  # of training only
    return moves.gather(call.terms, call.tensor("weight"), 0, call.tensor("indices"))


@_handles("gather.default")
def _gather(call: Call) -> Value:
    call.ignore("sparse_grad")  # of training only
    value = call.tensor("self")
    return moves.gather_each(call.terms, value, _dim(value, call.integer("dim")), call.tensor("index"))


_JOINED = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}
"""How torch names what ONNX does to cells that come to one place."""


def _scatter(call: Call, way: str) -> Value:
    value, index = call.tensor("self"), call.tensor("index")
    if call.has("value"):
        stored = definitions.number(call.terms, call.number("value"), value.dtype)
        cells = moves.expand(stored, index.shape)
    else:
        cells = call.tensor("src")
    for dim, wanted in enumerate(index.shape if cells.rank == index.rank else ()):
        cells = moves.take(call.terms, cells, dim, 0, 1, wanted)  # of more the first ones count
    if call.has("reduce"):
        way = _JOINED.get(call.text("reduce"), "")
        if not way or not call.flag("include_self"):
            raise Uninterpreted("cells that are joined in another way")
    return moves.scatter_each(call.terms, value, _dim(value, call.integer("dim")), index, cells, way)


for _name, _way in (
    ("scatter.src", "none"),
    ("scatter.value", "none"),
    ("scatter_add.default", "add"),
    ("scatter_reduce.two", ""),
):
    OPERATORS[f"aten.{_name}"] = functools.partial(_scatter, way=_way)


@_handles("copy.default")
def _copy(call: Call) -> Value:
    value, cells = call.tensor("self"), call.tensor("src")
    call.ignore("non_blocking")  # when, not what
    return moves.expand(cast(call.terms, cells, value.dtype), value.shape)


@_handles("slice_scatter.default")
def _slice_scatter(call: Call) -> Value:
    value, start, end = call.tensor("self"), call.any("start"), call.any("end")
    dim, cells, step = _dim(value, call.integer("dim")), call.tensor("src"), call.integer("step")
    extent = extent_of(value.layout[dim])
    if (start in (0, None), step) == (True, 1) and (end is None or _within(end, extent) == extent):
        return moves.expand(cells, value.shape)
    if isinstance(start, Polynomial) or isinstance(end, Polynomial):
        raise Uninterpreted("a slice of a free extent")
    if step != 1 or exact_array(value) is not None or not isinstance(extent, int):
        places = [slice(None)] * value.rank
        places[dim] = slice(start, end, step)
        return moves.overwritten(call.terms, value, tuple(places), cells)
    first, last, _ = slice(start, end).indices(extent)
    if extent_of(cells.layout[dim]) != last - first:
        raise Uninterpreted("cells that do not fit")
    return moves.with_cells(call.terms, value, dim, first, cells)


@_handles("select_scatter.default")
def _select_scatter(call: Call) -> Value:
    value = call.tensor("self")
    dim, index = _dim(value, call.integer("dim")), call.integer("index")
    place = index % _fixed(value.shape[dim]) if index < 0 else index
    return moves.with_cells(call.terms, value, dim, place, moves.unsqueeze(call.tensor("src"), [dim]))


@_handles("split_with_sizes.default", "split.sizes")
def _split_with_sizes(call: Call) -> list[Value]:
    value = call.tensor("self")
    sizes = call.extents("split_sizes" if call.has("split_sizes") else "split_size")
    return moves.pieces(call.terms, value, _dim(value, call.integer("dim")), sizes)


@_handles("split.Tensor")
def _split(call: Call) -> list[Value]:
    value = call.tensor("self")
    dim = _dim(value, call.integer("dim"))
    extent = _fixed(extent_of(value.layout[dim]))
    size = call.integer("split_size")
    sizes = [min(size, extent - start) for start in range(0, extent, size)]
    return moves.pieces(call.terms, value, dim, sizes)


@_handles("unbind.int")
def _unbind(call: Call) -> list[Value]:
    value = call.tensor("self")
    dim = _dim(value, call.integer("dim"))
    count = _fixed(extent_of(value.layout[dim]))
    return [moves.select(call.terms, value, dim, place) for place in range(count)]


@_handles("narrow.default")
def _narrow(call: Call) -> Value:
    value = call.tensor("self")
    dim = _dim(value, call.integer("dim"))
    start = call.extent("start")
    if isinstance(start, int) and start < 0:
        raise Uninterpreted("a start from behind")
    return moves.take(call.terms, value, dim, start, 1, call.extent("length"))


@_handles("cat.default")
def _cat(call: Call) -> Value:
    dtype = _result(call)
    values = [cast(call.terms, value, dtype) for value in call.tensors("tensors")]
    if len({value.rank for value in values}) != 1:
        raise Uninterpreted("values of several ranks")
    return moves.concatenate(call.terms, values, _dim(values[0], call.integer("dim")))


@_handles("stack.default")
def _stack(call: Call) -> Value:
    dtype = _result(call)
    values = [cast(call.terms, value, dtype) for value in call.tensors("tensors")]
    dim = call.integer("dim") % (values[0].rank + 1)
    return moves.concatenate(call.terms, [moves.unsqueeze(value, [dim]) for value in values], dim)


@_handles("roll.default")
def _roll(call: Call) -> Value:
    value, shifts, dims = call.tensor("self"), call.integers("shifts"), call.integers("dims")
    if len(shifts) != len(dims):
        raise Uninterpreted("a roll of what is flattened")
    for shift, given in zip(shifts, dims, strict=True):
        dim = _dim(value, given)
        extent = _fixed(extent_of(value.layout[dim]))
        cut = -shift % extent
        if cut:
            ends = [
                moves.take(call.terms, value, dim, cut, 1, extent - cut),
                moves.take(call.terms, value, dim, 0, 1, cut),
            ]
            value = moves.concatenate(call.terms, ends, dim)
    return value


@_handles("pad.default", "constant_pad_nd.default")
def _pad(call: Call) -> Value:
    value, sizes = call.tensor("self"), call.extents("pad")
    fill = 0 if call.any("value") is None else call.number("value")
    mode = call.text("mode") if call.has("mode") else "constant"
    if any(isinstance(size, Polynomial) for size in sizes):
        raise Uninterpreted("padding by a free extent")
    stored = definitions.number(call.terms, fill, value.dtype) if mode == "constant" else None
    for place in range(len(sizes) // 2):
        dim = value.rank - 1 - place
        value = moves.pad(call.terms, value, dim, sizes[2 * place], sizes[2 * place + 1], mode, stored)
    return value


@_handles(
    "alias.default", "clone.default", "contiguous.default", "detach.default", "lift_fresh_copy.default",
    "lift_fresh.default",
)  # fmt: skip
def _same(call: Call) -> Value:
    call.ignore("memory_format")  # how it lies in memory, not what it is
    call.terms.use("copy")
    return call.tensor("self")


@_handles("dropout.default", "feature_dropout.default", "alpha_dropout.default")
def _dropout(call: Call) -> Value:
    if call.any("train") is not False:
        raise Uninterpreted("dropout in training")
    call.ignore("p")
    call.terms.use("dropout-in-evaluation")
    return call.tensor("input")


OPERATORS["aten.native_dropout.default"] = _first_of(_dropout, 2)


def _soft(function: Callable[[Terms, Value, int], Value]) -> Handler:
    def softened(call: Call) -> Value:
        call.ignore("dtype")  # the result's own
        value = cast(call.terms, call.real("self"), _result(call))
        return function(call.terms, value, _dim(value, call.integer("dim")))

    return softened


for _name in ("softmax.int", "_softmax.default"):
    OPERATORS[f"aten.{_name}"] = _soft(definitions.softmax)
for _name in ("log_softmax.int", "_log_softmax.default"):
    OPERATORS[f"aten.{_name}"] = _soft(definitions.log_softmax)


@_handles("scaled_dot_product_attention.default")
def _attention(call: Call) -> Value:
    if call.number("dropout_p") != 0 or call.flag("enable_gqa"):
        raise Uninterpreted("another attention")
    query, key, value = (call.tensor(name) for name in ("query", "key", "value"))
    scale, mask = call.any("scale"), call.optional_tensor("attn_mask")
    factor = None if scale is None else _factor(call.terms, call.number("scale"), query.dtype)
    is_causal = call.flag("is_causal")
    return definitions.attention(call.terms, query, key, value, mask, factor, is_causal=is_causal)


def _factor(terms: Terms, scale: float, dtype: str) -> Value:
    """What scores are multiplied with, or queries and keys each with its root: where that is rounded."""
    with np.errstate(all="ignore"):
        held = np.float64(numpy_type(dtype).type(scale))
        root = np.float64(np.sqrt(held).astype(numpy_type(dtype)))
    is_exact = held == scale == root * root
    return (definitions.number if is_exact else definitions.defined)(terms, scale, dtype)


@_handles("grid_sampler.default")
def _grid_sample(call: Call) -> Value:
    mode, padding = call.integer("interpolation_mode"), call.integer("padding_mode")
    if not (0 <= mode < len(definitions.GRID_MODES) and 0 <= padding < len(definitions.GRID_ENDS)):
        raise Uninterpreted("another way between cells")
    return definitions.grid_sample(
        call.terms,
        call.tensor("input"),
        call.tensor("grid"),
        definitions.GRID_MODES[mode],
        definitions.GRID_ENDS[padding],
        corners=call.flag("align_corners"),
    )


@_handles("nan_to_num.default")
def _nan_to_num(call: Call) -> Value:
    value = call.real("self")
    ends = torch.finfo(getattr(torch, value.dtype))
    numbers = [
        definitions.number(call.terms, default if call.any(name) is None else call.number(name), value.dtype)
        for name, default in (("nan", 0.0), ("posinf", ends.max), ("neginf", ends.min))
    ]
    return definitions.without_specials(call.terms, value, *numbers)


def _is_special(name: str) -> Handler:
    return lambda call: elementwise(call.terms, name, [call.real("self")], "bool")


for _name in ("isinf", "isnan"):
    OPERATORS[f"aten.{_name}.default"] = _is_special(_name)


@_handles("clamp.Tensor")
def _clamp_each(call: Call) -> Value:
    value = call.real("self")
    for name, own in (("min", "maximum"), ("max", "minimum")):
        if call.any(name) is not None:
            value = definitions.extreme(call.terms, own, value, _operand(call, name, value.dtype))
    return value


@_handles("prelu.default")
def _prelu(call: Call) -> Value:
    value, slope = call.real("self"), call.tensor("weight")
    if slope.rank != 1 or value.rank < 2:
        raise Uninterpreted("a slope of another rank")
    placed = moves.unsqueeze(slope, list(range(1, value.rank - 1)))
    return definitions.leaky_relu(call.terms, value, placed)


@_handles("to.dtype", "_to_copy.default", "to.dtype_layout", "to.device")
def _to(call: Call) -> Value:
    # the result's type says it; the rest is where it lies
    call.ignore("dtype", "copy", "non_blocking", "memory_format")
    for name in ("layout", "device", "pin_memory"):
        given = call.any(name) if call.has(name) else None
        if given not in (None, False, torch.strided) and not isinstance(given, torch.device):
            raise Uninterpreted(name)
    return cast(call.terms, call.tensor("self"), _result(call))


def _arange(target: OpOverload, call: Call) -> Value:
    call.ignore("dtype", "device", "layout", "pin_memory")  # the result's own; where it lies, and how
    ends = [call.any(name) if call.has(name) else other for name, other in (("start", 0), ("step", 1))]
    given = (*ends, call.any("end"))
    if any(isinstance(item, float) and not item.is_integer() for item in given):
        return _fractions(target, call, *given)
    start, step, end = (_whole(item) for item in given)
    dtype = _result(call)
    if not step or dtype not in _FLOORED:
        raise Uninterpreted("a range without end, or of another type")
    return sizes.counted(call.terms, start, end, step, dtype)


for _name in ("default", "start", "start_step"):
    _target = getattr(torch.ops.aten.arange, _name)
    OPERATORS[str(_target)] = functools.partial(_arange, _target)


def _fractions(target: OpOverload, call: Call, start: Any, step: Any, end: Any) -> Value:
    """A range that is no longer than a table may be."""
    if not all(isinstance(item, int | float) for item in (start, step, end)):
        raise Uninterpreted("a range of fractions to a free extent")
    if not step or not 0 <= (end - start) / step <= MAX_SEQUENCE or _result(call) not in UNIT:
        raise Uninterpreted("a range without end, or of another type")
    return _table(target, call)


def _whole(number: Any) -> Extent:
    """An extent, or a number that is an integer."""
    if isinstance(number, int | float) and abs(number) < 2**53 and number == int(number):
        return int(number)
    if not isinstance(number, Polynomial):
        raise Uninterpreted("a range of fractions")
    return number


def _recurrent(kind: str, call: Call) -> list[Value]:
    """All layers and directions, one after the other; between layers nothing is dropped in evaluation."""
    terms, value = call.terms, call.tensor("input")
    hx = call.tensors("hx") if kind == "lstm" else [call.tensor("hx")]
    if call.flag("train") and call.number("dropout"):
        raise Uninterpreted("a dropout in training")
    call.ignore("train", "dropout")
    value = value.permuted([1, 0, 2]) if call.flag("batch_first") and value.rank == 3 else value
    params, size = call.tensors("params"), 4 if call.flag("has_biases") else 2
    count, ways = call.integer("num_layers"), 1 + call.flag("bidirectional")
    if len(params) != count * ways * size:
        raise Uninterpreted("a layer with a projection")
    layers: list[list[Value]] = []
    for place in range(0, count * ways, ways):
        directions = []
        for at in range(place, place + ways):
            own, other, *biases = params[at * size : (at + 1) * size]
            gates = range(4 if kind == "lstm" else 3)
            directions.append(
                recurrent.Direction(
                    weights=(own, other),
                    biases=tuple(recurrent.reordered(terms, item, gates) for item in biases or (None, None)),  # type: ignore[arg-type]
                    state=tuple(recurrent.started(terms, item, at) for item in hx),
                    is_reverse=at > place,
                )
            )
        value, states = recurrent.layer(terms, kind, value, directions)
        layers.append(recurrent.together(terms, states))
    value = value.permuted([1, 0, 2]) if call.flag("batch_first") else value
    return [value, *(moves.concatenate(terms, state, 0) for state in zip(*layers, strict=True))]


for _name in ("lstm", "gru"):  # exporters write others step by step, as torch defines them
    OPERATORS[f"aten.{_name}.input"] = functools.partial(_recurrent, _name)


def _table(target: OpOverload, call: Call) -> Value:
    """A table of numbers alone, as torch itself makes it; others round its fractions otherwise."""
    given = {argument.name: call.any(argument.name) for argument in target._schema.arguments}
    if any(isinstance(item, Polynomial) for item in given.values()):
        raise Uninterpreted("a table of free extents")
    if math.prod(max(item, 1) for item in given.values() if isinstance(item, int)) > MAX_SEQUENCE:
        raise Uninterpreted("a table beyond the limit")
    try:
        found = target(**given | {"device": "cpu", "pin_memory": None})
    except NotImplementedError as error:
        raise Uninterpreted("a table of a type that it is not made in") from error
    stored = torch_value(call.terms, found)
    array = exact_array(stored)
    if array is None or stored.dtype not in UNIT:
        return stored
    numbers = array.astype(np.float64)
    off = 4 * UNIT[stored.dtype] * float(np.abs(numbers).max(initial=0))
    if np.all(numbers == np.rint(numbers)):
        return stored
    return call.terms.constant(array, rounded=Rounded(defined=off, step=off), dtype=stored.dtype)


for _name in (
    "linspace",
    "eye",
    "hann_window",
    "hamming_window",
    "blackman_window",
    "tril_indices",
):
    _target = getattr(torch.ops.aten, _name).default
    OPERATORS[str(_target)] = functools.partial(_table, _target)


def _triangle(*, is_upper: bool) -> Handler:
    return lambda call: definitions.triangle(
        call.terms, call.tensor("self"), call.integer("diagonal"), is_upper=is_upper
    )


for _name, _is_upper in (("tril", False), ("triu", True)):
    OPERATORS[f"aten.{_name}.default"] = _triangle(is_upper=_is_upper)


def _filled(number: float | None = None, name: str = "fill_value") -> Handler:
    """One number everywhere: this one, or the argument of this name."""

    def filled(call: Call) -> Value:
        call.ignore("dtype", "device", "memory_format")  # the result's own; where it lies, and how
        if call.has("layout") and (call.any("layout") not in (None, torch.strided) or call.any("pin_memory")):
            raise Uninterpreted("another layout")
        size = list(call.tensor("self").shape if call.has("self") else ())
        size = call.extents("size") if call.has("size") else size
        given = call.number(name) if number is None else number
        stored = definitions.number(call.terms, given, _result(call))
        if call.has("self"):
            call.tensor("self")  # its type is the result's
        return moves.expand(moves.unsqueeze(stored, list(range(len(size)))), size)

    return filled


for _name, _number in (("full", None), ("zeros", 0), ("ones", 1)):
    for _overload in (_name, f"new_{_name}", f"{_name}_like"):
        OPERATORS[f"aten.{_overload}.default"] = _filled(_number)
OPERATORS["aten.scalar_tensor.default"] = _filled(name="s")
OPERATORS["aten.fill.Scalar"], OPERATORS["aten.zero.default"] = _filled(name="value"), _filled(0)
