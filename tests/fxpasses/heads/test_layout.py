"""What axes mean after a view: a table of answers, and against tensors whose numbers really move."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from fxpasses import MissCode
from fxpasses.heads.layout import Layout, flat_layout, map_layout, reduced, view
from fxpasses.report import Problem
from fxpasses.vocabulary.ops import (
    BATCH,
    CHANNELS,
    Flatten,
    Index,
    Permute,
    Squeeze,
    Unflatten,
    Unsqueeze,
    View,
    ViewOp,
)
from fxpasses.weights.move import WeightOrder

X = fx.Graph().placeholder("x")
MAP = map_layout(4, (2, 3))
POINT = map_layout(4, (1, 1))
OPEN = map_layout(None, (None, None))
FIXED = map_layout(4, (1, 1), batch=8)
ALL = slice(None)


def text(layout: Layout | Problem) -> str:
    """``(N)(C01)`` for a layout, the code for a problem."""
    if isinstance(layout, Problem):
        return str(layout.code)
    return "".join(f"({''.join(map(str, axis))})" for axis in layout.axes)


@pytest.mark.parametrize(
    ("layout", "op", "expected"),
    [
        (MAP, Flatten(X, 1, -1), "(N)(C01)"),
        (MAP, Flatten(X, 1, 2), "(N)(C0)(1)"),
        (MAP, Flatten(X, -2, -1), "(N)(C)(01)"),
        (POINT, Flatten(X, 1, -1), "(N)(C)"),
        (MAP, Flatten(X, 0, -1), MissCode.BATCH_FLATTENED),
        (MAP, Flatten(X, 0, 0), "(N)(C)(0)(1)"),
        (MAP, Flatten(X, 3, 1), MissCode.UNKNOWN_LAYOUT),
        (MAP, Flatten(X, 4, -1), MissCode.UNKNOWN_LAYOUT),
        (OPEN, Flatten(X, 1, -1), "(N)(C01)"),
        (MAP.with_axes([(BATCH,), (CHANNELS, 0, 1)]), Unflatten(X, 1, (4, 2, 3)), "(N)(C)(0)(1)"),
        (MAP.with_axes([(BATCH,), (CHANNELS, 0, 1)]), Unflatten(X, 1, (8, -1)), "(N)(C0)(1)"),
        (MAP.with_axes([(BATCH,), (CHANNELS, 0, 1)]), Unflatten(X, 1, (3, 8)), MissCode.UNKNOWN_LAYOUT),
        (MAP.with_axes([(BATCH,), (CHANNELS, 0, 1)]), Unflatten(X, 1, (2, 2, 6)), MissCode.UNKNOWN_LAYOUT),
        (POINT.with_axes([(BATCH,), (CHANNELS,)]), Unflatten(X, -1, (4, 1, 1)), "(N)(C)()()"),
        (MAP, View(X, (BATCH, -1)), "(N)(C01)"),
        (MAP, View(X, (-1, 24)), "(N)(C01)"),
        (MAP, View(X, (-1, 4, 6)), "(N)(C)(01)"),
        (MAP, View(X, (BATCH, CHANNELS, -1)), "(N)(C)(01)"),
        (MAP, View(X, (8, 24)), MissCode.BAKED_BATCH),
        (FIXED, View(X, (8, 4)), "(N)(C)"),
        (FIXED, View(X, (8, -1)), "(N)(C)"),
        (MAP, View(X, (-1,)), MissCode.BATCH_FLATTENED),
        (MAP, View(X, (-1, 3)), MissCode.BATCH_FLATTENED),
        (MAP, View(X, (-1, -1)), MissCode.UNKNOWN_LAYOUT),
        (MAP, View(X, (BATCH, 25)), MissCode.UNKNOWN_LAYOUT),
        (MAP, View(X, (BATCH, 4)), MissCode.UNKNOWN_LAYOUT),
        (OPEN, View(X, (-1, 512)), MissCode.UNKNOWN_EXTENT),
        (map_layout(None, (1, 1)), View(X, (-1, 512)), "(N)(C)"),
        (POINT, Squeeze(X, (2, 3)), "(N)(C)"),
        (POINT, Squeeze(X, (-1,)), "(N)(C)()"),
        (MAP, Squeeze(X, (2,)), "(N)(C)(0)(1)"),
        (POINT, Squeeze(X, None), MissCode.AMBIGUOUS_SQUEEZE),
        (FIXED, Squeeze(X, None), "(N)(C)"),
        (map_layout(4, (1, 1), batch=1), Squeeze(X, None), MissCode.AMBIGUOUS_SQUEEZE),
        (POINT, Squeeze(X, (0,)), MissCode.AMBIGUOUS_SQUEEZE),
        (OPEN, Squeeze(X, (2,)), MissCode.UNKNOWN_EXTENT),
        (map_layout(1, (1, 1)), Squeeze(X, (1,)), MissCode.UNKNOWN_LAYOUT),
        (POINT.with_axes([(BATCH,), (CHANNELS,)]), Unsqueeze(X, -1), "(N)(C)()"),
        (POINT.with_axes([(BATCH,), (CHANNELS,)]), Unsqueeze(X, 1), "(N)()(C)"),
        (MAP, Permute(X, (0, 2, 3, 1), swap=False), "(N)(0)(1)(C)"),
        (MAP, Permute(X, (0, -1, -2, 1), swap=False), "(N)(1)(0)(C)"),
        (MAP, Permute(X, (1, -1), swap=True), "(N)(1)(0)(C)"),
        (MAP, Permute(X, (0, 1, 2), swap=False), MissCode.UNKNOWN_LAYOUT),
        (POINT, Index(X, (ALL, ALL, 0, 0)), "(N)(C)"),
        (POINT, Index(X, (..., 0)), "(N)(C)()"),
        (POINT, Index(X, (..., None)), "(N)(C)()()()"),
        (MAP, Index(X, (ALL, ALL, 0)), MissCode.UNKNOWN_LAYOUT),
        (OPEN, Index(X, (ALL, ALL, 0)), MissCode.UNKNOWN_EXTENT),
        (MAP, Index(X, (ALL, slice(1))), MissCode.UNKNOWN_LAYOUT),
        (MAP, Index(X, (ALL,) * 5), MissCode.UNKNOWN_LAYOUT),
    ],
    ids=lambda value: text(value) if isinstance(value, Layout) else str(value),
)
def test_view(layout: Layout, op: ViewOp, expected: str) -> None:
    assert text(view(layout, op)) == expected


@pytest.mark.parametrize(
    ("layout", "dims", "keepdim", "expected"),
    [
        (MAP, (2, 3), False, "(N)(C)"),
        (MAP, (-1, -2), True, "(N)(C)()()"),
        (MAP, (2,), False, "(N)(C)(1)"),
        (MAP.with_axes([(BATCH,), (CHANNELS,), (0, 1)]), (2,), False, "(N)(C)"),
        (MAP.with_axes([(BATCH,), (0,), (1,), (CHANNELS,)]), (1, 2), False, "(N)(C)"),
        (MAP, (1,), False, None),
        (MAP, (0, 2, 3), False, None),
        (MAP.with_axes([(BATCH,), (CHANNELS, 0, 1)]), (1,), False, None),
        (MAP, (4,), False, None),
    ],
)
def test_reduced(layout: Layout, dims: tuple[int, ...], keepdim: bool, expected: str | None) -> None:
    after = reduced(layout, dims, keepdim=keepdim)
    assert (after and text(after)) == expected


def test_what_a_layout_says_of_itself() -> None:
    flat = MAP.with_axes([(BATCH,), (CHANNELS, 0, 1)])
    last = MAP.with_axes([(BATCH,), (0, 1, CHANNELS)])
    assert (MAP.is_map, MAP.is_flat, MAP.is_point, MAP.order, MAP.rank) == (True, False, False, None, 2)
    assert (flat.is_map, flat.is_flat, flat.order) == (False, True, WeightOrder.CHANNELS_FIRST)
    assert (last.is_map, last.is_flat, last.order) == (False, False, WeightOrder.CHANNELS_LAST)
    assert (MAP.features, POINT.features, OPEN.features) == (24, 4, None)
    assert POINT.is_point
    assert flat_layout(4, 2) == POINT.with_axes([(BATCH,), (CHANNELS,)])


# --- against numbers that move

BATCH_SIZE = 2


def ran(tensor: Tensor, op: ViewOp) -> Tensor | None:
    """A tensor after a view; None where torch does not do it."""
    try:
        match op:
            case Flatten():
                return tensor.flatten(op.start, op.end)
            case Unflatten():
                return tensor.unflatten(op.dim, op.sizes)
            case View():
                return tensor.reshape([BATCH_SIZE if size == BATCH else size for size in op.sizes])
            case Squeeze():
                return tensor.squeeze() if op.dims is None else tensor.squeeze(op.dims)
            case Unsqueeze():
                return tensor.unsqueeze(op.dim)
            case Permute():
                return tensor.transpose(*op.dims) if op.swap else tensor.permute(op.dims)
            case Index():
                return tensor[op.items]
    except (RuntimeError, IndexError):
        return None


def meant(layout: Layout, source: Tensor) -> Tensor:
    """A map ``[N, C, *k]`` as its layout says that a value of it lies."""
    places = {BATCH: 0, CHANNELS: 1} | {axis: axis + 2 for axis in range(layout.rank)}
    named = [atom for axis in layout.axes for atom in axis]
    points = [atom for atom in places if atom not in named]
    sizes = [math.prod(source.shape[places[atom]] for atom in axis) for axis in layout.axes]
    return source.permute([places[atom] for atom in (*named, *points)]).reshape(sizes)


extents = st.sampled_from((1, 2, 3))
axes = st.integers(-4, 3)
sizes = st.lists(st.sampled_from((-1, 1, 2, 3, 4, 6, 9, 12, BATCH)), min_size=1, max_size=4).map(tuple)
parts = st.sampled_from((ALL, None, ..., 0, -1))
views = st.one_of(
    st.builds(Flatten, st.just(X), axes, axes),
    st.builds(Unflatten, st.just(X), axes, sizes.filter(lambda chosen: BATCH not in chosen)),
    st.builds(View, st.just(X), sizes),
    st.builds(Squeeze, st.just(X), st.one_of(st.none(), st.tuples(axes), st.just((2, 3)))),
    st.builds(Unsqueeze, st.just(X), axes),
    st.builds(Permute, st.just(X), st.permutations(range(4)).map(tuple), st.just(False)),
    st.builds(Permute, st.just(X), st.tuples(axes, axes), st.just(True)),
    st.builds(Index, st.just(X), st.lists(parts, min_size=1, max_size=4).map(tuple)),
)


@st.composite
def regrouped(draw: st.DrawFn, layout: Layout) -> View:
    """A view of the same numbers: axes merged and split where the map's own are, one of them perhaps a -1."""
    atoms = [atom for axis in layout.axes for atom in axis if atom != BATCH]
    sizes: list[Any] = [layout.size(atom) for atom in atoms]
    for _ in range(draw(st.integers(0, len(sizes) - 1))):
        at = draw(st.integers(0, len(sizes) - 2))
        sizes[at : at + 2] = [sizes[at] * sizes[at + 1]]
    if draw(st.booleans()):
        sizes.insert(draw(st.integers(0, len(sizes))), 1)
    sizes.insert(0, BATCH)
    if draw(st.booleans()):
        sizes[draw(st.integers(0, len(sizes) - 1))] = -1
    return View(X, tuple(sizes))


@settings(max_examples=150)
@given(channels=st.sampled_from((2, 3)), grid=st.lists(extents, min_size=1, max_size=2), data=st.data())
def test_a_layout_that_is_followed_says_where_the_numbers_are(
    channels: int, grid: list[int], data: st.DataObject
) -> None:
    source = torch.arange(BATCH_SIZE * channels * math.prod(grid)).reshape(BATCH_SIZE, channels, *grid)
    layout, tensor = map_layout(channels, grid), source
    for _ in range(4):
        op: Any = data.draw(st.one_of(views, regrouped(layout)))
        after = ran(tensor, op)
        if after is None:
            continue
        followed = view(layout, op)
        if isinstance(followed, Problem):
            continue
        layout, tensor = followed, after
        assert torch.equal(tensor, meant(layout, source)), op
