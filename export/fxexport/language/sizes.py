"""Arithmetic on what is computed from shapes: vectors and scalars of extents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fxexport.language.constants import exact_array
from fxexport.language.extents import (
    Extent,
    ceiling_divided,
    divided,
    floor_divided,
    least,
    minus,
    plus,
    times,
)
from fxexport.language.foreign import foreign
from fxexport.language.maps import fits, terms_of_contents
from fxexport.language.term import Terms, Uninterpreted, Value, numpy_type
from fxexport.untrusted.limits import MAX_SEQUENCE


def shape_of(terms: Terms, value: Value, start: int = 0, end: int | None = None) -> Value:
    """The extents of a value's dimensions as a vector."""
    return terms_of_contents(terms, value.shape[start:end], 1)


def counted(terms: Terms, start: Extent, end: Extent, step: Extent, dtype: str) -> Value:
    """The integers from ``start`` to before ``end``, by steps, as a vector."""
    if isinstance(start, int) and isinstance(end, int) and isinstance(step, int) and step:
        if len(range(start, end, step)) > MAX_SEQUENCE:
            raise Uninterpreted("a range beyond the limit")
        return terms.constant(np.arange(start, end, step, dtype=numpy_type(dtype)))
    if not isinstance(step, int) or step < 1 or not isinstance(start, int) or dtype not in _INTEGERS:
        raise Uninterpreted("a range of free extent, backwards or of fractions")
    count = ceiling_divided(minus(end, start), step)
    low = count if isinstance(count, int) else least(count)
    if low is None or low < 0:
        raise Uninterpreted("a range that may end before it starts")
    (found,) = foreign(terms, ("range", start, step), [], [(dtype, (count,))], is_random=False)
    return found


_INTEGERS = ("int64", "int32")


def are_places(index: Value, extent: Extent) -> bool:
    """Whether each of the integers names a cell of an axis, whatever its extent is."""
    term, low = index.term, extent if isinstance(extent, int) else least(extent)
    array = term.array
    if array is not None:
        return low is not None and array.size > 0 and bool(np.all((-low <= array) & (array < low)))
    if term.op != "foreign" or term.attributes[0] != "range" or term.attributes[2] != 1:
        return False
    start, count = term.attributes[1], (term.shape or (1,))[0]
    left = minus(extent, plus(start, count))  # type: ignore[arg-type]
    low = left if isinstance(left, int) else least(left)
    return start >= 0 and low is not None and low >= 0  # type: ignore[operator]


def combined(terms: Terms, name: str, first: Value, second: Value) -> Value | None:
    """An operator on two vectors of extents, or None where it has no extents as result."""
    both = _aligned(first.contents, second.contents) if name in _OPERATORS else None
    if both is None:
        return None
    found = [item for a, b in both if (item := _OPERATORS[name](a, b)) is not None]
    if len(found) != len(both) or not fits(found, first.dtype):
        return None
    return terms_of_contents(terms, found, max(first.rank, second.rank), first.dtype)


def equal(terms: Terms, first: Value, second: Value) -> Value | None:
    """Which extents of two vectors are equal, or None where some range does not tell."""
    both = _aligned(first.contents, second.contents)
    found = [_is_equal(a, b) for a, b in both or ()]
    if both is None or None in found:
        return None
    return terms.constant(np.array(found).reshape([-1] * max(first.rank, second.rank)), dtype="bool")


def chosen(terms: Terms, condition: Value, first: Value, second: Value) -> Value | None:
    """The extents of two vectors that a known condition chooses, or None where it is not known."""
    array = exact_array(condition)
    both = _aligned(first.contents, second.contents)
    places = (
        None
        if array is None or array.ndim > 1 or both is None
        else _aligned(array.reshape(-1).tolist(), both)
    )
    if places is None or condition.dtype != "bool":
        return None
    found = [b if is_first else c for is_first, (b, c) in places]
    return terms_of_contents(terms, found, max(first.rank, second.rank, condition.rank), first.dtype)


def _aligned(left: Sequence[Any] | None, right: Sequence[Any] | None) -> list[tuple[Any, Any]] | None:
    """The elements of two vectors that belong together, where one may be repeated for all of the other."""
    if not left or not right or (len(left) != len(right) and 1 not in (len(left), len(right))):
        return None
    count = max(len(left), len(right))
    return [(left[k % len(left)], right[k % len(right)]) for k in range(count)]


def _is_equal(left: Extent, right: Extent) -> bool | None:
    if left == right or (isinstance(left, int) and isinstance(right, int)):
        return left == right
    number, other = (left, right) if isinstance(left, int) else (right, left)
    low = None if isinstance(other, int) else least(other)
    return False if isinstance(number, int) and low is not None and number < low else None


def quotient(whole: Extent, part: Extent) -> Extent | None:
    """Division that rounds towards zero; None where it is not known which way that is."""
    even = divided(whole, part)
    if even is not None:
        return even
    if not isinstance(part, int) or part <= 0:
        return None
    if isinstance(whole, int):
        return abs(whole) // part * (1 if whole > 0 else -1)
    low = least(whole)
    is_positive = all(factor > 0 for _, factor in whole.terms) or (low is not None and low >= 0)
    return floor_divided(whole, part) if is_positive else None


def rest(whole: Extent, part: Extent) -> Extent | None:
    """What a division that rounds down leaves; None where it is not known."""
    if not isinstance(part, int) or part <= 0:
        return None
    return minus(whole, times(part, floor_divided(whole, part)))


_OPERATORS: dict[str, Callable[[Extent, Extent], Extent | None]] = {
    "add": plus,
    "sub": minus,
    "mul": lambda a, b: times(a, b),
    "div": quotient,
    "mod": rest,
}
