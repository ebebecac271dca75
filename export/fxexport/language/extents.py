"""Extents of axes: integers, and polynomials over the symbols of the axes that are free.

No number stands for a free axis. An extent is exact for every size: two are equal only if they are the same
polynomial. What no polynomial is (a division that need not come out) is a symbol of its own, named after
what it is made of, so that two graphs which compute it alike name it alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import TypeAlias

Monomial: TypeAlias = tuple[tuple[str, int], ...]
"""Symbols with their exponents, sorted by name; empty for the constant."""


@dataclasses.dataclass(frozen=True, slots=True)
class Polynomial:
    """A polynomial that is no integer.

    Attributes:
        terms: monomials with their coefficients, none of them zero, sorted.
    """

    terms: tuple[tuple[Monomial, int], ...]

    def __str__(self) -> str:
        """The polynomial as it is written, also the name of a symbol made of it."""
        return " + ".join(_written(monomial, factor) for monomial, factor in self.terms)


Extent: TypeAlias = int | Polynomial


def symbol(name: str) -> Polynomial:
    """The extent of a free axis."""
    return Polynomial(((((name, 1),), 1),))


def plus(*extents: Extent) -> Extent:
    """The sum."""
    if all(isinstance(extent, int) for extent in extents):
        return sum(extent for extent in extents if isinstance(extent, int))
    total: dict[Monomial, int] = {}
    for extent in extents:
        for monomial, factor in _terms(extent).items():
            total[monomial] = total.get(monomial, 0) + factor
    return _made(total)


def times(*extents: Extent) -> Extent:
    """The product."""
    product: Extent = 1
    for extent in extents:
        product = _times(product, extent)
    return product


def minus(first: Extent, second: Extent) -> Extent:
    """The difference."""
    return plus(first, times(-1, second))


def divided(whole: Extent, part: Extent) -> Extent | None:
    """The quotient where it is a polynomial again, whatever the sizes are; else None."""
    if isinstance(whole, int) and isinstance(part, int):
        return whole // part if part and whole % part == 0 else None
    left, divisor = _terms(whole), _terms(part)
    if not divisor:
        return None
    names = sorted(symbols_of((whole, part)))

    def graded(monomial: Monomial) -> tuple[int, ...]:
        powers = dict(monomial)
        return (sum(powers.values()), *(powers.get(name, 0) for name in names))

    lead = max(divisor, key=graded)
    quotient: dict[Monomial, int] = {}
    while left:
        monomial = max(left, key=graded)
        rest = _monomial_quotient(monomial, lead)
        if rest is None or left[monomial] % divisor[lead]:
            return None
        factor = left[monomial] // divisor[lead]
        quotient[rest] = factor
        for other, number in divisor.items():
            place = _monomial_product(rest, other)
            left[place] = left.get(place, 0) - factor * number
        left = {place: number for place, number in left.items() if number}
    return _made(quotient)


def floor_divided(whole: Extent, part: int) -> Extent:
    """The quotient rounded down: what comes out even, and a symbol for the rest.

    Within ``ranges`` it is a number where it is the same at both ends of what the whole can be.
    """
    if isinstance(whole, int):
        return whole // part
    even = {monomial: factor // part for monomial, factor in whole.terms}
    rest = _made({monomial: factor % part for monomial, factor in whole.terms})
    if isinstance(rest, int):
        return plus(_made(even), rest // part)
    for monomial, factor in rest.terms:
        if factor == 1 and monomial in _FLOORS:  # floor((x + floor(y/m))/n) = floor((x·m + y)/(m·n))
            inner, by = _FLOORS[monomial]
            outer = minus(rest, Polynomial(((monomial, 1),)))
            return plus(_made(even), floor_divided(plus(times(outer, by), inner), by * part))
    left = symbol(f"floor(({rest})/{part})")
    _FLOORS[left.terms[0][0]] = rest, part
    known = _RANGES.get({})
    low, high = (None if end is None else end // part for end in _ends(rest, known))
    if low is not None:
        known[_name_of(left)] = (low, high)
    low, high = (None if end is None else end // part for end in _ends(whole, known))
    return low if low is not None and low == high else plus(_made(even), left)


_FLOORS: dict[Monomial, tuple[Polynomial, int]] = {}
"""Of each symbol that is a rounded quotient what is divided, and by what: its name says both."""

Range: TypeAlias = tuple[int, int | None]
"""The smallest and the largest that an extent can be; None for the largest where it has none."""
_RANGES: ContextVar[dict[str, Range]] = ContextVar("_RANGES")


@contextlib.contextmanager
def ranges(known: Mapping[str, Range]) -> Iterator[None]:
    """Within it symbols are known to lie in these ranges."""
    token = _RANGES.set(dict(known))
    try:
        yield
    finally:
        _RANGES.reset(token)


def least(whole: Polynomial) -> int | None:
    """The smallest that an extent can be within ``ranges``, or None where that is not known."""
    return _ends(whole, _RANGES.get({}))[0]


def _ends(whole: Polynomial, known: Mapping[str, Range]) -> tuple[int | None, int | None]:
    """The smallest and the largest that a polynomial over symbols that are not negative can be."""
    low: int | None = 0
    high: int | None = 0
    for monomial, factor in whole.terms:
        if any(name not in known or known[name][0] < 0 for name, _ in monomial):
            return None, None
        least = math.prod(known[name][0] ** power for name, power in monomial)
        ends = [known[name][1] for name, _ in monomial]
        powers = [power for _, power in monomial]
        most = (
            None
            if None in ends
            else math.prod(end**power for end, power in zip(ends, powers, strict=True) if end is not None)
        )
        first, last = (least, most) if factor > 0 else (most, least)
        low = None if low is None or first is None else low + factor * first
        high = None if high is None or last is None else high + factor * last
    return low, high


def _name_of(extent: Polynomial) -> str:
    ((((name, _),), _),) = extent.terms
    return name


def ceiling_divided(whole: Extent, part: int) -> Extent:
    """The quotient rounded up: written as one that is rounded down, as strides are."""
    return floor_divided(plus(whole, part - 1), part)


def size_at_sample(extent: Extent) -> int:
    """A number that orders extents; the same in every graph, and never taken for the extent itself."""
    if isinstance(extent, int):
        return extent
    return sum(
        factor * math.prod((2 + zlib.crc32(name.encode()) % 997) ** power for name, power in monomial)
        for monomial, factor in extent.terms
    )


def symbols_of(extents: Iterable[Extent]) -> frozenset[str]:
    """The symbols that occur in the extents."""
    return frozenset(
        name
        for extent in extents
        if isinstance(extent, Polynomial)
        for monomial, _ in extent.terms
        for name, _ in monomial
    )


def _terms(extent: Extent) -> dict[Monomial, int]:
    if isinstance(extent, int):
        return {(): extent} if extent else {}
    return dict(extent.terms)


def _made(terms: Mapping[Monomial, int]) -> Extent:
    left = {monomial: factor for monomial, factor in terms.items() if factor}
    if set(left) <= {()}:
        return left.get((), 0)
    return Polynomial(tuple(sorted(left.items())))


def _times(first: Extent, second: Extent) -> Extent:
    if isinstance(first, int) and isinstance(second, int):
        return first * second
    product: dict[Monomial, int] = {}
    for monomial, factor in _terms(first).items():
        for other, number in _terms(second).items():
            place = _monomial_product(monomial, other)
            product[place] = product.get(place, 0) + factor * number
    return _made(product)


def _monomial_product(first: Monomial, second: Monomial) -> Monomial:
    powers = dict(first)
    for name, power in second:
        powers[name] = powers.get(name, 0) + power
    return tuple(sorted(powers.items()))


def _monomial_quotient(first: Monomial, second: Monomial) -> Monomial | None:
    powers = dict(first)
    for name, power in second:
        powers[name] = powers.get(name, 0) - power
    if any(power < 0 for power in powers.values()):
        return None
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _written(monomial: Monomial, factor: int) -> str:
    names = "*".join(name if power == 1 else f"{name}^{power}" for name, power in monomial)
    return f"{factor}*{names}" if factor != 1 and names else names or str(factor)
