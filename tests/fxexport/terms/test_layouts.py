"""Layouts and gathers against NumPy, which moves the numbers themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxexport.terms.axis_parts import AxisPart, Layout, aligned, extents_of, in_order, plain, reshaped
from fxexport.terms.gathers import OUTSIDE, nothing_taken
from fxexport.terms.layout_free import Named, PlacedValue, Terms
from fxexport.terms.term import Array, Kind

SHAPES = [(4, 6), (2, 3, 4), (6, 2, 2), (8, 3), (2, 2, 2, 3), (1, 4, 6)]


def walked(array: Array, layout: Layout) -> Array:
    """The elements that a layout names, one after another, by the definition of a part."""
    places = np.indices(extents_of(layout)).reshape(len(layout), -1)
    index = [np.zeros(places.shape[1], np.int64) for _ in array.shape]
    for parts, place in zip(layout, places, strict=True):
        rest = place
        for part in reversed(parts):
            index[part.axis] += rest % part.extent * part.stride
            rest = rest // part.extent
    return array[tuple(index)].reshape(extents_of(layout))


def shapes_of(count: int) -> list[tuple[int, ...]]:
    return [(count,), *((n, count // n) for n in range(1, count + 1) if count % n == 0)]


@settings(max_examples=150, deadline=None)
@given(shape=st.sampled_from(SHAPES), moves=st.lists(st.randoms(use_true_random=False), max_size=5))
def test_a_layout_behind_views_and_permutations_is_what_numpy_gives(
    shape: tuple[int, ...], moves: Sequence[object]
) -> None:
    array = np.arange(math.prod(shape)).reshape(shape)
    value, layout = array, plain(shape)
    for random in moves:
        if random.random() < 0.5:  # type: ignore[attr-defined]
            target = random.choice(shapes_of(array.size))  # type: ignore[attr-defined]
            found = reshaped(layout or (), target)
            if found is None:
                continue
            value, layout = value.reshape(target), found
        else:
            perm = list(range(value.ndim))
            random.shuffle(perm)  # type: ignore[attr-defined]
            value, layout = value.transpose(perm), tuple((layout or ())[axis] for axis in perm)
        assert np.array_equal(walked(array, layout), value)


def test_a_cut_at_no_multiple_is_no_view() -> None:
    assert reshaped(plain((4, 6)) or (), (8, 3)) == (
        (AxisPart(0, 1, 4), AxisPart(1, 3, 2)),
        (AxisPart(1, 1, 3),),
    )
    assert reshaped(((AxisPart(1, 1, 6),), (AxisPart(0, 1, 4),)), (4, 6)) is None


def test_parts_that_go_on_from_each_other_are_one() -> None:
    assert in_order([AxisPart(1, 1, 3), AxisPart(0, 1, 4), AxisPart(1, 3, 2)]) == (
        AxisPart(0, 1, 4),
        AxisPart(1, 1, 6),
    )


@pytest.mark.parametrize(
    "other", [(AxisPart(0, 1, 4),), (AxisPart(0, 1, 2), AxisPart(1, 1, 3), AxisPart(2, 1, 2))]
)
def test_extents_that_do_not_meet_are_not_aligned(other: tuple[AxisPart, ...]) -> None:
    assert aligned([(AxisPart(0, 1, 6),), other]) is None or math.prod(p.extent for p in other) == 12


def taken(terms: Terms, value: PlacedValue, dim: int, index: Sequence[int] | Array) -> PlacedValue:
    named = Named(value="v", node="n", signature="")
    found = terms.gathered(named, value, dim, np.asarray(index, np.int64))
    assert found is not None
    return found


def source(terms: Terms, shape: tuple[int, ...]) -> PlacedValue:
    return terms.source(Named(value="x", node="x", signature="input 0"), Kind.INPUT, shape)


def evaluated(terms: Terms, value: PlacedValue, array: Array) -> Array:
    """The numbers of a gathered value: its term's constants applied to the source, then its layout."""
    padded = np.full([extent + 1 for extent in array.shape], -7)
    padded[tuple(slice(0, extent) for extent in array.shape)] = array
    _, gather = terms._gathers[value.term]
    axes: list[Array] = []
    for part in gather.free:
        assert part == AxisPart(part.axis, 1, array.shape[part.axis])
        axes.append(np.arange(part.extent))
    order = [part.axis for part in gather.free]
    result = padded.transpose(*order, *(a for a in range(array.ndim) if a not in order))
    for axis, cells in enumerate(axes):
        result = result.take(cells, axis=axis)
    at = len(axes)
    for key in sorted(gather.groups):
        index = gather.groups[key]
        result = result.take(np.where(index == OUTSIDE, array.shape[key[0].axis], index), axis=at)
        at += index.ndim
    return walked(result, value.layout or ())


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_gathers_of_gathers_are_what_numpy_gives(data: st.DataObject) -> None:
    terms, array = Terms(), np.arange(5 * 6).reshape(5, 6)
    value, expected = source(terms, array.shape), array
    for _ in range(data.draw(st.integers(1, 4))):
        dim = data.draw(st.integers(0, 1))
        extent = expected.shape[dim]
        cells = data.draw(st.lists(st.integers(-1, extent - 1), min_size=1, max_size=6))
        if extent == 1:
            continue
        value = taken(terms, value, dim, cells)
        filled = np.concatenate([expected, np.full_like(expected.take([0], dim), -7)], axis=dim)
        expected = filled.take(np.where(np.array(cells) == OUTSIDE, extent, cells), axis=dim)
        if value.term.kind is Kind.INPUT:
            continue
        assert np.array_equal(evaluated(terms, value, array).reshape(expected.shape), expected)


def test_padding_that_is_cut_off_again_is_nothing() -> None:
    terms = Terms()
    value = source(terms, (3, 4))
    padded = taken(terms, value, 1, [-1, 0, 1, 2, 3, -1])
    assert padded.term is not value.term
    cut = taken(terms, padded, 1, [1, 2, 3, 4])
    assert (cut.term, cut.layout) == (value.term, value.layout)


def test_gathers_along_other_axes_come_in_any_order() -> None:
    terms = Terms()
    value = source(terms, (3, 4))
    first = taken(terms, taken(terms, value, 0, [2, 0]), 1, [3, 3, 1])
    second = taken(terms, taken(terms, value, 1, [3, 3, 1]), 0, [2, 0])
    assert first.term is second.term
    assert first.layout == second.layout


def test_a_dimension_of_one_cell_has_no_part_to_be_told_by() -> None:
    terms = Terms()
    named = Named(value="v", node="n", signature="")
    assert terms.gathered(named, source(terms, (3, 1, 1)), 1, np.array([OUTSIDE, 0])) is None
    same = terms.gathered(named, source(terms, (3, 1, 1)), 1, np.array([[0]]))
    assert same is not None
    assert same.shape == (3, 1, 1, 1)


def test_a_whole_tensor_takes_nothing() -> None:
    assert nothing_taken(plain((2, 3)) or ()).groups == {}
