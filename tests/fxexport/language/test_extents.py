"""Extents are exact at every size: whatever is computed of them is what the numbers give."""

from __future__ import annotations

import math
import random

import pytest

from fxexport.language.extents import (
    Extent,
    ceiling_divided,
    divided,
    floor_divided,
    minus,
    plus,
    ranges,
    symbol,
    times,
)
from fxexport.language.moves import held_within, slice_count
from fxexport.language.sizes import quotient, rest
from fxexport.language.term import Uninterpreted

N, M = symbol("n"), symbol("m")


def number(extent: Extent, **sizes: int) -> int:
    """The extent at these sizes."""
    known = {"floor": math.floor, **sizes}
    if isinstance(extent, int):
        return extent
    return sum(
        factor * math.prod(eval(name.replace("^", "**"), known) ** power for name, power in monomial)
        for monomial, factor in extent.terms
    )


def some(drawn: random.Random) -> Extent:
    """A small polynomial."""
    parts = [times(drawn.randint(-3, 3), drawn.choice([1, N, M, times(N, M), times(N, N)])) for _ in range(3)]
    return plus(*parts, drawn.randint(-4, 4))


@pytest.mark.parametrize("seed", range(60))
def test_what_is_computed_of_extents_is_computed_of_numbers(seed: int) -> None:
    drawn = random.Random(seed)
    first, second, part = some(drawn), some(drawn), drawn.randint(1, 6)
    least = {name: drawn.randint(0, 5) for name in "nm"}
    known = {name: (low, drawn.choice([None, low, low + 1, low + 9])) for name, low in least.items()}
    with ranges(known):
        inner = floor_divided(first, part)
        made = {
            "inner": inner,
            "outer": floor_divided(plus(inner, second), 2),
            "up": ceiling_divided(first, part),
        }
    exact = divided(times(first, second), second)
    tried = {name: range(low, (low + 9 if high is None else high) + 1) for name, (low, high) in known.items()}
    for n in tried["n"]:
        for m in tried["m"]:
            one, two = (number(item, n=n, m=m) for item in (first, second))
            assert number(made["inner"], n=n, m=m) == one // part
            assert number(made["outer"], n=n, m=m) == (one // part + two) // 2
            assert number(made["up"], n=n, m=m) == -(-one // part)
            assert number(minus(first, second), n=n, m=m) == one - two
            assert exact is None or number(exact, n=n, m=m) == one


@pytest.mark.parametrize(
    ("low", "high", "is_one"), [(8, 11, True), (7, 11, False), (8, 12, False), (8, None, False)]
)
def test_a_quotient_is_a_number_where_both_ends_are(low: int, high: int | None, is_one: bool) -> None:
    with ranges({"n": (low, high)}):
        assert (floor_divided(N, 4) == 2) is is_one


def test_quotients_of_quotients_are_one() -> None:
    """As strides in a row are: torch tells the extents of a convolution so."""
    found: Extent = N
    for depth in range(1, 5):
        found = floor_divided(plus(found, 1), 2)
        assert found == floor_divided(plus(N, 2**depth - 1), 2**depth)
    assert floor_divided(times(2, floor_divided(N, 3)), 3) != floor_divided(times(2, N), 9)


QUOTIENTS = [
    (7, 2, 3),
    (-7, 2, -3),
    (7, 0, None),
    (7, -2, None),
    (times(4, N), 2, times(2, N)),
    (times(-1, N), 2, None),
]


@pytest.mark.parametrize(("whole", "part", "found"), QUOTIENTS)
def test_sizes_of_files_are_divided_towards_nothing(whole: Extent, part: int, found: Extent | None) -> None:
    assert quotient(whole, part) == found


def test_what_is_never_below_nothing_is_divided_as_extents_are() -> None:
    """The new exporter writes the extent behind a stride as (n - 1) / 2 + 1."""
    whole = plus(N, -1)
    assert quotient(whole, 2) is None
    with ranges({"n": (0, None)}):
        assert quotient(whole, 2) is None
    with ranges({"n": (1, None)}):
        assert quotient(whole, 2) == floor_divided(whole, 2)


@pytest.mark.parametrize(
    ("place", "low", "found"),
    [
        (3, 3, 3),
        (-3, 3, plus(N, -3)),
        (4, 3, None),
        (-4, 3, None),
        (plus(N, -3), 3, plus(N, -3)),
        (plus(N, -4), 3, None),
        (plus(N, 1), 3, None),
    ],
)
def test_a_slice_starts_within_what_an_extent_is_at_least(
    place: Extent, low: int, found: Extent | None
) -> None:
    with ranges({"n": (low, None)}):
        if found is None:
            with pytest.raises(Uninterpreted):
                held_within(place, N, end=2**31)
        else:
            assert held_within(place, N, end=2**31) == found


def test_no_slice_has_fewer_cells_than_none() -> None:
    with ranges({"n": (4, None)}):
        assert slice_count(2, plus(N, -2), 1) == plus(N, -4)
        with pytest.raises(Uninterpreted):
            slice_count(3, plus(N, -2), 1)


@pytest.mark.parametrize("whole", [7, -7, times(4, N), plus(times(4, N), 3), plus(times(-1, N), M)])
@pytest.mark.parametrize("part", [1, 2, 4, 0, -2])
def test_what_a_division_leaves_is_that_of_the_numbers(whole: Extent, part: int) -> None:
    found = rest(whole, part)
    assert (found is None) is (part < 1)
    for n, m in ((0, 0), (1, 5), (6, 2), (7, 7)):
        assert found is None or number(found, n=n, m=m) == number(whole, n=n, m=m) % part
