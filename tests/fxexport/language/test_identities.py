"""Every identity of the table, in exact arithmetic over small shapes: terms beside definitions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from fxexport.language import arithmetic, definitions, moves, sizes, windows
from fxexport.language.contraction import convolution, linear, matmul, spelled_sum
from fxexport.language.extents import plus, ranges, symbol
from fxexport.language.foreign import foreign
from fxexport.language.identities import IDENTITIES, TIES
from fxexport.language.layout import plain
from fxexport.language.maps import cast, elementwise, terms_of_contents
from fxexport.language.sliding_window import SlidingWindow
from fxexport.language.term import Rounded, Term, Terms, Uninterpreted, Value, below
from tests.fxexport.language.exact import FUNCTIONS, Array, powered, result

SHAPES = [(2, 3), (1, 3), (3, 1), (2, 2)]
MAPS = [(1, 2, 2, 2), (2, 3, 2, 1), (2, 1, 1, 2), (1, 4, 3, 3)]


class Case:
    """A table of terms with inputs of known elements."""

    def __init__(self) -> None:
        self.terms = Terms()
        self.inputs: dict[Term, Array] = {}
        self._random = np.random.default_rng(0)

    def numbers(self, *shape: int, positive: bool = False) -> Array:
        """Elements that float32 holds exactly."""
        found = np.empty(shape, dtype=object)
        for index in np.ndindex(*shape):
            found[index] = Fraction(int(self._random.integers(1 if positive else -8, 9)), 4)
        return found

    def open(self, array: Array, dtype: str = "float32") -> Value:
        """An input with these elements."""
        kept = tuple(extent for extent in array.shape if extent != 1)
        term = self.terms.term("input", (len(self.inputs),), (), dtype, kept, is_closed=False)
        self.inputs[term] = array.reshape(kept)
        return moves.reshape(self.terms, Value(term=term, known_layout=plain(kept)), array.shape)

    def closed(self, array: Array) -> Value:
        """A constant with these elements."""
        return self.terms.constant(np.asarray(array, dtype=np.float32))

    def number(self, value: float) -> Value:
        """A constant number."""
        return self.closed(np.asarray(value))

    def meaning(self, value: Value) -> Array:
        """The elements of a value."""
        return result(value, self.inputs)


Check = tuple[Value, Array]
Checks = Callable[[Case], Iterator[Check]]
CASES: dict[str, Checks] = {}


def case(name: str) -> Callable[[Checks], Checks]:
    """Registers the checks of an identity."""

    def register(checks: Checks) -> Checks:
        CASES[name] = checks
        return checks

    return register


def pairs(case: Case, shapes: list[tuple[int, ...]] = SHAPES) -> Iterator[tuple[Array, Value]]:
    """Inputs of several shapes, as they are and permuted."""
    for shape in shapes:
        array = case.numbers(*shape)
        yield array, case.open(array)
        order = tuple(reversed(range(len(shape))))
        yield array.transpose(order), case.open(array).permuted(order)


def mean(array: Array, axes: tuple[int, ...]) -> Array:
    """The mean, which stays."""
    cells = int(np.prod([array.shape[axis] for axis in axes]))
    return np.asarray(array.sum(axis=axes, keepdims=True) / Fraction(cells), dtype=object)


@case("cast-to-own-type")
def _cast(c: Case) -> Iterator[Check]:
    yield from ((cast(c.terms, x, "float32"), a) for a, x in pairs(c))


@case("cast-of-wider")
def _cast_of_wider(c: Case) -> Iterator[Check]:
    for kinds in (
        ("float32", "float64", "float32"),
        ("float16", "float32", "float64"),
        ("bool", "int64", "bool"),
    ):
        a = c.numbers(2, 3)
        x = c.open(a, kinds[0])
        found = cast(c.terms, cast(c.terms, x, kinds[1]), kinds[2])
        assert found == cast(c.terms, x, kinds[2])
        if kinds[0] == kinds[2]:
            yield found, a


@case("slice-of-padding")
def _slice_of_padding(c: Case) -> Iterator[Check]:
    a = c.numbers(2, 3)
    for order in ((0, 1), (1, 0)):
        x = c.open(a.transpose(order)).permuted(order)
        padded = moves.pad(c.terms, x, 1, 1, 2, "constant", c.number(0))
        wide = np.pad(a, [(0, 0), (1, 2)], constant_values=Fraction(0))
        for start, step, end in itertools.product(range(6), (1, 2), range(1, 7)):
            cells = wide[:, start:end:step]
            if cells.size:
                yield moves.take(c.terms, padded, 1, start, step, cells.shape[1]), cells
        yield moves.take(c.terms, padded, 0, 0, 1, 1), wide[:1]


@case("site-of-patches")
def _site_of_patches(c: Case) -> Iterator[Check]:
    for kernel, stride, padding, dilation in (
        ([2, 3], [1, 1], [(0, 0), (0, 0)], [1, 1]),
        ([3, 2], [2, 1], [(1, 1), (0, 0)], [1, 2]),
        ([2, 2], [1, 2], [(0, 0), (2, 2)], [3, 1]),
        ([2, 2], [1, 3], [(0, 0), (0, 0)], [1, 2]),
    ):
        a, w = c.numbers(2, 3, 5, 6), c.numbers(4, 3, *kernel)
        window = SlidingWindow.of(kernel, stride, padding, dilation)
        for order in ((0, 1, 2, 3), (0, 2, 3, 1)):
            x = c.open(a.transpose(order)).permuted([order.index(axis) for axis in range(4)])
            patches, flat = windows.unfolded(c.terms, x, window), w.reshape(4, -1)
            wide = np.pad(a, [(0, 0), (0, 0), *padding], constant_values=Fraction(0))
            cells = np.stack(
                [
                    wide[
                        (
                            slice(None),
                            slice(None),
                            *np.ix_(
                                *(
                                    place * step + np.arange(size) * gap
                                    for place, step, size, gap in zip(
                                        places, stride, kernel, dilation, strict=True
                                    )
                                )
                            ),
                        )
                    ].reshape(2, -1)
                    for places in np.ndindex(*(int(n) for n in window.places(a.shape[2:])))  # type: ignore[arg-type]
                ],
                2,
            )
            yield patches, cells
            yield matmul(c.terms, c.closed(flat), patches), flat @ cells
            turned = patches.permuted([0, 2, 1])
            yield linear(c.terms, turned, c.closed(flat), None), np.swapaxes(flat @ cells, 1, 2)
    each = c.numbers(4, cells.shape[2])  # of each window one number: no convolution
    yield linear(c.terms, patches, c.closed(each), None), cells @ each.T


@case("convolution-of-blocks")
def _convolution_of_blocks(c: Case) -> Iterator[Check]:
    for kernel, stride in (([2, 3], [2, 3]), ([1, 2], [1, 2]), ([2, 2], [2, 2]), ([2, 3], [3, 2])):
        a, w = c.numbers(2, 3, 4, 6), c.numbers(4, 3, *kernel)
        window = SlidingWindow.of(kernel, stride)
        for order in ((0, 1, 2, 3), (0, 2, 3, 1)):
            x = c.open(a.transpose(order)).permuted([order.index(axis) for axis in range(4)])
            rows, columns = (range(n) for n in window.places(a.shape[2:]))  # type: ignore[arg-type]
            expected = np.empty((2, 4, len(rows), len(columns)), dtype=object)
            for i, j in itertools.product(rows, columns):
                cells = a[:, :, i * stride[0] :, j * stride[1] :][..., : kernel[0], : kernel[1]]
                expected[:, :, i, j] = np.einsum("nchw,ochw->no", cells, w)
            yield convolution(c.terms, x, c.closed(w), None, window, 1), expected


@case("patches-of-one-cell")
def _patches_of_one_cell(c: Case) -> Iterator[Check]:
    a = c.numbers(2, 3, 4)
    yield windows.folded(c.terms, c.open(a), [2, 2], SlidingWindow.of([1, 1])), a.reshape(2, 3, 2, 2)


@case("average-of-sum")
def _average_of_sum(c: Case) -> Iterator[Check]:
    a = c.numbers(2, 3, 2)
    for order, count in itertools.product(((0, 1, 2), (2, 1, 0)), (6, 3, 5, -6)):
        x = arithmetic.scaled(c.terms, c.open(a.transpose(order)).permuted(order), scale=c.number(2))
        total = windows.reduce(c.terms, "sum", x, [1, 2], keep=False)
        yield definitions.quotient(c.terms, total, c.number(count)), 2 * a.sum(axis=(1, 2)) / Fraction(count)


@case("whole-slice")
def _whole_slice(c: Case) -> Iterator[Check]:
    yield from ((moves.take(c.terms, x, 1, 0, 1, a.shape[1]), a) for a, x in pairs(c))


@case("slice-of-slice")
def _slice(c: Case) -> Iterator[Check]:
    for start, step, inner, skip in itertools.product((0, 1), (1, 2), (0, 1), (1, 2)):
        array = c.numbers(2, 9)
        first = moves.take(c.terms, c.open(array), 1, start, step, 4)
        expected = array[:, start : start + 4 * step : step][:, inner : inner + 2 * skip : skip]
        yield moves.take(c.terms, first, 1, inner, skip, expected.shape[1]), expected
    rows = c.numbers(2, 3)
    turned = moves.flatten(c.open(rows).permuted([1, 0]), 0, 1)  # two axes in one dimension
    for start, count in itertools.product(range(6), range(1, 7)):
        if start + count <= 6:
            yield moves.take(c.terms, turned, 0, start, 1, count), rows.T.reshape(6)[start : start + count]
    array = c.numbers(3, 3)
    other = moves.take(c.terms, moves.take(c.terms, c.open(array), 1, 1, 1, 2), 0, 1, 1, 2)
    yield other, array[1:3, 1:3]


@case("slice-of-concatenation")
def _slice_of_joined(c: Case) -> Iterator[Check]:
    a, b = c.numbers(2, 3), c.numbers(2, 4)
    for order in ((0, 1), (1, 0)):
        first, second = (c.open(item.transpose(order)).permuted(order) for item in (a, b))
        joined = moves.concatenate(c.terms, [first, second], 1)
        for start, step, end in itertools.product(range(7), (1, 2), range(1, 8)):
            cells = np.concatenate([a, b], 1)[:, start:end:step]
            if cells.size:
                yield moves.take(c.terms, joined, 1, start, step, cells.shape[1]), cells
        yield moves.take(c.terms, joined, 0, 0, 1, 1), np.concatenate([a, b], 1)[:1]


@case("concatenation-of-slices")
def _joined_slices(c: Case) -> Iterator[Check]:
    a = c.numbers(3, 5)
    for order, ends in itertools.product(((0, 1), (1, 0)), itertools.product(range(6), repeat=4)):
        if ends[0] < ends[1] and ends[2] < ends[3]:
            x = c.open(a.transpose(order)).permuted(order)
            slices = [moves.take(c.terms, x, 1, s, 1, e - s) for s, e in (ends[:2], ends[2:])]
            expected = np.concatenate([a[:, ends[0] : ends[1]], a[:, ends[2] : ends[3]]], 1)
            yield moves.concatenate(c.terms, slices, 1), expected
    x, b = c.open(a), c.numbers(3, 2)
    cells = [moves.select(c.terms, x, 1, place) for place in range(5)]
    for dim in (0, 1):
        yield moves.concatenate(c.terms, [moves.unsqueeze(item, [dim]) for item in cells], dim), (a.T, a)[dim]
    steps = [moves.take(c.terms, x, 1, start, 2, count) for start, count in ((0, 3), (3, 1))]
    yield moves.concatenate(c.terms, steps, 1), a[:, [0, 2, 4, 3]]
    rows = [moves.take(c.terms, x, 0, start, 1, 1) for start in (0, 1)]
    yield moves.concatenate(c.terms, rows, 1), np.concatenate([a[:1], a[1:2]], 1)
    others = [moves.take(c.terms, item, 1, s, 1, 1) for item, s in ((x, 0), (c.open(b), 1))]
    yield moves.concatenate(c.terms, others, 1), np.concatenate([a[:, :1], b[:, 1:]], 1)


@case("sum-of-repeated")
def _sum_of_repeated(c: Case) -> Iterator[Check]:
    for keep in (True, False):
        a = c.numbers(2, 1, 3)
        x = moves.expand(c.open(a), [2, 4, 3])
        for dims in ([1], [0, 1], [1, 2]):
            expected = np.asarray(a.repeat(4, axis=1).sum(axis=tuple(dims), keepdims=keep), dtype=object)
            yield windows.reduce(c.terms, "sum", x, dims, keep=keep), expected
        b = c.numbers(2, 3)
        each = moves.tile(c.open(b), [1, 2], each=True)
        yield windows.reduce(c.terms, "sum", each, [1], keep=keep), 2 * b.sum(axis=1, keepdims=keep)


@case("view-of-view")
def _views(c: Case) -> Iterator[Check]:
    array = c.numbers(2, 4, 6)
    x, torn = c.open(array), [(2, 3, 8), (3, 16), (3, 2, 2, 4), (8, 6), (16, 3), (2, 2, 12)]
    for first, second in itertools.product(torn, repeat=2):
        for order in itertools.permutations(range(len(first))):
            moved = moves.reshape(c.terms, x, first).permuted(order)
            found = moves.reshape(c.terms, moved, second)
            yield found, array.reshape(first).transpose(order).reshape(second)
            back = moves.reshape(c.terms, found, [first[axis] for axis in order])
            assert back == moved, "what was cut otherwise and put together again is as it was"
            yield moves.reshape(c.terms, back, (48,)), array.reshape(first).transpose(order).reshape(48)


@case("single-concatenation")
def _single(c: Case) -> Iterator[Check]:
    yield from ((moves.concatenate(c.terms, [x], 0), a) for a, x in pairs(c))


@case("pool-of-one-cell")
def _pool_of_one(c: Case) -> Iterator[Check]:
    for a, x in pairs(c, [(2, 2, 3, 2), (1, 1, 2, 3)]):
        yield average(c, x, [1, 1], [1, 1]), a


def average(c: Case, x: Value, kernel: list[int], stride: list[int]) -> Value:
    """An average pool without padding."""
    return windows.average_pool(c.terms, x, SlidingWindow.of(kernel, stride), counts_padding=True)


@case("reduction-of-one-cell")
def _reduction_of_one(c: Case) -> Iterator[Check]:
    array = c.numbers(3, 1)
    for name in ("mean", "sum", "max", "min"):
        yield windows.reduce(c.terms, name, c.open(array), [1], keep=True), array


@case("sum-commutes")
def _sum(c: Case) -> Iterator[Check]:
    for (a, x), (b, y) in itertools.product(pairs(c, [(2, 3), (1, 3)]), repeat=2):
        if a.shape[1:] == b.shape[1:] and 1 in (a.shape[0], b.shape[0], *(a.shape[0] // b.shape[0],)):
            yield arithmetic.add(c.terms, x, y), a + b


@case("sum-order")
def _sum_of_sums(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        b, d = c.numbers(*a.shape), c.numbers(1, a.shape[1])
        y, z = c.open(b), c.open(d)
        yield arithmetic.add(c.terms, arithmetic.add(c.terms, x, y), z), a + b + d
        yield arithmetic.add(c.terms, z, arithmetic.add(c.terms, x, y)), a + b + d
        yield arithmetic.subtract(c.terms, x, arithmetic.add(c.terms, y, z)), a - b - d
        more = arithmetic.add(c.terms, arithmetic.add(c.terms, x, y), c.number(0.5))
        yield arithmetic.add(c.terms, more, z), a + b + d + Fraction(1, 2)
        one, other = arithmetic.subtract(c.terms, x, y), arithmetic.subtract(c.terms, y, x)
        assert arithmetic.negate(c.terms, one) == other
        yield arithmetic.multiply(c.terms, one, c.number(-2)), (b - a) * 2


@case("opposite-shifts")
def _opposite(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        b, d = c.numbers(*a.shape), c.numbers(1, a.shape[1])
        y, shift = c.open(b), c.closed(d)
        one, other = arithmetic.add(c.terms, x, shift), arithmetic.subtract(c.terms, y, shift)
        whole = arithmetic.add(c.terms, x, y)
        assert arithmetic.add(c.terms, one, other) == arithmetic.add(c.terms, other, one) == whole
        yield whole, a + b
        yield arithmetic.add(c.terms, arithmetic.add(c.terms, whole, one), other), (a + b) * 2
        yield arithmetic.add(c.terms, one, one), (a + d) * 2
        # one shift takes one other away, and that of a multiple is none
        yield arithmetic.add(c.terms, one, arithmetic.add(c.terms, other, other)), a + 2 * b - d
        yield arithmetic.add(c.terms, arithmetic.add(c.terms, one, one), other), 2 * a + b + d
        twice = arithmetic.multiply(c.terms, one, c.number(2))
        yield arithmetic.add(c.terms, twice, arithmetic.add(c.terms, y, shift)), 2 * a + b + 3 * d


@case("even-function")
def _unsigned(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        b = c.numbers(1, a.shape[1])
        y = c.open(b)
        one, other = arithmetic.subtract(c.terms, x, y), arithmetic.subtract(c.terms, y, x)
        assert definitions.absolute(c.terms, one) == definitions.absolute(c.terms, other)
        for value in (one, other, arithmetic.negate(c.terms, one)):
            yield definitions.absolute(c.terms, value), np.abs(a - b)
            yield arithmetic.power(c.terms, value, Fraction(2)), (a - b) ** 2
            turned = arithmetic.multiply(c.terms, value, c.number(-0.5))
            assert definitions.absolute(c.terms, arithmetic.negate(c.terms, turned)) == (
                definitions.absolute(c.terms, turned)
            )
            yield definitions.absolute(c.terms, turned), np.abs(a - b) / 2
            squared = arithmetic.multiply(c.terms, value, value)
            yield squared, (a - b) ** 2
            for cubed in (
                arithmetic.multiply(c.terms, value, squared),
                arithmetic.multiply(c.terms, squared, value),
            ):
                assert cubed == arithmetic.power(c.terms, value, Fraction(3))


def test_a_difference_of_two_that_only_constants_tell_apart_has_one_sign() -> None:
    c = Case()
    x = c.open(c.numbers(2, 3))
    one, other = (linear(c.terms, x, c.closed(c.numbers(4, 3)), None) for _ in range(2))
    assert one.term.skeleton == other.term.skeleton
    difference, turned = arithmetic.subtract(c.terms, one, other), arithmetic.subtract(c.terms, other, one)
    assert difference != turned
    assert arithmetic.negate(c.terms, turned) == difference
    assert definitions.absolute(c.terms, turned) == definitions.absolute(c.terms, difference)


@case("product-order")
def _product(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        b, k = c.numbers(*a.shape), c.numbers(1, a.shape[1], positive=True)
        scaled = arithmetic.multiply(c.terms, x, c.closed(k))
        yield arithmetic.multiply(c.terms, scaled, c.open(b)), a * k * b


@case("product-commutes")
def _bilinear(c: Case) -> Iterator[Check]:
    for m, k, n in itertools.product((1, 2, 3), repeat=3):
        a, w = c.numbers(m, k), c.numbers(k, n)
        yield matmul(c.terms, c.closed(a), c.open(w)), a.dot(w)
        yield matmul(c.terms, c.open(a), c.open(w)), a.dot(w)
        yield matmul(c.terms, c.open(a.T).permuted([1, 0]), moves.unsqueeze(c.open(w), [0])), a.dot(w)[None]


@case("difference")
def _difference(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        b = c.numbers(*a.shape)
        yield arithmetic.subtract(c.terms, x, c.open(b)), a - b
        yield arithmetic.subtract(c.terms, x, c.closed(b)), a - b
        yield arithmetic.subtract(c.terms, c.closed(b), x), b - a


@case("quotient")
def _quotient(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        b = c.numbers(*a.shape, positive=True)
        yield arithmetic.divide(c.terms, x, c.open(b)), a / b


@case("neutral-element")
def _neutral(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        yield arithmetic.multiply(c.terms, x, c.number(1)), a
        yield arithmetic.add(c.terms, x, c.closed(np.zeros(a.shape))), a


@case("affine-of-affine")
def _affine(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        for shapes in itertools.product(((), (1, a.shape[1])), repeat=4):
            p, q, r, s = (c.numbers(*shape, positive=True) for shape in shapes)
            inner = arithmetic.scaled(c.terms, x, scale=c.closed(p), shift=c.closed(q))
            outer = arithmetic.scaled(c.terms, inner, scale=c.closed(r), shift=c.closed(s))
            yield outer, (a * p + q) * r + s
            yield arithmetic.scaled(c.terms, c.closed(a), scale=c.closed(p), shift=c.closed(q)), a * p + q


@case("power-of-product")
def _power(c: Case) -> Iterator[Check]:
    for n in (-2, -1, 2, 3):
        a, b = c.numbers(2, 3, positive=True), c.numbers(2, 3, positive=True)
        product = arithmetic.multiply(c.terms, c.open(a), c.open(b))
        scaled = arithmetic.multiply(c.terms, product, c.number(0.5))
        yield arithmetic.power(c.terms, scaled, Fraction(n)), (a * b / 2) ** n
        rooted = arithmetic.power(c.terms, c.open(a * a), Fraction(-1, 2))
        yield arithmetic.power(c.terms, rooted, Fraction(-1)), a


@case("power-of-one-base")
def _one_base(c: Case) -> Iterator[Check]:
    for m, n in itertools.product((-2, -1, 1, 2), repeat=2):
        a = c.numbers(2, 3, positive=True)
        powers = [arithmetic.power(c.terms, c.open(a), Fraction(k)) for k in (1, 1)]
        x = powers[0]
        left, right = (arithmetic.power(c.terms, x, Fraction(k)) for k in (m, n))
        yield arithmetic.multiply(c.terms, left, right), a**m * a**n
    a = c.numbers(3, 3)
    x = c.open(a)
    yield arithmetic.multiply(c.terms, x, x.permuted([1, 0])), a * a.T
    b = c.numbers(3, 3)
    y = c.open(b)
    yield arithmetic.multiply(c.terms, arithmetic.multiply(c.terms, x, x), y), a * a * b
    fifth = arithmetic.power(c.terms, arithmetic.negate(c.terms, x), Fraction(5))
    for pair in ((x, fifth), (fifth, x)):
        yield arithmetic.multiply(c.terms, *pair), -(a**6)


@case("factor-out-of-sum")
def _factor(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        b = c.numbers(*a.shape)
        for p, q in ((0.5, 1.0), (-2.0, 0.25)):
            inner = arithmetic.scaled(c.terms, x, scale=c.number(p), shift=c.number(q))
            expected = (a * Fraction(p) + Fraction(q)) * b
            yield arithmetic.multiply(c.terms, inner, c.open(b)), expected


BOUNDS = [(-0.5, 1.0), (0.0, None), (None, 0.5), (1.0, 1.0), (1.0, -1.0)]


def held(a: Array, low: float | None, high: float | None) -> Array:
    """Held between bounds, the upper one last."""
    a = a if low is None else np.maximum(a, Fraction(low))
    return a if high is None else np.minimum(a, Fraction(high))


def clamped(c: Case, x: Value, low: float | None, high: float | None) -> Value:
    """The same as a value."""
    return arithmetic.clamp(c.terms, x, *(None if b is None else c.number(b) for b in (low, high)))


@case("clamp-of-clamp")
def _clamps(c: Case) -> Iterator[Check]:
    for first, second in itertools.product(BOUNDS, repeat=2):
        a = c.numbers(3, 3)
        yield clamped(c, clamped(c, c.open(a), *first), *second), held(held(a, *first), *second)


@case("clamp-of-affine")
def _clamp_of_affine(c: Case) -> Iterator[Check]:
    for bounds, p, q in itertools.product(BOUNDS, (0.5, 2.0, -1.0), (0.0, 0.75)):
        a = c.numbers(3, 3)
        inner = arithmetic.scaled(c.terms, c.open(a), scale=c.number(p), shift=c.number(q))
        yield clamped(c, inner, *bounds), held(a * Fraction(p) + Fraction(q), *bounds)
    a, k = c.numbers(3, 2), np.asarray([Fraction(-1), Fraction(2)])
    for bounds in BOUNDS:
        yield (
            clamped(c, arithmetic.scaled(c.terms, c.open(a), scale=c.closed(k)), *bounds),
            held(a * k, *bounds),
        )


@case("extreme-as-clamp")
def _extreme(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        yield definitions.extreme(c.terms, "maximum", x, c.number(0.5)), held(a, 0.5, None)
        yield definitions.extreme(c.terms, "minimum", c.number(0.5), x), held(a, None, 0.5)
        bounds = c.numbers(1, a.shape[1])
        yield definitions.extreme(c.terms, "maximum", x, c.closed(bounds)), np.maximum(a, bounds)


@case("linear-as-sum")
def _linear(c: Case) -> Iterator[Check]:
    for n, k, o in itertools.product((1, 2), (1, 3), (1, 2)):
        a, w, b = c.numbers(n, 2, k), c.numbers(o, k), c.numbers(o)
        expected = np.einsum("nsk,ok->nso", a, w) + b
        yield linear(c.terms, c.open(a), c.closed(w), c.closed(b)), expected
        other = c.open(a.transpose(2, 0, 1)).permuted([1, 2, 0])
        yield linear(c.terms, other, c.closed(w.T).permuted([1, 0]), c.closed(b)), expected


@case("matmul-as-sum")
def _matmul(c: Case) -> Iterator[Check]:
    for batch in ((), (2,), (2, 3)):
        a, b = c.numbers(*batch, 2, 3), c.numbers(*batch[-1:], 3, 2)
        yield matmul(c.terms, c.open(a), c.open(b)), np.matmul(a, b)
    a, b = c.numbers(3), c.numbers(3, 2)
    yield matmul(c.terms, c.open(a), c.open(b)), a.dot(b)


def convolved(c: Case, a: Array, w: Array, x: Value, **changed: Any) -> Check:
    """A convolution beside its definition."""
    given: dict[str, Any] = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    given |= changed
    stride, padding, dilation, groups = given.values()
    window = SlidingWindow.of(w.shape[2:], stride, padding, dilation)
    found = convolution(c.terms, x, c.closed(w), None, window, groups)
    padded = np.pad(a, [(0, 0), (0, 0), *padding], constant_values=Fraction(0))
    sizes = [(padded.shape[2 + i] - dilation[i] * (w.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    expected = np.full((len(a), len(w), *sizes), Fraction(0), dtype=object)
    share = len(w) // groups
    for n, o, i, j in np.ndindex(*expected.shape):
        for d, p, q in np.ndindex(*w.shape[1:]):
            at = (i * stride[0] + p * dilation[0], j * stride[1] + q * dilation[1])
            expected[n, o, i, j] += padded[(n, o // share * w.shape[1] + d, *at)] * w[o, d, p, q]
    return found, expected


@case("convolution-of-one-cell")
def _one_cell(c: Case) -> Iterator[Check]:
    for shape in MAPS:
        a = c.numbers(*shape)
        yield convolved(c, a, c.numbers(2, shape[1], 1, 1), c.open(a))
        yield convolved(c, a, c.numbers(2, shape[1], 1, 1), c.open(a), padding=((1, 0), (0, 1)))
        yield convolved(c, a, c.numbers(2, shape[1], 1, 1), c.open(a), stride=(2, 1))
        yield convolved(c, a, c.numbers(shape[1], 1, 1, 1), c.open(a), groups=shape[1])


@case("convolution-over-map")
def _over_map(c: Case) -> Iterator[Check]:
    for shape in MAPS:
        a = c.numbers(*shape)
        flat = moves.reshape(c.terms, c.open(a.reshape(shape[0], -1)), shape)
        yield convolved(c, a, c.numbers(2, *shape[1:]), c.open(a))
        yield convolved(c, a, c.numbers(2, *shape[1:]), flat, stride=(2, 2))
        yield convolved(c, a, c.numbers(2, *shape[1:]), flat, padding=((1, 1), (0, 1)))
    a = c.numbers(1, 4, 3, 3)
    yield convolved(c, a, c.numbers(2, 4, 2, 2), c.open(a), dilation=(2, 1))
    yield convolved(c, a, c.numbers(4, 2, 2, 3), c.open(a), groups=2, stride=(1, 2))


@case("zeros-as-padding")
def _zeros(c: Case) -> Iterator[Check]:
    w = c.numbers(2, 2, 2, 2)
    for around in ([(1, 1), (1, 1)], [(0, 1), (0, 2)], [(2, 0), (0, 0)]):
        for shape in ((1, 2, 3, 2), (2, 2, 1, 3)):
            a = c.numbers(*shape)
            x = c.open(a)
            for dim, (before, after) in reversed([*enumerate(around, 2)]):
                x = moves.pad(c.terms, x, dim, before, after, "constant", c.number(0))
            padded = np.pad(a, [(0, 0), (0, 0), *around], constant_values=Fraction(0))
            yield convolved(c, padded, w, x, padding=((0, 1), (1, 0)), stride=(1, 2))
            cells = np.lib.stride_tricks.sliding_window_view(padded, (1, 2), (2, 3))
            pooled = average(c, x, [1, 2], [1, 1])
            yield pooled, mean(cells, (4, 5))[..., 0, 0]
            sizes = SlidingWindow.of([1, 2], padding=around)
            assert windows.average_pool(c.terms, x, sizes).term.attributes[0].padding == (*around,)
            # not along what the windows move: turned, of another number, or of channels
            yield convolved(c, padded.transpose(0, 1, 3, 2), w, x.permuted([0, 1, 3, 2]))
    a = c.numbers(1, 1, 3, 3)
    ones = moves.pad(c.terms, c.open(a), 2, 1, 1, "constant", c.number(1))
    channel = moves.pad(c.terms, c.open(a), 1, 0, 1, "constant", c.number(0))
    edges = moves.pad(c.terms, c.open(a), 3, 1, 0, "replicate", c.number(0))
    merged = moves.reshape(
        c.terms, moves.pad(c.terms, c.open(a), 3, 1, 0, "constant", c.number(0)), (1, 1, 12, 1)
    )
    flat = np.pad(a, [(0, 0), (0, 0), (0, 0), (1, 0)], constant_values=Fraction(0)).reshape(1, 1, 12, 1)
    yield convolved(c, flat, w[:, :1, :, :1], merged)
    wide = [(0, 0), (0, 0), (1, 1), (0, 0)]
    yield convolved(c, np.pad(a, wide, constant_values=Fraction(1)), w[:, :1], ones)
    yield convolved(c, np.pad(a, [(0, 0), (0, 1), (0, 0), (0, 0)], constant_values=Fraction(0)), w, channel)
    yield convolved(c, np.pad(a, [(0, 0), (0, 0), (0, 0), (1, 0)], mode="edge"), w[:, :1], edges)


@case("scale-of-bilinear")
def _scale_of_bilinear(c: Case) -> Iterator[Check]:
    a, b = c.numbers(2, 3), c.numbers(3, 2)
    halved = arithmetic.multiply(c.terms, c.open(a), c.number(0.5))
    yield matmul(c.terms, halved, arithmetic.multiply(c.terms, c.open(b), c.number(4))), a.dot(b) * 2
    c.terms.merges = True
    x, w, y, v = (c.numbers(2, 3) for _ in range(4))
    shift = c.numbers(2)
    for first, moved in ((c.open(x), x.dot(w.T) + shift), (c.open(x * 2), x.dot(w.T) * 2 + shift)):
        site = linear(c.terms, first, c.closed(w), c.closed(shift))
        others = linear(c.terms, c.open(y), c.closed(v), None)
        for sides in ((site, others), (others, site), (site, c.open(v.dot(y.T)))):
            arrays = [
                moved if item is site else y.dot(v.T) if item is others else v.dot(y.T) for item in sides
            ]
            product = matmul(c.terms, *sides)
            yield arithmetic.multiply(c.terms, product, c.number(0.5)), arrays[0].dot(arrays[1]) / 2
            yield arithmetic.multiply(c.terms, product, c.number(-4)), arrays[0].dot(arrays[1]) * -4


@case("scale-of-affine-site")
def _scale_of_site(c: Case) -> Iterator[Check]:
    for axis in (0, 1):  # along the outputs, and along the samples
        a, w, k = c.numbers(2, 3), c.numbers(2, 3), c.numbers(2, positive=True)
        site = linear(c.terms, c.open(a), c.closed(w), None)
        scale = k.reshape((-1, 1) if axis == 0 else (1, -1))
        yield arithmetic.multiply(c.terms, site, c.closed(scale)), a.dot(w.T) * scale
    a, w = c.numbers(1, 2, 3, 3), c.numbers(3, 2, 2, 2)
    found, expected = convolved(c, a, w, c.open(a))
    for shape in ((1, 3, 1, 1), (1, 1, 2, 1), (1, 3, 1, 2)):
        k = c.numbers(*shape, positive=True)
        yield arithmetic.multiply(c.terms, found, c.closed(k)), expected * k
    # one that lies turned in memory, of a site whose samples are then averaged
    a, w, k = c.numbers(2, 3, 4), c.numbers(6, 4), c.numbers(3, 2, positive=True)
    turned = moves.reshape(c.terms, c.closed(k).permuted([1, 0]), (6,))
    value = arithmetic.multiply(c.terms, linear(c.terms, c.open(a), c.closed(w), None), turned)
    expected = np.einsum("nsk,ok->nso", a, w) * k.T.reshape(6)
    yield value, expected
    yield windows.reduce(c.terms, "mean", value, [1], keep=True), mean(expected, (1,))


@case("average-of-affine")
def _average_of_affine(c: Case) -> Iterator[Check]:
    for shape in ((1, 2, 1, 1), (1, 2, 1, 3), (1, 1, 1, 1)):
        a, p, q = c.numbers(2, 2, 3, 3), c.numbers(*shape, positive=True), c.numbers(*shape)
        x = arithmetic.scaled(c.terms, c.open(a), scale=c.closed(p), shift=c.closed(q))
        yield windows.reduce(c.terms, "mean", x, [2, 3], keep=True), mean(a * p + q, (2, 3))
        yield windows.reduce(c.terms, "sum", x, [2, 3], keep=True), mean(a * p + q, (2, 3)) * 9


@case("extreme-of-affine")
def _extreme_of_affine(c: Case) -> Iterator[Check]:
    for (name, of), sign, shape in itertools.product(
        (("max", np.max), ("min", np.min)), (1, -1), ((1, 2, 1, 1), (1, 2, 1, 3), (1, 1, 1, 1))
    ):
        a, p, q = c.numbers(2, 2, 3, 3), c.numbers(*shape, positive=True) * sign, c.numbers(*shape)
        x = arithmetic.scaled(c.terms, c.open(a), scale=c.closed(p), shift=c.closed(q))
        yield windows.reduce(c.terms, name, x, [2, 3], keep=True), of(a * p + q, axis=(2, 3), keepdims=True)
        yield windows.reduce(c.terms, name, x, [2], keep=True), of(a * p + q, axis=2, keepdims=True)


@case("average-of-site")
def _average_of_site(c: Case) -> Iterator[Check]:
    a, w = c.numbers(2, 3, 4, 4), c.numbers(2, 3, 1, 1)
    site, expected = convolved(c, a, w, c.open(a))
    yield windows.reduce(c.terms, "mean", site, [2, 3], keep=True), mean(expected, (2, 3))
    yield windows.reduce(c.terms, "mean", site, [1, 2], keep=True), mean(expected, (1, 2))
    halves = expected.reshape(2, 2, 2, 2, 2, 2)
    yield average(c, site, [2, 2], [2, 2]), mean(halves, (3, 5)).reshape(2, 2, 2, 2)
    rows = c.numbers(2, 3, 4)
    each = linear(c.terms, c.open(rows), c.closed(c.numbers(2, 4)), None)
    for order in ((0, 1, 2), (0, 2, 1)):  # samples and outputs in one dimension
        turned = each.permuted(order)
        cells = c.meaning(turned).reshape(2, 6)
        yield windows.reduce(c.terms, "mean", moves.flatten(turned, 1, 2), [1], keep=True), mean(cells, (1,))


def merging(c: Case) -> None:
    """Has the table read linear maps as one."""
    c.terms.merges = True


@case("site-of-site")
def _site_of_site(c: Case) -> Iterator[Check]:
    merging(c)
    for shape, order in itertools.product(SHAPES, ((0, 1), (1, 0))):
        a, w, b, v = c.numbers(*shape), c.numbers(4, shape[1]), c.numbers(4), c.numbers(3, 4)
        x = c.open(a.transpose(order)).permuted(order)
        first = linear(c.terms, x, c.closed(w), c.closed(b))
        yield linear(c.terms, first, c.closed(v), c.closed(c.numbers(3) * 0)), (a.dot(w.T) + b).dot(v.T)
        split = moves.reshape(c.terms, first, (shape[0], 2, 2))
        rows = (a.dot(w.T) + b).reshape(-1, 2, 2)
        yield spelled_sum(c.terms, "npq,qo->npo", [split, c.closed(v[:2, :2])]), rows.dot(v[:2, :2])
        both = spelled_sum(c.terms, "npq,opq->on", [split, c.closed(v[:, :4].reshape(3, 2, 2))])
        yield both, (a.dot(w.T) + b).dot(v.T).T
    for shape, strides, pads in itertools.product(MAPS, ((1, 1), (2, 1)), (0, 1)):
        a, w, mixed = c.numbers(*shape), c.numbers(3, shape[1], 2, 1), c.numbers(4, 3, 1, 1)
        padding = ((pads, 0), (pads, pads))
        if shape[2] > 1:
            inner, expected = convolved(c, a, w, c.open(a), stride=strides, padding=padding)
            found, _ = convolved(c, expected, mixed, inner)
            yield found, np.einsum("om,nmhw->nohw", mixed[:, :, 0, 0], expected)
        inner, expected = convolved(c, a, c.numbers(3, shape[1], 1, 1), c.open(a))
        yield convolved(c, expected, c.numbers(2, 3, 2, 2), inner, stride=strides, padding=((1, 1), (1, 1)))


@case("site-of-affine")
def _site_of_affine(c: Case) -> Iterator[Check]:
    merging(c)
    for shape in SHAPES:
        for along in ((1, shape[1]), (1, 1), shape):
            a, w, k, b = c.numbers(*shape), c.numbers(4, shape[1]), c.numbers(1, shape[1]), c.numbers(*along)
            x = arithmetic.scaled(c.terms, c.open(a), scale=c.closed(k), shift=c.closed(b))
            yield linear(c.terms, x, c.closed(w), None), (a * k + b).dot(w.T)
            yield matmul(c.terms, c.closed(w), x.permuted([1, 0])), w.dot((a * k + b).T)
    for groups, strides, along in itertools.product((1, 2), ((1, 1), (2, 1)), (1, 4)):
        a, w = c.numbers(2, 4, 3, 2), c.numbers(6, 4 // groups, 2, 2)
        k, b = (c.numbers(along, 1, 1, positive=True) for _ in range(2))
        x = arithmetic.scaled(c.terms, c.open(a), scale=c.closed(k), shift=c.closed(b))
        yield convolved(c, a * k + b, w, x, groups=groups, stride=strides)
        yield convolved(c, a * k + b, w, x, groups=groups, padding=((1, 0), (1, 1)))
        x = arithmetic.scaled(c.terms, c.open(a), scale=c.closed(k))
        yield convolved(c, a * k, w, x, groups=groups, padding=((1, 0), (1, 1)), stride=strides)


@case("sum-of-sites")
def _sum_of_sites(c: Case) -> Iterator[Check]:
    merging(c)
    for shape, order in itertools.product(SHAPES, ((0, 1), (1, 0))):
        a, w, v, b = c.numbers(*shape), c.numbers(3, shape[1]), c.numbers(3, shape[1]), c.numbers(3)
        x = c.open(a.transpose(order)).permuted(order)
        first, second = (linear(c.terms, x, c.closed(item), c.closed(b)) for item in (w, v))
        yield arithmetic.add(c.terms, first, second), a.dot((w + v).T) + 2 * b
        square, k = c.numbers(shape[1], shape[1]), c.numbers(shape[1])
        own = arithmetic.scaled(c.terms, x, scale=c.closed(k), shift=c.closed(k))
        site = linear(c.terms, x, c.closed(square), None)
        yield arithmetic.add(c.terms, own, site), a * k + k + a.dot(square.T)
        yield arithmetic.subtract(c.terms, site, x), a.dot(square.T) - a
    sizes = ((3, 1), (1, 0), (1, 1), (2, 0), (5, 2))  # cells and padding before
    for (k, p), (m, q), (gap, other), groups in itertools.product(
        sizes, sizes, ((1, 1), (2, 2), (1, 2)), (1, 2)
    ):
        stride = 2 if gap == other else 1
        a = c.numbers(1, 2, 7, 1)
        sites = [
            convolved(
                c,
                a,
                c.numbers(2, 2 // groups, size, 1),
                c.open(a),
                stride=(stride, 1),
                padding=((before * step, after), (0, 0)),
                dilation=(step, 1),
                groups=groups,
            )
            for size, before, step in ((k, p, gap), (m, q, other))
            for after in [step * (size - 1 - before) + (size == before == 1)]
            if after >= 0
        ]
        if len(sites) > 1 and sites[0][1].shape == sites[1][1].shape:
            (first, expected), (second, more) = sites
            yield arithmetic.add(c.terms, first, second), expected + more
            if stride == 1:
                yield arithmetic.add(c.terms, c.open(a), first), a + expected


@case("slice-of-site")
def _slice_of_site(c: Case) -> Iterator[Check]:
    merging(c)
    for start, step, count in itertools.product((0, 1), (1, 2), (1, 2)):
        end = start + step * (count - 1) + 1
        for shape in SHAPES:
            a, w, b = c.numbers(*shape), c.numbers(4, shape[1]), c.numbers(4)
            site = linear(c.terms, c.open(a), c.closed(w), c.closed(b))
            expected = a.dot(w.T) + b
            yield moves.take(c.terms, site, 1, start, step, count), expected[:, start:end:step]
            halves = moves.reshape(c.terms, site, (shape[0], 2, 2)).permuted([2, 0, 1])
            cells = expected.reshape(shape[0], 2, 2).transpose(2, 0, 1)
            yield moves.select(c.terms, halves, 0, start), cells[start]
            yield moves.select(c.terms, halves, 2, start), cells[:, :, start]
        a, w = c.numbers(2, 2, 3, 3), c.numbers(4, 2, 2, 2)
        site, expected = convolved(c, a, w, c.open(a))
        for dim in (1, 2) if count == 1 else (1,):
            place = (*[slice(None)] * dim, slice(start, end, step))
            yield moves.take(c.terms, site, dim, start, step, count), expected[place]


@case("concatenation-of-sites")
def _sites_joined(c: Case) -> Iterator[Check]:
    merging(c)
    for shape in SHAPES:
        a, w, v, b = c.numbers(*shape), c.numbers(2, shape[1]), c.numbers(3, shape[1]), c.numbers(3)
        x = c.open(a)
        first, second = (linear(c.terms, x, c.closed(w), None), linear(c.terms, x, c.closed(v), c.closed(b)))
        expected = [a.dot(w.T), a.dot(v.T) + b]
        yield moves.concatenate(c.terms, [first, second], 1), np.concatenate(expected, 1)
        turned = [item.permuted([1, 0]) for item in (second, first)]
        yield moves.concatenate(c.terms, turned, 0), np.concatenate(expected[::-1], 1).T
    a = c.numbers(1, 2, 3, 3)
    for kernels in ((2, 2), (2, 3)):
        x = c.open(a)
        sites = [
            convolved(c, a, c.numbers(2, 2, size, 2), x, padding=((0, size - 2), (1, 1))) for size in kernels
        ]
        both = np.concatenate([expected for _, expected in sites], 1)
        yield moves.concatenate(c.terms, [site for site, _ in sites], 1), both


@case("pool-over-map")
def _over_whole_map(c: Case) -> Iterator[Check]:
    for a, x in pairs(c, [(2, 2, 3, 2)]):
        yield average(c, x, [*a.shape[2:]], [1, 1]), mean(a, (2, 3))
        larger = SlidingWindow.of([5, 4], [5, 4], ceil=True)
        yield windows.average_pool(c.terms, x, larger, counts_padding=True), mean(a, (2, 3))
        yield average(c, x, [a.shape[2], 1], [1, 1]), mean(a, (2,))
        yield average(c, x, [1, a.shape[3]], [1, 2]), mean(a, (3,))


@case("pool-to-one-cell")
def _to_one_cell(c: Case) -> Iterator[Check]:
    for a, x in pairs(c, MAPS):
        yield windows.adaptive_pool(c.terms, "mean", x, [1, 1]), mean(a, (2, 3))
        yield windows.adaptive_pool(c.terms, "mean", x, [1, a.shape[3]]), mean(a, (2,))


@case("even-adaptive-pool")
def _even(c: Case) -> Iterator[Check]:
    a = c.numbers(2, 2, 4, 6)
    expected = mean(a.reshape(2, 2, 2, 2, 3, 2), (3, 5)).reshape(2, 2, 2, 3)
    yield windows.adaptive_pool(c.terms, "mean", c.open(a), [2, 3]), expected


@case("reduction-of-reduction")
def _reductions(c: Case) -> Iterator[Check]:
    how = {"sum": np.sum, "max": np.max, "min": np.min}
    for name, (first, second) in itertools.product((*how, "mean"), ((0, 1), (2, 0), (1, 2))):
        a = c.numbers(2, 3, 2)
        inner = windows.reduce(c.terms, name, c.open(a), [first], keep=True)
        axes = (first, second)
        expected = mean(a, axes) if name == "mean" else how[name](a, axis=axes, keepdims=True)
        yield windows.reduce(c.terms, name, inner, [second], keep=True), expected
    a = c.numbers(2, 3, 2)
    largest = windows.reduce(c.terms, "max", c.open(a), [1], keep=True)
    yield windows.reduce(c.terms, "mean", largest, [2], keep=True), mean(a.max(axis=1, keepdims=True), (2,))


@case("batch-norm")
def _batch_norm(c: Case) -> Iterator[Check]:
    a, w, b, m = c.numbers(2, 2, 3), c.numbers(2, positive=True), c.numbers(2), c.numbers(2)
    for scale, shift in itertools.product((w, None), (b, None)):
        given = [None if item is None else c.closed(item) for item in (scale, shift)]
        # a variance with a root in the fractions
        statistics = (c.closed(m), c.closed(np.asarray([Fraction(15, 4), Fraction(3, 4)])))
        value = definitions.batch_norm(c.terms, c.open(a), *given, *statistics, c.number(0.25))
        deviation = np.asarray([Fraction(2), Fraction(1)])
        expected = (a - m[:, None]) / deviation[:, None]
        expected = expected if scale is None else expected * scale[:, None]
        yield value, expected if shift is None else expected + shift[:, None]


@case("normalisation")
def _normalised(c: Case) -> Iterator[Check]:
    a = np.asarray([[Fraction(2), Fraction(-2)], [Fraction(5), Fraction(1)]], dtype=object)
    centred = a - mean(a, (1,))
    root = powered(mean(centred**2, (1,)) + Fraction(0), Fraction(1, 2))
    yield definitions.normalised(c.terms, c.open(a), [1], c.number(0.0)), centred / root


@case("euclidean-norm")
def _norm(c: Case) -> Iterator[Check]:
    a = np.asarray([[Fraction(3), Fraction(-4)], [Fraction(5), Fraction(12)]], dtype=object)
    for keep in (True, False):
        expected = powered((a**2).sum(axis=1, keepdims=keep), Fraction(1, 2))
        yield definitions.euclidean_norm(c.terms, c.open(a), [1], keep=keep), expected


def gate(x: Array) -> Array:
    """Torch's hard sigmoid."""
    return held(x / 6 + Fraction(1, 2), 0.0, 1.0)


@case("hard-sigmoid")
def _hard_sigmoid(c: Case) -> Iterator[Check]:
    a = c.numbers(3, 3) * 4
    yield definitions.hard_sigmoid_of_sixth(c.terms, c.open(a)), gate(a)
    yield (
        definitions.hard_sigmoid(c.terms, c.open(a), c.number(0.25), c.number(0.5)),
        held(a / 4 + Fraction(1, 2), 0.0, 1.0),
    )


@case("hard-swish")
def _hard_swish(c: Case) -> Iterator[Check]:
    a = c.numbers(3, 3) * 4
    yield definitions.hard_swish(c.terms, c.open(a)), a * gate(a)


@case("silu")
def _silu(c: Case) -> Iterator[Check]:
    yield from ((definitions.silu(c.terms, x), a * FUNCTIONS["sigmoid"](a)) for a, x in pairs(c))


@case("mish")
def _mish(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        yield definitions.mish(c.terms, x), a * FUNCTIONS["tanh"](FUNCTIONS["softplus"](a))


@case("gelu")
def _gelu(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        yield definitions.gelu(c.terms, x, "none"), a * (FUNCTIONS["erf"](a * Fraction(0.5**0.5)) + 1) / 2
        inner = (a + Fraction(0.044715) * a**3) * Fraction((2 / np.pi) ** 0.5)
        yield definitions.gelu(c.terms, x, "tanh"), a * (FUNCTIONS["tanh"](inner) + 1) / 2


@case("tanh")
def _tanh(c: Case) -> Iterator[Check]:
    yield from ((definitions.tanh(c.terms, x), FUNCTIONS["tanh"](a)) for a, x in pairs(c))


@case("extreme-as-slope")
def _larger_part(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        part = arithmetic.multiply(c.terms, x, c.number(0.25))
        other = arithmetic.negate(c.terms, x)
        for pair, found in (((x, part), np.maximum(a, a / 4)), ((x, other), np.abs(a))):
            yield definitions.extreme(c.terms, "maximum", *pair), found
            yield definitions.extreme(c.terms, "maximum", *reversed(pair)), found


@case("masked-by-sign")
def _masked(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        for name in ("gt", "ge"):
            mask = cast(c.terms, elementwise(c.terms, name, [x, c.number(0)], "bool"), "float32")
            yield definitions.multiplied(c.terms, x, mask), np.maximum(a, 0)
            yield definitions.multiplied(c.terms, mask, x), np.maximum(a, 0)


@case("gather-as-transposition")
def _turned(c: Case) -> Iterator[Check]:
    for rows, columns in ((2, 2), (2, 3), (3, 2)):
        order = np.arange(rows * columns).reshape(rows, columns).T.reshape(-1)
        a, b = c.numbers(rows * columns, 2), c.numbers(2, rows * columns)
        yield moves.gather(c.terms, c.open(a), 0, c.terms.constant(order)), a[order]
        yield moves.gather(c.terms, c.open(b), 1, c.terms.constant(order)), b[:, order]


def stepped(c: Case, *steps: tuple[int, int], start: int = 0, dtype: str = "int64") -> tuple[Value, Array]:
    """Integers that grow by a step along each axis of so many cells, and what they are."""
    found = c.terms.constant(np.array(start, dtype))
    array = np.asarray(start)
    for axis, (extent, step) in enumerate(steps):
        behind = len(steps) - 1 - axis
        kinds: list[tuple[str, tuple[int, ...]]] = [(dtype, (extent,))]
        (places,) = foreign(c.terms, ("range", 0, 1), [], kinds, is_random=False)
        c.inputs[places.term] = np.arange(extent, dtype=object).reshape(places.term.shape)  # type: ignore[arg-type]
        own = arithmetic.multiply(c.terms, places, c.terms.constant(np.array(step, dtype)))
        own = moves.unsqueeze(own, range(1, 1 + behind))
        found = arithmetic.add(c.terms, own, found)
        array = array + (np.arange(extent) * step).reshape(-1, *[1] * behind)
    return found, array


@case("gather-as-view")
def _stepped(c: Case) -> Iterator[Check]:
    for extents in itertools.permutations((2, 3, 4)):
        a, b = c.numbers(24, 2), c.numbers(2, 24)
        strides = (extents[1] * extents[2], extents[2], 1)
        for order in itertools.permutations(range(3)):
            index, places = stepped(c, *((extents[axis], strides[axis]) for axis in order))
            yield moves.gather(c.terms, c.open(a), 0, index), a[places]
            whole = moves.flatten(index, 1, 2)
            yield moves.gather(c.terms, c.open(b), 1, whole), b[:, places.reshape(whole.shape)]
    stored = c.terms.constant(np.arange(6).reshape(2, 3))
    index, places = stepped(c, (2, 6))
    index = arithmetic.add(c.terms, moves.unsqueeze(index, [1, 2]), stored)
    a = c.numbers(2, 2, 3)
    expected = a.reshape(12)[places[:, None, None] + np.arange(6).reshape(2, 3)]
    yield moves.gather(c.terms, moves.flatten(c.open(a), 0, 2), 0, index), expected


@case("gather-of-merged-axes")
def _gathered(c: Case) -> Iterator[Check]:
    rows, columns = np.array([[0, -1], [1, 0]]), np.array([2, -3])
    a = c.numbers(2, 3, 4)
    for order in ((0, 1, 2), (2, 1, 0)):
        x = c.open(a.transpose(np.argsort(order))).permuted(order)
        indices = [c.terms.constant(index) for index in (rows, columns)]
        yield moves.gather_several(c.terms, x, [0, 1], indices), a[rows, columns]
        moved = np.moveaxis(a, 1, 0)[columns, :, rows]
        yield moves.gather_several(c.terms, x, [1, 2], indices[::-1]), moved


@case("gather-of-repeated-cells")
def _of_repeated(c: Case) -> Iterator[Check]:
    for dim, extent in itertools.product(range(3), (1, 2, 3)):
        a = c.numbers(*(1 if axis == dim else 2 for axis in range(3)))
        wide = tuple(extent if axis == dim else 2 for axis in range(3))
        x, repeated = moves.expand(c.open(a), wide), np.broadcast_to(a, wide)
        for places in (np.array(extent - 1), np.array([0, -1]), np.array([[0, -extent]])):
            yield moves.gather(c.terms, x, dim, c.terms.constant(places)), np.take(repeated, places, dim)
        column, row = np.array([[0], [-1]]), np.array([[0, 0, 1]])
        for other in (axis for axis in range(3) if axis != dim):
            dims = sorted((dim, other))
            named = [row if axis == other else column for axis in dims]
            cells = np.moveaxis(repeated, dims, (0, 1))[tuple(named)]
            yield moves.gather_several(c.terms, x, dims, [*map(c.terms.constant, named)]), cells
            asked = [c.open(row.astype(object), "int64"), c.terms.constant(column)]
            indices = asked if dims[0] == other else asked[::-1]
            yield moves.gather_several(c.terms, x, dims, indices), cells


@case("gather-by-repeated-index")
def _by_repeated(c: Case) -> Iterator[Check]:
    for dim, extents in itertools.product(range(2), itertools.product((1, 2), (1, 3))):
        a, places = c.numbers(3, 4), np.array([[2, 0, 1]], dtype=object)[:, : extents[1]]
        index = moves.expand(c.open(places, "int64"), (extents[0], places.shape[1]))
        yield (
            moves.gather(c.terms, c.open(a), dim, index),
            np.take(a, np.broadcast_to(places, index.shape).astype(np.int64), dim),
        )


@case("concatenation-with-nothing")
def _with_nothing(c: Case) -> Iterator[Check]:
    for dim, order in itertools.product((0, 1), itertools.permutations(range(3))):
        a, b = c.numbers(2, 3), c.numbers(2, 3)
        shape = (0, 3) if dim == 0 else (2, 0)
        (none,) = foreign(c.terms, ("nothing",), [], [("float32", shape)], is_random=False)
        values = [[c.open(a), c.open(b), none][place] for place in order]
        arrays = [[a, b][place] for place in order if place < 2]
        yield moves.concatenate(c.terms, values, dim), np.concatenate(arrays, dim)
        yield moves.concatenate(c.terms, [none, c.open(a), none], dim), a


@case("neutral-integer")
def _beside_neutral(c: Case) -> Iterator[Check]:
    a, b = np.array([[3, -1, 0]], dtype=object), np.array([[True], [False]], dtype=object)
    x, y = c.open(a, "int64"), c.open(b, "bool")
    for shape in ((), (1,), (2, 1), (2, 3)):
        for neutral, names, value, array in (
            (np.int64(0), ("add", "sub"), x, a),
            (np.int64(1), ("mul",), x, a),
            (np.True_, ("and",), y, b),
            (np.False_, ("or",), y, b),
        ):
            other = moves.expand(c.terms.constant(np.asarray(neutral)), shape)
            expected = np.broadcast_to(array, np.broadcast_shapes(array.shape, shape))
            for name in names:
                yield elementwise(c.terms, name, [value, other], value.dtype), expected
                if name != "sub":
                    yield elementwise(c.terms, name, [other, value], value.dtype), expected


@case("one-more")
def _one_more(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        yield definitions.exp_minus_one(c.terms, x), FUNCTIONS["exp"](a) - 1
        yield definitions.log_of_one_more(c.terms, x), FUNCTIONS["log"](a + 1)


def shares(a: Array, dim: int) -> Array:
    """The softmax along a dimension."""
    raised = FUNCTIONS["exp"](a - a.max(axis=dim, keepdims=True)) + Fraction(0)
    return raised / raised.sum(axis=dim, keepdims=True)


def softened(c: Case) -> Iterator[tuple[Value, int, Array]]:
    """Inputs, a dimension, and their softmax along it."""
    for dim in (0, 1):
        a = c.numbers(2, 3)
        raised = FUNCTIONS["exp"](a - a.max(axis=dim, keepdims=True)) + Fraction(0)
        if all(raised.sum(axis=dim)):
            yield c.open(a), dim, shares(a, dim)


@case("softmax")
def _softmax(c: Case) -> Iterator[Check]:
    for x, dim, expected in softened(c):
        yield definitions.softmax(c.terms, x, dim), expected


def guarded(c: Case, asked: Value, value: Value) -> Value:
    """A value, but for nothing where another one is no number."""
    return definitions.choose(c.terms, elementwise(c.terms, "isnan", [asked], "bool"), c.number(0), value)


@case("softmax-of-something")
def _softmax_of_something(c: Case) -> Iterator[Check]:
    for x, dim, expected in softened(c):
        soft = definitions.softmax(c.terms, x, dim)
        yield guarded(c, soft, soft), expected


@case("softmax-without-largest")
def _without_largest(c: Case) -> Iterator[Check]:
    for x, dim, expected in softened(c):
        yield share(c, x, dim), expected


@case("logistic")
def _logistic(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        below = 1 + FUNCTIONS["exp"](-a)
        if all(below.reshape(-1)):
            raised = definitions.unary(c.terms, "exp", arithmetic.negate(c.terms, x))
            more = arithmetic.add(c.terms, raised, c.number(1))
            yield definitions.quotient(c.terms, c.number(3), more), 3 / below
            yield definitions.inverse(c.terms, more), 1 / below


@case("softplus")
def _softplus(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        more = arithmetic.add(c.terms, definitions.unary(c.terms, "exp", x), c.number(1))
        yield definitions.logarithm(c.terms, more), FUNCTIONS["softplus"](a)


@case("choice-of-slope")
def _bent(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        raised = definitions.unary(c.terms, "exp", x)
        for slope in (Fraction(1, 4), Fraction(-1), Fraction(2)):
            scale = c.number(float(slope))
            less = arithmetic.subtract(c.terms, arithmetic.multiply(c.terms, raised, scale), scale)
            for other, b in (
                (arithmetic.multiply(c.terms, x, scale), slope * a),
                (less, slope * (FUNCTIONS["exp"](a) - 1)),
            ):
                found = np.where(a > 0, a, b)
                above, below = (elementwise(c.terms, n, [x, c.number(0)], "bool") for n in ("gt", "lt"))
                yield definitions.choose(c.terms, above, x, other), found
                yield definitions.choose(c.terms, below, other, x), np.where(a < 0, b, a)


@case("choice-of-extreme")
def _choice(c: Case) -> Iterator[Check]:
    a, b = c.numbers(2, 3), c.numbers(2, 3)
    for x, y in ((c.open(a), c.open(b)), (c.open(a), c.closed(b))):
        for name, is_larger in (("gt", True), ("ge", True), ("lt", False), ("le", False)):
            asked = elementwise(c.terms, name, [x, y], "bool")
            found = (np.maximum, np.minimum) if is_larger else (np.minimum, np.maximum)
            yield definitions.choose(c.terms, asked, x, y), found[0](a, b)
            yield definitions.choose(c.terms, asked, y, x), found[1](a, b)


@case("unequal")
def _unequal(c: Case) -> Iterator[Check]:
    a, b = c.numbers(2, 9) // 1, c.numbers(2, 9) // 1
    assert 0 < (a == b).sum() < a.size
    for x, y in ((c.open(a), c.open(b)), (c.open(a), c.closed(b))):
        yield definitions.unequal(c.terms, x, y), a != b


@case("softmax-of-shifted-keys")
def _shifted_keys(c: Case) -> Iterator[Check]:
    for shape in ((1, 1, 2), (2, 1, 2), (1, 1, 1)):
        a, b, d = c.numbers(2, 3, 2), c.numbers(2, 4, 2), c.numbers(*shape)
        q, k = c.open(a), c.open(b)
        keys = arithmetic.add(c.terms, k, c.closed(d))
        scores = (matmul(c.terms, q, item.permuted([0, 2, 1])) for item in (keys, k))
        shifted, plain_scores = (definitions.softmax(c.terms, item, 2) for item in scores)
        assert shifted == plain_scores
        other = matmul(c.terms, keys, q.permuted([0, 2, 1]))
        assert definitions.softmax(c.terms, other, 1) == plain_scores.permuted([0, 2, 1])
        yield shifted, shares(a @ np.swapaxes(b + d, 1, 2), 2)


@case("exp-of-log-softmax")
def _exp_of_log_softmax(c: Case) -> Iterator[Check]:
    for x, dim, expected in softened(c):
        found = definitions.exponential(c.terms, definitions.log_softmax(c.terms, x, dim))
        assert found == definitions.softmax(c.terms, x, dim)
        yield found, expected


@case("log-softmax")
def _log_softmax(c: Case) -> Iterator[Check]:
    for dim in (0, 1):
        a = c.numbers(2, 3)
        moved = a - a.max(axis=dim, keepdims=True)
        total = FUNCTIONS["exp"](moved).sum(axis=dim, keepdims=True)
        yield definitions.log_softmax(c.terms, c.open(a), dim), moved - FUNCTIONS["log"](total)


@case("variance")
def _variance(c: Case) -> Iterator[Check]:
    for correction, keep, (a, x) in itertools.product(
        (0, 1, 2), (True, False), list(pairs(c, [(2, 4), (3, 3)]))
    ):
        squares = ((a - mean(a, (1,))) ** 2).sum(axis=1, keepdims=keep)
        if a.shape[1] > correction:
            found = definitions.variance(c.terms, x, [1], correction, keep=keep)
            yield found, squares / Fraction(a.shape[1] - correction)
    for correction in (3, 4):
        with pytest.raises(Uninterpreted):
            definitions.variance(c.terms, c.open(c.numbers(2, 3)), [1], correction, keep=True)


@case("log-sum-exp")
def _log_sum_exp(c: Case) -> Iterator[Check]:
    for dim, keep in itertools.product((0, 1), (True, False)):
        a = c.numbers(2, 3)
        largest = a.max(axis=dim, keepdims=True)
        found = largest + FUNCTIONS["log"](FUNCTIONS["exp"](a - largest).sum(axis=dim, keepdims=True))
        yield (
            definitions.log_sum_exp(c.terms, c.open(a), [dim], keep=keep),
            found if keep else found.squeeze(axis=dim),
        )


@case("softplus-of-large")
def _softplus_of_large(c: Case) -> Iterator[Check]:
    for a, x in pairs(c):
        is_large = elementwise(c.terms, "gt", [x, c.number(20.0)], "bool")
        yield (
            definitions.choose(c.terms, is_large, x, definitions.softplus(c.terms, x)),
            FUNCTIONS["softplus"](a),
        )


@case("nearest-as-repeat")
def _nearest(c: Case) -> Iterator[Check]:
    for rows, columns in itertools.product((1, 2, 4), repeat=2):
        for a, x in pairs(c, [(1, 2, 2, 3), (2, 1, 1, 2)]):
            yield windows.nearest(c.terms, x, [rows, columns]), a.repeat(rows, axis=2).repeat(columns, axis=3)


@case("resize-to-own-size")
def _resize(c: Case) -> Iterator[Check]:
    for (a, x), mode, corners in itertools.product(
        pairs(c, [(1, 2, 2, 3), (2, 1, 1, 2)]), ("linear", "cubic", "antialiased"), (True, False)
    ):
        yield windows.resized(c.terms, x, mode, a.shape[2:], None, aligns_corners=corners), a
        yield windows.resized(c.terms, x, mode, None, [1.0, 1.0], aligns_corners=corners), a


ELSEWHERE = {
    "copy": "the readers' own tests: the operand itself",
    "dropout-in-evaluation": "the readers' own tests: the operand itself",
    "attention": "the ATen reader's tests, beside torch",
    "equal-branches": "the tests of spellings, beside ONNX Runtime",
    "log-sigmoid": "the tests of spellings, beside ONNX Runtime",
    "log-of-softmax": "the tests of spellings, beside ONNX Runtime",
    "largest-of-clamped": "the tests of spellings, beside ONNX Runtime",
    "log-of-sum": "the tests of spellings, beside ONNX Runtime",
    "masked-by-lowest": "beside torch, bit for bit, below",
    TIES: "the tests of spellings: places are given by an operator that is not looked into",
    "sinc": "the ATen reader's tests, beside ONNX Runtime",
    "fold-of-constants": "the tests of constants",
}


def test_every_identity_is_tried() -> None:
    assert {*CASES} | {*ELSEWHERE} == {*IDENTITIES}
    assert not {*CASES} & {*ELSEWHERE}


@pytest.mark.parametrize("name", CASES)
def test_what_an_identity_makes_means_what_was_written(name: str) -> None:
    c = Case()
    tried = 0
    for value, expected in CASES[name](c):
        found = c.meaning(value)
        assert found.shape == expected.shape
        gaps = np.abs((found - expected).astype(np.float64))
        assert float(gaps.max(initial=0.0)) <= 1e-5 * max(
            1.0, float(np.abs(expected.astype(np.float64)).max())
        )
        tried += 1
    assert tried
    assert name in c.terms.used


def of_type(c: Case, dtype: str) -> Value:
    """An input of elements of another type."""
    return Value(
        term=c.terms.term("input", (dtype,), (), dtype, (2, 3), is_closed=False), known_layout=plain((2, 3))
    )


def small(c: Case) -> Value:
    """A map of 2 by 3 cells."""
    return c.open(c.numbers(1, 1, 2, 3))


def pooled_to(
    c: Case, kind: str, kernel: list[int], stride: list[int], pads: int = 0, divisor: int | None = None
) -> Value:
    """A pool of a small map."""
    window = SlidingWindow.of(kernel, stride, [(pads, pads)] * 2)
    if kind == "clamped":
        return windows.maximum_pool(c.terms, definitions.relu(c.terms, small(c)), window)
    if kind == "max":
        return windows.maximum_pool(c.terms, small(c), window)
    return windows.average_pool(c.terms, small(c), window, divisor=divisor)


def plus_softplus(
    c: Case, value: Value, limit: Value, other: Value | None = None, soft: Value | None = None
) -> Value:
    """A value where it, or another, is above a limit, else the softplus of it, or of another."""
    is_large = elementwise(c.terms, "gt", [other or value, limit], "bool")
    return definitions.choose(c.terms, is_large, value, definitions.softplus(c.terms, soft or value))


def centred(c: Case) -> Value:
    """A small map less the largest of its cells along a dimension."""
    x = small(c)
    return arithmetic.subtract(c.terms, x, windows.reduce(c.terms, "max", x, [2], keep=True))


def raised_and(c: Case, number: float) -> Value:
    """The exponential of a small map, and a number more."""
    return arithmetic.add(c.terms, definitions.unary(c.terms, "exp", small(c)), c.number(number))


def bent(c: Case, at: float, slope: Value) -> Value:
    """A small map where it is above a number, else a multiple of it."""
    x = small(c)
    is_above = elementwise(c.terms, "gt", [x, c.number(at)], "bool")
    return definitions.choose(c.terms, is_above, x, arithmetic.multiply(c.terms, x, slope))


def larger(c: Case, asked: Value, first: Value, second: Value) -> Value:
    """One of two where another is larger than the second."""
    return definitions.choose(c.terms, elementwise(c.terms, "gt", [asked, second], "bool"), first, second)


def above(c: Case, at: float, value: Value) -> Value:
    """A small map where it is above a number, as a product of another and what is true."""
    mask = elementwise(c.terms, "gt", [small(c), c.number(at)], "bool")
    return definitions.multiplied(c.terms, value, cast(c.terms, mask, "float32"))


def part_of(c: Case, name: str, part: float) -> Value:
    """An extreme of a small map and of a part of it."""
    x = small(c)
    return definitions.extreme(c.terms, name, x, arithmetic.multiply(c.terms, x, c.number(part)))


def sine(c: Case, value: Value) -> Value:
    """A function that is no exponential."""
    return definitions.unary(c.terms, "sin", value)


def raised(c: Case, value: Value) -> Value:
    """One that is."""
    return definitions.unary(c.terms, "exp", value)


def positive(c: Case, x: Value, first: Value, second: Value) -> Value:
    """One of two where another is above zero."""
    return definitions.choose(c.terms, elementwise(c.terms, "gt", [x, c.number(0)], "bool"), first, second)


def moved(c: Case, value: Value, scale: float, shift: float) -> Value:
    """A value scaled and shifted."""
    return arithmetic.scaled(c.terms, value, scale=c.number(scale), shift=c.number(shift))


def soft(c: Case) -> Value:
    """A softmax of a small map."""
    return definitions.softmax(c.terms, small(c), 2)


HIDING = (-np.finfo(np.float32).max, -2e38, -np.inf)


def masked(
    c: Case, number: float, *cells: tuple[int, int], also: float = 0.0, dtype: str = "float32"
) -> Value:
    """A softmax over rows, to some cells of which a number is added, and to the others another."""
    mask = np.full((2, 3), also, np.float32)
    mask[tuple(zip(*cells, strict=True))] = number
    return definitions.softmax(c.terms, arithmetic.add(c.terms, of_type(c, dtype), c.terms.constant(mask)), 1)


@pytest.mark.parametrize("number", HIDING)
def test_cells_to_which_almost_the_lowest_number_is_added_are_left_out(number: float) -> None:
    c = Case()
    assert masked(c, number, (0, 1), (1, 0), (1, 2), also=0.5) == masked(
        c, -np.inf, (0, 1), (1, 0), (1, 2), also=0.5
    )
    assert ("masked-by-lowest" in c.terms.used) == np.isfinite(number)
    mask, none = (torch.tensor([[0.5, low, 0.5], [low, 0.5, low]]) for low in (number, -torch.inf))
    for size in (1.0, 1e4, 1e30, 2.0**125):
        x = torch.randn(100, 2, 3).clamp(-1, 1) * size
        assert torch.equal((x + mask).softmax(-1), (x + none).softmax(-1))


def share(c: Case, value: Value, *dims: int) -> Value:
    """An exponential as a share of the sum of all along dimensions."""
    raised = definitions.unary(c.terms, "exp", value)
    return definitions.quotient(c.terms, raised, windows.reduce(c.terms, "sum", raised, dims, keep=True))


def shifted_keys(c: Case, shift: object, dim: int = 2, scale: object = 1) -> Value:
    """A softmax of scores, of which one operand is shifted."""
    keys = arithmetic.add(c.terms, c.open(c.numbers(2, 2, 2)), c.closed(np.asarray(shift)))
    scores = matmul(c.terms, c.open(c.numbers(2, 3, 2)), keys.permuted([0, 2, 1]))
    scores = arithmetic.multiply(c.terms, scores, c.closed(np.asarray(scale)))
    return definitions.softmax(c.terms, scores, dim)


def largest_of(c: Case, factors: Array) -> Value:
    """The largest cells along the second dimension of what is multiplied."""
    return windows.reduce(
        c.terms,
        "max",
        arithmetic.multiply(c.terms, c.open(c.numbers(2, 2)), c.closed(factors)),
        [1],
        keep=True,
    )


def total_of(c: Case, dtype: str = "float32") -> Value:
    """The sum of six cells."""
    return windows.reduce(c.terms, "sum", of_type(c, dtype), [0, 1], keep=False)


def named(c: Case, steps: Any, start: int = 0, dtype: str = "int64") -> Value:
    """The cells of six rows that integers name which grow by steps."""
    return moves.gather(c.terms, c.open(c.numbers(6, 2)), 0, stepped(c, *steps, start=start, dtype=dtype)[0])


ALMOST: dict[str, tuple[str, Callable[[Case], object]]] = {
    "a shorter type on the way": (
        "cast-of-wider",
        lambda c: cast(c.terms, cast(c.terms, of_type(c, "float32"), "float16"), "float32"),
    ),
    "integers that floats round": (
        "cast-of-wider",
        lambda c: cast(c.terms, cast(c.terms, of_type(c, "int32"), "float32"), "int32"),
    ),
    "a fraction cut off": (
        "cast-of-wider",
        lambda c: cast(c.terms, cast(c.terms, of_type(c, "float32"), "float64"), "int32"),
    ),
    "another number of cells": (
        "average-of-sum",
        lambda c: definitions.quotient(c.terms, total_of(c), c.number(5)),
    ),
    "an average in half precision": (
        "average-of-sum",
        lambda c: definitions.quotient(
            c.terms, total_of(c, "float16"), c.terms.constant(np.asarray(6, np.float16))
        ),
    ),
    "the number of other cells": (
        "average-of-sum",
        lambda c: definitions.quotient(
            c.terms, total_of(c), cast(c.terms, terms_of_contents(c.terms, [symbol("n")], 0), "float32")
        ),
    ),
    "a sum over windows": (
        "site-of-patches",
        lambda c: linear(
            c.terms,
            windows.unfolded(c.terms, c.open(c.numbers(2, 2, 4, 4)), SlidingWindow.of([2, 2])),
            c.closed(c.numbers(3, 9)),
            None,
        ),
    ),
    "weights of each window": (
        "site-of-patches",
        lambda c: spelled_sum(
            c.terms,
            "nkl,kl->nl",
            [
                windows.unfolded(c.terms, c.open(c.numbers(2, 2, 4, 4)), SlidingWindow.of([2, 2])),
                c.closed(c.numbers(8, 9)),
            ],
        ),
    ),
    "larger windows": (
        "patches-of-one-cell",
        lambda c: windows.folded(
            c.terms, c.open(c.numbers(2, 9, 9)), [3, 3], SlidingWindow.of([3, 3], [], [(1, 1), (1, 1)])
        ),
    ),
    "a cell of the padding": (
        "slice-of-padding",
        lambda c: moves.take(
            c.terms, moves.pad(c.terms, small(c), 1, 1, 1, "constant", c.number(0)), 1, 0, 1, 3
        ),
    ),
    "a sum in half precision": (
        "sum-order",
        lambda c: arithmetic.add(
            c.terms, of_type(c, "float16"), arithmetic.add(c.terms, *[of_type(c, "float16")] * 2)
        ),
    ),
    "a shift that rounds what it is taken from": (
        "opposite-shifts",
        lambda c: arithmetic.add(
            c.terms,
            arithmetic.add(c.terms, small(c), c.number(2000)),
            arithmetic.subtract(c.terms, small(c), c.number(2000)),
        ),
    ),
    "a shift of each key": ("softmax-of-shifted-keys", lambda c: shifted_keys(c, [[[1, 2], [1, 3]]])),
    "a key far off": ("softmax-of-shifted-keys", lambda c: shifted_keys(c, [[[1, 2000]]])),
    "a key without end": ("softmax-of-shifted-keys", lambda c: shifted_keys(c, [[[1, np.inf]]])),
    "a shift of the queries": ("softmax-of-shifted-keys", lambda c: shifted_keys(c, [[[1, 2]]], 1)),
    "a scale of each key": ("softmax-of-shifted-keys", lambda c: shifted_keys(c, [[[1, 2]]], scale=[2, 3])),
    "a scale along the maximum": ("extreme-of-affine", lambda c: largest_of(c, np.array([[1, 3]]))),
    "scales of both signs": ("extreme-of-affine", lambda c: largest_of(c, np.array([[-1], [1]]))),
    "no end": ("extreme-of-affine", lambda c: largest_of(c, np.array([[np.inf]]))),
    "an odd power": (
        "even-function",
        lambda c: arithmetic.power(c.terms, arithmetic.subtract(c.terms, small(c), small(c)), Fraction(3)),
    ),
    "twice a sum": (
        "sum-order",
        lambda c: arithmetic.add(
            c.terms,
            small(c),
            arithmetic.multiply(c.terms, arithmetic.add(c.terms, small(c), small(c)), c.number(2)),
        ),
    ),
    "the smaller part": ("extreme-as-slope", lambda c: part_of(c, "minimum", 0.5)),
    "the larger multiple": ("extreme-as-slope", lambda c: part_of(c, "maximum", 2)),
    "the other sign": ("extreme-as-slope", lambda c: part_of(c, "maximum", -0.5)),
    "a shifted part": (
        "extreme-as-slope",
        lambda c: definitions.extreme(c.terms, "maximum", x := small(c), moved(c, x, 0.5, 1)),
    ),
    "a part of another": (
        "extreme-as-slope",
        lambda c: definitions.extreme(
            c.terms, "maximum", small(c), arithmetic.multiply(c.terms, small(c), c.number(0.5))
        ),
    ),
    "a choice of two that hangs on the sign": (
        "masked-by-sign",
        lambda c: definitions.multiplied(
            c.terms, x := small(c), positive(c, x, sine(c, x), arithmetic.multiply(c.terms, x, x))
        ),
    ),
    "what may be divided by nothing": (
        "power-of-one-base",
        lambda c: arithmetic.multiply(
            c.terms,
            arithmetic.power(c.terms, x := small(c), Fraction(2)),
            arithmetic.power(c.terms, x, Fraction(-1)),
        ),
    ),
    "above one": (
        "masked-by-sign",
        lambda c: definitions.multiplied(
            c.terms,
            x := small(c),
            cast(c.terms, elementwise(c.terms, "gt", [x, c.number(1)], "bool"), "float32"),
        ),
    ),
    "another is above": ("masked-by-sign", lambda c: above(c, 0, small(c))),
    "a tanh in half precision": ("tanh", lambda c: definitions.tanh(c.terms, of_type(c, "float16"))),
    "another order": (
        "gather-as-transposition",
        lambda c: moves.gather(c.terms, c.open(c.numbers(4, 2)), 0, c.terms.constant(np.array([0, 2, 3, 1]))),
    ),
    "a part of it": (
        "gather-as-transposition",
        lambda c: moves.gather(c.terms, c.open(c.numbers(4, 2)), 0, c.terms.constant(np.array([0, 2, 1]))),
    ),
    **{
        f"places {what}": ("gather-as-view", lambda c, given=given: named(c, *given))
        for what, given in {
            "one further on": (((2, 3), (3, 1)), 1),
            "one before": (((2, 3), (3, 1)), -1),
            "in longer rows": (((2, 4), (3, 1)),),
            "in shorter rows": (((2, 2), (3, 1)),),
            "in rows of the other extent": (((3, 2), (3, 1)),),
            "of too few rows": (((1, 3), (3, 1)),),
            "of too many rows": (((3, 3), (3, 1)),),
            "of too few columns": (((2, 3), (2, 1)),),
            "of too many columns": (((2, 3), (4, 1)),),
            "of one row again and again": (((2, 0), (6, 1)),),
            "that are met twice": (((2, 3), (3, 1), (2, 1)),),
            "counted down": (((2, 3), (3, -1)), 2),
            "from behind": (((2, 3), (3, 1)), -6),
            "every second one": (((2, 6), (3, 2)),),
            "that a shorter type may not hold": (((2, 3), (3, 1)), 0, "int32"),
        }.items()
    },
    "places of no steps": (
        "gather-as-view",
        lambda c: moves.gather(
            c.terms,
            c.open(c.numbers(6, 2)),
            0,
            arithmetic.multiply(c.terms, stepped(c, (3, 1))[0], stepped(c, (3, 1))[0]),
        ),
    ),
    "places of stored integers that are no steps": (
        "gather-as-view",
        lambda c: moves.gather(
            c.terms,
            c.open(c.numbers(6, 2)),
            0,
            arithmetic.add(c.terms, stepped(c, (2, 3), (1, 1))[0], c.terms.constant(np.array([0, 1, 1]))),
        ),
    ),
    "windows of padding": (
        "largest-of-clamped",
        lambda c: pooled_to(c, "clamped", [1, 2], [1, 1], 2),
    ),
    "windows that hang over": (
        "zeros-as-padding",
        lambda c: windows.average_pool(
            c.terms,
            moves.pad(c.terms, small(c), 3, 0, 2, "constant", c.number(0)),
            SlidingWindow.of([1, 2], [1, 4], ceil=True),
            counts_padding=True,
        ),
    ),
    "a row that is hidden": ("masked-by-lowest", lambda c: masked(c, HIDING[0], (1, 0), (1, 1), (1, 2))),
    "a number that values may reach": ("masked-by-lowest", lambda c: masked(c, -1e38, (1, 0))),
    "scores beyond": ("masked-by-lowest", lambda c: masked(c, -65504, (1, 0), dtype="float16")),
    "another may be no number": ("softmax-of-something", lambda c: guarded(c, small(c), soft(c))),
    "no softmax": ("softmax-of-something", lambda c: guarded(c, (x := small(c)), x)),
    "bent at another place": ("choice-of-slope", lambda c: bent(c, 1, c.number(0.25))),
    "bent where another is": (
        "choice-of-slope",
        lambda c: positive(c, small(c), x := small(c), arithmetic.multiply(c.terms, x, c.number(0.25))),
    ),
    "a part of another below": (
        "choice-of-slope",
        lambda c: positive(c, x := small(c), x, arithmetic.multiply(c.terms, small(c), c.number(0.25))),
    ),
    "a shifted part below": (
        "choice-of-slope",
        lambda c: positive(c, x := small(c), x, moved(c, x, 0.25, 1)),
    ),
    "a sine below": (
        "choice-of-slope",
        lambda c: positive(c, x := small(c), x, moved(c, sine(c, x), 0.25, -0.25)),
    ),
    "an exponential of another below": (
        "choice-of-slope",
        lambda c: positive(c, x := small(c), x, moved(c, raised(c, small(c)), 0.25, -0.25)),
    ),
    "an exponential that jumps": (
        "choice-of-slope",
        lambda c: positive(c, x := small(c), x, moved(c, raised(c, x), 0.25, -0.5)),
    ),
    "twice an exponential": (
        "softplus",
        lambda c: definitions.logarithm(c.terms, moved(c, raised(c, small(c)), 2, 1)),
    ),
    "one more than a sine": (
        "softplus",
        lambda c: definitions.logarithm(c.terms, arithmetic.add(c.terms, sine(c, small(c)), c.number(1))),
    ),
    "the largest of exponentials": (
        "log-sum-exp",
        lambda c: definitions.logarithm(
            c.terms, windows.reduce(c.terms, "max", raised(c, small(c)), [2], keep=True)
        ),
    ),
    "a share of sines": (
        "softmax",
        lambda c: definitions.quotient(
            c.terms, x := sine(c, small(c)), windows.reduce(c.terms, "sum", x, [2], keep=True)
        ),
    ),
    "a share of another's": (
        "softmax",
        lambda c: definitions.quotient(
            c.terms,
            raised(c, small(c)),
            windows.reduce(c.terms, "sum", raised(c, small(c)), [2], keep=True),
        ),
    ),
    "where both are equal": (
        "choice-of-extreme",
        lambda c: definitions.choose(
            c.terms, elementwise(c.terms, "eq", [x := small(c), y := small(c)], "bool"), x, y
        ),
    ),
    "another number": (
        "choice-of-extreme",
        lambda c: definitions.choose(
            c.terms, elementwise(c.terms, "gt", [x := small(c), c.number(0.5)], "bool"), x, c.number(0.25)
        ),
    ),
    "half of two": ("softplus", lambda c: definitions.logarithm(c.terms, raised_and(c, 2))),
    "another is larger": ("choice-of-extreme", lambda c: larger(c, small(c), small(c), small(c))),
    "two more": (
        "logistic",
        lambda c: definitions.inverse(c.terms, raised_and(c, 2)),
    ),
    "the largest is taken away": ("softmax-without-largest", lambda c: share(c, centred(c), 2)),
    "in half precision": ("softmax-without-largest", lambda c: share(c, of_type(c, "float16"), 1)),
    "over several dimensions": ("softmax-without-largest", lambda c: share(c, small(c), 2, 3)),
    "to its own height alone": (
        "resize-to-own-size",
        lambda c: windows.resized(c.terms, small(c), "linear", [2, 5], None, aligns_corners=False),
    ),
    "to its own height alone, by cubics": (
        "resize-to-own-size",
        lambda c: windows.resized(c.terms, small(c), "cubic", [2, 5], None, aligns_corners=False),
    ),
    **{
        f"{kind}: {what}": ("pool-of-one-cell", lambda c, kind=kind, given=given: pooled_to(c, kind, *given))
        for kind in ("max", "average")
        for what, given in {
            "cells left out": ([1, 1], [1, 2]),
            "two cells": ([1, 2], [1, 1]),
            "padded": ([1, 1], [1, 1], 1),
        }.items()
    },
    "by half": ("pool-of-one-cell", lambda c: pooled_to(c, "average", [1, 1], [1, 1], 0, 2)),
    "as many rows alone": (
        "pool-of-one-cell",
        lambda c: windows.adaptive_pool(c.terms, "mean", small(c), [2, 2]),
    ),
    "digits that show it": (
        "softplus-of-large",
        lambda c: plus_softplus(c, of_type(c, "float64"), c.terms.real(20.0, "float64")),
    ),
    "a lower limit": ("softplus-of-large", lambda c: plus_softplus(c, small(c), c.number(19.0))),
    "a limit that is computed": (
        "softplus-of-large",
        lambda c: plus_softplus(c, small(c), c.terms.real(20.0, "float32", Rounded(folded=1.0, step=1.0))),
    ),
    "another is large": ("softplus-of-large", lambda c: plus_softplus(c, small(c), c.number(20.0), small(c))),
    "softplus of another": (
        "softplus-of-large",
        lambda c: plus_softplus(c, small(c), c.number(20.0), None, small(c)),
    ),
}


@pytest.mark.parametrize("name", ALMOST)
def test_next_to_its_condition_no_identity_is_used(name: str) -> None:
    identity, make = ALMOST[name]
    c = Case()
    make(c)
    assert identity not in c.terms.used


def test_what_is_one_summand_alone_is_no_softmax() -> None:
    c = Case()
    value = small(c)
    logarithm = definitions.logarithm(c.terms, value)
    assert definitions.exponential(c.terms, logarithm) == definitions.unary(c.terms, "exp", logarithm)
    largest = definitions.exponential(c.terms, windows.reduce(c.terms, "max", value, [1], keep=True))
    product = arithmetic.multiply(c.terms, value, largest)
    assert definitions.logarithm(c.terms, product) == definitions.unary(c.terms, "log", product)


def test_what_is_made_of_itself_again_and_again_is_not_written_out() -> None:
    c = Case()
    added = multiplied = small(c)
    for _ in range(60):
        added = arithmetic.add(c.terms, added, added)
    for _ in range(150):
        multiplied = arithmetic.multiply(c.terms, multiplied, definitions.unary(c.terms, "exp", multiplied))
    assert all(len(term.operands) <= 128 for found in (added, multiplied) for term in below(found.term))


def test_an_attention_of_another_kind_has_no_definition() -> None:
    c = Case()
    q, k = small(c), c.open(c.numbers(1, 1, 3, 3))
    nothing_left = c.terms.constant(np.array([[True, False, True], [False, False, False]]))
    for given in (of_type(c, "bool"), of_type(c, "float64"), nothing_left):
        with pytest.raises(Uninterpreted):
            definitions.attention(c.terms, q, k, k, given, None, is_causal=False)
    shape = (2, symbol("width"))
    wide = Value(
        term=c.terms.term("input", ("w",), (), "float32", shape, is_closed=False), known_layout=plain(shape)
    )
    with pytest.raises(Uninterpreted):
        definitions.attention(c.terms, wide, wide, wide, None, None, is_causal=False)
    with pytest.raises(Uninterpreted, match="two masks"):
        definitions.attention(c.terms, q, q, q, c.number(1), None, is_causal=True)


@pytest.mark.parametrize("equation", ["ab->ba", "ab->a", "ab,bc", "aa,ab->b", "ab,bc->aac", "a...,ab->b"])
def test_a_sum_that_is_spelled_otherwise_is_not_read(equation: str) -> None:
    """Of one operand, without an arrow, along a diagonal, or of other ranks."""
    c = Case()
    values = [c.open(c.numbers(1, 1)) for _ in equation.partition("->")[0].split(",")]
    with pytest.raises(Uninterpreted):
        spelled_sum(c.terms, equation, values)


def test_a_sum_along_which_both_only_repeat_is_no_product_of_one_cell() -> None:
    c = Case()
    rows, columns = c.open(c.numbers(2, 1)), c.open(c.numbers(1, 3))
    with pytest.raises(Uninterpreted):
        matmul(c.terms, moves.expand(rows, [2, 4]), moves.expand(columns, [4, 3]))


def test_a_choice_that_is_stored_is_that_of_each_cell() -> None:
    c = Case()
    x, y = small(c), small(c)
    for stored, is_first in ((True, True), (False, False)):
        condition = c.terms.constant(np.array([[True, True, True], [True, True, stored]]))
        assert (definitions.choose(c.terms, condition, x, y) == x) is is_first


def test_no_value_is_held_by_what_is_no_number() -> None:
    c = Case()
    for bounds in ((np.nan, None), (0.0, np.nan)):
        with pytest.raises(Uninterpreted):
            clamped(c, small(c), *bounds)


def test_a_batch_norm_of_computed_numbers_is_none_of_stored_ones() -> None:
    c = Case()
    numbers = [c.closed(c.numbers(2, positive=True)) for _ in range(4)]
    for place in range(4):
        given = [*numbers[:place], c.open(c.numbers(2)), *numbers[place + 1 :]]
        with pytest.raises(Uninterpreted):
            definitions.batch_norm(c.terms, c.open(c.numbers(3, 2)), *given, c.number(0.25))


def test_an_uneven_adaptive_pool_is_no_pool_of_equal_windows() -> None:
    c = Case()
    found = windows.adaptive_pool(c.terms, "mean", c.open(c.numbers(1, 1, 5, 4)), [2, 2])
    assert found.term.op == "adaptive-average-pool"
    assert "even-adaptive-pool" not in c.terms.used
    with pytest.raises(Uninterpreted, match="maximum"):
        windows.adaptive_pool(c.terms, "max", c.open(c.numbers(1, 1, 5, 4)), [2, 2])


@pytest.mark.parametrize("factor", [0.5, 1.5, 3.0])
def test_no_cells_are_repeated_by_a_factor_whose_places_are_rounded(factor: float) -> None:
    c = Case()
    with pytest.raises(Uninterpreted):
        windows.nearest(c.terms, small(c), [1.0, factor])


def test_an_extent_that_a_factor_rounds_down_tells_no_steps() -> None:
    """Three cells by 1.5 are four, at steps of 2/3; to four of them the steps are 3/4."""
    c = Case()
    with pytest.raises(Uninterpreted):
        windows.resized(c.terms, small(c), "linear", None, [1.0, 1.5], aligns_corners=False)


def test_a_shape_that_is_summed_along_nothing_stays() -> None:
    c = Case()
    shape = c.terms.constant(np.array([2, 3]))
    assert windows.reduce(c.terms, "sum", shape, [], keep=True).term is shape.term
    assert windows.reduce(c.terms, "sum", shape, [0], keep=True).contents == (5,)


@pytest.mark.parametrize(
    ("start", "step", "more", "expected"),
    [
        (0, 1, 0, True),
        (0, 1, -1, True),
        (0, 1, 1, False),
        (1, 1, 0, True),
        (1, 1, 1, False),
        (-1, 1, 0, False),
        (0, 2, 0, False),
    ],
)
def test_places_along_a_free_extent_are_within_it_at_every_size(
    start: int, step: int, more: int, expected: bool
) -> None:
    c, length = Case(), symbol("length")
    with ranges({"length": (2, None)}):
        x = moves.expand(c.open(c.numbers(1, 3)), (length, 3))
        index = sizes.counted(c.terms, start, plus(length, more), step, "int64")
        found = moves.gather(c.terms, x, 0, index)
        assert (found.term is x.term) == expected
        assert found.shape == (*index.shape, 3)
        for places, is_within in (([0, 1, -2], True), ([2], False), ([-3], False)):
            cells = moves.gather_several(
                c.terms,
                x,
                [0, 1],
                [
                    c.terms.constant(np.array(places)),
                    c.open(np.array([0] * len(places), dtype=object), "int64"),
                ],
            )
            assert (cells.term.attributes[0] == "gather") == is_within


def test_what_a_view_leaves_open_is_a_quotient_that_both_name_alike() -> None:
    """Cells of which nobody knows how many are true, in as many rows as there are samples."""
    c, cells, rows = Case(), symbol("cells"), symbol("rows")
    shape = (cells, 4)
    kinds = [c.terms.term("input", (name,), (), "float32", shape, is_closed=False) for name in "xy"]
    x, other = (Value(term=term, known_layout=plain(shape)) for term in kinds)
    found = moves.reshape(c.terms, x, [rows, -1, 4])
    assert found == moves.reshape(c.terms, x, [rows, -1, 4])
    assert found.shape == moves.reshape(c.terms, other, [rows, -1, 4]).shape
    assert found.shape[1] not in (cells, moves.reshape(c.terms, x, [rows, -1, 2]).shape[1])
    with pytest.raises(Uninterpreted):
        moves.reshape(c.terms, x, [0, -1])


@pytest.mark.parametrize(("factor", "expected"), [(0.5, [1, 2]), (0.1, None)])
def test_a_place_is_an_integer_where_nothing_rounds_it(factor: float, expected: list[int] | None) -> None:
    c = Case()
    found = cast(
        c.terms, arithmetic.multiply(c.terms, c.closed(np.array([3.0, 5.0])), c.number(factor)), "int64"
    )
    assert (None if found.term.array is None else found.term.array.reshape(-1).tolist()) == expected


def test_a_shape_of_one_extent_stays_one() -> None:
    c = Case()
    shape = terms_of_contents(c.terms, [symbol("length")], 1)
    assert moves.gather(c.terms, shape, 0, c.terms.constant(np.array(0))).contents == (symbol("length"),)


def test_integers_are_computed_where_they_repeat_along_a_free_extent() -> None:
    c, length = Case(), symbol("length")
    places = moves.expand(c.terms.constant(np.array([[1, 4, 9]])), (length, 3))
    more = elementwise(c.terms, "add", [places, c.terms.constant(np.array([1, 2, 3]))], "int64")
    cells = moves.concatenate(c.terms, [moves.flip(c.terms, more, 1), more], 1)
    found = windows.summed_up(c.terms, cast(c.terms, cells, "int32"), 1)
    assert found.shape == (length, 6)
    assert found.term.array is not None
    assert found.term.array.tolist() == [12, 18, 20, 22, 28, 40]
    assert windows.summed_up(c.terms, places, 0).term.array is None


def test_whether_integers_are_all_true_is_none_of_them() -> None:
    """``x and 1`` of integers is whether x is none."""
    c = Case()
    found = elementwise(c.terms, "and", [of_type(c, "int64"), c.terms.constant(np.array(1))], "bool")
    assert found.term.op == "map"


@pytest.mark.parametrize("places", [[-2, -1], [-1, 0]])
def test_cells_counted_from_a_free_end_are_none_of_the_first_ones(places: list[int]) -> None:
    c = Case()
    shape = (symbol("length"),)
    value = Value(
        term=c.terms.term("input", ("x",), (), "float32", shape, is_closed=False), known_layout=plain(shape)
    )
    with pytest.raises(Uninterpreted):
        moves.gather(c.terms, value, 0, c.terms.constant(np.array(places)))


def test_a_scale_along_a_map_of_one_channel_is_none_of_its_site() -> None:
    c = Case()
    a, w, s = c.numbers(1, 2, 4, 4), c.numbers(1, 2, 2, 2), c.numbers(3, 1)
    site = convolution(c.terms, c.open(a), c.closed(w), None, SlidingWindow.of(w.shape[2:]), 1)
    found = arithmetic.multiply(c.terms, site, c.closed(s))
    np.testing.assert_array_equal(c.meaning(found), c.meaning(site) * s)
    assert "scale-of-affine-site" not in c.terms.used
