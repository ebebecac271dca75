"""What moves elements and computes nothing: views, and cells that are taken, joined, repeated or padded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from fxexport.language import sizes
from fxexport.language.constants import along as along_once
from fxexport.language.constants import exact_array, folded, is_folded, scalar
from fxexport.language.extents import Extent, ceiling_divided, divided, least, minus, plus, symbol, times
from fxexport.language.foreign import foreign
from fxexport.language.index_steps import all_places
from fxexport.language.layout import (
    Part,
    Parts,
    accesses,
    aligned,
    behind,
    cut_at,
    extent_of,
    joined,
    merged,
    own_axes,
    plain_axis,
    repeated,
    reshaped,
    within,
)
from fxexport.language.maps import cast, dimensions, terms_of_contents
from fxexport.language.term import Array, Operand, Terms, Uninterpreted, Value, numpy_type


def reshape(terms: Terms, value: Value, shape: Sequence[Extent]) -> Value:
    """The value in another shape, one of whose extents may be -1."""
    wanted = list(shape)
    if -1 in wanted:
        place = wanted.index(-1)
        rest = times(*(extent for extent in wanted if extent != -1))
        missing = divided(extent_of([part for parts in value.layout for part in parts]), rest)
        if missing is None:
            return _viewed(terms, value, wanted, rest)
        wanted[place] = missing
    layout = reshaped(value.layout, wanted)
    if layout is None:
        value = _merged_where_torn(terms, value, wanted)
        layout = reshaped(value.layout, wanted)
    if layout is None:
        raise Uninterpreted("a reshape that cuts an axis at no multiple")
    found = dataclasses.replace(value, known_layout=layout) if len(layout) <= 1 else value.seen(layout)
    return written_out(terms, _unmerged(terms, found))


def _viewed(terms: Terms, value: Value, shape: Sequence[Extent], rest: Extent) -> Value:
    """The value where -1 stands for a quotient that comes out in every run, or there is none."""
    if isinstance(rest, int) and rest <= 0:
        raise Uninterpreted("a reshape to nothing")
    missing = symbol(f"({times(*value.shape)})/({rest})")
    dims = tuple(missing if extent == -1 else extent for extent in shape)
    return foreign(terms, ("view", tuple(shape)), [value], [(value.dtype, dims)], is_random=False)[0]


def _merged_where_torn(terms: Terms, value: Value, shape: Sequence[Extent]) -> Value:
    """The value with dimensions that are cut otherwise joined to one axis of a term of its own."""
    array = exact_array(value)
    if times(*shape) != extent_of([part for parts in value.layout for part in parts]):
        raise Uninterpreted("a reshape that need not come out")
    if array is not None and all(isinstance(extent, int) for extent in shape):
        return terms.constant(array.reshape([int(str(extent)) for extent in shape]))
    other = _products_behind(shape)
    pieces = cut_at([part for parts in value.layout for part in parts], other)
    value = value.seen(tuple((piece,) for piece in pieces))
    own, end, last = _products_behind(value.shape), value.rank, len(shape)
    for start in reversed(range(value.rank)):
        if own[start] not in other:
            continue
        first = other.index(own[start])
        if reshaped(value.layout[start:end], shape[first:last]) is None:
            whole = flatten(value, start, end - 1)
            value = along(terms, "merge", (), [whole], start, extent_of(whole.layout[start]))
        end, last = start, first
    return value


def _products_behind(shape: Sequence[Extent]) -> list[Extent]:
    """For each dimension the product of its extent and of all behind it."""
    return [times(*shape[number:]) for number in range(len(shape))]


def _unmerged(terms: Terms, value: Value) -> Value:
    """What was joined to one axis, where each dimension walks whole parts of that again."""
    term = value.term
    if term.op != "merge" or term.shape is None or value.known_layout is None:
        return value
    (operand,) = term.operands
    *access, own = operand.access or ()
    slots = [parts[0] if parts else None for parts in access]
    layout: list[Parts] = []
    for parts in value.layout:
        found: list[Part] = []
        for part in parts:
            inner = (
                within(own, part.stride, part.extent) if part.axis == len(access) else behind((part,), slots)
            )
            if inner is None:
                return value
            found.extend(inner)
        layout.append(merged(found))
    terms.use("view-of-view")
    return _unmerged(terms, dataclasses.replace(value, term=operand.term, known_layout=tuple(layout)))


def squeeze(value: Value, dims: Sequence[int]) -> Value:
    """The value without these dimensions, each of extent 1."""
    if any(value.layout[dim] for dim in dims):
        raise Uninterpreted("a squeeze of an extent that is not 1")
    layout = tuple(parts for dim, parts in enumerate(value.layout) if dim not in dims)
    return dataclasses.replace(value, known_layout=layout) if len(layout) <= 1 else value.seen(layout)


def unsqueeze(value: Value, dims: Sequence[int]) -> Value:
    """The value with dimensions of extent 1 at these places of the result."""
    layout = list(value.layout)
    for dim in sorted(dims):
        layout.insert(dim, ())
    kept = tuple(layout)
    return dataclasses.replace(value, known_layout=kept) if len(kept) <= 1 else value.seen(kept)


def flatten(value: Value, start: int, end: int) -> Value:
    """The value with dimensions ``start`` to ``end`` as one."""
    merged_parts = tuple(part for parts in value.layout[start : end + 1] for part in parts)
    return value.seen((*value.layout[:start], merged(merged_parts), *value.layout[end + 1 :]))


def expand(value: Value, shape: Sequence[Extent]) -> Value:
    """The value repeated to this shape; extents of 1 and -1 leave a dimension as it is."""
    layout = ((),) * (len(shape) - value.rank) + value.layout
    found: list[Parts] = []
    for parts, extent in zip(layout, shape[-len(layout) :] if layout else (), strict=True):
        own = extent_of(parts)
        if extent in (-1, 1) or own == extent:
            found.append(parts)
        elif not parts:
            found.append(repeated(extent))
        else:
            raise Uninterpreted(f"an expansion of {own} to {extent}")
    return value.seen(tuple(found))


def widened(value: Value, *others: Value) -> Value:
    """The value repeated to the shape that it has with the others, broadcast against each other."""
    shape: list[Extent] = []
    for dimension in dimensions([value, *others]):
        extents = {extent_of(parts) for parts in dimension if parts}
        if len(extents) > 1:
            raise Uninterpreted(f"extents {sorted(map(str, extents))} that may differ")
        shape.append(extents.pop() if extents else 1)
    return value if tuple(shape) == value.shape else expand(value, shape)


def take(terms: Terms, value: Value, dim: int, start: Extent, step: int, count: Extent) -> Value:
    """``count`` cells of one dimension, from ``start`` on, every ``step``-th one."""
    extent = extent_of(value.layout[dim])
    if start == 0 and step == 1 and count == extent:
        terms.use("whole-slice")
        return value
    if value.contents is not None and value.rank == 1 and isinstance(start, int) and isinstance(count, int):
        return terms_of_contents(terms, value.contents[start : start + step * count : step], 1, value.dtype)
    if count == 0:
        raise Uninterpreted("a slice of no cells")
    if terms.merges and not value.is_closed:
        from fxexport.language import merging

        merged_site = merging.taken(terms, value, dim, start, step, count)
        if merged_site is not None:
            return merged_site
    parts = value.layout[dim]
    inner = _whole_steps(parts, start, count) if step == 1 else None
    if inner is not None:
        outer, rest, first, number = inner
        layout = (*value.layout[:dim], (outer,), rest, *value.layout[dim + 1 :])
        found = take(terms, value.seen(layout), dim, first, 1, number)
        return flatten(found, dim, dim + 1)
    array = exact_array(value)
    if array is not None and isinstance(start, int) and isinstance(count, int):
        index = [slice(None)] * array.ndim
        index[dim] = slice(start, start + step * (count - 1) + 1, step)
        return terms.constant(np.ascontiguousarray(array[tuple(index)]))
    if all(part.is_repeated for part in parts):
        return value.seen((*value.layout[:dim], repeated(count), *value.layout[dim + 1 :]))
    if value.term.op == "take" and len(parts) == 1 and parts[0] == _taken_axis(value):
        own_start, own_step = value.term.attributes[:2]
        terms.use("slice-of-slice")
        source = _source_along(value, dim, value.term.operands[0])
        return take(
            terms,
            source,
            dim,
            plus(own_start, times(own_step, start)),  # type: ignore[arg-type]
            own_step * step,  # type: ignore[operator]
            count,
        )
    piece = _piece_of_concatenation(value, dim, start, step, count)
    if piece is not None:
        terms.use("slice-of-concatenation")
        return take(terms, piece[0], dim, piece[1], step, count)
    padded = _without_padding(value, dim)
    if padded is not None:
        source, begin = padded[0], minus(start, padded[1])
        left = minus(extent_of(source.layout[dim]), plus(begin, times(step, minus(count, 1)), 1))
        if _is_a_count(begin) and _is_a_count(left):
            terms.use("slice-of-padding")
            return take(terms, source, dim, begin, step, count)
    return along(terms, "take", (start, step, count), [value], dim, count)


def tile(value: Value, repeats: Sequence[Extent], *, each: bool = False) -> Value:
    """The value so many times along each of its last dimensions; ``each`` cell at once, or all of them."""
    missing = len(repeats) - value.rank
    value = unsqueeze(value, list(range(missing))) if missing > 0 else value
    layout = list(value.layout)
    for place, count in enumerate(repeats, value.rank - len(repeats)):
        if isinstance(count, int) and count < 1:
            raise Uninterpreted("a value of no cells")
        parts = layout[place]
        layout[place] = merged((*parts, *repeated(count)) if each else (*repeated(count), *parts))
    return value.seen(tuple(layout))


def written_out(terms: Terms, value: Value) -> Value:
    """A constant with the cells written out that repeat beside others of a dimension, as files store it.

    One that is computed is joined to one axis where a dimension walks several: it may be stored as it is.
    """
    if not value.is_closed or value.known_layout is None:
        return value
    for dim in range(value.rank):
        parts = value.layout[dim]  # not of what it was before another dimension was written out
        kept = tuple(part for part in parts if not part.is_repeated)
        sizes = [part.extent for part in parts if isinstance(part.extent, int)]
        if kept and len(kept) < len(parts) == len(sizes) and math.prod(sizes) <= _MOST_WRITTEN:
            own = [1 if part.is_repeated else size for part, size in zip(parts, sizes, strict=True)]
            places = np.broadcast_to(np.arange(math.prod(own)).reshape(own), sizes).reshape(-1)
            layout = [kept if axis == dim else walked for axis, walked in enumerate(value.layout)]
            value = gather(terms, value.seen(tuple(layout)), dim, terms.constant(places))
        elif value.term.array is None and 1 < len(kept) == len(parts) == len(sizes):
            value = along(terms, "merge", (), [value], dim, extent_of(parts))
    return value


_MOST_WRITTEN = 1 << 16
"""Cells of a dimension up to which a constant is written out."""


def flip(terms: Terms, value: Value, dim: int) -> Value:
    """The cells of one dimension from the last to the first."""
    array = exact_array(value)
    if array is not None:
        return terms.constant(np.ascontiguousarray(np.flip(array, dim)))
    if all(part.is_repeated for part in value.layout[dim]):
        return value
    return along(terms, "flip", (), [value], dim, extent_of(value.layout[dim]))


def _whole_steps(parts: Parts, start: Extent, count: Extent) -> tuple[Part, Parts, Extent, Extent] | None:
    """The outermost part, the rest, and what is taken of the outermost, where whole rests are taken."""
    if len(parts) < 2:
        return None
    rest = extent_of(parts[1:])
    first, number = divided(start, rest), divided(count, rest)
    if first is None or number is None:
        return None
    return parts[0], parts[1:], first, number


def _taken_axis(value: Value) -> Part | None:
    """The last axis of a term whose last axis was taken; None where one cell was."""
    count = value.term.attributes[2]
    if count == 1:
        return None
    return Part(len(value.term.shape or ()) - 1, 1, count)  # type: ignore[arg-type]


def _piece_of_concatenation(
    value: Value, dim: int, start: Extent, step: int, count: Extent
) -> tuple[Value, int] | None:
    """Which of joined values has all cells of a slice, and where it starts in it; None where none has."""
    term = value.term
    if term.op != "concatenate" or not isinstance(start, int) or not isinstance(count, int):
        return None
    axis = len(term.shape or ()) - 1
    if value.layout[dim] != plain_axis(axis, (term.shape or ())[axis]):
        return None
    end = start + step * (count - 1) + 1
    for operand, extent in zip(term.operands, term.attributes, strict=True):
        if not isinstance(extent, int):
            return None
        if 0 <= start and end <= extent:
            return _source_along(value, dim, operand), start
        start, end = start - extent, end - extent
    return None


def _source_along(value: Value, dim: int, operand: Operand) -> Value:
    """What an operator along a dimension reads, with that dimension whole."""
    access = operand.access or ()
    free = [parts[0] if parts else None for parts in access[:-1]]
    layout = [
        access[-1] if number == dim else behind(parts, [*free, None])
        for number, parts in enumerate(value.layout)
    ]
    return Value(term=operand.term, known_layout=tuple(layout))


def select(terms: Terms, value: Value, dim: int, index: Extent) -> Value:
    """One cell of a dimension, the dimension dropped."""
    return squeeze(take(terms, value, dim, index, 1, 1), [dim])


def gather(terms: Terms, value: Value, dim: int, index: Value) -> Value:
    """The cells of a dimension that integers name, which stand in the dimension's place."""
    stored = exact_array(index)
    if index.dtype not in ("int32", "int64"):
        raise Uninterpreted("indices that are no integers")
    extent = extent_of(value.layout[dim])
    dims = (*value.shape[:dim], *index.shape, *value.shape[dim + 1 :])
    if value.contents is None and _only_repeats(value, dim) and sizes.are_places(index, extent):
        terms.use("gather-of-repeated-cells")
        return value.seen((*value.layout[:dim], *map(repeated, index.shape), *value.layout[dim + 1 :]))
    if stored is None:
        once = along_once(index.layout)
        if once != index.layout:
            terms.use("gather-by-repeated-index")
            return expand(gather(terms, value, dim, index.seen(once)), dims)
        found = _turned_by(terms, value, dim, index)
        if found is not None:
            return found
        return foreign(terms, ("gather", dim), [value, index], [(value.dtype, dims)], is_random=False)[0]
    flat = [int(item) for item in stored.reshape(-1)]
    if not flat or (isinstance(extent, int) and not all(-extent <= item < extent for item in flat)):
        raise Uninterpreted("a cell that is none")
    if isinstance(extent, int):
        flat = [place % extent for place in flat]
    if value.contents is not None and value.rank == 1 and stored.ndim <= 1:
        return terms_of_contents(terms, [value.contents[i] for i in flat], stored.ndim, value.dtype)
    if stored.ndim == 0:
        return select(terms, value, dim, plus(extent, flat[0]) if flat[0] < 0 else flat[0])
    array = exact_array(value)
    if array is not None:
        return terms.constant(np.take(array, stored, dim))
    grid = _grid(stored)
    if grid is not None and isinstance(extent, int):
        start, end, gap, step = grid
        left = extent if not start and extent - end < step else end  # as many windows as there is room for
        cells = take(terms, value, dim, start, 1, left - start)
        return slide(terms, cells, dim, stored.shape[0], gap, step, stored.shape[1])
    if stored.ndim > 1:
        found = gather(terms, value, dim, terms.constant(stored.reshape(-1)))
        return reshape(terms, found, dims)
    step = flat[1] - flat[0] if len(flat) > 1 else 1
    if flat[0] >= 0 < step and flat == list(range(flat[0], flat[-1] + 1, step)):
        return take(terms, value, dim, flat[0], step, len(flat))
    if not isinstance(extent, int):
        raise Uninterpreted("cells of a free extent in another order")
    if flat == list(reversed(range(extent))):
        return flip(terms, value, dim)
    rows = extent // step if step > 1 and extent % step == 0 else 0
    if rows and flat == [step * row + column for column in range(step) for row in range(rows)]:
        terms.use("gather-as-transposition")
        split = reshape(terms, value, [*value.shape[:dim], rows, step, *value.shape[dim + 1 :]])
        turned = split.permuted([*range(dim), dim + 1, dim, *range(dim + 2, split.rank)])
        return reshape(terms, turned, dims)
    return along(terms, "gather", tuple(flat), [value], dim, len(flat))


def _turned_by(terms: Terms, value: Value, dim: int, index: Value) -> Value | None:
    """The cells of a dimension in the order in which an index counts through all of them; None for others."""
    digits = all_places(index, extent_of(value.layout[dim]))
    if digits is None:
        return None
    extents = [digit.extent for digit in digits]
    split = reshape(terms, value, [*value.shape[:dim], *extents, *value.shape[dim + 1 :]])
    cut = {(digit.dim, digit.number): split.layout[dim + place] for place, digit in enumerate(digits)}
    turned = [
        merged([part for number in range(len(parts)) for part in cut[place, number]])
        for place, parts in enumerate(index.layout)
    ]
    terms.use("gather-as-view")
    return split.seen((*split.layout[:dim], *turned, *split.layout[dim + len(digits) :]))


def _grid(places: Array) -> tuple[int, int, int, int] | None:
    """Of places ``first + row·gap + column·step`` the first, the end behind the last, and both distances."""
    if places.ndim != 2 or min(places.shape) < 2:
        return None
    first = int(places[0, 0])
    gap, step = int(places[1, 0]) - first, int(places[0, 1]) - first
    rows, columns = np.ogrid[: places.shape[0], : places.shape[1]]
    if first < 0 or gap < 1 or step < 1 or not np.array_equal(places, first + rows * gap + columns * step):
        return None
    return first, int(places[-1, -1]) + 1, gap, step


def slide(terms: Terms, value: Value, dim: int, size: int, gap: int, step: int, count: Extent) -> Value:
    """A dimension's windows: in its place ``size`` cells that lie ``gap`` apart, at ``count`` places.

    These lie ``step`` apart. Both dimensions are there whatever their extents are.

    Source:
        ``torch.nn.functional.unfold``, whose exporter writes it with ``Gather``.
    """
    if size == 1:
        return unsqueeze(take(terms, value, dim, 0, step, count), [dim])
    if count == 1:
        return unsqueeze(take(terms, value, dim, 0, gap, size), [dim + 1])
    before, behind_it = value.shape[:dim], value.shape[dim + 1 :]
    if times(size, count) == value.shape[dim]:
        if (gap, step) == (1, size):
            split = reshape(terms, value, [*before, count, size, *behind_it])
            return split.permuted([*range(dim), dim + 1, dim, *range(dim + 2, split.rank)])
        if (gap, step) == (count, 1):
            return reshape(terms, value, [*before, size, count, *behind_it])
    found = along(terms, "slide", (size, gap, step, count), [value], dim, times(size, count))
    return reshape(terms, found, [*before, size, count, *behind_it])


def _only_repeats(value: Value, dim: int) -> bool:
    """Whether all cells along a dimension are the same."""
    return all(part.is_repeated for part in value.layout[dim])


def gather_several(terms: Terms, value: Value, dims: Sequence[int], indices: Sequence[Value]) -> Value:
    """The cells that integers name in several dimensions at once; they come first, what is left behind."""
    if any(index.dtype not in ("int32", "int64") for index in indices):
        raise Uninterpreted("indices that are no integers")
    rest = [dim for dim in range(value.rank) if dim not in dims]
    value, count = value.permuted([*dims, *rest]), len(dims)
    extents = [extent for extent in value.shape[:count] if isinstance(extent, int)]
    stored = [exact_array(index) for index in indices]
    places = [array for array in stored if array is not None]
    if len(extents) == len(places) == count:
        terms.use("gather-of-merged-axes")
        flat = np.zeros((), np.int64)
        for extent, array in zip(extents, np.broadcast_arrays(*places), strict=True):
            if not np.all((-extent <= array) & (array < extent)):
                raise Uninterpreted("a cell that is none")
            flat = flat * extent + array % extent
        return gather(terms, flatten(value, 0, count - 1), 0, terms.constant(flat))
    wide = [widened(cast(terms, index, "int64"), *indices) for index in indices]
    for place in reversed(range(count)):
        if len(wide) > 1 and _only_repeats(value, place):
            if sizes.are_places(indices[place], value.shape[place]):
                terms.use("gather-of-repeated-cells")
                value = value.seen((*value.layout[:place], *value.layout[place + 1 :]))
                del wide[place]
    if len(wide) == 1:
        return gather(terms, value, 0, wide[0])
    count = len(wide)
    kinds = [(value.dtype, (*wide[0].shape, *value.shape[count:]))]
    return foreign(terms, ("gather several", count), [value, *wide], kinds, is_random=False)[0]


def places_of_true(terms: Terms, mask: Value) -> Value:
    """``[R, K]``: for each of the K cells that are true its place along the R dimensions, in their order."""
    if mask.dtype != "bool" or not mask.rank:
        raise Uninterpreted("places of what is no mask")
    kinds = [("int64", (mask.rank, None))]
    return foreign(terms, ("places of true",), [mask], kinds, is_random=False)[0]


def gather_each(terms: Terms, value: Value, dim: int, index: Value) -> Value:
    """For each place of the index the cell of the value in the dimension that it names."""
    if index.dtype not in ("int32", "int64") or index.rank != value.rank:
        raise Uninterpreted("indices that are no integers, or of another rank")
    kinds = [(value.dtype, index.shape)]
    return foreign(terms, ("gather each", dim), [value, index], kinds, is_random=False)[0]


def scatter_each(terms: Terms, value: Value, dim: int, index: Value, cells: Value, way: str) -> Value:
    """The value with cells in the dimension's places that the index names for each of them.

    ``way`` says what becomes of what stood there: with ``none`` it is lost; ``add``, ``mul``, ``max`` and
    ``min`` join the two.

    Raises:
        Uninterpreted: two cells may come to one place, and the last one would count, which libraries choose.
    """
    if index.dtype not in ("int32", "int64") or not index.rank == value.rank == cells.rank:
        raise Uninterpreted("indices that are no integers, or of another rank")
    if cells.shape != index.shape or cells.dtype != value.dtype:
        raise Uninterpreted("cells that do not fit")
    if way == "none" and not (cells.is_scalar or index.shape[dim] == 1 or _are_ranks(index, dim)):
        raise Uninterpreted("cells that may come to one place")
    place, extent = scalar(index), value.shape[dim]
    if way == "none" and place is not None and index.shape[dim] == 1 and isinstance(extent, int):
        shape = (*value.shape[:dim], 1, *value.shape[dim + 1 :])
        if index.shape == shape and -extent <= place < extent:
            return with_cells(terms, value, dim, int(place) % extent, cells)
    kinds = [(value.dtype, value.shape)]
    return foreign(terms, ("scatter each", dim, way), [value, index, cells], kinds, is_random=False)[0]


def _are_ranks(index: Value, dim: int) -> bool:
    """Whether the places are those of sorted cells along the dimension: each is another one."""
    name, *attributes = index.term.attributes or ("",)
    is_one = name == "sorted" and index.term.op == "foreign" and attributes[1] == dim
    return is_one and index.layout == own_axes(index.shape)


def with_cells(terms: Terms, value: Value, dim: int, start: int, cells: Value) -> Value:
    """The value with other cells from one on along a dimension."""
    count, extent = cells.shape[dim], value.shape[dim]
    if not isinstance(count, int) or not isinstance(extent, int) or cells.dtype != value.dtype:
        raise Uninterpreted("cells of a free number, or of another type")
    shape = (*value.shape[:dim], count, *value.shape[dim + 1 :])
    if start < 0 or start + count > extent or cells.shape != shape:
        raise Uninterpreted("cells that do not fit")
    ends = ((0, start), (start + count, extent - start - count))
    first, last = ([take(terms, value, dim, at, 1, size)] if size else [] for at, size in ends)
    return concatenate(terms, [*first, cells, *last], dim)


def overwritten(terms: Terms, value: Value, places: tuple[Any, ...], cells: Value) -> Value:
    """The stored value with other cells at these places, each of which is named once."""
    array, new = exact_array(value), exact_array(cells)
    if array is None or new is None:
        raise Uninterpreted("a computed value that is written to in part")
    found = array.copy()
    if found[places].shape != new.shape:
        raise Uninterpreted("cells that do not fit")
    found[places] = new
    return terms.constant(found)


def concatenate(terms: Terms, values: Sequence[Value], dim: int) -> Value:
    """The values joined along a dimension."""
    if all(value.contents is not None and value.rank == 1 for value in values):
        contents = [item for value in values for item in value.contents or ()]
        return terms_of_contents(terms, contents, 1, values[0].dtype)
    if any(extent_of(value.layout[dim]) == 0 for value in values):
        terms.use("concatenation-with-nothing")
        values = [value for value in values if extent_of(value.layout[dim]) != 0] or values[:1]
    values = _whole_again(terms, values, dim)
    if len(values) == 1:
        terms.use("single-concatenation")
        return values[0]
    if terms.merges and not all(value.is_closed for value in values):
        from fxexport.language import merging

        joint = merging.joined(terms, values, dim)
        if joint is not None:
            return joint
    arrays = [exact_array(value) for value in values]
    if all(array is not None for array in arrays):
        return terms.constant(np.concatenate([array for array in arrays if array is not None], dim))
    total = plus(*(extent_of(value.layout[dim]) for value in values))
    extents = tuple(extent_of(value.layout[dim]) for value in values)
    written = [
        value if array is None else terms.constant(np.ascontiguousarray(array))
        for value, array in zip(values, arrays, strict=True)
    ]  # as a file has it whose batch is fixed
    return along(terms, "concatenate", extents, written, dim, total)


def _whole_again(terms: Terms, values: Sequence[Value], dim: int) -> Sequence[Value]:
    """The values, where one goes on in a term where the one before it ends both as one slice of it."""
    found: list[Value] = []
    last: tuple[Value, Extent, Extent] | None = None
    for value in values:
        piece = _piece(value, dim)
        if piece is not None and last is not None and piece[:2] == (last[0], plus(last[1], last[2])):
            terms.use("concatenation-of-slices")
            piece = (last[0], last[1], plus(last[2], piece[2]))
            found[-1] = take(terms, piece[0], dim, piece[1], 1, piece[2])
        else:
            found.append(value)
        last = piece
    return found


def _piece(value: Value, dim: int) -> tuple[Value, Extent, Extent] | None:
    """Of what a value is a slice along a dimension, from where on, and of how many cells; else None."""
    if value.term.op != "take" or value.term.attributes[1] != 1:
        return None
    axis = _taken_axis(value)
    if value.layout[dim] != (() if axis is None else (axis,)):
        return None
    start, _, count = value.term.attributes
    return _source_along(value, dim, value.term.operands[0]), start, count  # type: ignore[return-value]


def pad(
    terms: Terms, value: Value, dim: int, before: Extent, after: Extent, mode: str, fill: Value | None
) -> Value:
    """The value with cells added at both ends of a dimension."""
    if mode == "constant":
        cut, before, after = _cut_off(before, after)
        count = minus(extent_of(value.layout[dim]), plus(*cut))
        if isinstance(count, int) and count < 1:
            raise Uninterpreted("padding that leaves no cells")
        value = take(terms, value, dim, cut[0], 1, count)
    elif any(not isinstance(size, int) or size < 0 for size in (before, after)):
        raise Uninterpreted("padding that cuts")
    if before == 0 and after == 0:
        return value
    total = plus(extent_of(value.layout[dim]), before, after)
    if fill is not None and (not fill.is_closed or fill.term.shape != ()):
        raise Uninterpreted("a computed padding value")
    extra = [] if fill is None else [Operand(fill.term, ())]
    return along(terms, "pad", (before, after, mode), [value], dim, total, extra)


def _cut_off(before: Extent, after: Extent) -> tuple[tuple[int, int], Extent, Extent]:
    """What padding below nothing cuts off at both ends, and the padding that is left."""
    sizes = [before, after]
    cut = [0, 0]
    for place, size in enumerate(sizes):
        if isinstance(size, int) and size < 0:
            cut[place], sizes[place] = -size, 0
    return (cut[0], cut[1]), sizes[0], sizes[1]


def without_zeros(value: Value, dim: int) -> tuple[Value, Extent, Extent] | None:
    """What zeros were added to at the ends of a dimension, and how many; None where none were."""
    found = _without_padding(value, dim)
    fill = value.term.operands[1].term if found is not None and len(value.term.operands) == 2 else None
    if fill is None or value.term.attributes[2] != "constant" or fill.rounded:
        return None
    return found if fill.array is not None and not fill.array.any() else None


def _without_padding(value: Value, dim: int) -> tuple[Value, Extent, Extent] | None:
    """What cells were added to at the ends of a dimension, and how many; None where none were."""
    term = value.term
    if term.op != "pad" or term.shape is None:
        return None
    before, after, _ = term.attributes
    axis, read = len(term.shape) - 1, term.operands[0]
    access = read.access or ()
    others = [parts for number, parts in enumerate(value.layout) if number != dim]
    if value.layout[dim] != plain_axis(axis, term.shape[axis]) or any(
        part.axis == axis for parts in others for part in parts
    ):
        return None
    layout = list(Operand(read.term, access[:-1]).value(tuple(others)).layout)
    layout.insert(dim, access[-1])
    return Value(term=read.term, known_layout=tuple(layout)), before, after  # type: ignore[return-value]


def along(
    terms: Terms,
    op: str,
    attributes: tuple[Hashable, ...],
    values: Sequence[Value],
    dim: int,
    extent: Extent,
    extra: Sequence[Operand] = (),
) -> Value:
    """An operator along one dimension that treats everything beside it alike."""
    free = [number for number in range(values[0].rank) if number != dim]
    slots = [aligned([value.layout[number] for value in values]) for number in free]
    known = [item for item in slots if item is not None]
    if len(known) < len(slots):
        raise Uninterpreted("views that cut across each other")
    join = joined(known)
    operands = [
        Operand(value.term, (*accesses(join.slots, number), value.layout[dim]))
        for number, value in enumerate(values)
    ]
    shape = tuple(slot.extent for slot in join.slots)
    kept = shape if extent == 1 else (*shape, extent)
    term = terms.term(op, tuple(attributes), [*operands, *extra], values[0].dtype, kept)
    arrays = [operand.term.array for operand in (*operands, *extra)]
    if all(array is not None and array.dtype.kind in "iub" for array in arrays) and is_folded(term):
        # integers that repeat along a free extent: what is stored of them is what comes of them
        term = terms.constant(folded(term).value.astype(numpy_type(term.dtype))).term
    layout = list(join.layout)
    layout.insert(dim, plain_axis(len(shape), extent))
    return Value(term=term, known_layout=tuple(layout))


def held_within(place: Any, extent: Extent, *, end: int) -> Extent:
    """A place along an axis as slices count it, from behind where negative, held within the axis.

    Args:
        place: the place.
        extent: the axis's.
        end: a place from which on each is behind an axis of any extent.
    """
    if isinstance(place, int) and isinstance(extent, int):
        return min(max(place + extent if place < 0 else place, 0), extent)
    if isinstance(place, int) and place >= end:
        return extent
    if place == 0 or place == extent:
        return place  # type: ignore[no-any-return]
    found = plus(extent, place) if isinstance(place, int) and place < 0 else place
    if _is_a_count(found) and _is_a_count(minus(extent, found)):  # at every size it is within
        return found
    raise Uninterpreted("a slice of a free extent")


def _is_a_count(extent: Extent) -> bool:
    """Whether an extent is known to be no less than nothing."""
    low = extent if isinstance(extent, int) else least(extent)
    return low is not None and low >= 0


def slice_count(start: Extent, end: Extent, step: int) -> Extent:
    """The number of cells from ``start`` to before ``end``."""
    count = ceiling_divided(minus(end, start), step)
    if isinstance(count, int):
        return max(count, 0)
    low = least(count)
    if low is not None and low < 0:
        raise Uninterpreted("a slice that may end before it starts")
    return count


def pieces(terms: Terms, value: Value, dim: int, sizes: Sequence[Extent]) -> list[Value]:
    """The value cut along a dimension into pieces of these sizes."""
    start: Extent = 0
    found = []
    for size in sizes:
        found.append(take(terms, value, dim, start, 1, size))
        start = plus(start, size)
    if start != extent_of(value.layout[dim]):
        raise Uninterpreted("pieces that are not the whole")
    return found
