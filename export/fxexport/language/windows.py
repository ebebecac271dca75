"""Reductions over whole axes, and pools over windows along them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from fxexport.language.contraction import Pairs, before_sites, windows_along
from fxexport.language.extents import Extent, ceiling_divided, minus, plus, times
from fxexport.language.foreign import foreign
from fxexport.language.layout import Parts, Slot, extent_of, joined
from fxexport.language.maps import slots_of
from fxexport.language.moves import squeeze
from fxexport.language.term import Operand, Terms, Uninterpreted, Value, plain_axis

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
    if value.term.op == "reduce" and value.term.attributes[0] == name and (name != "mean" or value.is_float):
        opened = _opened(value)
        if opened is not None:
            terms.use("reduction-of-reduction")
            extra = range(value.rank, opened.rank)
            found = _reduced(terms, name, opened, [*dims, *extra])
            return squeeze(found, list(extra))
    summed: list[Slot] = []
    for dim in dims:
        for part in value.layout[dim]:
            if not part.is_repeated:
                summed.append(Slot((part,), part.extent))
            elif name not in _OF_ONE:
                raise Uninterpreted("a sum along which a value only repeats")
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
    if divisor is None and not is_padded and tuple(kernel) == extents and set(gaps) == {1}:
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
    kernel: list[int] = []
    for size, extent in zip(sizes, extents, strict=True):
        if not isinstance(size, int) or not isinstance(extent, int) or size < 1 or extent % size:
            kernel = []
            break
        kernel.append(extent // size)
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


def whole(value: Value) -> Extent:
    """The number of elements."""
    return extent_of([part for parts in value.layout for part in parts])
