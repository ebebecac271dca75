"""Sums, products and powers of reals in one normal form.

A value is ``core · scale + shift`` with closed scale and shift; cores are products of powers, sums, or what
is neither. Scalars stay outside of vectors, so that a definition (``x · clamp(x + 3, 0, 6) / 6``) is told
whatever a batch norm did before it. Integers have none of this: they are what they are written.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from fxexport.language.constants import elements, folded, is_folded, scalar, stored
from fxexport.language.extents import size_at_sample
from fxexport.language.fold_rules import UNIT, NotFolded
from fxexport.language.layout import Part, Parts
from fxexport.language.maps import broadcast, elementwise, mapped
from fxexport.language.moves import widened
from fxexport.language.term import Rounded, Terms, Uninterpreted, Value

_LARGEST = {"float16": 2.0**10}
LARGEST_FACTOR = 2.0**40
"""Factors that are multiplied with each other are no larger, and no smaller than the inverse: no overflow."""
_HALF_STEP = 2.0**4
"""Half of the step between the largest numbers of half precision: adding less leads past no end."""
_SEEN = 2.0**-14
_SEEN_SHORT = 2.0**-10
"""Shifts whose addition one by one may round by more than this, over their sum, are left as they are; in 16
bits more is not seen. Bounds of a clamp may be off by the former share of the largest of them, but for a few
roundings."""
_MOST_PARTS = 128
"""No sum or product is written out to more: what is added to itself forty times would be 2^40."""
_HIGHEST = 4
"""No higher power of a product is a product of powers: of 66,000 x^8 has no number, where (x·y)^8 may."""


def multiply(terms: Terms, first: Value, second: Value) -> Value:
    """The product."""
    if not (first.is_float and second.is_float):
        return _commuted(terms, "mul", first, second)
    if first.is_closed and second.is_closed:
        return _closed(terms, "mul", first, second)
    if first.is_closed or second.is_closed:
        value, factor = (second, first) if first.is_closed else (first, second)
        return scaled(terms, value, scale=factor)
    left, right = _factors(terms, first), _factors(terms, second)
    scales = [*left[1], *right[1]]
    if not are_moderate(*scales) or len(left[0]) + len(right[0]) > _MOST_PARTS:
        left, right, scales = ([(first, Fraction(1))], []), ([(second, Fraction(1))], []), []
    return widened(_product(terms, [*left[0], *right[0]], scales), first, second)


def add(terms: Terms, first: Value, second: Value) -> Value:
    """The sum."""
    if not (first.is_float and second.is_float):
        return _commuted(terms, "add", first, second)
    if first.is_closed and second.is_closed:
        return _closed(terms, "add", first, second)
    if first.is_closed or second.is_closed:
        value, shift = (second, first) if first.is_closed else (first, second)
        return scaled(terms, value, shift=shift)
    every = [*summands(terms, first), *summands(terms, second)]
    if len(every) > _MOST_PARTS:
        every = [first, second]
    if terms.merges:
        from fxexport.language import merging

        both = merging.summed(terms, [first, second])  # a sum may be what a site reads
        every = both if len(both) == 1 else merging.summed(terms, every)
    return widened(_sum(terms, every) if len(every) > 1 else every[0], first, second)


def _sum(terms: Terms, items: Sequence[Value]) -> Value:
    """The sum in one order; of it and its negative one is looked at, whichever is written."""
    terms.use("sum-commutes")
    found = _in_order(terms, _without_opposite(terms, items))
    if found.dtype == "float16" or not any(map(_is_turned, items)):
        return found
    terms.use("sum-order")
    turned = _in_order(terms, [negate(terms, item) for item in summands(terms, found)])
    if _preferred(found) <= _preferred(turned):
        return found
    return scaled(terms, turned, scale=terms.real(-1.0, found.dtype))


def _in_order(terms: Terms, items: Sequence[Value]) -> Value:
    ordered = sorted(items, key=lambda value: value.term.skeleton)
    return mapped(terms, "sum", (), ordered, items[0].dtype)


def _preferred(total: Value) -> tuple[int, bool, str, int]:
    """Fewer differences come first, then what a mean or maximum is taken from: so norms and softmax read.

    Of two that but their constants tell apart it is the one that was met first, on both sides.
    """
    items = [operand.value(total.layout) for operand in total.term.operands]
    turned = [item for item in items if _is_turned(item)]
    takes = any(parts_of(item)[0].term.op == "reduce" for item in turned)
    return len(turned), not takes, total.term.skeleton, total.term.serial


def _is_turned(value: Value) -> bool:
    """Whether it is less than nothing times something."""
    scale = parts_of(value)[1]
    number = None if scale is None else scalar(scale)
    return number is not None and number < 0


def summands(terms: Terms, value: Value) -> list[Value]:
    """What a value is the sum of; in half precision no other order is that sum."""
    core, scale, shift = parts_of(value)
    is_sum = core.term.op == "sum" and shift is None and value.dtype != "float16"
    if not is_sum or (scale is not None and scalar(scale) != -1):
        return [value]
    terms.use("sum-order")
    found = [operand.value(core.layout) for operand in core.term.operands]
    return found if scale is None else [negate(terms, item) for item in found]


def _without_opposite(terms: Terms, items: Sequence[Value]) -> list[Value]:
    """The summands without shifts that two of them take from each other, as a mean's and its cells' are."""
    found = list(items)
    shifted = [(place, *parted) for place, item in enumerate(items) if (parted := _unshifted(terms, item))]
    for one, other in itertools.combinations(shifted, 2):
        (first, rest, shift), (second, remaining, opposite) = one, other
        if found[first] is items[first] and found[second] is items[second]:
            if _is_opposite(terms, shift, opposite) and rounds_little(shift):
                terms.use("opposite-shifts")
                found[first], found[second] = rest, remaining
    return found


def _is_opposite(terms: Terms, shift: Value, other: Value) -> bool:
    number, negative = scalar(shift), scalar(other)
    if number is None or negative is None:
        return shift == negate(terms, other)
    return number == -negative


def _unshifted(terms: Terms, value: Value) -> tuple[Value, Value] | None:
    """A value without its shift, and this; of what has none, nothing."""
    core, scale, shift = parts_of(value)
    if shift is not None:
        return scaled(terms, core, scale=scale), shift
    if scale is None or scalar(scale) != -1:
        return None
    inner = _unshifted(terms, core)
    return None if inner is None else (negate(terms, inner[0]), negate(terms, inner[1]))


def negate(terms: Terms, value: Value) -> Value:
    """Minus the value."""
    if value.dtype == "bool":
        raise Uninterpreted("less than a truth")
    if not value.is_float:
        return elementwise(terms, "neg", [value], value.dtype)
    if value.is_closed:
        return _opposite(terms, value)
    return scaled(terms, value, scale=terms.real(-1.0, value.dtype))


def subtract(terms: Terms, first: Value, second: Value) -> Value:
    """The difference."""
    if "bool" in (first.dtype, second.dtype):
        raise Uninterpreted("a difference of truths")
    if not (first.is_float and second.is_float):
        return elementwise(terms, "sub", [first, second], first.dtype)
    terms.use("difference")
    return add(terms, first, negate(terms, second))


def divide(terms: Terms, first: Value, second: Value) -> Value:
    """The quotient."""
    if not (first.is_float and second.is_float):
        return elementwise(terms, "div", [first, second], first.dtype)
    terms.use("quotient")
    if first.dtype == "float16" and not second.is_closed:  # whose inverse may have left the type
        product = _product(terms, [(first, Fraction(1)), (second, Fraction(-1))], [])
        return widened(product, first, second)
    return multiply(terms, first, power(terms, second, Fraction(-1)))


def power(terms: Terms, base: Value, exponent: Fraction) -> Value:
    """The value to a rational power."""
    if not base.is_float:
        raise Uninterpreted("a power of integers")
    if exponent == 1:
        return base
    if base.is_closed:
        found = elementwise(terms, "pow", [base], base.dtype, str(float(exponent)))
        return _evaluated(terms, found)
    if exponent.denominator == 1:
        factors, scales = _factors(terms, base)
        scales = [power(terms, scale, exponent) for scale in scales]
        is_low = all(abs(own * exponent) <= _HIGHEST for _, own in factors)
        is_one = len(factors) == 1 and not scales
        if (is_low or is_one) and are_moderate(*scales):
            terms.use("power-of-product")
            return _product(terms, [_raised(terms, factor, exponent) for factor in factors], scales)
    return _product(terms, [(base, exponent)], [])


def _raised(terms: Terms, factor: Factor, exponent: Fraction) -> Factor:
    """A power to an integer power; the square of a root is no value below zero, and stays what it is."""
    value, own = factor
    if own.denominator != 1 and (own * exponent).denominator == 1:
        return _product(terms, [factor], []), exponent
    whole = own * exponent
    return without_sign(terms, value) if whole % 2 == 0 else value, whole


def without_sign(terms: Terms, value: Value) -> Value:
    """One of a value and of its negative, whichever is given: for what is the same of both."""
    if not _is_turned(value) or value.dtype == "float16":
        return value
    terms.use("even-function")
    return negate(terms, value)


def exponent_of(value: Value) -> Fraction | None:
    """The exponent that a closed value is, if it is a small multiple of one half."""
    number = scalar(value)
    if number is None or not 0 < abs(number) <= 8 or number * 2 != round(number * 2):
        return None
    return Fraction(round(number * 2), 2)


def parts_of(value: Value) -> tuple[Value, Value | None, Value | None]:
    """Core, scale and shift of a value."""
    if value.term.op != "affine":
        return value, None, None
    has_scale, has_shift = value.term.attributes
    core, *closed = (operand.value(value.layout) for operand in value.term.operands)
    rest = iter([_unrepeated(item) for item in closed])
    return core, next(rest) if has_scale else None, next(rest) if has_shift else None


def _unrepeated(value: Value) -> Value:
    """The value with extent 1 where it only repeats itself; a scalar without dimensions."""
    if value.term.shape == ():
        return value.seen(())
    return value.seen(
        tuple(() if all(part.is_repeated for part in parts) else parts for parts in value.layout)
    )


def scaled(
    terms: Terms,
    value: Value,
    *,
    scale: Value | None = None,
    shift: Value | None = None,
    is_norm: bool = False,
) -> Value:
    """``value · scale + shift`` for closed scale and shift.

    Args:
        terms: the table.
        value: what is scaled.
        scale: the factor.
        shift: the summand.
        is_norm: whether the scale is one of each channel by its meaning, even where all are equal: a site
            before it takes it into its weights, as it does any other norm.
    """
    value = widened(value, *(item for item in (scale, shift) if item is not None))
    scale = None if scale is None or _is_all(scale, 1.0) else scale
    shift = None if shift is None or _is_all(shift, 0.0) else shift
    if scale is None and shift is None:
        terms.use("neutral-element")
        return value
    if value.is_closed:
        value = value if scale is None else _closed(terms, "mul", value, scale)
        return value if shift is None else _closed(terms, "add", value, shift)
    core, own_scale, own_shift = parts_of(value)
    is_scalar = _is_scalar(scale, shift)
    is_channels = scale is not None and (is_norm or not scale.is_scalar) and are_moderate(scale)
    if core is not value and scale is not None and is_channels and _is_scalar(own_scale, None):
        from fxexport.language.contraction import scaled_weights

        # a scalar stays outside of a site, whatever a norm behind it does
        absorbed = scaled_weights(terms, core, scale)
        moved = _merged(terms, (None, own_shift), (scale, shift))
        if absorbed is not None and moved is not None:
            terms.use("scale-of-affine-site")
            return scaled(terms, absorbed, scale=own_scale, shift=moved[1])
    if core is not value and (_is_scalar(own_scale, own_shift) or not is_scalar):
        merged = _merged(terms, (own_scale, own_shift), (scale, shift))
        if merged is not None:
            terms.use("affine-of-affine")
            return scaled(terms, core, scale=merged[0], shift=merged[1])
    if scale is not None and is_channels:
        from fxexport.language.contraction import scaled_weights

        absorbed = scaled_weights(terms, value, scale)
        if absorbed is not None:
            terms.use("scale-of-affine-site")
            return scaled(terms, absorbed, shift=shift)
    if terms.merges and scale is not None and are_moderate(scale):
        from fxexport.language.merging import scaled_product

        product = scaled_product(terms, value, scale)
        if product is not None:
            return scaled(terms, product, shift=shift)
    closed = [item for item in (scale, shift) if item is not None]
    return mapped(terms, "affine", (scale is not None, shift is not None), [value, *closed], value.dtype)


def _is_scalar(scale: Value | None, shift: Value | None) -> bool:
    return all(item is None or item.is_scalar for item in (scale, shift))


def _merged(
    terms: Terms, first: tuple[Value | None, Value | None], second: tuple[Value | None, Value | None]
) -> tuple[Value | None, Value | None] | None:
    """Scale and shift of the second over the first; None where a fold could be seen."""
    scales = [scale for scale in (first[0], second[0]) if scale is not None]
    if not all(map(are_moderate, scales)):
        return None
    scale = scales[0] if scales else None
    if len(scales) == 2:
        scale = _closed(terms, "mul", *scales)
    if not _is_within(*first, scale):
        return None
    shift = first[1]
    if shift is not None and second[0] is not None:
        shift = _closed(terms, "mul", shift, second[0])
    if shift is not None and second[1] is not None:
        whole = _closed(terms, "add", shift, second[1])
        if not is_clear(whole, shift, second[1]):
            return None
        return scale, whole
    return scale, second[1] if shift is None else shift


def are_moderate(*scales: Value) -> bool:
    """Whether a fold of the scales neither overflows nor loses digits, whichever of them it takes."""
    if not scales:
        return True
    try:
        sizes = [np.abs(folded(scale.term).value) for scale in scales]
    except NotFolded:
        return False
    largest = _LARGEST.get(scales[0].dtype, LARGEST_FACTOR)
    highest = math.prod(max(1.0, float(size.max(initial=0.0))) for size in sizes)
    lowest = math.prod(float(size.min(initial=1.0, where=size != 0)) for size in sizes)
    return highest <= largest and lowest >= 1 / largest


def sign_of(scale: Value) -> int:
    """1 or -1 where all elements of a closed value are above or below zero; 0 otherwise."""
    try:
        signs = np.sign(folded(scale.term).value)
    except NotFolded:
        return 0
    return next((sign for sign in (1, -1) if np.all(signs == sign)), 0)


def has_step(value: Value | None) -> bool:
    """Whether a summand takes nothing out of its type, or back into it, that is more than a rounding off."""
    if value is None or value.dtype != "float16":
        return True
    try:
        return value.is_closed and bool(np.all(np.abs(elements(value).value) < _HALF_STEP))
    except NotFolded:
        return False


def plus_within(terms: Terms, value: Value, shift: Value) -> Value:
    """A sum that an operator rounds but once, together with what it adds to."""
    if not has_step(shift):
        raise Uninterpreted("a sum that half precision holds, of what it does not hold")
    return add(terms, value, shift)


def keeps_average(scale: Value | None, shift: Value | None) -> bool:
    """Whether what they make of values is within its type wherever the average of these is."""
    for item in (scale, shift):
        if item is not None:
            try:
                size = float(np.abs(folded(item.term).value).max(initial=0.0))
            except NotFolded:
                return False
            most = (1.0 if item is scale else _HALF_STEP) if item.dtype == "float16" else LARGEST_FACTOR
            if not size <= most:
                return False
    return True


def _is_within(scale: Value | None, shift: Value | None, whole: Value | None) -> bool:
    """Whether what scale and shift make of a value is in its type wherever it and its whole multiple are.

    Half precision ends at 65504: 1000·x / 1000 has no end from an x of 66 on.
    """
    if scale is None or scale.dtype != "float16":
        return has_step(shift)
    try:
        alone, both = (1.0 if item is None else np.abs(elements(item).value) for item in (scale, whole))
        return bool(np.all(alone <= np.maximum(1.0, both))) and has_step(shift)
    except (NotFolded, ValueError):
        return False


def is_clear(whole: Value | None, *shifts: Value) -> bool:
    """Whether adding the shifts one by one rounds no more than is seen in their sum, which may be nothing."""
    try:
        size = 0.0 if whole is None else np.abs(elements(whole).value)
        largest = sum(np.abs(elements(shift).value).max(initial=0.0) for shift in shifts)
    except NotFolded:
        return False
    unit = UNIT[shifts[0].dtype]
    seen = _SEEN if shifts[0].dtype in ("float32", "float64") else _SEEN_SHORT
    return bool(np.all(unit * largest <= seen * np.maximum(1.0, size)))


def rounds_little(shift: Value) -> bool:
    """Whether adding a shift, and taking it away again, is not seen."""
    return is_clear(None, shift)


def _is_all(value: Value, number: float) -> bool:
    """Whether a closed value is this number everywhere, up to what float64 makes of it."""
    if not value.is_closed:
        return False
    try:
        found = folded(value.term)
    except NotFolded:
        return False
    noise = found.noise(value.dtype)
    return bool(np.all((np.abs(found.value - number) <= noise) & np.isfinite(noise)))


def _closed(terms: Terms, name: str, first: Value, second: Value) -> Value:
    for value, other in ((first, second), (second, first)):
        # what is evaluated is compared as the numbers that it is, with their signs
        if not is_folded(value.term) and _is_all(other, 0.0 if name == "add" else 1.0):
            terms.use("neutral-element")
            return widened(value, other)
        if name == "mul" and scalar(other) == -1:
            return _opposite(terms, widened(value, other))
    values = sorted([first, second], key=lambda value: (value.term.skeleton, value.term.serial))
    return _evaluated(terms, elementwise(terms, name, values, first.dtype))


def _opposite(terms: Terms, value: Value) -> Value:
    """Minus a closed value, and of minus one that one: no sign rounds."""
    if value.term.attributes == ("neg",):
        return value.term.operands[0].value(value.layout)
    return _evaluated(terms, elementwise(terms, "neg", [value], value.dtype))


def _evaluated(terms: Terms, value: Value) -> Value:
    """A closed scalar as the real number that it is."""
    if not value.is_scalar:
        return value
    try:
        found = folded(value.term)
    except NotFolded:
        return value
    if found.is_exact:
        rounded = None
    else:
        error, defined, step = (float(item) for item in (found.error, found.defined, found.step))
        made_of = frozenset(stored(value.term).items())
        rounded = Rounded(folded=error, defined=defined, step=step, made_of=made_of)
    return terms.real(float(found.value), value.dtype, rounded).seen(value.layout)


def _commuted(terms: Terms, name: str, first: Value, second: Value) -> Value:
    if first.contents is not None and second.contents is not None:
        from fxexport.language.sizes import combined

        found = combined(terms, name, first, second)
        if found is not None:
            return found
    values = sorted([first, second], key=lambda value: (value.is_closed, value.term.skeleton))
    return elementwise(terms, name, values, first.dtype)


Factor = tuple[Value, Fraction]


def _factors(terms: Terms, value: Value) -> tuple[list[Factor], list[Value]]:
    """Powers that a value is the product of, and closed scales.

    In half precision no other order is that product: one of them may leave the type where another does not.
    """
    if value.dtype == "float16":
        return [(value, Fraction(1))], []
    core, scale, shift = parts_of(value)
    if core is not value and shift is None and scale is not None and are_moderate(scale):
        terms.use("product-order")
        inner, scales = _factors(terms, core)
        return inner, [*scales, scale]
    if core is not value and _is_scalar(scale, shift) and scale is not None and shift is not None:
        number = scalar(scale)
        if number and are_moderate(scale):
            terms.use("factor-out-of-sum")
            inverse = power(terms, scale, Fraction(-1))
            return [(scaled(terms, core, shift=_closed(terms, "mul", shift, inverse)), Fraction(1))], [scale]
    if value.term.op == "product":
        powers = [Fraction(str(item)) for item in value.term.attributes]
        values = [operand.value(value.layout) for operand in value.term.operands]
        return list(zip(values, powers, strict=True)), []
    return [(value, Fraction(1))], []


def _product(terms: Terms, factors: Sequence[Factor], scales: Sequence[Value]) -> Value:
    """The product of powers in one order, equal bases joined where no zero can be lost."""
    left: list[Factor] = []
    for value, exponent in factors:
        for place, (other, own) in enumerate(left):
            whole = own.denominator == exponent.denominator == 1 and own * exponent > 0
            base = _base_of_both(terms, (other, own), (value, exponent)) if whole else None
            if base is not None:
                terms.use("power-of-one-base")
                left[place] = _raised(terms, (base, Fraction(1)), own + exponent)
                break
        else:
            left.append((value, exponent))
    left.sort(key=lambda factor: (factor[0].term.skeleton, factor[1]))
    if len(left) == 1 and left[0][1] == 1:
        product = left[0][0]
    else:
        powers = tuple(str(exponent) for _, exponent in left)
        product = mapped(terms, "product", powers, [value for value, _ in left], left[0][0].dtype)
    for scale in scales:
        product = scaled(terms, product, scale=scale)
    return product


def _base_of_both(terms: Terms, first: Factor, second: Factor) -> Value | None:
    """What two integer powers are powers of; an even one is of a sum and of its negative."""
    (value, own), (other, exponent) = first, second
    if _is_same_value(value, other):
        return value
    is_even = own % 2 == 0
    if is_even == (exponent % 2 == 0):
        return None
    one, odd = (value, other) if is_even else (other, value)
    return odd if _is_same_value(without_sign(terms, odd), one) else None


def _is_same_value(first: Value, second: Value) -> bool:
    def stripped(value: Value) -> tuple[Parts, ...]:
        layout = list(value.layout)
        while layout and not layout[0]:
            layout.pop(0)
        return tuple(layout)

    return first.term is second.term and stripped(first) == stripped(second)


def clamp(terms: Terms, value: Value, low: Value | None, high: Value | None) -> Value:
    """The value held between two closed scalars, one of which may be missing."""
    value = widened(value, *(item for item in (low, high) if item is not None))
    bounds = tuple(None if item is None else scalar(item) for item in (low, high))
    if any(bound is not None and bound != bound for bound in bounds):
        raise Uninterpreted("a bound that is no number")
    if (
        not value.is_float
        or (low is not None and bounds[0] is None)
        or (high is not None and bounds[1] is None)
    ):
        return clamp_once(terms, value, low, high)
    if value.term.op == "map" and value.term.attributes[0] == "clamp" and _has_scalars(value):
        return _clamp_of_clamp(terms, value, low, high)
    core, scale, shift = parts_of(value)
    factor = None if scale is None else scalar(scale)
    is_moved = core is not value and _is_scalar(scale, shift) and (factor is None or factor > 0)
    if is_moved and _keeps_bounds(shift, bounds):
        terms.use("clamp-of-affine")
        moved = [_moved_back(terms, item, scale, shift) for item in (low, high)]
        return scaled(terms, clamp(terms, core, *moved), scale=scale, shift=shift)
    if low is high is None:  # a file's Clip still ends where its type does
        terms.use("clamp-of-clamp")
        return value
    return clamp_once(terms, value, low, high)


def _keeps_bounds(shift: Value | None, bounds: Sequence[float | None]) -> bool:
    """Whether rounding a bound, with the shift taken from it, is not seen in what is held between both."""
    number = 0.0 if shift is None else scalar(shift)
    if number is None or shift is None:
        return shift is None
    unit = UNIT[shift.dtype]
    size = max(1.0, *(abs(bound) for bound in bounds if bound is not None and math.isfinite(bound)), 0.0)
    return unit * abs(number) <= max(_SEEN, 4 * unit) * size


def _has_scalars(value: Value) -> bool:
    return all(operand.term.is_closed and operand.term.shape == () for operand in value.term.operands[1:])


def _moved_back(terms: Terms, bound: Value | None, scale: Value | None, shift: Value | None) -> Value | None:
    if bound is None:
        return None
    if shift is not None:
        bound = add(terms, bound, negate(terms, shift))
    return bound if scale is None else divide(terms, bound, scale)


def _clamp_of_clamp(terms: Terms, value: Value, low: Value | None, high: Value | None) -> Value:
    """Bounds of both in one: each of the inner ones held between the outer ones."""
    terms.use("clamp-of-clamp")
    _, has_low, has_high = value.term.attributes
    core, *rest = (operand.value(value.layout) for operand in value.term.operands)
    closed = iter(rest)
    inner_low = next(closed) if has_low else None
    inner_high = next(closed) if has_high else None
    new_low = _held(inner_low, low, high) if inner_low is not None else low
    new_high = _held(inner_high, low, high) if inner_high is not None else high
    return clamp_once(terms, core, new_low, new_high)


def clamp_once(terms: Terms, value: Value, low: Value | None, high: Value | None) -> Value:
    """A clamp that is not looked into again."""
    closed = [item for item in (low, high) if item is not None]
    return elementwise(terms, "clamp", [value, *closed], value.dtype, low is not None, high is not None)


def _held(bound: Value, low: Value | None, high: Value | None) -> Value:
    number = scalar(bound)
    least, most = (None if item is None else scalar(item) for item in (low, high))
    if number is None:
        raise Uninterpreted("a bound that is no number")
    if least is not None and low is not None and number < least:
        bound, number = low, least
    if most is not None and high is not None and number > most:
        bound = high
    return bound


def over_axes(value: Value, other: Value) -> Value | None:
    """``other``, seen by the dimensions of ``value``, as seen by the axes of ``value``'s term.

    None where it changes along what ``value`` only repeats.
    """
    try:
        join = broadcast([value, other])
    except Uninterpreted:
        return None
    pieces: dict[int, list[tuple[Part, Part | None]]] = {}
    for slot in join.slots:
        own, part = slot.parts
        if own is None:
            if part is not None:
                return None
            continue
        pieces.setdefault(own.axis, []).append((own, part))
    layout: list[Parts] = []
    for axis in range(len(value.term.shape or ())):
        found = sorted(pieces.get(axis, []), key=lambda pair: -size_at_sample(pair[0].stride))
        if all(part is None for _, part in found):
            layout.append(())
            continue
        layout.append(tuple(Part(-1, 0, own.extent) if part is None else part for own, part in found))
    return other.seen(tuple(layout))
