"""Arithmetic on what is computed from shapes: vectors and scalars of extents."""

from __future__ import annotations

from collections.abc import Callable

from fxexport.language.extents import Extent, divided, floor_divided, minus, plus, times
from fxexport.language.maps import fits, terms_of_contents
from fxexport.language.term import Terms, Value


def shape_of(terms: Terms, value: Value, start: int = 0, end: int | None = None) -> Value:
    """The extents of a value's dimensions as a vector."""
    return terms_of_contents(terms, value.shape[start:end], 1)


def combined(terms: Terms, name: str, first: Value, second: Value) -> Value | None:
    """An operator on two vectors of extents, or None where it has no extents as result."""
    if first.contents is None or second.contents is None or name not in _OPERATORS:
        return None
    left, right = first.contents, second.contents
    if not left or not right or (len(left) != len(right) and 1 not in (len(left), len(right))):
        return None
    count = max(len(left), len(right))
    left = left * (count if len(left) == 1 else 1)
    right = right * (count if len(right) == 1 else 1)
    both = zip(left, right, strict=True)
    found = [item for a, b in both if (item := _OPERATORS[name](a, b)) is not None]
    if len(found) != count or not fits(found, first.dtype):
        return None
    return terms_of_contents(terms, found, max(first.rank, second.rank), first.dtype)


def quotient(whole: Extent, part: Extent) -> Extent | None:
    """Division that rounds towards zero; None where it is not known which way that is."""
    even = divided(whole, part)
    if even is not None:
        return even
    if not isinstance(part, int) or part <= 0:
        return None
    if isinstance(whole, int):
        return abs(whole) // part * (1 if whole > 0 else -1)
    return floor_divided(whole, part) if all(factor > 0 for _, factor in whole.terms) else None


_OPERATORS: dict[str, Callable[[Extent, Extent], Extent | None]] = {
    "add": plus,
    "sub": minus,
    "mul": lambda a, b: times(a, b),
    "div": quotient,
}
