"""Linear maps in a row, beside each other, and of what is scaled and shifted before them, as one map each.

People deploy models in which these were multiplied out: low-rank adapters, branches and residuals of a
convolution, weights of a norm. That is another order of sums, and some definitions are not told any more, so
it is tried where two graphs are not one as they are written (``Terms.merges``). The constants that come out
are terms of those that were read, and are held to what the roundings of a fold can make of these.

A *site* is a sum of products with a constant, or a convolution with one. Not in half precision, which what
stands between two sites may leave.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from fxexport.language.arithmetic import (
    LARGEST_FACTOR,
    add,
    is_clear,
    keeps_average,
    multiply,
    parts_of,
    rounds_little,
    scaled,
)
from fxexport.language.constants import elements, scalar, sizes
from fxexport.language.contraction import SITES, Labels, convolution, einsum, opened_sum, scaled_weights
from fxexport.language.extents import Extent
from fxexport.language.fold_rules import NotFolded
from fxexport.language.layout import Layout, Parts, Shape, behind, own_axes, plain
from fxexport.language.moves import along, concatenate, expand, squeeze
from fxexport.language.sliding_window import SlidingWindow
from fxexport.language.term import Operand, Term, Terms, Uninterpreted, Value, numpy_type
from fxexport.language.windows import reduce

_VISIBLE, _VISIBLE_SHORT = 2.0**-10, 2.0**-3
"""Share of what was multiplied out that is left at least: its roundings are 2^-14 of the rest then.

The latter in 16 bits, where they are 2^-6.
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """What a site computes, and a constant that is added.

    Attributes:
        source: what it reads. Of a sum the dimensions of what it gives and behind them those that are summed;
            of a convolution ``[N, C, *k]``.
        weight: over the same dimensions; ``[O, C/groups, *k]``.
        extents: of what it gives behind the channels, if it is a convolution.
        kinds: of each dimension that a sum gives whether source and weight lie along it.
        window: how a convolution slides; None for a sum.
        groups: of a convolution.
        shift: the constant, if there is one.
    """

    source: Value
    weight: Value
    extents: Shape = ()
    kinds: tuple[tuple[bool, bool], ...] = ()
    window: SlidingWindow | None = None
    groups: int = 1
    shift: Value | None = None

    def is_beside(self, other: _Site) -> bool:
        """Whether both read the same cells, but for their weights and windows."""
        same = self.source, self.extents, self.kinds, self.groups
        return same == (other.source, other.extents, other.kinds, other.groups)

    def place(self, dim: int) -> int | None:
        """Which dimension of its weights makes one of what it gives; None where they do not alone."""
        if self.window is None:
            return dim if self.kinds[dim] == (False, True) else None
        return 0 if dim == 1 and self.groups == 1 else None


def _site(terms: Terms, value: Value) -> _Site | None:
    """The site that gives a value, but for a factor and a summand; None where none does."""
    core, scale, shift = parts_of(value)
    if core.term.op not in SITES or value.dtype == "float16":
        return None
    data, stored = core.term.operands
    if data.term.is_closed or not stored.term.is_closed:
        return None
    found = _sum_of(core) if core.term.op == "dot" else _convolution_of(core)
    return found and _scaled(terms, found, value.rank, scale, shift)


def _sum_of(core: Value) -> _Site | None:
    found = opened_sum(core)
    return found and _Site(source=found[1], weight=found[2], kinds=tuple(found[0]))


def _convolution_of(core: Value) -> _Site | None:
    data, stored = core.term.operands
    batch, out, window, groups, _, extents = _attributes(core)
    is_plain = core.layout[1:] == own_axes((out, *extents), batch)
    if not is_plain or any(part.axis >= batch for part in core.layout[0]):
        return None
    access = data.access or ()
    slots = [parts[0] if parts else None for parts in access[:batch]]
    layout = (behind(core.layout[0], slots), *access[batch:])
    return _Site(
        source=Value(term=data.term, known_layout=layout),
        weight=Value(term=stored.term, known_layout=stored.access),
        extents=extents,
        window=window,
        groups=groups,
    )


def _attributes(core: Value) -> tuple[int, Extent, SlidingWindow, int, Shape, Shape]:
    """Those of a convolution: axes of samples, channels, window, groups, what it reads, and what it gives."""
    return core.term.attributes  # type: ignore[return-value]


def _scaled(terms: Terms, site: _Site, rank: int, scale: Value | None, shift: Value | None) -> _Site | None:
    """The site with its weights scaled; None where the scale changes along more than what they make."""
    site = dataclasses.replace(site, shift=shift)
    if scale is None:
        return site
    places = _ranked(scale, rank)
    made = [dim == 1 for dim in range(rank)] if site.window else [kind[1] for kind in site.kinds]
    if not keeps_average(scale, None) or any(places[dim] for dim in range(rank) if not made[dim]):
        return None
    kept = (places[1],) if site.window else places
    factor = scale.seen((*kept, *((),) * (site.weight.rank - len(kept))))
    return dataclasses.replace(site, weight=multiply(terms, site.weight, factor))


def _ranked(value: Value, rank: int) -> Layout:
    return ((),) * (rank - value.rank) + value.layout


def _given(terms: Terms, site: _Site, like: Value) -> Value:
    """What a site gives; a convolution's is ``like`` another value but for its channels and window."""
    if site.window is None:
        labels = list(range(site.source.rank))
        found = einsum(terms, site.source, labels, site.weight, labels, labels[: len(site.kinds)])
    else:
        core = parts_of(like)[0]
        batch, _, _, _, read, _ = _attributes(core)
        out = site.weight.shape[0]
        shape = *(core.term.shape or ())[:batch], *(e for e in (out, *site.extents) if e != 1)
        operands = [core.term.operands[0], Operand(site.weight.term, site.weight.layout)]
        attributes = batch, out, site.window, site.groups, read, site.extents
        term = terms.term("convolution", attributes, operands, like.dtype, shape)
        layout = core.layout[0], *own_axes((out, *site.extents), batch)
        found = Value(term=term, known_layout=layout)
    return found if site.shift is None else scaled(terms, found, shift=site.shift)


def product(
    terms: Terms, first: Value, labels: Labels, second: Value, others: Labels, result: Labels
) -> Value | None:
    """The sum of products over one map where one of both is a constant, and the other one made of a value."""
    sides = (first, labels), (second, others)
    if not {*labels} ^ {*others} <= {*result}:  # summed over one of both alone, which is no site
        return None
    try:
        if not (first.is_closed or second.is_closed):
            return None  # whose factors are moved once it is made
        (value, own), (weight, held) = sides if second.is_closed else reversed(sides)
        if not _is_made(value) or not _is_bounded(weight):
            return None
        return (
            _of_parts(terms, value, own, weight, held, result)
            or _of_sum(terms, value, own, weight, held, result)
            or _of_convolution(terms, value, own, weight, held, result)
        )
    except Uninterpreted:
        return None


def _is_made(value: Value) -> bool:
    """Whether it is a site, or something that is scaled or shifted, in a type that holds both."""
    return not value.is_closed and value.dtype != "float16" and value.term.op in (*SITES, "affine")


def _is_bounded(weight: Value) -> bool:
    """Whether no weight is so large that what stands between two sites leaves its type."""
    array = weight.term.array  # without a copy of it in float64
    if array is None:
        return keeps_average(weight, None)
    return bool(max(array.max(initial=0), -array.min(initial=0)) <= LARGEST_FACTOR)


def scaled_product(terms: Terms, value: Value, scale: Value) -> Value | None:
    """A product of two maps times a number as the product of the first that is a site with weights times it.

    So it is wherever the number was written: behind the product, at either of both, or in their weights.
    """
    term, number = value.term, scalar(scale)
    if term.op != "dot" or value.dtype == "float16" or number is None or number <= 0:
        return None  # a sign stays where sums and differences look for it
    if any(operand.term.is_closed for operand in term.operands):
        return None
    for place, operand in enumerate(term.operands):
        own = Value(term=operand.term, known_layout=plain(operand.term.shape or ()))
        core, factor, shift = parts_of(own)
        weighted = scaled_weights(terms, core, scale) if factor is None else None
        if weighted is None or weighted.known_layout != own.known_layout:
            continue
        terms.use("scale-of-bilinear")
        found = weighted if shift is None else scaled(terms, weighted, shift=multiply(terms, shift, scale))
        operands = list(term.operands)
        operands[place] = Operand(found.term, operand.access)
        made = terms.term("dot", term.attributes, operands, value.dtype, term.shape)
        return value.seen(value.layout) if made is term else Value(term=made, known_layout=value.layout)
    return None


def _of_parts(
    terms: Terms, value: Value, labels: Labels, weight: Value, others: Labels, result: Labels
) -> Value | None:
    core, scale, shift = parts_of(value)
    if core is value or not keeps_average(scale, shift):
        return None
    factor = weight
    if scale is not None:
        places = dict(zip(labels, _ranked(scale, len(labels)), strict=True))
        if any(parts and label not in others for label, parts in places.items()):
            return None
        factor = multiply(terms, weight, scale.seen(tuple(places.get(label, ()) for label in others)))
    constant = None
    if shift is not None:
        if not rounds_little(shift):
            return None
        own = shift.seen(_ranked(shift, len(labels)))
        constant = _constant(terms, own, labels, weight, others, result)
    terms.use("site-of-affine")
    found = einsum(terms, core, labels, factor, others, result)
    return found if constant is None else scaled(terms, found, shift=constant)


def _constant(
    terms: Terms, shift: Value, labels: Labels, weight: Value, others: Labels, result: Labels
) -> Value:
    """The sum of products with a constant that may repeat along what is summed."""
    summed = {*labels, *others} - {*result}
    if all(shift.layout[labels.index(label)] for label in summed):
        return einsum(terms, shift, labels, weight, others, result)
    every = [*(label for label in dict.fromkeys((*labels, *others)) if label not in summed), *summed]
    sides = [
        value.seen(tuple(value.layout[own.index(label)] if label in own else () for label in every))
        for value, own in ((shift, labels), (weight, others))
    ]
    kept = len(every) - len(summed)
    total = reduce(terms, "sum", multiply(terms, *sides), range(kept, len(every)), keep=False)
    return total.permuted([every.index(label) for label in result])


def _of_sum(
    terms: Terms, value: Value, labels: Labels, weight: Value, others: Labels, result: Labels
) -> Value | None:
    site = _site(terms, value)
    summed = {*labels, *others} - {*result}
    if site is None or site.window is not None or not _is_bounded(site.weight):
        return None
    kinds = dict(zip(labels, site.kinds, strict=True))
    cells = dict(zip(labels, value.layout, strict=True))
    if any(kinds.get(label) != (False, True) and cells.get(label) != () for label in summed):
        return None
    first = max(*labels, *others) + 1
    inner = range(first, first + site.source.rank - len(labels))
    held = [label for label, (_, is_held) in kinds.items() if is_held]
    kept = [label for label in dict.fromkeys((*held, *others)) if label not in summed]
    terms.use("site-of-site")
    kernel = _visible(einsum(terms, site.weight, [*labels, *inner], weight, others, [*kept, *inner]))
    left = [place for place, label in enumerate(labels) if label not in summed]
    source = site.source.seen((*(site.source.layout[k] for k in left), *site.source.layout[len(labels) :]))
    return einsum(terms, source, [*(labels[k] for k in left), *inner], kernel, [*kept, *inner], result)


def _of_convolution(
    terms: Terms, value: Value, labels: Labels, weight: Value, others: Labels, result: Labels
) -> Value | None:
    """Channels of a convolution mixed in each cell."""
    site = _site(terms, value)
    made = [label for label in others if label not in labels]
    if site is None or site.window is None or site.groups != 1 or not _is_bounded(site.weight):
        return None
    base = [labels[0], *made, *labels[2:]]
    if len(made) != 1 or {*others} != {*made, labels[1]} or {*base} != {*result}:
        return None
    mixed = weight.permuted([others.index(made[0]), others.index(labels[1])])
    cells = list(range(2, site.weight.rank + 1))
    terms.use("site-of-site")
    kernel = _visible(einsum(terms, mixed, [0, 1], site.weight, [1, *cells], [0, *cells]))
    found = _given(terms, dataclasses.replace(site, weight=kernel), value)
    return found.permuted([base.index(label) for label in result])


def convolved(terms: Terms, value: Value, weight: Value, window: SlidingWindow, groups: int) -> Value | None:
    """A convolution over one map, of what is scaled and shifted, or mixed in each cell; None of other values.

    A shift is none of the zeros around the map.
    """
    try:
        if not (_is_made(value) and weight.is_closed and groups == 1 and _is_bounded(weight)):
            return None
        if parts_of(value)[0] is not value:
            return _convolved_parts(terms, value, weight, window)
        site = _site(terms, value)
        inner = None if site is None or site.window is not None else _as_convolution(site)
        if inner is None or not _is_bounded(inner.weight):
            return None
        cells = list(range(3, weight.rank + 1))
        mixed = inner.weight.seen(inner.weight.layout[:2])
        kernel = _visible(einsum(terms, weight, [0, 1, *cells], mixed, [1, 2], [0, 2, *cells]))
        terms.use("site-of-site")
        return convolution(terms, inner.source, kernel, None, window, groups)
    except Uninterpreted:
        return None


def _convolved_parts(terms: Terms, value: Value, weight: Value, window: SlidingWindow) -> Value | None:
    core, scale, shift = parts_of(value)
    if shift is not None and (window.is_padded or not rounds_little(shift)):
        return None
    if not keeps_average(scale, shift):
        return None

    def times(item: Value) -> Value:
        samples, channels, *cells = _ranked(item, value.rank)
        if samples or any(cells):
            raise Uninterpreted("what is not one along the cells of a window")
        return multiply(terms, weight, item.seen(((), channels, *cells)))

    found = convolution(terms, core, weight if scale is None else times(scale), None, window, 1)
    if shift is not None:
        total = reduce(terms, "sum", times(shift), range(1, weight.rank), keep=True)
        found = scaled(terms, found, shift=squeeze(total, [1]))
    terms.use("site-of-affine")
    return found


def _as_convolution(site: _Site) -> _Site | None:
    """A sum over channels as a convolution of one cell; None for another one."""
    rank = len(site.kinds)
    kinds = (True, False), (False, True), *[(True, False)] * (rank - 2)
    if rank < 3 or site.kinds != kinds or site.source.rank != rank + 1:
        return None
    cells = rank - 2
    source = site.source.permuted([0, rank, *range(2, rank)])
    return dataclasses.replace(
        site,
        source=source,
        weight=site.weight.seen((site.weight.layout[1], site.weight.layout[rank], *((),) * cells)),
        extents=source.shape[2:],
        kinds=(),
        window=SlidingWindow.of((1,) * cells),
    )


def summed(terms: Terms, items: Sequence[Value]) -> list[Value]:
    """The summands, joined where they are linear maps of one value, or such a map and the value itself."""
    found: list[Value] = []
    for item in items:
        for place, other in enumerate(found):
            whole = _united(terms, other, item) or _united(terms, item, other)
            if whole is not None:
                terms.use("sum-of-sites")
                found[place] = whole
                break
        else:
            found.append(item)
    return found


def _read(value: Value) -> Term | None:
    core = parts_of(value)[0]
    return core.term.operands[0].term if core.term.op in SITES else None


def _united(terms: Terms, first: Value, second: Value) -> Value | None:
    read, core = _read(first), parts_of(second)[0]
    if read is None or read not in (_read(second), core.term, second.term):
        return None
    try:
        one = _site(terms, first)
        if one is None:
            return None
        for two in (_site(terms, second), *_itself(terms, second, one)):
            found = None if two is None else _sum_of_both(terms, (one, first), (two, second))
            if found is not None:
                return found
    except Uninterpreted:
        pass
    return None


def _sum_of_both(terms: Terms, *sides: tuple[_Site, Value]) -> Value | None:
    sides = tuple(sorted(sides, key=lambda side: side[0].window is None))
    (one, like), (two, _) = sides
    if one.window is not None and two.window is None:
        two = _as_convolution(two) or two
    if not one.is_beside(two):
        return None
    if one.window is not None and two.window is not None:
        window = _around(one.window, two.window)
        if window is None:
            return None
        one, two = (
            dataclasses.replace(site, weight=_filled(terms, site, window), window=window)
            for site in (one, two)
        )
    shifts = [site.shift for site in (one, two) if site.shift is not None]
    shift = add(terms, *shifts) if len(shifts) > 1 else next(iter(shifts), None)
    if len(shifts) > 1 and not is_clear(shift, *shifts):
        return None
    weight = _visible(add(terms, one.weight, two.weight))
    return _given(terms, dataclasses.replace(one, weight=weight, shift=shift), like)


def _visible(weight: Value) -> Value:
    """The weight, if no row and no column of it is what two sites leave that cancel.

    There, roundings of what cancels may be all that the two sites give, and the one that they are merged to
    has none of them.

    Raises:
        Uninterpreted: one is.
    """
    try:
        values, most = elements(weight).value, sizes(weight)
    except NotFolded as error:
        raise Uninterpreted("weights that are not evaluated") from error
    least = _VISIBLE if weight.dtype in ("float32", "float64") else _VISIBLE_SHORT
    axes = [axis for axis, extent in enumerate(values.shape) if extent > 1]
    for axis in axes if len(axes) > 1 else (None,):
        others = tuple(k for k in range(values.ndim) if k != axis)
        norm, largest = (np.sqrt(np.square(array).sum(others)) for array in (values, most))
        if not np.all(norm >= least * largest):
            raise Uninterpreted("weights that cancel")
    return weight


def _itself(terms: Terms, value: Value, beside: _Site) -> Iterator[_Site]:
    """A value that another site reads as a site over it, with ones for each channel's own."""
    dims = [1] if beside.window else [dim for dim in range(value.rank) if beside.place(dim) is not None]
    for core, scale, shift in (parts_of(value), (value, None, None)) if len(dims) == 1 else ():
        layout: list[Parts] = list(core.layout)
        if not beside.window:
            layout.append(layout[dims[0]])
            layout[dims[0]] = ()
        channels = core.shape[dims[0]] if core.seen(tuple(layout)) == beside.source else None
        if not isinstance(channels, int):
            continue
        group = channels // beside.groups
        ones = np.equal.outer(np.arange(channels) % group, np.arange(group))
        weight = terms.constant(ones.astype(numpy_type(value.dtype)))
        cells = core.rank - 2
        held: list[Parts] = [*weight.layout, *((),) * cells]
        if beside.window:
            own = dataclasses.replace(beside, extents=core.shape[2:], window=SlidingWindow.of((1,) * cells))
        else:
            held = [*((),) * core.rank, weight.layout[1]]
            held[dims[0]] = weight.layout[0]
            own = beside
        own = dataclasses.replace(own, weight=weight.seen(tuple(held)))
        site = _scaled(terms, own, value.rank, scale, shift)
        if site is not None:
            yield site


def _around(one: SlidingWindow, two: SlidingWindow) -> SlidingWindow | None:
    """The least window that reads the cells of both; None where they stop elsewhere or lie between."""
    axes: list[tuple[int, tuple[int, int], int]] = []
    for (k, first, more, gap), (m, start, rest, step) in zip(_axes(one), _axes(two), strict=True):
        last, end = gap * (k - 1) - first, step * (m - 1) - start
        before, after = max(first, start), max(last, end)
        apart = gap if k > 1 else step
        gaps = before - first, before - start, after + before
        if (k > 1 and m > 1 and gap != step) or any(item % apart for item in gaps):
            return None
        size = (after + before) // apart + 1
        pads = before, max(more + after - last, rest + after - end)
        axes.append((size, pads, apart if size > 1 else 1))
    if one.stride != two.stride:
        return None
    kernel, padding, dilation = zip(*axes, strict=True)
    return SlidingWindow.of(kernel, one.stride, padding, dilation)


def _axes(window: SlidingWindow) -> Iterator[tuple[int, int, int, int]]:
    """Along each axis the cells, the padding before and behind, and the gap."""
    for size, (before, after), gap in zip(window.kernel, window.padding, window.dilation, strict=True):
        if not (isinstance(size, int) and isinstance(before, int) and isinstance(after, int)):
            raise Uninterpreted("a window of free extents")
        yield size, before, after, gap


def _filled(terms: Terms, site: _Site, window: SlidingWindow) -> Value:
    """Weights over a larger window, with zeros where there were none."""
    weight = site.weight
    assert site.window is not None
    pairs = zip(_axes(window), _axes(site.window), strict=True)
    for dim, ((size, before, _, gap), (own, start, _, _)) in enumerate(pairs, 2):
        first = (before - start) // gap
        parts = [
            _zeros(terms, weight, dim, first),
            weight,
            _zeros(terms, weight, dim, size - own - first),
        ]
        weight = concatenate(terms, [part for part in parts if part is not None], dim)
    return weight


def _zeros(terms: Terms, like: Value, dim: int, count: int) -> Value | None:
    shape = [count if axis == dim else int(str(extent)) for axis, extent in enumerate(like.shape)]
    return terms.constant(np.zeros(shape, numpy_type(like.dtype))) if count else None


def taken(terms: Terms, value: Value, dim: int, start: Extent, step: int, count: Extent) -> Value | None:
    """Cells along what a site's weights make, of which the others are left out; None along another one."""

    def cells(item: Value, along_it: int) -> Value:  # not written out, which would be over other axes
        return along(terms, "take", (start, step, count), [item], along_it, count)

    try:
        site = _site(terms, value)
        place = None if site is None else site.place(dim)
        if site is None or place is None:
            return None
        shift = site.shift
        if shift is not None:
            shift = shift.seen(_ranked(shift, value.rank))
            shift = cells(shift, dim) if shift.layout[dim] else shift
        terms.use("slice-of-site")
        return _given(terms, dataclasses.replace(site, weight=cells(site.weight, place), shift=shift), value)
    except Uninterpreted:
        return None


def joined(terms: Terms, values: Sequence[Value], dim: int) -> Value | None:
    """Sites of one value joined along what their weights make; None of other values."""
    try:
        sites = [_site(terms, value) for value in values]
        first = sites[0]
        place = None if first is None else first.place(dim)
        known = [site for site in sites if site is not None]
        if first is None or place is None or len(known) < len(sites):
            return None
        if any(not first.is_beside(site) or site.window != first.window for site in known):
            return None
        shift = _joined_shifts(terms, known, values, dim)
        terms.use("concatenation-of-sites")
        weight = concatenate(terms, [site.weight for site in known], place)
        return _given(terms, dataclasses.replace(first, weight=weight, shift=shift), values[0])
    except Uninterpreted:
        return None


def _joined_shifts(terms: Terms, sites: Sequence[_Site], values: Sequence[Value], dim: int) -> Value | None:
    if all(site.shift is None for site in sites):
        return None
    rank = values[0].rank
    vectors: list[Value] = []
    for site, value in zip(sites, values, strict=True):
        shift = site.shift or terms.real(0.0, value.dtype)
        places = _ranked(shift, rank)
        if any(parts for axis, parts in enumerate(places) if axis != dim):
            raise Uninterpreted("shifts along several dimensions")
        vectors.append(expand(shift.seen((places[dim],)), [value.shape[dim]]))
    whole = concatenate(terms, vectors, 0)
    return whole.seen((*((),) * dim, *whole.layout, *((),) * (rank - dim - 1)))
