"""What each ONNX operator means, attribute by attribute, in each of its versions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import onnx

from fxexport.language import arithmetic, definitions, moves, quantisation, recurrent, sizes, windows
from fxexport.language.call import Call, Handler
from fxexport.language.constant_tensor import onnx_value, sparse_value, type_name
from fxexport.language.constants import exact_array
from fxexport.language.contraction import convolution, matmul, spelled_sum, transposed_convolution
from fxexport.language.extents import Extent, divided, minus, times
from fxexport.language.foreign import foreign
from fxexport.language.layout import extent_of
from fxexport.language.maps import cast, elementwise, terms_of_contents
from fxexport.language.sliding_window import Pair, SlidingWindow
from fxexport.language.term import FLOATS, SHORT, Terms, Uninterpreted, Value
from fxexport.untrusted.limits import MAX_SEQUENCE

OPERATORS: dict[tuple[str, int], Handler] = {}
"""By operator and the version since which it means this."""

_OPEN_END = 10**9
"""What tf2onnx writes for an end that is left open, as others write the largest integer."""


def _handles(name: str, *versions: int) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        OPERATORS.update({(name, version): handler for version in versions})
        return handler

    return register


def _axis(value: Value, axis: Extent, *, extra: int = 0) -> int:
    rank = value.rank + extra
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise Uninterpreted("an axis that is none")
    return axis % rank


def _contents(value: Value | None) -> list[Extent] | None:
    """The elements of a vector of extents, or None where it is left out."""
    if value is None:
        return None
    if value.contents is not None:
        return list(value.contents)
    array = exact_array(value)  # turned over, say, as pads are that were written for torch
    if array is None or array.ndim > 1 or array.size > SHORT or array.dtype.kind not in "iu":
        raise Uninterpreted("a computed vector")
    return [int(number) for number in array.reshape(-1)]


def _given(call: Call, name: str) -> list[Extent] | None:
    """A list that is an attribute in some versions and an operand in others."""
    found = call.any(name)
    return _contents(found) if isinstance(found, Value) else None if found is None else list(found)


def _number(call: Call, name: str, dtype: str) -> Value:
    return definitions.number(call.terms, call.number(name), dtype)


# --- convolutions, products ---


def _kernel(call: Call, weight: Value) -> Sequence[Extent]:
    """The weight's, which the node may tell, too."""
    kernel = call.optional_integers("kernel_shape")
    if kernel is not None and tuple(kernel) != weight.shape[2:]:
        raise Uninterpreted("another kernel than the weight's")
    return weight.shape[2:]


def _window(call: Call, kernel: Sequence[Extent]) -> SlidingWindow:
    """A window of this kernel with the node's steps, padding and gaps."""
    stride, dilation, pads = (
        (call.optional_integers(name) if call.has(name) else None) or []
        for name in ("strides", "dilations", "pads")
    )
    if len(pads) not in (0, 2 * len(kernel)):
        raise Uninterpreted("padding of another rank")
    pairs = zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)
    return SlidingWindow.of(kernel, stride, [*pairs], dilation, ceil=call.is_on("ceil_mode"))


@_handles("Conv", 1, 11, 22)
def _conv(call: Call) -> Value:
    value, weight, bias = call.real("X"), call.tensor("W"), call.optional_tensor("B")
    window = _padded(call, value, _window(call, _kernel(call, weight)))
    return convolution(call.terms, value, weight, bias, window, call.integer("group"))


@_handles("ConvTranspose", 1, 11, 22)
def _conv_transpose(call: Call) -> Value:
    value, weight, bias = call.real("X"), call.tensor("W"), call.optional_tensor("B")
    window = _window(call, _kernel(call, weight))  # what is padded by the extents of the result is not read
    further = call.optional_integers("output_padding") or [0] * len(window.kernel)
    if len(further) != len(window.kernel):
        raise Uninterpreted("padding of another rank")
    pairs = zip(window.padding, further, strict=True)
    padding = tuple((before, minus(behind, more)) for (before, behind), more in pairs)
    window = dataclasses.replace(window, padding=padding)
    return transposed_convolution(call.terms, value, weight, bias, window, call.integer("group"))


@_handles("Col2Im", 18)
def _fold(call: Call) -> Value:
    size, kernel = (_contents(call.tensor(name)) or [] for name in ("image_shape", "block_shape"))
    return windows.folded(call.terms, call.real("input"), size, _window(call, kernel))


def _padded(call: Call, value: Value, window: SlidingWindow) -> SlidingWindow:
    """The window with the padding that its mode says."""
    mode, kernel = call.text("auto_pad"), [size for size in window.kernel if isinstance(size, int)]
    if len(kernel) != value.rank - 2 or min((*kernel, *window.stride, *window.dilation), default=1) < 1:
        raise Uninterpreted("windows of another rank, or of a free extent")
    if mode == "NOTSET":
        return window
    if mode not in ("VALID", "SAME_UPPER", "SAME_LOWER"):
        raise Uninterpreted(f"auto_pad {mode}")
    pairs: list[Pair] = []
    for (extent, _, step, _, gap), size in zip(window.axes(value.shape[2:]), kernel, strict=True):
        if mode == "VALID":
            pairs.append((0, 0))
            continue
        if not isinstance(extent, int):
            raise Uninterpreted("padding after a free extent")
        total = max(0, (-(-extent // step) - 1) * step + (size - 1) * gap + 1 - extent)
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return dataclasses.replace(window, padding=tuple(pairs))


@_handles("Gemm", 7, 9, 11, 13)
def _gemm(call: Call) -> Value:
    terms = call.terms
    first, second, third = call.real("A"), call.tensor("B"), call.optional_tensor("C")
    if first.rank != 2 or second.rank != 2:
        raise Uninterpreted("no matrices")
    first = first.permuted([1, 0]) if call.is_on("transA") else first
    second = second.permuted([1, 0]) if call.is_on("transB") else second
    product = matmul(terms, first, second)
    alpha, beta = call.number("alpha"), call.number("beta")
    if product.dtype == "float16" and (alpha, beta) != (1, 1):
        raise Uninterpreted("a product that half precision need not hold")
    if alpha != 1:
        product = arithmetic.multiply(terms, product, _number(call, "alpha", product.dtype))
    if third is None:
        return product
    if beta != 1:
        third = arithmetic.multiply(terms, third, _number(call, "beta", product.dtype))
    return arithmetic.plus_within(terms, product, third)


@_handles("MatMul", 1, 9, 13)
def _matmul(call: Call) -> Value:
    return matmul(call.terms, call.real("A"), call.tensor("B"))


@_handles("Einsum", 12)
def _einsum(call: Call) -> Value:
    return spelled_sum(call.terms, call.text("equation"), call.tensors("Inputs"))


# --- norms ---


@_handles("BatchNormalization", 7, 9, 14, 15)
def _batch_norm(call: Call) -> Value:
    call.ignore("momentum")  # of training only
    if call.has("spatial") and call.integer("spatial") != 1:
        raise Uninterpreted("statistics of each position")
    if call.has("training_mode") and call.integer("training_mode"):
        raise Uninterpreted("a batch norm in training")
    value = call.real("X")
    mean, variance = (
        call.tensor(new if call.has(new) else old)
        for new, old in (("input_mean", "mean"), ("input_var", "var"))
    )
    epsilon = _number(call, "epsilon", value.dtype)
    return definitions.batch_norm(
        call.terms, value, call.tensor("scale"), call.tensor("B"), mean, variance, epsilon
    )


@_handles("InstanceNormalization", 6, 22)
def _instance_norm(call: Call) -> Value:
    value = call.real("input")
    epsilon = _number(call, "epsilon", value.dtype)
    return definitions.instance_norm(call.terms, value, epsilon, call.tensor("scale"), call.tensor("B"))


@_handles("LayerNormalization", 17)
def _layer_norm(call: Call) -> Value:
    value = wide = call.real("X")
    if call.integer("stash_type") != 1:
        raise Uninterpreted("a norm in another type")
    if value.dtype != "float32":
        wide = cast(call.terms, value, "float32")
    axis = _axis(value, call.integer("axis"))
    epsilon = _number(call, "epsilon", wide.dtype)
    found = definitions.normalised(call.terms, wide, range(axis, value.rank), epsilon)
    if value.dtype != "float32":
        found = cast(call.terms, found, value.dtype)
    return definitions.weighted(call.terms, found, call.tensor("Scale"), call.optional_tensor("B"))


@_handles("GroupNormalization", 21)
def _group_norm(call: Call) -> Value:
    value, groups = call.real("X"), call.integer("num_groups")
    if call.integer("stash_type") != 1 or value.dtype != "float32":
        raise Uninterpreted("a norm in another type")
    epsilon = _number(call, "epsilon", value.dtype)
    weight, bias = call.tensor("scale"), call.tensor("bias")
    return definitions.group_norm(call.terms, value, groups, epsilon, weight, bias)


# --- elementwise ---


def _function(function: Callable[..., Value], operand: str, *numbers: str, is_real: bool = True) -> Handler:
    """A function of each element, and of these numbers."""

    def applied(call: Call) -> Value:
        value = call.real(operand) if is_real else call.tensor(operand)
        return function(call.terms, value, *(_number(call, name, value.dtype) for name in numbers))

    return applied


_FUNCTIONS: tuple[tuple[str, Callable[..., Value], tuple[str, ...], tuple[int, ...]], ...] = (
    ("Relu", definitions.relu, ("X",), (6, 13, 14)),
    ("HardSwish", definitions.hard_swish, ("X",), (14, 22)),
    ("Mish", definitions.mish, ("X",), (18, 22)),
    ("Softplus", definitions.softplus, ("X",), (1, 22)),
    ("Sqrt", definitions.power_of(Fraction(1, 2)), ("X",), (6, 13)),
    ("Reciprocal", definitions.inverse, ("X",), (6, 13)),
    ("LeakyRelu", definitions.leaky_relu, ("X", "alpha"), (6, 16)),
    ("Elu", definitions.elu, ("X", "alpha"), (6, 22)),
    ("Selu", definitions.elu, ("X", "alpha", "gamma"), (6, 22)),
    ("Celu", definitions.celu, ("X", "alpha"), (12,)),
    ("HardSigmoid", definitions.hard_sigmoid, ("X", "alpha", "beta"), (6, 22)),
)
for _name, _computed, _arguments, _versions in _FUNCTIONS:
    OPERATORS.update({(_name, version): _function(_computed, *_arguments) for version in _versions})
for _schema in onnx.defs.get_all_schemas_with_history():
    _own = _schema.name.lower()
    if _own in definitions.UNARY and not (_schema.domain or _schema.attributes) and len(_schema.inputs) == 1:
        _is_real = _own not in definitions.OF_INTEGERS
        _computed = _function(definitions.unary_of(_own), _schema.inputs[0].name, is_real=_is_real)
        OPERATORS[_schema.name, _schema.since_version] = _computed


@_handles("Clip", 6)
def _clip_by_numbers(call: Call) -> Value:
    value = call.real("input")
    low, high = (_number(call, name, value.dtype) for name in ("min", "max"))
    return arithmetic.clamp(call.terms, value, low, high)


@_handles("Clip", 11, 12, 13)
def _clip(call: Call) -> Value:
    low, high = call.optional_tensor("min"), call.optional_tensor("max")
    return arithmetic.clamp(call.terms, call.tensor("input"), low, high)


@_handles("PRelu", 7, 9, 16)
def _prelu(call: Call) -> Value:
    value, slope = call.real("X"), call.tensor("slope")
    return definitions.leaky_relu(call.terms, value, slope)


@_handles("Gelu", 20)
def _gelu(call: Call) -> Value:
    return definitions.gelu(call.terms, call.real("X"), call.text("approximate"))


@_handles("Swish", 24)
def _swish(call: Call) -> Value:
    if call.number("alpha") != 1:
        raise Uninterpreted("a scaled swish")
    return definitions.silu(call.terms, call.real("X"))


@_handles("Neg", 6, 13)
def _neg(call: Call) -> Value:
    return arithmetic.negate(call.terms, call.tensor("X"))


@_handles("Pow", 7, 12, 13, 15)
def _pow(call: Call) -> Value:
    return definitions.raised(call.terms, call.real("X"), call.tensor("Y"))


def _both(call: Call, first: str = "A", second: str = "B") -> tuple[Value, Value]:
    left, right = call.tensor(first), call.tensor(second)
    if left.dtype != right.dtype:
        raise Uninterpreted("operands of several types")
    return left, right


@_handles("Add", 7, 13, 14)
def _add(call: Call) -> Value:
    return arithmetic.add(call.terms, *_both(call))


@_handles("Sub", 7, 13, 14)
def _sub(call: Call) -> Value:
    first, second = _both(call)
    found = sizes.combined(call.terms, "sub", first, second)
    return found if found is not None else arithmetic.subtract(call.terms, first, second)


@_handles("Mul", 7, 13, 14)
def _mul(call: Call) -> Value:
    return definitions.multiplied(call.terms, *_both(call))


@_handles("Div", 7, 13, 14)
def _div(call: Call) -> Value:
    first, second = _both(call)
    if first.dtype not in FLOATS:
        found = sizes.combined(call.terms, "div", first, second)
        if found is None:
            raise Uninterpreted("a quotient of integers")
        return found
    return definitions.quotient(call.terms, first, second)


@_handles("Mod", 10, 13)
def _mod(call: Call) -> Value:
    first, second = _both(call)
    is_float, is_truncated = first.dtype in FLOATS, call.integer("fmod") == 1
    found = None if is_truncated else sizes.combined(call.terms, "mod", first, second)
    if found is not None:
        return found
    if not is_float or not is_truncated:
        raise Uninterpreted("a rest of integers")
    return elementwise(call.terms, "fmod", [first, second], first.dtype)


def _folded_left(combine: Callable[[Terms, Value, Value], Value]) -> Handler:
    def combined(call: Call) -> Value:
        values = call.tensors("data_0")
        if not values or len({value.dtype for value in values}) != 1:
            raise Uninterpreted("operands of several types")
        return functools.reduce(functools.partial(combine, call.terms), values)

    return combined


OPERATORS.update({("Sum", version): _folded_left(arithmetic.add) for version in (6, 8, 13)})
for _name, _own in (("Max", "maximum"), ("Min", "minimum")):
    _extreme = _folded_left(definitions.extreme_of(_own))
    OPERATORS.update({(_name, version): _extreme for version in (6, 8, 12, 13)})


def _comparison(name: str) -> Handler:
    return lambda call: elementwise(call.terms, name, _both(call), "bool")


_COMPARISONS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("Less", "lt", (7, 9, 13)),
    ("LessOrEqual", "le", (12, 16)),
    ("Greater", "gt", (7, 9, 13)),
    ("GreaterOrEqual", "ge", (12, 16)),
    ("And", "and", (7,)),
    ("Or", "or", (7,)),
)
for _name, _own, _versions in _COMPARISONS:
    OPERATORS.update({(_name, version): _comparison(_own) for version in _versions})


@_handles("Equal", 7, 11, 13, 19)
def _equal(call: Call) -> Value:
    both = _both(call)
    found = sizes.equal(call.terms, *both)
    return elementwise(call.terms, "eq", both, "bool") if found is None else found


@_handles("Not", 1)
def _not(call: Call) -> Value:
    return elementwise(call.terms, "not", [call.tensor("X")], "bool")


@_handles("Where", 9, 16)
def _where(call: Call) -> Value:
    (first, second), condition = _both(call, "X", "Y"), call.tensor("condition")
    found = sizes.chosen(call.terms, condition, first, second)
    return definitions.choose(call.terms, condition, first, second) if found is None else found


_CAST = {*FLOATS, "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
"""Types between which every version casts alike."""


@_handles("CastLike", 15, 19, 21, 23, 24, 25)
@_handles("Cast", 6, 9, 13, 19, 21, 23, 24, 25)
def _cast(call: Call) -> Value:
    value = call.tensor("input")
    if call.has("to"):
        call.ignore("saturate")  # of types of few bits
        target = type_name(call.integer("to"))
    else:
        target = call.tensor("target_type").dtype
    if not {value.dtype, target} <= _CAST:
        raise Uninterpreted("a cast to a type of few bits")
    return cast(call.terms, value, target)


_QUANTIZED = (10, 13, 19, 21, 23, 24, 25, 28)
"""Versions of QuantizeLinear and DequantizeLinear."""


def _type_given(call: Call, name: str) -> str | None:
    """The type of an attribute that need not say one."""
    code = call.integer(name) if call.has(name) else 0
    return type_name(code) if code else None


def _levels(call: Call, value: Value, name: str) -> tuple[Value, Value | None]:
    """Scale and zero point along the dimensions of what is quantised."""
    axis, block = (call.integer(item) if call.has(item) else 0 for item in ("axis", "block_size"))
    scale, zero = call.tensor(f"{name}_scale"), call.optional_tensor(f"{name}_zero_point")
    along = functools.partial(quantisation.spread, call.terms, value, axis=axis, block=block)
    return along(scale), None if zero is None else along(zero)


@_handles("QuantizeLinear", *_QUANTIZED)
def _quantize(call: Call) -> Value:
    value = call.real("x")
    scale, zero = _levels(call, value, "y")
    wanted, precision = (_type_given(call, name) for name in ("output_dtype", "precision"))
    target = wanted or ("uint8" if zero is None else zero.dtype)
    if precision not in (None, scale.dtype):
        raise Uninterpreted("a quotient in another type")
    call.ignore("saturate")  # of floating-point numbers of few bits, which have no term
    return quantisation.quantized(call.terms, value, scale, zero, target)


@_handles("DequantizeLinear", *_QUANTIZED)
def _dequantize(call: Call) -> Value:
    value = call.tensor("x")
    scale, zero = _levels(call, value, "x")
    if _type_given(call, "output_dtype") not in (None, scale.dtype):
        raise Uninterpreted("a product in another type")
    return quantisation.dequantized(call.terms, value, scale, zero)


# --- reductions, pools ---


def _over_map(call: Call, name: str) -> Value:
    value = call.real("X")
    return windows.reduce(call.terms, name, value, range(2, value.rank), keep=True)


for _name, _own in (("GlobalAveragePool", "mean"), ("GlobalMaxPool", "max")):
    OPERATORS.update({(_name, version): functools.partial(_over_map, name=_own) for version in (1, 22)})


def _reduction(name: str) -> Handler:
    def reduced(call: Call) -> Value:
        value, axes, keep = call.tensor("data"), _given(call, "axes"), call.is_on("keepdims")
        is_over_none = call.is_on("noop_with_empty_axes")
        every = [] if is_over_none else list(range(value.rank))  # a norm over no axis is still |x|
        dims = [_axis(value, axis) for axis in axes] if axes else every
        if name in _NORMS:
            return _NORMS[name](call.terms, value, dims, keep=keep)
        return windows.reduce(call.terms, name, value, dims, keep=keep)

    return reduced


def _summed(before: Callable[[Terms, Value], Value]) -> Callable[..., Value]:
    """The sum of what is made of each element."""

    def summed(terms: Terms, value: Value, dims: Sequence[int], *, keep: bool) -> Value:
        return windows.reduce(terms, "sum", before(terms, value), dims, keep=keep)

    return summed


_NORMS: dict[str, Callable[..., Value]] = {
    "norm": definitions.euclidean_norm,
    "log-sum-exp": definitions.log_sum_exp,
    "sizes": _summed(lambda terms, value: definitions.unary(terms, "abs", value)),
    "squares": _summed(lambda terms, value: arithmetic.power(terms, value, Fraction(2))),
}


_REDUCTIONS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("ReduceMean", "mean", (1, 11, 13, 18)),
    ("ReduceSum", "sum", (1, 11, 13)),
    ("ReduceL1", "sizes", (1, 11, 13, 18)),
    ("ReduceL2", "norm", (1, 11, 13, 18)),
    ("ReduceLogSumExp", "log-sum-exp", (1, 11, 13, 18)),
    ("ReduceProd", "prod", (1, 11, 13, 18)),
    ("ReduceSumSquare", "squares", (1, 11, 13, 18)),
    ("ReduceMax", "max", (1, 11, 12, 13, 18, 20)),
    ("ReduceMin", "min", (1, 11, 12, 13, 18, 20)),
)
for _name, _own, _versions in _REDUCTIONS:
    OPERATORS.update({(_name, version): _reduction(_own) for version in _versions})


def _place(name: str) -> Handler:
    def placed(call: Call) -> Value:
        value = call.tensor("data")
        if call.is_on("select_last_index"):
            raise Uninterpreted("the last of equal values")
        axis = _axis(value, call.integer("axis"))
        return windows.place(call.terms, name, value, axis, keep=call.is_on("keepdims"))

    return placed


for _name, _own in (("ArgMax", "max"), ("ArgMin", "min")):
    OPERATORS.update({(_name, version): _place(_own) for version in (1, 11, 12, 13)})


_GATES = {"lstm": [0, 2, 3, 1], "gru": [1, 0, 2]}
"""Places of torch's gates among ONNX's: iofc for ifgo, zrh for rzn."""
_ACTIVATIONS = {"lstm": ["sigmoid", "tanh", "tanh"], "gru": ["sigmoid", "tanh"]}


def _recurrent(kind: str, call: Call) -> list[Value]:
    terms, value = call.terms, call.real("X")
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}.get(call.text("direction"))
    if ways is None:
        raise Uninterpreted("another direction")
    given = call.any("activations") if call.has("activations") else None
    written = [item.decode() if isinstance(item, bytes) else item for item in given or ()]
    functions = [item.lower() for item in written] or _ACTIVATIONS[kind] * len(ways)
    if functions != _ACTIVATIONS[kind] * len(ways) or (
        kind == "gru" and not call.is_on("linear_before_reset")
    ):
        raise Uninterpreted("other functions than torch's")
    call.ignore("hidden_size")  # the weights' own
    hx = [call.optional_tensor(f"initial_{item}") for item in ("h", "c")[: 1 + (kind == "lstm")]]
    weights, bias, gates = [call.tensor("W"), call.tensor("R")], call.optional_tensor("B"), _GATES[kind]
    held = [*((item, 3) for item in (*weights, *hx)), (bias, 2)]
    if any(item and (item.rank != rank or item.shape[0] != len(ways)) for item, rank in held):
        raise Uninterpreted("other directions than the node's")
    directions = []
    for place, is_reverse in enumerate(ways):
        own = [recurrent.reordered(terms, moves.select(terms, item, 0, place), gates) for item in weights]
        biases: list[Value | None] = [None, None]
        if bias is not None:
            both = moves.select(terms, bias, 0, place)
            half = divided(both.shape[0], 2)
            if not isinstance(half, int):
                raise Uninterpreted("biases of an odd number")
            pieces = moves.pieces(terms, both, 0, [half, half])
            biases = [recurrent.reordered(terms, item, gates) for item in pieces]
        if own[0] is None or own[1] is None:
            raise Uninterpreted("weights that are zeros")
        directions.append(
            recurrent.Direction(
                weights=(own[0], own[1]),
                biases=(biases[0], biases[1]),
                state=tuple(recurrent.started(terms, item, place) for item in hx),
                is_reverse=is_reverse,
            )
        )
    found, states = recurrent.layer(terms, kind, value, directions)
    return [recurrent.by_direction(terms, found, len(ways)), *recurrent.together(terms, states)]


for _own in ("LSTM", "GRU"):
    OPERATORS.update(
        {(_own, version): functools.partial(_recurrent, _own.lower()) for version in (7, 14, 22)}
    )


@_handles("TopK", 10, 11, 24)
def _top(call: Call) -> tuple[Value, Value]:
    value, count = call.real("X"), _contents(call.tensor("K"))
    if count is None or len(count) != 1 or (call.has("sorted") and call.integer("sorted") != 1):
        raise Uninterpreted("cells in any order, or of unknown number")
    is_largest = call.is_on("largest", otherwise=True)
    axis = _axis(value, call.integer("axis"))
    return windows.sorted_along(call.terms, value, axis, count[0], is_largest=is_largest)


@_handles("CumSum", 11, 14)
def _cumulative(call: Call) -> Value:
    value, axis = call.tensor("x"), exact_array(call.tensor("axis"))
    if (
        not (value.is_float or value.dtype in ("int32", "int64"))
        or axis is None
        or axis.dtype.kind != "i"
        or axis.size != 1
        or call.integer("exclusive")
        or call.integer("reverse")
    ):
        raise Uninterpreted("sums in another order")
    return windows.summed_up(call.terms, value, _axis(value, int(axis.item())))


def _pool_window(call: Call, value: Value) -> SlidingWindow:
    window = _window(call, call.integers("kernel_shape"))
    if call.text("auto_pad").startswith("SAME") and set(window.dilation) != {1}:
        raise Uninterpreted("padding for a kernel with gaps, which ONNX Runtime takes for one without")
    return _padded(call, value, window)


@_handles("AveragePool", 7, 10, 11, 19, 22)
def _average_pool(call: Call) -> Value:
    value = call.real("X")
    counts = call.is_on("count_include_pad")
    return windows.average_pool(call.terms, value, _pool_window(call, value), counts_padding=counts)


@_handles("MaxPool", 1, 8, 10, 11, 12, 22)
def _max_pool(call: Call) -> Value:
    value = call.real("X")
    call.ignore("storage_order")  # of the indices, which are not given
    return windows.maximum_pool(call.terms, value, _pool_window(call, value))


def _soft(function: Callable[[Terms, Value, int], Value], axis_of: Callable[[Value, int], int]) -> Handler:
    def softened(call: Call) -> Value:
        value = call.real("input")
        return function(call.terms, value, axis_of(value, call.integer("axis")))

    return softened


def _last_axis(value: Value, given: int) -> int:
    """The axis from which on all are summed over as one; it has to be the only one of several cells."""
    axis = _axis(value, given)
    if any(extent != 1 for extent in value.shape[axis + 1 :]):
        raise Uninterpreted("a softmax over several axes")
    return axis


for _version, _axis_of in ((1, _last_axis), (11, _last_axis), (13, _axis)):
    OPERATORS["Softmax", _version] = _soft(definitions.softmax, _axis_of)
    OPERATORS["LogSoftmax", _version] = _soft(definitions.log_softmax, _axis_of)


@_handles("Attention", 23, 24)
def _attention(call: Call) -> Value:
    query, key, value = (call.real(name) for name in ("Q", "K", "V"))
    if query.rank != 4 or key.rank != 4 or value.rank != 4 or query.shape[1] != key.shape[1]:
        raise Uninterpreted("another attention")
    mask, scale = call.optional_tensor("attn_mask"), call.any("scale")
    if mask is not None and mask.shape[-1:] != key.shape[2:3]:
        raise Uninterpreted("a mask of fewer cells, which are masked")
    factor = None if scale is None else _number(call, "scale", query.dtype)
    is_causal = call.is_on("is_causal")
    return definitions.attention(call.terms, query, key, value, mask, factor, is_causal=is_causal)


# --- views, moves ---


@_handles("Identity", 1, 13, 14, 16, 19, 21, 23, 24, 25)
def _identity(call: Call) -> Value:
    call.terms.use("copy")
    return call.tensor("input")


@_handles("Dropout", 7, 10, 12, 13, 22)
def _dropout(call: Call) -> list[Value]:
    """The value, and what is kept of it: in evaluation all, or nothing where the schema was older."""
    has_mode = call.has("training_mode")
    if has_mode:
        mode, ratio = (call.optional_tensor(name) for name in ("training_mode", "ratio"))
        kept, share = (None if item is None else exact_array(item) for item in (mode, ratio))
        drops = share is None or bool(share.any())  # of nothing, in training too
        if mode is not None and drops and (kept is None or kept.any()):
            raise Uninterpreted("dropout in training")
    call.ignore("ratio", "seed")  # of training only
    call.terms.use("dropout-in-evaluation")
    value = call.tensor("data")
    kinds = [("bool", value.shape)]
    return [value, *foreign(call.terms, ("mask of dropout", has_mode), [value], kinds, is_random=False)]


@_handles("Flatten", 1, 9, 11, 13, 21, 23, 24, 25)
def _flatten(call: Call) -> Value:
    value, axis = call.tensor("input"), call.integer("axis")
    axis = axis + value.rank if axis < 0 else axis
    if not 0 <= axis <= value.rank:
        raise Uninterpreted("an axis that is none")
    before, behind = times(*value.shape[:axis]), times(*value.shape[axis:])
    return moves.reshape(call.terms, value, [before, behind])


@_handles("Reshape", 5, 13, 14, 19, 21, 23, 24, 25)
def _reshape(call: Call) -> Value:
    value, wanted = call.tensor("data"), _contents(call.tensor("shape"))
    keeps_zero = call.is_on("allowzero")
    if wanted is None or (keeps_zero and 0 in wanted):
        raise Uninterpreted("a reshape to nothing")
    if any(extent == 0 and axis >= value.rank for axis, extent in enumerate(wanted)):
        raise Uninterpreted("an axis that is none")
    shape = [value.shape[axis] if extent == 0 else extent for axis, extent in enumerate(wanted)]
    return moves.reshape(call.terms, value, shape)


@_handles("Transpose", 1, 13, 21, 23, 24, 25)
def _transpose(call: Call) -> Value:
    value = call.tensor("data")
    order = call.optional_integers("perm") or list(reversed(range(value.rank)))
    if sorted(order) != list(range(value.rank)):
        raise Uninterpreted("no permutation")
    return value.permuted(order)


@_handles("Squeeze", 1, 11, 13, 21, 23, 24, 25)
def _squeeze(call: Call) -> Value:
    value, axes = call.tensor("data"), _given(call, "axes")
    if axes is None:
        if any(not isinstance(extent, int) for extent in value.shape):
            raise Uninterpreted("a squeeze of what may be one cell")
        axes = [axis for axis, extent in enumerate(value.shape) if extent == 1]
    elif not axes:
        raise Uninterpreted("no axes, by which ONNX Runtime means all")
    return moves.squeeze(value, [_axis(value, axis) for axis in axes])


@_handles("Unsqueeze", 1, 11, 13, 21, 23, 24, 25)
def _unsqueeze(call: Call) -> Value:
    value, axes = call.tensor("data"), _given(call, "axes") or []
    return moves.unsqueeze(value, [_axis(value, axis, extra=len(axes)) for axis in axes])


@_handles("Expand", 8, 13)
def _expand(call: Call) -> Value:
    value, wanted = call.tensor("input"), _contents(call.tensor("shape")) or []
    shape = [1] * (value.rank - len(wanted)) + wanted
    if value.contents is not None and len(shape) == 1 and isinstance(shape[0], int):
        count = len(value.contents)
        if count == 1 or shape[0] in (1, count):
            repeats = shape[0] if count == 1 else 1
            return terms_of_contents(call.terms, value.contents * repeats, 1, value.dtype)
    return moves.expand(value, shape)


@_handles("Tile", 6, 13)
def _tile(call: Call) -> Value:
    value, repeats = call.tensor("input"), _contents(call.tensor("repeats"))
    if repeats is None or len(repeats) != value.rank:
        raise Uninterpreted("repeats of another rank")
    return moves.written_out(call.terms, moves.tile(value, repeats))


@_handles("DepthToSpace", 1, 11, 13)
def _depth_to_space(call: Call) -> Value:
    """Channels of a block become its cells; by DCR neighbouring channels are of several blocks' depths."""
    value, block = call.tensor("input"), call.integer("blocksize")
    is_depth_first = {"DCR": True, "CRD": False}.get(call.text("mode") if call.has("mode") else "DCR")
    depth = divided(value.shape[1], block * block) if value.rank == 4 and block > 0 else None
    if depth is None or is_depth_first is None:
        raise Uninterpreted("channels that make no blocks, or blocks in another order")
    rows, _, height, width = value.shape
    split = [block, block, depth] if is_depth_first else [depth, block, block]
    cells = moves.reshape(call.terms, value, [rows, *split, height, width])
    order = [0, 3, 4, 1, 5, 2] if is_depth_first else [0, 1, 4, 2, 5, 3]
    return moves.flatten(moves.flatten(cells.permuted(order), 4, 5), 2, 3)


@_handles("SpaceToDepth", 1, 13)
def _space_to_depth(call: Call) -> Value:
    value, block = call.tensor("input"), call.integer("blocksize")
    if value.rank != 4 or block < 1:
        raise Uninterpreted("blocks of another rank")
    height, width = (divided(extent, block) for extent in value.shape[2:])
    if height is None or width is None:
        raise Uninterpreted("cells that make no blocks")
    cells = moves.reshape(call.terms, value, [*value.shape[:2], height, block, width, block])
    return moves.flatten(cells.permuted([0, 3, 5, 1, 2, 4]), 1, 3)


@_handles("Resize", 11, 13, 18, 19)
def _resize(call: Call) -> Value:
    value, mode = call.tensor("X"), call.text("mode")
    call.ignore("roi", "extrapolation_value")  # of cut-outs only
    for name, plain in (("keep_aspect_ratio_policy", "stretch"), ("axes", None)):
        if call.has(name) and call.any(name) != plain:
            raise Uninterpreted(name)
    is_smooth = call.has("antialias") and call.is_on("antialias")
    stored, sizes = call.optional_tensor("scales"), _contents(call.optional_tensor("sizes"))
    array = None if stored is None else exact_array(stored)
    factors = [] if array is None else [float(factor) for factor in array.reshape(-1)]
    is_inner = tuple(sizes[:2]) == value.shape[:2] if sizes else factors[:2] == [1, 1]
    if value.rank < 3 or len(sizes or factors) != value.rank or not is_inner:
        raise Uninterpreted("an interpolation of other axes")
    coordinates, is_even = call.text("coordinate_transformation_mode"), call.integer("exclude_outside") == 0
    rounding, curve = call.text("nearest_mode"), call.number("cubic_coeff_a")
    if mode == "nearest":
        if is_smooth or (coordinates, rounding) not in _REPEATS:
            raise Uninterpreted("other neighbours")
        if sizes:
            each = [divided(size, extent) for size, extent in zip(sizes, value.shape, strict=True)]
            factors = [item if isinstance(item, int) else 0 for item in each]
        return windows.nearest(call.terms, value, factors[2:])
    if coordinates not in ("half_pixel", "align_corners") or mode not in ("linear", "cubic"):
        raise Uninterpreted("other places between cells")
    if mode == "cubic" and (curve not in (-0.5, -0.75) if is_smooth else curve != -0.75 or not is_even):
        raise Uninterpreted("another curve")
    return windows.resized(
        call.terms,
        value,
        "antialiased" if is_smooth else mode,
        sizes[2:] if sizes else None,
        None if sizes else factors[2:],
        aligns_corners=coordinates == "align_corners",
    )


_REPEATS = {
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
}
"""Ways to the nearest cell that repeat each as often, where the factor is a power of two: there is no tie."""


@_handles("Resize", 10)
@_handles("Upsample", 7, 9)
def _upsample(call: Call) -> Value:
    value, given = call.tensor("X"), call.any("scales")
    array = exact_array(given) if isinstance(given, Value) else np.asarray(given)
    factors = [] if array is None else [float(factor) for factor in array.reshape(-1)]
    if call.text("mode") != "nearest" or len(factors) != value.rank or factors[:2] != [1, 1]:
        raise Uninterpreted("an interpolation of other cells or axes")
    return windows.nearest(call.terms, value, factors[2:])


@_handles("GridSample", 16, 20, 22)
def _grid_sample(call: Call) -> Value:
    mode = call.text("mode")
    return definitions.grid_sample(
        call.terms,
        call.real("X"),
        call.tensor("grid"),
        _GRID_MODES.get(mode, mode),
        call.text("padding_mode"),
        corners=call.is_on("align_corners"),
    )


_GRID_MODES = {"bilinear": "linear", "bicubic": "cubic"}
"""As newer versions call them."""


@_handles("IsNaN", 9, 13, 20)
def _is_nan(call: Call) -> Value:
    return elementwise(call.terms, "isnan", [call.real("X")], "bool")


@_handles("IsInf", 10, 20)
def _is_infinite(call: Call) -> Value:
    return elementwise(call.terms, "isinf", [call.real("X")], "bool")


@_handles("Concat", 4, 11, 13)
def _concat(call: Call) -> Value:
    values = call.tensors("inputs")
    if len({(value.rank, value.dtype) for value in values}) != 1:
        raise Uninterpreted("values of several ranks")
    return moves.concatenate(call.terms, values, _axis(values[0], call.integer("axis")))


@_handles("Slice", 1, 10, 11, 13)
def _slice(call: Call) -> Value:
    value = call.tensor("data")
    starts, ends = (_given(call, name) or [] for name in ("starts", "ends"))
    axes = _given(call, "axes")
    axes = list(range(len(starts))) if axes is None else axes
    steps = (_given(call, "steps") if call.has("steps") else None) or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise Uninterpreted("a slice of other ranks")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        dim = _axis(value, axis)
        extent = extent_of(value.layout[dim])
        if step == -1 and start == -1 and isinstance(end, int) and end <= -(2**31):
            value = moves.flip(call.terms, value, dim)
            continue
        if not isinstance(step, int) or step < 1:
            raise Uninterpreted("a slice backwards")
        first, last = (moves.held_within(place, extent, end=_OPEN_END) for place in (start, end))
        value = moves.take(call.terms, value, dim, first, step, moves.slice_count(first, last, step))
    return value


@_handles("Split", 2, 11, 13, 18)
def _split(call: Call) -> list[Value]:
    value = call.tensor("input")
    dim = _axis(value, call.integer("axis"))
    given = _given(call, "split")
    extent = extent_of(value.layout[dim])
    if given is None:
        count = call.any("num_outputs") if call.has("num_outputs") else len(call.results)
        if not call.has("num_outputs") and isinstance(extent, int) and extent % max(count, 1):
            raise Uninterpreted("pieces of several sizes")
        if not isinstance(count, int) or not isinstance(extent, int) or min(count, extent) < 1:
            raise Uninterpreted("pieces of unknown number")
        size = -(-extent // count)
        given = [min(size, extent - start) for start in range(0, extent, size)]
    call.ignore("num_outputs")
    return moves.pieces(call.terms, value, dim, given)


@_handles("Gather", 1, 11, 13)
def _gather(call: Call) -> Value:
    value, index = call.tensor("data"), call.tensor("indices")
    dim = _axis(value, call.integer("axis"))
    return moves.gather(call.terms, value, dim, index)


@_handles("NonZero", 9, 13)
def _non_zero(call: Call) -> Value:
    return moves.places_of_true(call.terms, call.tensor("X"))


@_handles("GatherElements", 11, 13)
def _gather_each(call: Call) -> Value:
    value = call.tensor("data")
    return moves.gather_each(call.terms, value, _axis(value, call.integer("axis")), call.tensor("indices"))


@_handles("GatherND", 11, 12, 13)
def _gather_nd(call: Call) -> Value:
    value, index = call.tensor("data"), call.tensor("indices")
    if call.has("batch_dims") and call.integer("batch_dims"):
        raise Uninterpreted("other places of each sample")
    depth = index.shape[-1] if index.rank else 0
    if not isinstance(depth, int) or not 0 < depth <= value.rank or index.dtype != "int64":
        raise Uninterpreted("places of unknown rank")
    each = [moves.select(call.terms, index, index.rank - 1, place) for place in range(depth)]
    if depth > 1:
        return moves.gather_several(call.terms, value, range(depth), each)
    return moves.gather(call.terms, value, 0, each[0])


@_handles("ScatterND", 11, 13, 16, 18)
def _scatter(call: Call) -> Value:
    value, index = call.tensor("data"), exact_array(call.tensor("indices"))
    if index is None or index.dtype.kind != "i" or not index.ndim:
        raise Uninterpreted("computed indices, or none")
    if call.has("reduction") and call.text("reduction") != "none":
        raise Uninterpreted("cells that are added up")
    depth = index.shape[-1]
    extents = [extent for extent in value.shape[:depth] if isinstance(extent, int)]
    if not 0 < depth == len(extents) or not np.all((-np.array(extents) <= index) & (index < extents)):
        raise Uninterpreted("a cell that is none")
    places = index % extents
    if len(np.unique(places.reshape(-1, depth), axis=0)) != places[..., 0].size:
        raise Uninterpreted("a cell that is written twice")
    rows, cells = places.reshape(-1), call.tensor("updates")
    if exact_array(value) is None or exact_array(cells) is None:
        if depth != 1 or index.ndim != 2 or not np.array_equal(rows, np.arange(len(rows)) + rows[0]):
            raise Uninterpreted("a computed value that is written to here and there")
        return moves.with_cells(call.terms, value, 0, int(rows[0]), cells)
    return moves.overwritten(call.terms, value, tuple(np.moveaxis(places, -1, 0)), cells)


@_handles("ScatterElements", 11, 13, 16, 18)
def _scatter_each(call: Call) -> Value:
    value = call.tensor("data")
    axis, way = (
        _axis(value, call.integer("axis")),
        call.text("reduction") if call.has("reduction") else "none",
    )
    return moves.scatter_each(call.terms, value, axis, call.tensor("indices"), call.tensor("updates"), way)


@_handles("Trilu", 14)
def _triangle(call: Call) -> Value:
    moved = exact_array(call.tensor("k")) if call.any("k") is not None else np.zeros((), np.int64)
    if moved is None or moved.size != 1:
        raise Uninterpreted("a diagonal that is computed")
    return definitions.triangle(
        call.terms, call.tensor("input"), int(moved.reshape(())), is_upper=call.is_on("upper")
    )


@_handles("Pad", 2, 11, 13, 18, 19, 21, 23, 24, 25)
def _pad(call: Call) -> Value:
    value, sizes_of = call.tensor("data"), _given(call, "pads") or []
    mode = _PADDING.get(call.text("mode"))
    axes = _contents(call.optional_tensor("axes")) if call.has("axes") else None
    dims = list(range(value.rank)) if axes is None else [_axis(value, axis) for axis in axes]
    fill = call.optional_tensor("constant_value") if call.has("constant_value") else None
    number = call.number("value") if call.has("value") else 0
    stored = definitions.number(call.terms, number, value.dtype) if fill is None else fill
    if mode is None or len(sizes_of) != 2 * len(dims) or any(not isinstance(size, int) for size in sizes_of):
        raise Uninterpreted("padding by a free extent, or of another kind")
    for place, dim in reversed(list(enumerate(dims))):
        before, after = sizes_of[place], sizes_of[place + len(dims)]
        filled = stored if mode == "constant" else None
        value = moves.pad(call.terms, value, dim, before, after, mode, filled)
    return value


_PADDING = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
"""By ONNX's names, as torch calls them."""


# --- shapes, constants ---


@_handles("Shape", 1, 13, 15, 19, 21, 23, 24, 25)
def _shape(call: Call) -> Value:
    value = call.tensor("data")
    start = call.integer("start") if call.has("start") else 0
    end = call.any("end") if call.has("end") else None
    return sizes.shape_of(call.terms, value, start, end)


@_handles("Size", 1, 13, 19, 21, 23, 24, 25)
def _size(call: Call) -> Value:
    return terms_of_contents(call.terms, [times(*call.tensor("data").shape)], 0)


@_handles("Constant", 1, 9, 11, 12, 13, 19, 21, 23, 24, 25)
def _constant(call: Call) -> Value:
    kinds = ("value", "sparse_value", "value_float", "value_floats", "value_int", "value_ints")
    given = [(name, call.any(name)) for name in kinds if call.has(name)]
    found = [(name, item) for name, item in given if item is not None]
    if len(found) != 1:
        raise Uninterpreted("a constant of another kind")
    name, item = found[0]
    if name == "value":
        return onnx_value(call.terms, item)
    if name == "sparse_value":
        return sparse_value(call.terms, item)
    return call.terms.constant(np.asarray(item, "float32" if "float" in name else "int64"))


@_handles("ConstantOfShape", 9, 20, 21, 23, 24, 25)
def _constant_of_shape(call: Call) -> Value:
    size, stored = _contents(call.tensor("input")) or [], call.any("value")
    if stored is None:
        fill = definitions.number(call.terms, 0, "float32")
    else:
        fill = onnx_value(call.terms, stored)
        fill = fill.seen(()) if fill.term.shape == () else fill
    if fill.rank:
        raise Uninterpreted("a fill of several cells")
    if any(isinstance(item, int) and item < 0 for item in size):
        raise Uninterpreted("a size below nothing")
    is_vector = len(size) == 1 and isinstance(size[0], int) and size[0] <= MAX_SEQUENCE
    if is_vector and fill.term.array is not None:
        return call.terms.constant(np.full([int(str(item)) for item in size], fill.term.array))
    return moves.expand(moves.unsqueeze(fill, list(range(len(size)))), size)


@_handles("Range", 11)
def _range(call: Call) -> Value:
    start = call.tensor("start")
    ends = [_contents(value) or [] for value in (start, call.tensor("limit"), call.tensor("delta"))]
    if any(len(end) != 1 for end in ends):
        raise Uninterpreted("a range between computed numbers")
    return sizes.counted(call.terms, ends[0][0], ends[1][0], ends[2][0], start.dtype)
