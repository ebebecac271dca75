"""Reductions over whole axes, and pools over windows along them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Hashable, Sequence

import numpy as np

from fxexport.language.arithmetic import clamp, multiply, parts_of, scaled, sign_of
from fxexport.language.constants import along as whole
from fxexport.language.constants import exact_array
from fxexport.language.contraction import before_sites, is_alike_along, with_zeros_as_padding
from fxexport.language.extents import Extent, divided, floor_divided, minus, plus, times
from fxexport.language.foreign import foreign
from fxexport.language.identities import TIES
from fxexport.language.layout import Slot, accesses, extent_of, joined, own_axes
from fxexport.language.maps import fits, slots_of, terms_of_contents
from fxexport.language.moves import along, expand, pad, reshape, slide, squeeze, tile
from fxexport.language.sliding_window import SlidingWindow
from fxexport.language.term import Operand, Terms, Uninterpreted, Value

_PATCHES = 3
"""Axes of ``[N, C·∏k, L]``."""

OPPOSITE = {"max": "min", "min": "max"}
"""What the largest of a value is of its negative."""
_OF_EXTENTS = {"sum": plus, "prod": times}
_OF_ONE = ("mean", "max", "min")
"""Reductions that leave a value which only repeats as it is."""


def reduce(terms: Terms, name: str, value: Value, dims: Sequence[int], *, keep: bool) -> Value:
    """The reduction over dimensions, which stay with extent 1 if ``keep``."""
    own = sorted({dim % value.rank for dim in dims}) if value.rank else []
    if name == "mean":
        found = before_sites(terms, value, own, lambda inner: _reduced(terms, name, inner, own))
    elif name in OPPOSITE:
        found = _extreme_of_affine(terms, name, value, own)
    else:
        found = _reduced(terms, name, value, own)
    return found if keep else squeeze(found, own)


def place(terms: Terms, name: str, value: Value, dim: int, *, keep: bool) -> Value:
    """Where along a dimension the extreme is, the first of equal ones; the dimension stays if ``keep``.

    Source:
        ``torch.max`` with a dimension, ``torch.argmax``; ONNX ``ArgMax`` without ``select_last_index``.
    """
    if value.dtype == "bool":
        raise Uninterpreted("the place of an extreme among truths")
    dims = tuple(1 if axis == dim else extent for axis, extent in enumerate(value.shape))
    (found,) = foreign(terms, ("place", name, dim), [value], [("int64", dims)], is_random=False)
    return found if keep else squeeze(found, [dim])


def _extreme_of_affine(terms: Terms, name: str, value: Value, dims: Sequence[int]) -> Value:
    """The largest or smallest cells, looked for before what scales and shifts all of them alike."""
    core, scale, shift = parts_of(value)
    sign = 1 if scale is None else sign_of(scale)
    if not sign or not is_alike_along(value, dims):
        return _reduced(terms, name, value, dims)
    terms.use("extreme-of-affine")
    found = _extreme_of_affine(terms, name if sign > 0 else OPPOSITE[name], core, dims)
    return scaled(terms, found, scale=scale, shift=shift)


def _reduced(terms: Terms, name: str, value: Value, dims: Sequence[int]) -> Value:
    if value.contents and value.rank == 1 and dims and name in _OF_EXTENTS:
        whole = [_OF_EXTENTS[name](*value.contents)]
        if fits(whole, value.dtype):
            return terms_of_contents(terms, whole, 1, value.dtype)
    is_held = name in _OF_ONE or value.dtype != "float16"  # a sum of sums may leave it on the way
    if value.term.op == "reduce" and value.term.attributes[0] == name and is_held:
        opened = opened_up(value) if name != "mean" or value.is_float else None
        if opened is not None:
            terms.use("reduction-of-reduction")
            extra = range(value.rank, opened.rank)
            found = _reduced(terms, name, opened, [*dims, *extra])
            return squeeze(found, list(extra))
    summed: list[Slot] = []
    repeats: Extent = 1
    for dim in dims:
        for part in value.layout[dim]:
            if not part.is_repeated:
                summed.append(Slot((part,), part.extent))
            elif name not in _OF_ONE:
                repeats = times(repeats, part.extent)
    if repeats != 1:
        if name != "sum" or not value.is_float or not isinstance(repeats, int):
            raise Uninterpreted("a sum along which a value only repeats")
        terms.use("sum-of-repeated")
        once = tuple(
            tuple(part for part in parts if not part.is_repeated) if dim in dims else parts
            for dim, parts in enumerate(value.layout)
        )
        found = _reduced(terms, name, value.seen(once), dims)
        return multiply(terms, found, terms.real(float(repeats), value.dtype))
    kept = [() if dim in dims else parts for dim, parts in enumerate(value.layout)]
    if not summed:
        terms.use("reduction-of-one-cell")
        return value.seen(tuple(kept))
    out = joined([slots_of([parts]) for parts in kept])
    inner = joined([tuple(summed)])
    operand = Operand(value.term, accesses((*out.slots, *inner.slots)))
    shape = tuple(slot.extent for slot in out.slots)
    term = terms.term("reduce", (name, len(shape)), [operand], value.dtype, shape)
    return Value(term=term, known_layout=out.layout)


def opened_up(value: Value) -> Value | None:
    """What a reduction reads: the value's dimensions, and behind them those that were reduced."""
    (operand,) = value.term.operands
    access = operand.access or ()
    count: int = value.term.attributes[1]  # type: ignore[assignment]
    outer = Operand(operand.term, access[:count]).value(value.layout)
    return outer.seen((*outer.layout, *access[count:]))


def average_pool(
    terms: Terms,
    value: Value,
    window: SlidingWindow,
    *,
    counts_padding: bool = False,
    divisor: int | None = None,
) -> Value:
    """The mean of each window over the last dimensions."""
    found = _at_once(terms, "mean", value, window) if divisor is None else None
    if found is not None:
        return found
    if (counts_padding or not window.is_padded) and not window.ceil and divisor is None:
        value, window = with_zeros_as_padding(terms, value, window)
        counts_padding = True
    dims = range(value.rank - len(window.kernel), value.rank)
    window = window.settled(value.shape[dims.start :])
    counts = counts_padding and window.is_padded and divisor is None

    def pooled(inner: Value) -> Value:
        order = [*(dim for dim in range(inner.rank) if dim not in dims), *dims]
        found = _pooled(terms, "average-pool", inner.permuted(order), window, counts, divisor)
        return found.permuted([order.index(dim) for dim in range(inner.rank)])

    if window.is_padded or divisor is not None or window.ceil:
        return pooled(value)
    return before_sites(terms, value, list(dims), pooled)


def maximum_pool(terms: Terms, value: Value, window: SlidingWindow) -> Value:
    """The maximum of each window over the last dimensions."""
    found = _at_once(terms, "max", value, window)
    if found is not None:
        return found
    if value.term.op == "map" and value.term.attributes[0] == "clamp" and window.holds_cells:
        inner, *closed = (operand.value(value.layout) for operand in value.term.operands)
        if all(bound.is_scalar for bound in closed):
            terms.use("largest-of-clamped")
            rest = iter([bound.seen(()) for bound in closed])
            low, high = (next(rest) if is_there else None for is_there in value.term.attributes[1:])
            return clamp(terms, maximum_pool(terms, inner, window), low, high)
    settled = window.settled(value.shape[value.rank - len(window.kernel) :])
    return _pooled(terms, "maximum-pool", value, settled)


def _at_once(terms: Terms, name: str, value: Value, window: SlidingWindow) -> Value | None:
    """A pool over the whole map, whole rows of it, or each cell alone; None for another one."""
    dims = range(value.rank - len(window.kernel), value.rank)
    extents = value.shape[dims.start :]
    is_over = name == "mean" and window.ceil and all(map(_covers, window.kernel, window.stride, extents))
    whole = [is_over or size == extent for size, extent in zip(window.kernel, extents, strict=True)]
    cells = [size == step == 1 for size, step in zip(window.kernel, window.stride, strict=True)]
    is_plain = not window.is_padded and set(window.dilation) == {1}
    if is_plain and any(whole) and all(map(operator.or_, whole, cells)):
        terms.use("pool-over-map")
        return reduce(terms, name, value, [*itertools.compress(dims, whole)], keep=True)
    if window.is_single_cell:
        terms.use("pool-of-one-cell")
        return value
    return None


def _covers(size: Extent, step: int, extent: Extent) -> bool:
    """Whether a window that rounds up stops but once, and hangs over what it is on, wherever that can be.

    One that is longer by a step or more fits nowhere.
    """
    return isinstance(size, int) and floor_divided(minus(size, extent), step) == 0


def unfolded(terms: Terms, value: Value, window: SlidingWindow) -> Value:
    """Patches ``[N, C·∏k, L]`` of a map ``[N, C, *size]``: of each window its cells, row by row.

    Source:
        ``torch.nn.Unfold``.
    """
    places, spatial = window.places(value.shape[2:]), len(window.kernel)
    zero = terms.real(0.0, value.dtype)
    found = value
    for axis, pair in reversed([*enumerate(window.padding)]):
        found = pad(terms, found, 2 + axis, *pair, "constant", zero) if pair != (0, 0) else found
    for axis, (size, gap, step, count) in enumerate(
        zip(window.kernel, window.dilation, window.stride, places, strict=True)
    ):
        if not isinstance(size, int):
            raise Uninterpreted("windows of a free size")
        found = slide(terms, found, 2 + 2 * axis, size, gap, step, count)
    inner = range(2, 2 + 2 * spatial)
    ordered = found.permuted([0, 1, *inner[::2], *inner[1::2]])
    return reshape(terms, ordered, [value.shape[0], times(value.shape[1], *window.kernel), times(*places)])


def folded(terms: Terms, value: Value, size: Sequence[Extent], window: SlidingWindow) -> Value:
    """Patches ``[N, C·∏k, L]`` added up to the map ``[N, C, *size]`` that they were taken of.

    Source:
        ``torch.nn.Fold``; ONNX ``Col2Im``.
    """
    rows = value.shape[1] if value.rank == _PATCHES else None
    channels = None if rows is None else divided(rows, times(*window.kernel))
    if channels is None or len(size) != len(window.kernel):
        raise Uninterpreted("patches of another rank")
    if window.is_single_cell and times(*size) == value.shape[2]:
        terms.use("patches-of-one-cell")
        return reshape(terms, value, [value.shape[0], channels, *size])
    key, dims = ("fold", tuple(size), window), (value.shape[0], channels, *size)
    return foreign(terms, key, [value], [(value.dtype, dims)], is_random=False)[0]


def sorted_along(
    terms: Terms, value: Value, dim: int, count: Extent, *, is_largest: bool, is_stable: bool = False
) -> tuple[Value, Value]:
    """The ``count`` largest or smallest cells of a dimension, in order, and where they were.

    Of equal cells any may come first, or, if ``is_stable``, the first one.
    """
    extent = extent_of(value.layout[dim])
    if not value.is_float or (count != extent and not (isinstance(count, int) and count > 0)):
        raise Uninterpreted("some cells of integers, or of unknown number")
    if isinstance(count, int) and isinstance(extent, int) and count > extent:
        raise Uninterpreted("more cells than there are")
    dims = tuple(count if axis == dim else extent for axis, extent in enumerate(value.shape))
    if not is_stable:
        terms.use(TIES)
    key = ("sorted", is_stable, dim, count, is_largest)
    (places,) = foreign(terms, key, [value], [("int64", dims)], is_random=False)
    if count == 1:
        return reduce(terms, "max" if is_largest else "min", value, [dim], keep=True), places
    return along(terms, "sorted", (count, is_largest), [value], dim, count), places


def summed_up(terms: Terms, value: Value, dim: int) -> Value:
    """For each cell of a dimension the sum of it and of all before it; of stored integers it is computed."""
    once = list(whole(value.layout))
    once[dim] = value.layout[dim]
    array = exact_array(value.seen(tuple(once)))
    if array is not None and array.dtype in (np.int32, np.int64):
        return expand(terms.constant(np.cumsum(array, dim, dtype=array.dtype)), value.shape)
    return along(terms, "cumulative-sum", (), [value], dim, extent_of(value.layout[dim]))


def nearest(terms: Terms, value: Value, factors: Sequence[float]) -> Value:
    """The value with each cell of its last dimensions repeated."""
    whole = _whole(factors)
    if any(count & (count - 1) or not count for count in whole):
        raise Uninterpreted("cells that are repeated unevenly")
    terms.use("nearest-as-repeat")
    return tile(value, whole, each=True)


def _whole(factors: Sequence[float]) -> list[int]:
    """The factors as whole numbers, 0 for what is none."""
    return [int(factor) if 1 <= factor < 2**31 and factor == int(factor) else 0 for factor in factors]


def resized(
    terms: Terms,
    value: Value,
    mode: str,
    sizes: Sequence[Extent] | None,
    factors: Sequence[float] | None,
    *,
    aligns_corners: bool,
) -> Value:
    """The value interpolated to other extents of its last dimensions.

    Args:
        terms: the table.
        value: what is interpolated.
        mode: ``linear`` between neighbours, or ``cubic`` with a = -3/4; beyond the border lie its cells.
            ``antialiased`` is read at the value's own extents alone, where every curve is 1 at its cell.
        sizes: the extents, by which the steps are found.
        factors: by how much the steps shrink, in the place of sizes; the extents are rounded down.
        aligns_corners: whether the outermost centres of both grids fall together, else their borders do.

    Source:
        ``aten.upsample_bilinear2d``; ONNX ``Resize`` with ``half_pixel`` or ``align_corners``.
    """
    extents = value.shape[2:]
    if not value.is_float or not extents or len(sizes or factors or ()) != len(extents):
        raise Uninterpreted("an interpolation of other axes")
    wanted = list(sizes or (_stretched(*pair) for pair in zip(extents, factors or (), strict=True)))
    is_known = all(isinstance(extent, int) for extent in (*extents, *wanted))
    if tuple(wanted) == extents:
        terms.use("resize-to-own-size")
        return value
    if mode == "antialiased":
        raise Uninterpreted("a filter as wide as a step")
    if not is_known and (sizes or aligns_corners):
        raise Uninterpreted("steps that free extents tell")
    if any(isinstance(size, int) and size < 1 + aligns_corners for size in (*wanted, *extents)):
        raise Uninterpreted("an extent that is none, or one cell between corners")
    return _cells(terms, "resize", (mode, aligns_corners), value, tuple(wanted))


def _stretched(extent: Extent, factor: float) -> Extent:
    """The extent times the factor, where that comes out, so that the steps are those of the extents."""
    if isinstance(extent, int) and 0 < factor < 2**31 and extent * factor == int(extent * factor):
        return int(extent * factor)
    (count,) = _whole([factor])
    if not count:
        raise Uninterpreted("steps of another size than the extents'")
    return times(extent, count)


def adaptive_pool(terms: Terms, name: str, value: Value, sizes: Sequence[Extent]) -> Value:
    """The mean, or max, over as many even stretches as there are to be cells."""
    dims = range(value.rank - len(sizes), value.rank)
    extents = value.shape[dims.start :]
    if 1 in sizes and all(size in (1, extent) for size, extent in zip(sizes, extents, strict=True)):
        terms.use("pool-to-one-cell")
        over = [dim for dim, size in zip(dims, sizes, strict=True) if size == 1]
        return reduce(terms, name, value, over, keep=True)
    if tuple(sizes) == extents:
        terms.use("pool-of-one-cell")
        return value
    kernel = _even(sizes, extents)
    if kernel:
        terms.use("even-adaptive-pool")
        pool = average_pool if name == "mean" else maximum_pool
        return pool(terms, value, SlidingWindow.of(kernel, kernel))
    if name != "mean":
        raise Uninterpreted("a maximum over uneven windows")
    return _cells(terms, "adaptive-average-pool", (tuple(sizes),), value, tuple(sizes))


def _even(sizes: Sequence[Extent], extents: Sequence[Extent]) -> list[int]:
    """How many cells come to each, along every dimension; nothing where they are not as many."""
    kernel: list[int] = []
    for size, extent in zip(sizes, extents, strict=True):
        if not isinstance(size, int) or not isinstance(extent, int) or size < 1 or extent % size:
            return []
        kernel.append(extent // size)
    return kernel


def _pooled(terms: Terms, op: str, value: Value, window: SlidingWindow, *more: Hashable) -> Value:
    extents = window.places(value.shape[value.rank - len(window.kernel) :])
    return _cells(terms, op, (window, *more), value, extents)


def _cells(
    terms: Terms, op: str, attributes: tuple[Hashable, ...], value: Value, extents: tuple[Extent, ...]
) -> Value:
    """An operator over the last dimensions that treats everything before them alike."""
    free = value.rank - len(extents)
    join = joined([slots_of([parts]) for parts in value.layout[:free]])
    operand = Operand(value.term, (*accesses(join.slots), *value.layout[free:]))
    shape = (*(slot.extent for slot in join.slots), *(extent for extent in extents if extent != 1))
    term = terms.term(op, (*attributes, value.shape[free:], extents), [operand], value.dtype, shape)
    return Value(term=term, known_layout=(*join.layout, *own_axes(extents, len(join.slots))))
