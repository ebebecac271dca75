"""Reductions over whole axes, and pools over windows along them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from fxexport.language.arithmetic import multiply
from fxexport.language.contraction import Pairs, before_sites, windows_along
from fxexport.language.extents import Extent, ceiling_divided, floor_divided, minus, plus, times
from fxexport.language.foreign import foreign
from fxexport.language.identities import TIES
from fxexport.language.layout import Parts, Slot, extent_of, joined
from fxexport.language.maps import fits, slots_of, terms_of_contents
from fxexport.language.moves import along, squeeze, tile
from fxexport.language.term import Operand, Terms, Uninterpreted, Value, plain_axis

_PATCHES = 3
"""Axes of ``[N, C·∏k, L]``."""

_OF_EXTENTS = {"sum": plus, "prod": times}
_OF_ONE = ("mean", "max", "min")
"""Reductions that leave a value which only repeats as it is."""


def reduce(terms: Terms, name: str, value: Value, dims: Sequence[int], *, keep: bool) -> Value:
    """The reduction over dimensions, which stay with extent 1 if ``keep``."""
    own = sorted({dim % value.rank for dim in dims}) if value.rank else []
    if name == "mean" and value.is_float:
        found = before_sites(terms, value, own, lambda inner: _reduced(terms, name, inner, own))
    else:
        found = _reduced(terms, name, value, own)
    return found if keep else squeeze(found, own)


def place(terms: Terms, name: str, value: Value, dim: int, *, keep: bool) -> Value:
    """Where along a dimension the extreme is, the first of equal ones; the dimension stays if ``keep``.

    Source:
        ``torch.max`` with a dimension, ``torch.argmax``; ONNX ``ArgMax`` without ``select_last_index``.
    """
    if not value.is_float:
        raise Uninterpreted("the place of an extreme among integers")
    dims = tuple(1 if axis == dim else extent for axis, extent in enumerate(value.shape))
    (found,) = foreign(terms, ("place", name, dim), [value], [("int64", dims)], is_random=False)
    return found if keep else squeeze(found, [dim])


def _reduced(terms: Terms, name: str, value: Value, dims: Sequence[int]) -> Value:
    if value.contents and value.rank == 1 and dims and name in _OF_EXTENTS:
        whole = [_OF_EXTENTS[name](*value.contents)]
        if fits(whole, value.dtype):
            return terms_of_contents(terms, whole, 1, value.dtype)
    is_held = name in _OF_ONE or value.dtype != "float16"  # a sum of sums may leave it on the way
    if value.term.op == "reduce" and value.term.attributes[0] == name and is_held:
        opened = _opened(value) if name != "mean" or value.is_float else None
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
    access = tuple((slot.parts[0],) if slot.parts[0] else () for slot in (*out.slots, *inner.slots))
    shape = tuple(slot.extent for slot in out.slots)
    dtype = value.dtype
    term = terms.term("reduce", (name, len(shape)), [Operand(value.term, access)], dtype, shape)
    return Value(term=term, known_layout=out.layout)


def _opened(value: Value) -> Value | None:
    """What a reduction reads: the value's dimensions, and behind them those that were reduced."""
    (operand,) = value.term.operands
    access = operand.access or ()
    count: int = value.term.attributes[1]  # type: ignore[assignment]
    outer = Operand(operand.term, access[:count]).value(value.layout)
    return outer.seen((*outer.layout, *access[count:]))


def average_pool(
    terms: Terms,
    value: Value,
    *,
    kernel: Sequence[Extent],
    stride: Sequence[int],
    padding: Pairs,
    ceil: bool,
    counts_padding: bool,
    divisor: int | None = None,
    dilation: Sequence[int] | None = None,
) -> Value:
    """The mean of each window over the last dimensions."""
    dims = range(value.rank - len(kernel), value.rank)
    gaps = tuple(dilation) if dilation is not None else (1,) * len(kernel)
    extents = tuple(value.shape[dim] for dim in dims)
    is_padded = any(pair != (0, 0) for pair in padding)
    is_whole = tuple(kernel) == extents or (ceil and all(map(_covers, kernel, extents)))
    if divisor is None and not is_padded and is_whole and set(gaps) == {1}:
        terms.use("pool-over-map")
        return reduce(terms, "mean", value, dims, keep=True)
    counts = counts_padding and is_padded and divisor is None
    if divisor is None and not is_padded and all(size == 1 for size in kernel) and set(stride) == {1}:
        terms.use("pool-of-one-cell")
        return value
    ceil = ceil and not _comes_out(extents, kernel, stride, padding, gaps)
    attributes = (tuple(kernel), tuple(stride), tuple(padding), gaps, ceil, counts, divisor)

    def pooled(inner: Value) -> Value:
        order = [*(dim for dim in range(inner.rank) if dim not in dims), *dims]
        found = _pooled(terms, "average-pool", inner.permuted(order), attributes, padding, ceil=ceil)
        return found.permuted([order.index(dim) for dim in range(inner.rank)])

    if is_padded or divisor is not None or ceil:
        return pooled(value)
    return before_sites(terms, value, list(dims), pooled)


def folded(
    terms: Terms,
    value: Value,
    size: Sequence[Extent],
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
) -> Value:
    """Patches ``[N, C·∏k, L]`` added up to the map ``[N, C, *size]`` that they were taken of.

    Source:
        ``torch.nn.Fold``; ONNX ``Col2Im``.
    """
    cells = math.prod(kernel)
    rows = value.shape[1] if value.rank == _PATCHES else None
    lists = size, kernel, stride, padding, dilation
    if not isinstance(rows, int) or cells < 1 or rows % cells or len({len(item) for item in lists}) > 1:
        raise Uninterpreted("patches of another rank")
    key = "fold", tuple(size), tuple(kernel), tuple(stride), tuple(padding), tuple(dilation)
    dims = value.shape[0], rows // cells, *size
    return foreign(terms, key, [value], [(value.dtype, dims)], is_random=False)[0]


def _covers(size: Extent, extent: Extent) -> bool:
    """Whether a window is no smaller than what it is on, wherever that can be."""
    return isinstance(size, int) and size > 0 and floor_divided(minus(extent, 1), size) == 0


def maximum_pool(
    terms: Terms,
    value: Value,
    *,
    kernel: Sequence[Extent],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    ceil: bool,
) -> Value:
    """The maximum of each window over the last dimensions."""
    dims = range(value.rank - len(kernel), value.rank)
    extents = tuple(value.shape[dim] for dim in dims)
    is_padded = any(pair != (0, 0) for pair in padding)
    if not is_padded and tuple(kernel) == extents and set(dilation) == {1}:
        terms.use("pool-over-map")
        return reduce(terms, "max", value, dims, keep=True)
    if not is_padded and all(size == 1 for size in kernel) and set(stride) == {1}:
        terms.use("pool-of-one-cell")
        return value
    ceil = ceil and not _comes_out(extents, kernel, stride, padding, dilation)
    attributes = (tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), ceil)
    return _pooled(terms, "maximum-pool", value, attributes, padding, ceil=ceil)


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
    """For each cell of a dimension the sum of it and of all before it."""
    return along(terms, "cumulative-sum", (), [value], dim, extent_of(value.layout[dim]))


def nearest(terms: Terms, value: Value, factors: Sequence[float]) -> Value:
    """The value with each cell of its last dimensions repeated.

    Raises:
        Uninterpreted: a factor is no power of two: libraries round the places of others differently.
    """
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
        sizes: the extents, by which the steps are found.
        factors: by how much the steps shrink, in the place of sizes; the extents are rounded down.
        aligns_corners: whether the outermost centres of both grids fall together, else their borders do.

    Source:
        ``aten.upsample_bilinear2d``; ONNX ``Resize`` with ``half_pixel`` or ``align_corners``.

    Raises:
        Uninterpreted: extents are free, or steps would be rounded.
    """
    extents = value.shape[2:]
    if not value.is_float or not extents or len(sizes or factors or ()) != len(extents):
        raise Uninterpreted("an interpolation of other axes")
    wanted = list(sizes or (_stretched(*pair) for pair in zip(extents, factors or (), strict=True)))
    is_known = all(isinstance(extent, int) for extent in (*extents, *wanted))
    if tuple(wanted) == extents and mode == "linear":
        terms.use("resize-to-own-size")
        return value
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


def adaptive_average_pool(terms: Terms, value: Value, sizes: Sequence[Extent]) -> Value:
    """The mean over as many even stretches as there are to be cells."""
    extents = value.shape[value.rank - len(sizes) :]
    if all(size == 1 for size in sizes):
        terms.use("pool-to-one-cell")
        dims = range(value.rank - len(sizes), value.rank)
        return reduce(terms, "mean", value, dims, keep=True)
    if tuple(sizes) == extents:
        terms.use("pool-of-one-cell")
        return value
    kernel = _even(sizes, extents)
    if kernel:
        terms.use("even-adaptive-pool")
        return average_pool(
            terms,
            value,
            kernel=kernel,
            stride=kernel,
            padding=[(0, 0)] * len(kernel),
            ceil=False,
            counts_padding=False,
        )
    return _cells(terms, "adaptive-average-pool", (tuple(sizes),), value, tuple(sizes))


def adaptive_maximum_pool(terms: Terms, value: Value, sizes: Sequence[Extent]) -> Value:
    """The maximum over as many even stretches as there are to be cells.

    Raises:
        Uninterpreted: the stretches are not of one length.
    """
    if all(size == 1 for size in sizes):
        return reduce(terms, "max", value, range(value.rank - len(sizes), value.rank), keep=True)
    kernel = _even(sizes, value.shape[value.rank - len(sizes) :])
    if not kernel:
        raise Uninterpreted("a maximum over uneven windows")
    terms.use("even-adaptive-pool")
    none, ones = [(0, 0)] * len(kernel), [1] * len(kernel)
    return maximum_pool(terms, value, kernel=kernel, stride=kernel, padding=none, dilation=ones, ceil=False)


def _even(sizes: Sequence[Extent], extents: Sequence[Extent]) -> list[int]:
    """How many cells come to each, along every dimension; nothing where they are not as many."""
    kernel: list[int] = []
    for size, extent in zip(sizes, extents, strict=True):
        if not isinstance(size, int) or not isinstance(extent, int) or size < 1 or extent % size:
            return []
        kernel.append(extent // size)
    return kernel


def _comes_out(
    extents: Sequence[Extent],
    kernel: Sequence[Extent],
    stride: Sequence[int],
    padding: Pairs,
    gaps: Sequence[int],
) -> bool:
    """Whether rounding up adds no window along any axis."""
    for extent, size, step, pair, gap in zip(extents, kernel, stride, padding, gaps, strict=True):
        rest = minus(plus(extent, *pair), plus(times(gap, minus(size, 1)), 1))
        if step == 1 or (isinstance(rest, int) and rest % step == 0):
            continue
        if windows_along(extent, size, step, pair, gap) != _rounded_up(extent, size, step, pair, gap):
            return False
    return True


def _pooled(
    terms: Terms, op: str, value: Value, attributes: tuple[Hashable, ...], padding: Pairs, *, ceil: bool
) -> Value:
    kernel, stride, _, gaps = attributes[:4]
    extents = []
    for extent, size, step, pair, gap in zip(
        value.shape[value.rank - len(padding) :],
        kernel,  # type: ignore[call-overload]
        stride,
        padding,
        gaps,
        strict=True,
    ):
        extents.append(
            _rounded_up(extent, size, step, pair, gap)
            if ceil
            else windows_along(extent, size, step, pair, gap)
        )
    return _cells(terms, op, attributes, value, tuple(extents))


def _rounded_up(extent: Extent, size: Extent, step: int, pair: tuple[Extent, Extent], gap: int) -> Extent:
    """Windows along an axis where the last one may hang over; none starts in the padding behind it.

    Raises:
        Uninterpreted: the extent is free, so that whether the last window counts is not known.
    """
    reach = plus(times(gap, minus(size, 1)), 1)
    count = plus(ceiling_divided(minus(plus(extent, *pair), reach), step), 1)
    if not isinstance(count, int) or not isinstance(extent, int) or not isinstance(pair[0], int):
        raise Uninterpreted("a pool that rounds up over a free extent")
    return count - 1 if (count - 1) * step >= extent + pair[0] else count


def _cells(
    terms: Terms, op: str, attributes: tuple[Hashable, ...], value: Value, extents: tuple[Extent, ...]
) -> Value:
    """An operator over the last dimensions that treats everything before them alike."""
    free = value.rank - len(extents)
    join = joined([slots_of([parts]) for parts in value.layout[:free]])
    access = tuple((slot.parts[0],) if slot.parts[0] else () for slot in join.slots)
    operand = Operand(value.term, (*access, *value.layout[free:]))
    shape = (*(slot.extent for slot in join.slots), *(extent for extent in extents if extent != 1))
    term = terms.term(op, (*attributes, value.shape[free:], extents), [operand], value.dtype, shape)
    layout: list[Parts] = [*join.layout]
    axis = len(access)
    for extent in extents:
        layout.append(plain_axis(axis, extent))
        axis += extent != 1
    return Value(term=term, known_layout=tuple(layout))
