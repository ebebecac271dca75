"""Numbers of few bits that stand for reals: what ``QuantizeLinear`` and ``DequantizeLinear`` mean.

Both are made of operators that the language has. A quantised number is a step of its real one: where two
files compute that in another order of summation, they are one function of the reals, and may be a step
apart where it lies between two numbers; ``compare`` names those places.
"""

from __future__ import annotations

from fxexport.language import arithmetic, definitions, moves
from fxexport.language.extents import Extent
from fxexport.language.maps import cast, elementwise, mapped
from fxexport.language.term import FLOATS, Terms, Uninterpreted, Value

LEVELS: dict[str, tuple[int, int]] = {
    **{f"int{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (2, 4, 8, 16)},
    **{f"uint{bits}": (0, (1 << bits) - 1) for bits in (2, 4, 8, 16)},
}
"""The smallest and the largest number of each type that reals are quantised to."""
_EXACT = ("float32", "float64")
"""Types that hold every number of up to 16 bits, and the difference of two."""


def quantized(terms: Terms, value: Value, scale: Value, zero: Value | None, dtype: str) -> Value:
    """``saturate(round(value / scale) + zero)``, of a scale and zero point that are broadcast."""
    if dtype not in LEVELS or (zero is not None and zero.dtype != dtype):
        raise Uninterpreted(f"a number of type {dtype}")
    if value.dtype != scale.dtype or value.dtype not in FLOATS:
        raise Uninterpreted("a quotient of two types, or of integers")
    if value.dtype not in _EXACT:  # which need not hold the quotient: known by its name alone
        return elementwise(terms, "quantize", [value, scale, *([] if zero is None else [zero])], dtype)
    found = definitions.unary(terms, "round", arithmetic.divide(terms, value, scale))
    if zero is not None:
        found = arithmetic.add(terms, found, cast(terms, zero, value.dtype))
    low, high = (definitions.number(terms, level, value.dtype) for level in LEVELS[dtype])
    return mapped(terms, "cast", (), [arithmetic.clamp(terms, found, low, high)], dtype)


def dequantized(terms: Terms, value: Value, scale: Value, zero: Value | None) -> Value:
    """``(value - zero) · scale``, of a scale and zero point that are broadcast."""
    is_short = value.dtype in LEVELS and "16" not in value.dtype
    is_known = value.dtype in (*LEVELS, "int32") or value.dtype.startswith("float8")
    if scale.dtype not in (FLOATS if is_short else _EXACT) or not is_known:
        raise Uninterpreted(f"a number of type {value.dtype} as one of type {scale.dtype}")
    if zero is not None and zero.dtype != value.dtype:
        raise Uninterpreted("a zero point of another type")
    found = cast(terms, value, scale.dtype)
    if zero is not None:
        found = arithmetic.subtract(terms, found, cast(terms, zero, scale.dtype))
    return arithmetic.multiply(terms, found, scale)


def spread(terms: Terms, value: Value, parameter: Value, axis: int, block: Extent) -> Value:
    """A scale or zero point along the dimensions of what it belongs to: one, one for each cell, or block."""
    if not block and parameter.shape in ((), (1,)):
        return parameter.seen(())
    if not -value.rank <= axis < value.rank or parameter.rank != (value.rank if block else 1):
        raise Uninterpreted("scales of another shape")
    dim = axis % value.rank
    if block:
        repeats: list[Extent] = [1] * value.rank
        repeats[dim] = block
        found = moves.tile(parameter, repeats, each=True)
        found = moves.take(terms, found, dim, 0, 1, value.shape[dim])
    else:
        found = moves.unsqueeze(parameter, range(1, value.rank - dim))
    if found.shape[-(value.rank - dim)] != value.shape[dim]:
        raise Uninterpreted("scales of another shape")
    return found
