"""Activations and norms, written out in sums, products and powers as their definitions say."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from fxexport.language.arithmetic import (
    add,
    clamp,
    divide,
    exponent_of,
    has_step,
    multiply,
    negate,
    parts_of,
    plus_within,
    power,
    scaled,
    subtract,
    summands,
    without_sign,
)
from fxexport.language.constants import elements, exact_array, scalar
from fxexport.language.contraction import matmul, without_shift_of_keys
from fxexport.language.extents import Extent, times
from fxexport.language.fold_rules import LARGEST, UNIT, NotFolded
from fxexport.language.foreign import foreign
from fxexport.language.maps import elementwise
from fxexport.language.moves import expand, flatten, reshape, squeeze, unsqueeze, widened
from fxexport.language.term import Rounded, Terms, Uninterpreted, Value, numpy_type
from fxexport.language.windows import OPPOSITE, opened_up, reduce

_MOST_MASKED = 1 << 22
"""Cells of a mask that is written out: 2,048 tokens beside each other."""


def number(terms: Terms, stored: float | int | bool, dtype: str) -> Value:
    """A number of a schema beside elements of this type; kernels of 16 bits compute with 32.

    A file holds it as an element, so what 16 bits only round stands for its rounding, too.
    """
    with np.errstate(all="ignore"):
        array = np.asarray(stored).astype(numpy_type(dtype))
        wide = float(np.float32(stored))
    if dtype in ("float16", "bfloat16"):
        off = abs(wide) * UNIT[dtype]
        is_rounded = 0 < abs(float(array) - wide) <= off  # else it is held, or vanishes, or has no end
        return terms.real(wide, dtype, Rounded(defined=off, step=off) if is_rounded else None)
    if array.dtype.kind in "iub" and array != stored:
        raise Uninterpreted(f"the number {stored} as {dtype}")
    return terms.constant(array)


def defined(terms: Terms, value: float, dtype: str) -> Value:
    """A number of a definition: every spelling of it is a rounding of it."""
    off = abs(value) * UNIT[dtype] * 2
    return terms.real(value, dtype, Rounded(defined=off, step=off))


def unary(terms: Terms, name: str, value: Value) -> Value:
    """A function that no identity takes apart."""
    return elementwise(terms, name, [value], value.dtype)


UNARY = (
    "abs acos acosh asin asinh atan atanh ceil cos cosh erf exp floor log log10 log2 round sigmoid sign sin "
    "sinh tan tanh trunc"
).split()
"""Functions that no identity takes apart, by the names that both dialects have for them."""


OF_INTEGERS = ("abs",)
"""Those of them that are functions of integers as well."""


def unary_of(name: str) -> Callable[[Terms, Value], Value]:
    """The function of this name."""
    known: dict[str, Callable[[Terms, Value], Value]] = {
        "abs": absolute,
        "exp": exponential,
        "log": logarithm,
        "tanh": tanh,
    }
    return known.get(name) or (lambda terms, value: unary(terms, name, value))


def absolute(terms: Terms, value: Value) -> Value:
    """``|x|``, of integers too."""
    return unary(terms, "abs", without_sign(terms, value))


def exponential(terms: Terms, value: Value) -> Value:
    """``exp(x)``: of a log-softmax the softmax."""
    soft = _log_softmax_of(terms, value)
    if soft is None:
        return unary(terms, "exp", value)
    terms.use("exp-of-log-softmax")
    return softmax(terms, *soft)


def tanh(terms: Terms, value: Value) -> Value:
    """``2 · sigmoid(2·x) - 1``; of constants, and in half precision, a function of its own."""
    if value.is_closed or value.dtype == "float16":
        return unary(terms, "tanh", value)
    terms.use("tanh")
    one, two = number(terms, 1, value.dtype), number(terms, 2, value.dtype)
    return subtract(terms, multiply(terms, sigmoid(terms, multiply(terms, value, two)), two), one)


def power_of(exponent: Fraction) -> Callable[[Terms, Value], Value]:
    """The function that raises a value to this power."""
    return lambda terms, value: power(terms, value, exponent)


def raised(terms: Terms, value: Value, exponent: Value) -> Value:
    """The value to the power of another, which may be a number."""
    own = exponent_of(exponent)
    if own is not None:
        return power(terms, widened(value, exponent), own)
    return elementwise(terms, "pow", [value, exponent], value.dtype)


def sigmoid(terms: Terms, value: Value) -> Value:
    """``1 / (1 + exp(-x))``."""
    return unary(terms, "sigmoid", value)


def silu(terms: Terms, value: Value) -> Value:
    """``x · sigmoid(x)``."""
    terms.use("silu")
    return multiply(terms, value, sigmoid(terms, value))


def relu(terms: Terms, value: Value) -> Value:
    """``max(x, 0)``."""
    return clamp(terms, value, number(terms, 0, value.dtype), None)


def hard_sigmoid(terms: Terms, value: Value, alpha: Value, beta: Value) -> Value:
    """``clamp(alpha · x + beta, 0, 1)``."""
    terms.use("hard-sigmoid")
    bounds = (number(terms, 0, value.dtype), number(terms, 1, value.dtype))
    return clamp(terms, scaled(terms, value, scale=alpha, shift=beta), *bounds)


def hard_sigmoid_of_sixth(terms: Terms, value: Value) -> Value:
    """``clamp(x / 6 + 1/2, 0, 1)``, as torch and ``HardSwish`` have it."""
    return hard_sigmoid(terms, value, defined(terms, 1 / 6, value.dtype), number(terms, 0.5, value.dtype))


def hard_swish(terms: Terms, value: Value) -> Value:
    """``x · hard_sigmoid(x)``."""
    terms.use("hard-swish")
    return multiply(terms, value, hard_sigmoid_of_sixth(terms, value))


def gelu(terms: Terms, value: Value, approximate: str) -> Value:
    """``x · Φ(x)``, or its approximation by a hyperbolic tangent."""
    terms.use("gelu")
    if approximate in ("none", "tanh") and _is_short(value):  # 1 + erf(x/√2) is 2: no large x has twice that
        return elementwise(terms, f"gelu, {approximate}", [value], value.dtype)
    one, half = number(terms, 1, value.dtype), number(terms, 0.5, value.dtype)
    if approximate == "none":
        inner = unary(terms, "erf", multiply(terms, value, defined(terms, math.sqrt(0.5), value.dtype)))
    elif approximate == "tanh":
        cubed = multiply(terms, power(terms, value, Fraction(3)), number(terms, 0.044715, value.dtype))
        scale = defined(terms, math.sqrt(2 / math.pi), value.dtype)
        inner = tanh(terms, multiply(terms, add(terms, value, cubed), scale))
    else:
        raise Uninterpreted(f"gelu approximated by {approximate}")
    return multiply(terms, multiply(terms, value, add(terms, inner, one)), half)


def logarithm(terms: Terms, value: Value) -> Value:
    """``log(x)``: of ``1 + exp(x)``, sigmoids, softmaxes and sums of exponentials as what has a name."""
    raised = _exponent_of_one_more(value)
    if raised is not None:
        terms.use("softplus")
        return softplus(terms, raised)
    if value.term.attributes == ("sigmoid",) and value.dtype != "float16":
        return log_sigmoid(terms, value.term.operands[0].value(value.layout))
    soft = _softmax_of(terms, value)
    if soft is not None:
        terms.use("log-of-softmax")
        return log_softmax(terms, *soft)
    found = _log_of_exponents(terms, value)
    return unary(terms, "log", value) if found is None else found


def _log_of_exponents(terms: Terms, value: Value) -> Value | None:
    """``log(Σ exp(x))`` with the largest taken away before; None of another value, or where it is already."""
    if value.term.op != "reduce" or value.term.attributes[0] != "sum" or value.dtype == "float16":
        return None
    whole = opened_up(value)
    inner = None if whole is None else _exponent(whole)
    if inner is None or next(_without_largest(terms, inner), None) is not None:
        return None
    terms.use("log-sum-exp")
    return log_sum_exp(terms, inner, range(value.rank, inner.rank), keep=False)


def log_sigmoid(terms: Terms, value: Value) -> Value:
    """``log(sigmoid(x)) = -softplus(-x)``."""
    terms.use("log-sigmoid")
    return negate(terms, softplus(terms, negate(terms, value)))


def _exponent_of_one_more(value: Value) -> Value | None:
    """``x`` of ``1 + exp(x)``; None of another value."""
    if not value.is_float or value.dtype == "float16":
        return None
    core, scale, shift = parts_of(value)
    if core.term.attributes != ("exp",) or scale is not None or shift is None or scalar(shift) != 1:
        return None
    return core.term.operands[0].value(core.layout)


def softplus(terms: Terms, value: Value) -> Value:
    """``log(1 + exp(x))``."""
    return unary(terms, "softplus", value)


def exp_minus_one(terms: Terms, value: Value) -> Value:
    """``exp(x) - 1``; in half precision a function of its own, as its kernels tell more digits."""
    return _with_one(terms, "expm1", value, lambda x, one: subtract(terms, unary(terms, "exp", x), one))


def log_of_one_more(terms: Terms, value: Value) -> Value:
    """``log(1 + x)``; in half precision a function of its own, as its kernels tell more digits."""
    return _with_one(terms, "log1p", value, lambda x, one: logarithm(terms, add(terms, x, one)))


def _with_one(terms: Terms, name: str, value: Value, written: Callable[[Value, Value], Value]) -> Value:
    if value.dtype in ("float16", "bfloat16"):
        return unary(terms, name, value)
    terms.use("one-more")
    return written(value, number(terms, 1, value.dtype))


def mish(terms: Terms, value: Value) -> Value:
    """``x · tanh(softplus(x))``."""
    terms.use("mish")
    return multiply(terms, value, tanh(terms, softplus(terms, value)))


def softmax(terms: Terms, value: Value, dim: int) -> Value:
    """``exp(x - max(x)) / Σ exp(x - max(x))`` along a dimension."""
    terms.use("softmax")
    if not _holds_count(value, [dim]):
        return _by_name(terms, "softmax", value, [dim], value.shape)
    return _share_of_exponents(terms, without_shift_of_keys(terms, _masked(terms, value, dim), dim), dim)


def _share_of_exponents(terms: Terms, value: Value, dim: int) -> Value:
    raised = unary(terms, "exp", subtract(terms, value, reduce(terms, "max", value, [dim], keep=True)))
    return divide(terms, raised, reduce(terms, "sum", raised, [dim], keep=True))


def _masked(terms: Terms, value: Value, dim: int) -> Value:
    """What a softmax reads, with minus infinity where a mask adds almost the lowest number of the type."""
    core, scale, shift = parts_of(value)
    if shift is None or shift.rank != value.rank or value.dtype not in ("float32", "bfloat16"):
        return value
    try:
        mask = elements(shift)
    except NotFolded:
        return value
    is_hidden = mask.value < -LARGEST[value.dtype] / 2
    if mask.error.any() or mask.defined.any() or is_hidden.all(dim).any():
        return value
    if np.isneginf(mask.value[is_hidden]).all():
        return value
    terms.use("masked-by-lowest")
    nothing = terms.constant(np.where(is_hidden, -np.inf, mask.value).astype(numpy_type(value.dtype)))
    return scaled(terms, core, scale=scale, shift=nothing)


def inverse(terms: Terms, value: Value) -> Value:
    """``1 / x``."""
    logistic = _logistic(terms, value)
    return power(terms, value, Fraction(-1)) if logistic is None else logistic


def _logistic(terms: Terms, value: Value) -> Value | None:
    """``sigmoid(-x)`` of ``1 + exp(x)``, whose inverse it is; None of another value."""
    raised = _exponent_of_one_more(value)
    if raised is None:
        return None
    terms.use("logistic")
    return sigmoid(terms, negate(terms, raised))


def multiplied(terms: Terms, first: Value, second: Value) -> Value:
    """``first · second``; of ``x`` and whether it is above zero the ReLU."""
    for value, mask in ((first, second), (second, first)):
        if mask.term.op != "cast" or value.dtype == "float16":
            continue
        asked = mask.term.operands[0].value(mask.layout)
        order = _order_of(asked, value, value)
        if order is not None and order[:2] == (True, value) and scalar(order[2]) == 0:
            terms.use("masked-by-sign")
            return relu(terms, value)
    return multiply(terms, first, second)


def quotient(terms: Terms, first: Value, second: Value) -> Value:
    """``first / second``, of ``exp(x)`` and its own sum the softmax, which takes the largest away before."""
    logistic = _logistic(terms, second)
    if logistic is not None:
        return multiply(terms, first, logistic)
    average = _average(terms, first, second)
    if average is not None:
        return average
    found = divide(terms, first, second)
    if first.term.attributes != ("exp",) or first.dtype == "float16" or second.rank != first.rank:
        return found
    for dim in range(first.rank):
        if second.shape[dim] == 1 and second == reduce(terms, "sum", first, [dim], keep=True):
            written = _softmax_of(terms, found)
            if not written:
                terms.use("softmax-without-largest")
            return softmax(terms, *(written or (first.term.operands[0].value(first.layout), dim)))
    return found


def _average(terms: Terms, total: Value, count: Value) -> Value | None:
    """The mean, of a sum over cells and of their number; None of others.

    In half precision the sum may have left the type.
    """
    core, scale, shift = parts_of(total)
    if core.term.op != "reduce" or core.term.attributes[0] != "sum" or shift is not None:
        return None
    whole = opened_up(core)
    if whole is None or core.dtype == "float16" or _count(count) != times(*whole.shape[core.rank :]):
        return None
    terms.use("average-of-sum")
    found = reduce(terms, "mean", whole, range(core.rank, whole.rank), keep=False)
    return scaled(terms, widened(found, count), scale=scale)


def _count(value: Value) -> Extent | None:
    """The number that a value is, as an extent; None where it is none."""
    read = value.term.operands[0].term if value.term.op == "cast" else value.term
    if read.op == "sizes" and len(read.attributes) == 1:
        return read.attributes[0]  # type: ignore[return-value]
    number = scalar(value) if value.is_closed else None
    return int(number) if number is not None and number == number // 1 else None


def log_softmax(terms: Terms, value: Value, dim: int) -> Value:
    """``x - max(x) - log Σ exp(x - max(x))`` along a dimension."""
    terms.use("log-softmax")
    if not _holds_count(value, [dim]):
        return _by_name(terms, "log-softmax", value, [dim], value.shape)
    moved = subtract(terms, value, reduce(terms, "max", value, [dim], keep=True))
    total = reduce(terms, "sum", unary(terms, "exp", moved), [dim], keep=True)
    return subtract(terms, moved, unary(terms, "log", total))


def normalised(terms: Terms, value: Value, dims: Sequence[int], epsilon: Value) -> Value:
    """``(x - mean) / sqrt(mean((x - mean)²) + epsilon)`` over the last dimensions."""
    terms.use("normalisation")
    if _is_short(value) and dims:
        flat = flatten(value, dims[0], dims[-1])  # however many axes of the last ones are cut into
        return reshape(terms, _by_name(terms, "normalised", flat, dims[:1], flat.shape, epsilon), value.shape)
    centred = subtract(terms, value, reduce(terms, "mean", value, dims, keep=True))
    variance = reduce(terms, "mean", power(terms, centred, Fraction(2)), dims, keep=True)
    return multiply(terms, centred, power(terms, add(terms, variance, epsilon), Fraction(-1, 2)))


def weighted(
    terms: Terms, value: Value, weight: Value | None, bias: Value | None, behind: Sequence[int] = ()
) -> Value:
    """The value times the weight plus the bias, where there are any, with new dimensions at these places."""
    if weight is not None:
        value = multiply(terms, value, unsqueeze(weight, behind) if behind else weight)
    return value if bias is None else plus_within(terms, value, unsqueeze(bias, behind) if behind else bias)


def instance_norm(
    terms: Terms, value: Value, epsilon: Value, weight: Value | None, bias: Value | None
) -> Value:
    """Each map on its own normalised, with a weight and a bias of each channel."""
    found = normalised(terms, value, range(2, value.rank), epsilon)
    return weighted(terms, found, weight, bias, range(1, value.rank - 1))


def group_norm(
    terms: Terms, value: Value, groups: int, epsilon: Value, weight: Value | None, bias: Value | None
) -> Value:
    """Each group of channels on its own normalised, with a weight and a bias of each channel."""
    split = reshape(terms, value, [value.shape[0], groups, -1, *value.shape[2:]])
    found = normalised(terms, split, range(2, split.rank), epsilon)
    return weighted(terms, flatten(found, 1, 2), weight, bias, range(1, value.rank - 1))


def _is_short(value: Value) -> bool:
    """Whether its squares, written out, may have no numbers, though libraries have them: in 32 bits."""
    return value.dtype == "float16" and not value.is_closed


def _holds_count(value: Value, dims: Sequence[int]) -> bool:
    """Whether the type holds a sum of as many ones as there are cells."""
    count = times(*(value.shape[dim] for dim in dims))
    return value.dtype != "float16" or (isinstance(count, int) and count <= LARGEST["float16"])


def _by_name(
    terms: Terms, name: str, value: Value, dims: Sequence[int], shape: Sequence[Extent], *more: Value
) -> Value:
    """What is known by its name alone, in both dialects."""
    kinds = [(value.dtype, tuple(shape))]
    return foreign(terms, (name, tuple(dims)), [value, *more], kinds, is_random=False)[0]


def _reduced_by_name(terms: Terms, name: str, value: Value, dims: Sequence[int], *, keep: bool) -> Value:
    shape = [1 if dim in dims else extent for dim, extent in enumerate(value.shape)]
    found = _by_name(terms, name, value, sorted(dims), shape)
    return found if keep else squeeze(found, dims)


def variance(terms: Terms, value: Value, dims: Sequence[int], correction: float, *, keep: bool) -> Value:
    """``Σ (x - mean)² / (n - correction)`` over dimensions of n cells, which stay as one if ``keep``."""
    terms.use("variance")
    if _is_short(value):
        return _reduced_by_name(terms, f"variance, {float(correction)}", value, dims, keep=keep)
    centred = subtract(terms, value, reduce(terms, "mean", value, dims, keep=True))
    found = reduce(terms, "mean", power(terms, centred, Fraction(2)), dims, keep=keep)
    if not correction:
        return found
    count = times(*(value.shape[dim] for dim in dims))
    if not isinstance(count, int) or not 0 <= correction < count:
        raise Uninterpreted("a variance of an unknown number of cells, or of too few")
    cells, rest = (number(terms, item, value.dtype) for item in (count, count - correction))
    return divide(terms, multiply(terms, found, cells), rest)


def log_sum_exp(terms: Terms, value: Value, dims: Sequence[int], *, keep: bool) -> Value:
    """``max(x) + log Σ exp(x - max(x))`` over dimensions, which stay with extent 1 if ``keep``."""
    terms.use("log-sum-exp")
    if not _holds_count(value, dims):
        return _reduced_by_name(terms, "log-sum-exp", value, dims, keep=keep)
    largest = reduce(terms, "max", value, dims, keep=True)
    total = reduce(terms, "sum", unary(terms, "exp", subtract(terms, value, largest)), dims, keep=True)
    found = add(terms, largest, unary(terms, "log", total))
    return found if keep else squeeze(found, dims)


def euclidean_norm(terms: Terms, value: Value, dims: Sequence[int], *, keep: bool) -> Value:
    """``(Σ x²)^1/2`` over dimensions, which stay with extent 1 if ``keep``."""
    terms.use("euclidean-norm")
    if _is_short(value):
        return _reduced_by_name(terms, "norm", value, dims, keep=keep)
    total = reduce(terms, "sum", power(terms, value, Fraction(2)), dims, keep=keep)
    return power(terms, total, Fraction(1, 2))


def batch_norm(
    terms: Terms,
    value: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    epsilon: Value,
) -> Value:
    """A batch norm in evaluation: an affine map of each channel."""
    given = [item for item in (weight, bias, mean, variance) if item is not None]
    if not all(item.is_closed for item in given) or value.rank < 2:
        raise Uninterpreted("a batch norm whose statistics are computed")
    terms.use("batch-norm")
    scale = power(terms, add(terms, variance, epsilon), Fraction(-1, 2))
    if weight is not None:
        scale = multiply(terms, weight, scale)
    shift = multiply(terms, negate(terms, mean), scale)
    if bias is not None:
        shift = add(terms, bias, shift)
    if not has_step(shift):
        raise Uninterpreted("a shift that leads back into half precision")
    behind = list(range(1, value.rank - 1))
    placed = (unsqueeze(item, behind) for item in (scale, shift))
    return scaled(terms, value, scale=next(placed), shift=next(placed), is_norm=True)


def attention(
    terms: Terms,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None,
    scale: Value | None,
    *,
    is_causal: bool,
) -> Value:
    """``softmax(query · keyᵀ · scale + mask) · value`` over the last two dimensions.

    The mask of a causal one leaves each row of scores what is not behind its diagonal.
    """
    width = query.shape[-1]
    if is_causal:
        if mask is not None:
            raise Uninterpreted("two masks")
        mask = terms.constant(np.tri(*_mask_extents(query.shape[-2], key.shape[-2]), dtype=bool))
    if mask is not None and mask.dtype == "bool":
        mask = _as_summand(terms, mask, query.dtype)
    if not isinstance(width, int) or (mask is not None and mask.dtype != query.dtype):
        raise Uninterpreted("another attention")
    if query.dtype == "float16":
        raise Uninterpreted("scores that half precision need not hold")
    terms.use("attention")
    if scale is None:
        scale = defined(terms, 1 / math.sqrt(width), query.dtype)
    order = [*range(key.rank - 2), key.rank - 1, key.rank - 2]
    scores = multiply(terms, matmul(terms, query, key.permuted(order)), scale)
    if mask is not None:
        scores = add(terms, scores, mask)
    return matmul(terms, softmax(terms, scores, scores.rank - 1), value)


def triangle(terms: Terms, value: Value, offset: int, *, is_upper: bool) -> Value:
    """The matrix of the last two dimensions with 0 below (above) the diagonal that ``offset`` moves."""
    if value.rank < 2:
        raise Uninterpreted("no matrix")
    rows, columns = _mask_extents(*value.shape[-2:])
    moved = min(max(offset, -rows), columns)
    kept = np.tri(rows, columns, moved - is_upper, dtype=bool) ^ is_upper
    stored = exact_array(value)
    if stored is not None:
        return terms.constant(np.where(kept, stored, np.zeros((), stored.dtype)))
    return choose(terms, terms.constant(kept), value, number(terms, 0, value.dtype))


def _mask_extents(rows: Extent, columns: Extent) -> tuple[int, int]:
    """Extents of a matrix that is written out.

    Raises:
        Uninterpreted: one is free, or it has too many cells.
    """
    if not (isinstance(rows, int) and isinstance(columns, int)) or rows * columns > _MOST_MASKED:
        raise Uninterpreted("a mask of unknown extents, or beyond the limit")
    return rows, columns


def _as_summand(terms: Terms, mask: Value, dtype: str) -> Value:
    """0 where a mask holds, else -∞."""
    # along a free extent it can only repeat itself, and is stored once
    once = tuple(() if all(part.is_repeated for part in parts) else parts for parts in mask.layout)
    stored = exact_array(mask.seen(once))
    if stored is None or not stored.any(-1).all():  # of which every library makes something else
        raise Uninterpreted("a mask that may leave nothing")
    found = terms.constant(np.where(stored, 0, -np.inf).astype(numpy_type(dtype)))
    return expand(found, mask.shape)


def log_of_base(terms: Terms, value: Value, base: int) -> Value:
    """``log(x) / log(base)``."""
    if value.dtype == "float16":
        raise Uninterpreted("a logarithm that half precision need not hold")
    return divide(terms, logarithm(terms, value), defined(terms, math.log(base), value.dtype))


def rounded_to_zero(terms: Terms, value: Value) -> Value:
    """``sign(x) · floor(|x|)``."""
    size = unary(terms, "floor", unary(terms, "abs", value))
    return multiply(terms, size, unary(terms, "sign", value))


def sinc(terms: Terms, value: Value) -> Value:
    """``1`` where x is 0, else ``sin(π·x) / (π·x)``."""
    if value.dtype == "float16":
        raise Uninterpreted("angles that half precision need not hold")
    terms.use("sinc")
    zero, one = number(terms, 0, value.dtype), number(terms, 1, value.dtype)
    angle = multiply(terms, value, defined(terms, math.pi, value.dtype))
    is_zero = elementwise(terms, "eq", [value, zero], "bool")
    return choose(terms, is_zero, one, divide(terms, unary(terms, "sin", angle), angle))


def without_specials(terms: Terms, value: Value, nan: Value, highest: Value, lowest: Value) -> Value:
    """The value with numbers in the place of NaN and infinities."""
    zero = number(terms, 0, value.dtype)
    is_infinite = elementwise(terms, "isinf", [value], "bool")
    found = choose(terms, elementwise(terms, "isnan", [value], "bool"), nan, value)
    for side, end in (("lt", lowest), ("gt", highest)):
        is_there = elementwise(terms, side, [value, zero], "bool")
        found = choose(terms, elementwise(terms, "and", [is_there, is_infinite], "bool"), end, found)
    return found


def root_mean_square_norm(
    terms: Terms, value: Value, dims: Sequence[int], epsilon: Value, weight: Value | None
) -> Value:
    """``x / sqrt(mean(x²) + epsilon)`` over the last dimensions, times the weight."""
    if _is_short(value):
        raise Uninterpreted("squares that half precision need not hold")
    terms.use("normalisation")
    squares = reduce(terms, "mean", power(terms, value, Fraction(2)), dims, keep=True)
    found = multiply(terms, value, power(terms, add(terms, squares, epsilon), Fraction(-1, 2)))
    return weighted(terms, found, weight, None)


GRID_MODES, GRID_ENDS = ("linear", "nearest", "cubic"), ("zeros", "border", "reflection")
"""As torch counts them."""


def grid_sample(terms: Terms, value: Value, grid: Value, mode: str, padding: str, *, corners: bool) -> Value:
    """The value between its cells at the places of a grid: known by its name, in both dialects."""
    kinds = [(value.dtype, (*value.shape[:2], *grid.shape[1:-1]))]
    return foreign(terms, ("grid", mode, padding, corners), [value, grid], kinds, is_random=False)[0]


def _softmax_of(terms: Terms, value: Value) -> tuple[Value, int] | None:
    """Of which value along which dimension it is the softmax; None of another value."""
    if value.term.op != "product":
        return None
    for factor in (operand.value(value.layout) for operand in value.term.operands):
        inner = _exponent(factor)
        for item in [] if inner is None else _without_largest(terms, inner):
            for dim in range(item.rank):
                with contextlib.suppress(Uninterpreted):
                    if value in (softmax(terms, item, dim), _share_of_exponents(terms, item, dim)):
                        return item, dim
    return None


def _log_softmax_of(terms: Terms, value: Value) -> tuple[Value, int] | None:
    """Of which value along which dimension it is the log-softmax; None of another value."""
    items = summands(terms, value)
    for place, item in enumerate(items if len(items) > 1 else ()):
        if parts_of(item)[0].term.attributes == ("log",):
            rest = [*items[:place], *items[place + 1 :]]
            if not rest:
                continue
            for inner in _without_largest(terms, functools.reduce(functools.partial(add, terms), rest)):
                for dim in range(inner.rank):
                    if value == log_softmax(terms, inner, dim):
                        return inner, dim
    return None


def _exponent(value: Value) -> Value | None:
    """``x`` of ``exp(x)``; None of another value."""
    return value.term.operands[0].value(value.layout) if value.term.attributes == ("exp",) else None


def _without_largest(terms: Terms, value: Value) -> Iterator[Value]:
    """What may be meant by ``x`` where the value is ``x - max(x)``."""
    items = summands(terms, value)
    for place, item in enumerate(items if len(items) > 1 else ()):
        core, _, shift = parts_of(item)
        rest = [*items[:place], *items[place + 1 :]]
        if rest and core.term.op == "reduce" and core.term.attributes[0] in OPPOSITE and shift is None:
            yield functools.reduce(functools.partial(add, terms), rest)


def choose(terms: Terms, condition: Value, first: Value, second: Value) -> Value:
    """``first`` where the condition holds, else ``second``."""
    stored = exact_array(condition)
    if stored is not None and stored.all():
        return widened(first, condition, second)
    if (
        first.dtype in ("float32", "float16", "bfloat16")
        and _is_above(terms, condition, first, 20)
        and second == softplus(terms, first)
    ):
        terms.use("softplus-of-large")
        return second
    if condition.term.attributes == ("isnan",) and _softmax_of(terms, second):
        if condition == elementwise(terms, "isnan", [second], "bool"):
            terms.use("softmax-of-something")
            return second
    bent = _bent(terms, condition, first, second)
    if bent is not None:
        return bent
    name = _name_of_larger(condition, first, second)
    if name is not None:
        terms.use("choice-of-extreme")
        return extreme(terms, name, first, second)
    return elementwise(terms, "where", [condition, first, second], first.dtype)


def unequal(terms: Terms, first: Value, second: Value) -> Value:
    """``not (x = y)``: ONNX has no operator of its own for it."""
    terms.use("unequal")
    return elementwise(terms, "not", [elementwise(terms, "eq", [first, second], "bool")], "bool")


def _order_of(condition: Value, first: Value, second: Value) -> tuple[bool, Value, Value] | None:
    """Of a comparison that two real values hang on whether it asks for the larger, and what it compares."""
    asked = condition.term.attributes[0] if condition.term.op == "map" else None
    if asked not in ("gt", "ge", "lt", "le") or not first.is_float or first.dtype != second.dtype:
        return None
    left, right = (operand.value(condition.layout) for operand in condition.term.operands)
    return asked in ("gt", "ge"), left, right


def _name_of_larger(condition: Value, first: Value, second: Value) -> str | None:
    """The extreme of the two that is taken where a condition compares just them; else None."""
    order = _order_of(condition, first, second)
    if order is None:
        return None
    is_larger, *pair = order
    if all(map(_are_one, pair, (first, second))):
        return "maximum" if is_larger else "minimum"
    return ("minimum" if is_larger else "maximum") if all(map(_are_one, pair, (second, first))) else None


def _bent(terms: Terms, condition: Value, first: Value, second: Value) -> Value | None:
    """What is ``x`` above zero, and below it a multiple of ``x`` or of ``exp(x) - 1``; or None."""
    order = _order_of(condition, first, second)
    if order is None:
        return None
    is_larger, compared, limit = order
    value, other = (first, second) if is_larger else (second, first)
    if compared != value or scalar(limit) != 0 or value.dtype == "float16":
        return None
    core, scale, shift = parts_of(other)
    slope = 1.0 if scale is None else scalar(scale)
    if core == value and scale is not None and shift is None and slope is not None:
        terms.use("choice-of-slope")
        return unary(terms, "abs", value) if slope == -1 else leaky_relu(terms, value, scale)
    is_exp = core.term.attributes == ("exp",) and core.term.operands[0].value(core.layout) == value
    if is_exp and slope is not None and shift is not None and scalar(shift) == -slope:
        terms.use("choice-of-slope")
        return elu(terms, value, number(terms, 1, value.dtype) if scale is None else scale)
    return None


def _are_one(first: Value, second: Value) -> bool:
    number = scalar(first)
    return first == second or (number is not None and number == scalar(second))


def _is_above(terms: Terms, condition: Value, value: Value, least: float) -> bool:
    """Whether the condition is that the value is larger than a number, and that no smaller than this."""
    term = condition.term
    limit = term.operands[-1].term if term.op == "map" and term.attributes == ("gt",) else None
    if limit is None or limit.array is None or limit.rounded or limit.shape != ():
        return False
    seen = elementwise(terms, "gt", [value, Value(term=limit, known_layout=())], "bool")
    return seen == condition and float(limit.array) >= least


def elu(terms: Terms, value: Value, alpha: Value, scale: Value | None = None) -> Value:
    """``scale · (x where positive, else alpha · (exp(x) - 1))``."""
    found = elementwise(terms, "elu", [value, alpha], value.dtype)
    return found if scale is None else multiply(terms, found, scale)


def celu(terms: Terms, value: Value, alpha: Value) -> Value:
    """``max(x, 0) + min(0, alpha · (exp(x / alpha) - 1))``."""
    return elementwise(terms, "celu", [value, alpha], value.dtype)


def leaky_relu(terms: Terms, value: Value, slope: Value) -> Value:
    """``x`` where positive, else ``slope · x``."""
    return elementwise(terms, "leaky-relu", [value, slope], value.dtype)


def extreme(terms: Terms, name: str, first: Value, second: Value) -> Value:
    """The larger or the smaller of two values; beside one closed scalar it is a clamp."""
    first, second = _once(terms, first), _once(terms, second)
    if first.is_scalar and not second.is_closed:
        first, second = second, first
    if first.is_float and second.is_scalar and not first.is_closed:
        terms.use("extreme-as-clamp")
        return clamp(terms, first, *((second, None) if name == "maximum" else (None, second)))
    for value, other in ((first, second), (second, first)) if name == "maximum" else ():
        core, scale, shift = parts_of(other)
        if scale is None or shift is not None or core != value or value.dtype == "float16":
            continue
        slope = scalar(scale)
        if slope is not None and (0 < slope < 1 or slope == -1):
            terms.use("extreme-as-slope")
            return absolute(terms, value) if slope == -1 else leaky_relu(terms, value, scale)
    values = sorted([first, second], key=lambda value: (value.is_closed, value.term.skeleton))
    return elementwise(terms, name, values, first.dtype)


def _once(terms: Terms, value: Value) -> Value:
    """A stored number that is written out to many cells, as the one that it is; any other value as it is."""
    array = exact_array(value)
    if array is None or not array.size or (array != array.flat[0]).any():
        return value
    one = terms.constant(array.reshape(-1)[:1].reshape([1] * value.rank))
    return expand(one, value.shape)


def extreme_of(name: str) -> Callable[[Terms, Value, Value], Value]:
    """The larger or the smaller of two values."""
    return lambda terms, first, second: extreme(terms, name, first, second)
