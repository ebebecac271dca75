"""Products that sum: linear layers, matrix products, convolutions that are one, and those that are not.

A linear layer, a ``Gemm``, a ``MatMul`` and a convolution of one cell or over a whole map are one term: a sum
over the axes that both operands share. What a batch norm or a scale does to the outputs of a site with
constant weights is done to the weights.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from fxexport.language.arithmetic import (
    are_moderate,
    keeps_average,
    multiply,
    over_axes,
    parts_of,
    plus_within,
    rounds_little,
    scaled,
)
from fxexport.language.constants import elements
from fxexport.language.extents import Extent, divided, minus, plus, size_at_sample, times
from fxexport.language.fold_rules import NotFolded
from fxexport.language.foreign import foreign
from fxexport.language.layout import (
    Layout,
    Part,
    Parts,
    Slot,
    accesses,
    behind,
    extent_of,
    joined,
    merged,
    own_axes,
    repeated,
)
from fxexport.language.maps import slots_of
from fxexport.language.moves import reshape, squeeze, take, unsqueeze, without_zeros
from fxexport.language.sliding_window import SlidingWindow
from fxexport.language.term import Operand, Term, Terms, Uninterpreted, Value

Labels = Sequence[int]


def einsum(
    terms: Terms, first: Value, labels: Labels, second: Value, others: Labels, result: Labels
) -> Value:
    """The sum over the labels that are not in the result of the product of both values."""
    if not first.is_float or first.dtype != second.dtype:
        raise Uninterpreted("a product of other types")
    if terms.merges:
        from fxexport.language import merging

        merged = merging.product(terms, first, labels, second, others, result)
        if merged is not None:
            return merged
    factors: list[Value] = []
    values: list[Value] = []
    for value in (first, second):
        core, scale, shift = parts_of(value)
        is_factor = shift is None and scale is not None and scale.is_scalar and value.dtype != "float16"
        is_factor = is_factor and are_moderate(*([] if scale is None else [scale]))
        if core is not value and is_factor and scale is not None:
            terms.use("scale-of-bilinear")
            factors.append(scale)
            value = core
        values.append(value)
    first, second = values
    if _order(first) > _order(second):
        terms.use("product-commutes")
        first, labels, second, others = second, others, first, labels
    product = _of_patches(terms, first, labels, second, others, result)
    if product is None:
        product = _contracted(terms, first, labels, second, others, result)
    for factor in factors:
        product = scaled(terms, product, scale=factor)
    return product


def _order(value: Value) -> tuple[bool, bool, str]:
    """What is stored stands behind what is computed; two constants as they were written."""
    return value.is_closed, value.term.array is not None, "" if value.is_closed else value.term.skeleton


def _contracted(
    terms: Terms, first: Value, labels: Labels, second: Value, others: Labels, result: Labels
) -> Value:
    summed = sorted((set(labels) | set(others)) - set(result))

    def slots(label: int) -> tuple[Slot, ...]:
        left = first.layout[labels.index(label)] if label in labels else ()
        right = second.layout[others.index(label)] if label in others else ()
        return slots_of([left, right])

    out = joined([slots(label) for label in result])
    inner = joined([slots(label) for label in summed])
    pieces = [slot for label in summed for slot in slots(label)]
    if any(None in slot.parts for slot in pieces):
        raise Uninterpreted("a sum along which a value only repeats, or one value is missing")
    axes = (*out.slots, *inner.slots)
    operands = [Operand(first.term, accesses(axes, 0)), Operand(second.term, accesses(axes, 1))]
    shape = tuple(slot.extent for slot in out.slots)
    term = terms.term("dot", (len(out.slots),), operands, first.dtype, shape)
    return Value(term=term, known_layout=out.layout)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A stretch of a label's dimension.

    Attributes:
        number: its place among all of them.
        label: whose it is.
        read: what it walks of the first operand's term; nothing where that repeats.
        held: the same of the second.
        extent: how long it is.
    """

    number: int
    label: int
    read: Parts
    held: Parts
    extent: Extent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Slid:
    """An axis that a window slides along.

    Attributes:
        walked: what the axis is of a term.
        cells: those of the window.
        places: of the window.
        gap: how far neighbouring cells lie apart.
        step: how far neighbouring places do.
    """

    walked: Parts
    cells: _Piece
    places: _Piece
    gap: int
    step: int


def _of_patches(
    terms: Terms, first: Value, labels: Labels, second: Value, others: Labels, result: Labels
) -> Value | None:
    """The sum over windows of a map as the convolution that it is; None of another sum."""
    if first.term.op != "slide" or not second.is_closed:
        return None
    source, pieces, axes = first.term, _pieces((first, labels), (second, others)), list[_Slid]()
    while source.op == "slide":
        found = _opened_slide(source, pieces, axes, result)
        if found is None:
            return None
        source, pieces, axes = found
    pieces, blocks = _blocks(pieces, result)
    axes = sorted([*axes, *blocks], key=_place_of)
    channels = [piece for piece in pieces if piece.label not in result]
    left = [piece for piece in pieces if piece.label in result]
    samples, made = ([piece for piece in left if bool(piece.held) is is_held] for is_held in (False, True))
    is_site = all(piece.read and piece.held for piece in channels) and not any(piece.read for piece in made)
    if not is_site:
        return None
    rows = tuple(part for piece in samples for part in piece.read or repeated(piece.extent))
    sums = tuple(part for piece in channels for part in piece.read)
    value = Value(term=source, known_layout=(rows, sums, *(axis.walked for axis in axes)))
    outputs, inputs = (tuple(part for p in items for part in p.held) for items in (made, channels))
    cells = (axis.cells.held or repeated(axis.cells.extent) for axis in axes)
    weight = Value(term=second.term, known_layout=(outputs, inputs, *cells))
    sizes, steps = [axis.cells.extent for axis in axes], [axis.step for axis in axes]
    window = SlidingWindow.of(sizes, steps, dilation=[axis.gap for axis in axes])
    if window.places(value.shape[2:]) != tuple(axis.places.extent for axis in axes):
        return None
    terms.use("site-of-patches")
    product = convolution(terms, value, weight, None, window, 1)
    order = [*samples, *made, *(axis.places for axis in axes)]
    given = reshape(terms, product, [piece.extent for piece in order])
    layouts = sorted(zip(order, given.layout, strict=True), key=lambda pair: pair[0].number)
    own = ([part for p, parts in layouts if p.label == label for part in parts] for label in result)
    return given.seen(tuple(map(merged, own)))


def _pieces(*operands: tuple[Value, Labels]) -> list[_Piece]:
    """All labels' dimensions, cut where either operand changes parts."""
    found: list[_Piece] = []
    for label in dict.fromkeys(label for _, own in operands for label in own):
        dimension = [value.layout[own.index(label)] if label in own else () for value, own in operands]
        for slot in slots_of(dimension):
            read, held = (() if part is None else (part,) for part in slot.parts)
            found.append(_Piece(number=len(found), label=label, read=read, held=held, extent=slot.extent))
    return found


def _place_of(axis: _Slid) -> list[tuple[int, int]]:
    """Where weights have it: a kernel's axes are in the order of the map's."""
    return [(part.axis, -size_at_sample(part.stride)) for part in axis.cells.held]


def _blocks(pieces: Sequence[_Piece], result: Labels) -> tuple[list[_Piece], list[_Slid]]:
    """Axes of windows that lie beside each other, or each in steps through the others, and what is left."""
    found, left = list[_Slid](), [*pieces]
    for cells, places in itertools.product(pieces, repeat=2):
        is_window = cells.label not in result and places.label in result and not places.held
        if not is_window or not len(cells.read) == len(places.read) == 1:
            continue
        (own,), (other,) = cells.read, places.read
        beside, through = merged((other, own)), merged((own, other))
        if own.axis == other.axis and len(beside) == 1 and own.stride == 1 and isinstance(own.extent, int):
            window = _Slid(walked=beside, cells=cells, places=places, gap=1, step=own.extent)
        elif own.axis == other.axis and len(through) == other.stride == 1 and isinstance(other.extent, int):
            window = _Slid(walked=through, cells=cells, places=places, gap=other.extent, step=1)
        else:
            continue
        found.append(window)
        left = [piece for piece in left if piece not in (cells, places)]
    return left, found


def _opened_slide(
    term: Term, pieces: Sequence[_Piece], axes: Sequence[_Slid], result: Labels
) -> tuple[Term, list[_Piece], list[_Slid]] | None:
    """What a slide reads, and the pieces and axes of that; None where its cells are not what is summed."""
    size, gap, step, count = term.attributes
    last = len(term.shape or ()) - 1
    own = [piece for piece in pieces if any(part.axis == last for part in piece.read)]
    cells, places = (
        next((piece for piece in own if piece.read == (Part(last, *part),)), None)  # type: ignore[arg-type]
        for part in ((count, size), (1, count))
    )
    if cells is None or places is None or len(own) > 2 or cells.label in result:
        return None
    if places.label not in result or places.held:
        return None
    (operand,) = term.operands
    access = operand.access or ()
    slots = [*(parts[0] if parts else None for parts in access[:-1]), None]

    def moved(parts: Parts) -> Parts:
        return tuple(part for part in behind(parts, slots) if not part.is_repeated)

    window = _Slid(walked=access[-1], cells=cells, places=places, gap=gap, step=step)  # type: ignore[arg-type]
    return (
        operand.term,
        [dataclasses.replace(p, read=moved(p.read)) for p in pieces if p not in (cells, places)],
        [window, *(dataclasses.replace(axis, walked=moved(axis.walked)) for axis in axes)],
    )


_ELLIPSIS = 0xE000
"""Letters that no equation has, for the dimensions that three dots stand for."""


def spelled_sum(terms: Terms, equation: str, values: Sequence[Value]) -> Value:
    """The sum that an equation such as ``bk,ok->bo`` or ``...k,ok->...o`` spells, from left to right."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    names = left.split(",")
    rest = {
        value.rank - len(n.replace("...", "")) for n, value in zip(names, values, strict=False) if "." in n
    }
    if len(rest) == 1 and "..." in right:
        letters = "".join(map(chr, range(_ELLIPSIS, _ELLIPSIS + max(rest.pop(), 0))))
        names, right = [n.replace("...", letters, 1) for n in names], right.replace("...", letters, 1)
    if (
        not len(values) == len(names) > 1
        or not arrow
        or "." in "".join((*names, right))
        or any(len(set(n)) != len(n) for n in (*names, right))
    ):
        raise Uninterpreted("another sum")
    labels = [[ord(c) for c in name] for name in (*names, right)]
    if [len(own) for own in labels[:-1]] != [value.rank for value in values]:
        raise Uninterpreted("another rank")
    found, own = values[0], labels[0]
    for place, value in enumerate(values[1:], 1):
        later = {label for item in labels[place + 1 :] for label in item}
        kept = [label for label in dict.fromkeys((*own, *labels[place])) if label in later]
        kept = labels[-1] if place == len(values) - 1 else kept
        if {*own, *labels[place]} <= {*kept}:  # nothing is summed
            found = multiply(
                terms, *(_along(item, on, kept) for item, on in ((found, own), (value, labels[place])))
            )
        else:
            found = einsum(terms, found, own, value, labels[place], kept)
        own = kept
    return found


def _along(value: Value, labels: Labels, result: Labels) -> Value:
    """The value with its dimensions in the order of the result's, and new ones for those that it lacks."""
    ordered = value.permuted([labels.index(label) for label in result if label in labels])
    return unsqueeze(ordered, [place for place, label in enumerate(result) if label not in labels])


def linear(terms: Terms, value: Value, weight: Value, bias: Value | None) -> Value:
    """``value[..., K]`` times ``weight[O, K]`` transposed, plus the bias."""
    batch = list(range(value.rank - 1))
    k, o = value.rank, value.rank + 1
    terms.use("linear-as-sum")
    product = einsum(terms, value, [*batch, k], weight, [o, k], [*batch, o])
    return product if bias is None else plus_within(terms, product, bias)


def matmul(terms: Terms, first: Value, second: Value) -> Value:
    """The matrix product as numpy broadcasts it."""
    if first.rank == 1 or second.rank == 1:
        left = unsqueeze(first, [0]) if first.rank == 1 else first
        right = unsqueeze(second, [1]) if second.rank == 1 else second
        product = matmul(terms, left, right)
        dims = [product.rank - 1] if second.rank == 1 else []
        return squeeze(product, [*dims, *([product.rank - 2] if first.rank == 1 else [])])
    terms.use("matmul-as-sum")
    rank = max(first.rank, second.rank)
    batch = list(range(rank - 2))
    m, k, n = rank, rank + 1, rank + 2
    labels = [*batch[rank - first.rank :], m, k]
    others = [*batch[rank - second.rank :], k, n]
    return einsum(terms, first, labels, second, others, [*batch, m, n])


def convolution(
    terms: Terms, value: Value, weight: Value, bias: Value | None, window: SlidingWindow, groups: int
) -> Value:
    """``value[N, C, *k]`` convolved with ``weight[O, C/groups, *k]``, plus the bias along ``O``."""
    spatial = value.rank - 2
    if spatial < 1 or weight.rank != value.rank or weight.shape[2:] != window.kernel:
        raise Uninterpreted("a convolution of other ranks")
    if times(extent_of(weight.layout[1]), groups) != extent_of(value.layout[1]):
        raise Uninterpreted("a convolution over other channels")
    product = _as_sum(terms, value, weight, window) if groups == 1 else None
    if product is None:
        value, window = with_zeros_as_padding(terms, value, window)
        product = _merged_convolution(terms, value, weight, window, groups)
    if product is None:
        product = _windows(terms, value, weight, window, groups)
    if bias is None:
        return product
    return plus_within(terms, product, unsqueeze(bias, list(range(1, spatial + 1))))


def _merged_convolution(
    terms: Terms, value: Value, weight: Value, window: SlidingWindow, groups: int
) -> Value | None:
    if not terms.merges:
        return None
    from fxexport.language import merging

    return merging.convolved(terms, value, weight, window, groups)


def transposed_convolution(
    terms: Terms, value: Value, weight: Value, bias: Value | None, window: SlidingWindow, groups: int
) -> Value:
    """Every cell of ``value[N, C, *k]`` spread by ``weight[C, O/groups, *k]``, plus the bias along ``O``.

    The window's padding says how many cells of the sum are left out at both ends; fewer than none adds some.

    Source:
        ``torch.nn.ConvTranspose2d``; ONNX ``ConvTranspose``, whose ``output_padding`` adds cells behind, too.
    """
    spatial = value.rank - 2
    if spatial < 1 or weight.rank != value.rank or weight.shape[0] != value.shape[1]:
        raise Uninterpreted("a transposed convolution of other ranks")
    extents = [
        minus(plus(times(minus(extent, 1), step), times(minus(size, 1), gap), 1), plus(*pair))
        for extent, size, step, pair, gap in window.axes(value.shape[2:])
    ]
    dims = value.shape[0], times(weight.shape[1], groups), *extents
    key = "transposed convolution", window, groups
    (spread,) = foreign(terms, key, [value, weight], [(value.dtype, dims)], is_random=False)
    return (
        spread if bias is None else plus_within(terms, spread, unsqueeze(bias, list(range(1, spatial + 1))))
    )


def with_zeros_as_padding(terms: Terms, value: Value, window: SlidingWindow) -> tuple[Value, SlidingWindow]:
    """What a window slides over without zeros that were put around it, and padding by as many more."""
    pairs = list(window.padding)
    place = 0
    while place < len(pairs):
        found = without_zeros(value, value.rank - len(pairs) + place)
        if found is None:
            place += 1
            continue
        terms.use("zeros-as-padding")
        value, before, after = found
        pairs[place] = (plus(pairs[place][0], before), plus(pairs[place][1], after))
        place = 0  # zeros may have been put along another axis before
    return value, dataclasses.replace(window, padding=tuple(pairs))


def _as_sum(terms: Terms, value: Value, weight: Value, window: SlidingWindow) -> Value | None:
    """The convolution as a sum where no window overlaps another: of one cell, or over the whole map."""
    extents, spatial, o = value.shape[2:], range(2, value.rank), value.rank
    if window.is_padded or set(window.dilation) != {1}:
        return None
    is_still = all(1 in (step, extent) for extent, _, step, *_ in window.axes(extents))
    if all(size == 1 for size in window.kernel) and (
        is_still or not terms.merges
    ):  # which joins those that step
        terms.use("convolution-of-one-cell")
        for dim, step, count in zip(spatial, window.stride, window.places(extents), strict=True):
            value = take(terms, value, dim, 0, step, count) if step > 1 else value
        kept = squeeze(weight, list(spatial))
        return einsum(terms, value, [0, 1, *spatial], kept, [o, 1], [0, o, *spatial])
    counts = [divided(extent, size) for extent, size in zip(extents, window.kernel, strict=True)]
    if window.kernel == window.stride and window.kernel != extents and None not in counts:
        return _of_blocks(terms, value, weight, [count for count in counts if count is not None])
    if window.kernel == extents:
        terms.use("convolution-over-map")
        product = einsum(terms, value, [0, 1, *spatial], weight, [o, 1, *spatial], [0, o])
        return unsqueeze(product, list(spatial))
    return None


def _of_blocks(terms: Terms, value: Value, weight: Value, counts: Sequence[Extent]) -> Value:
    """The sum over windows that lie beside each other, as tokens are made of an image."""
    pairs = [extent for pair in zip(counts, weight.shape[2:], strict=True) for extent in pair]
    split = reshape(terms, value, [*value.shape[:2], *pairs])
    places, cells, out = range(2, split.rank, 2), range(3, split.rank, 2), split.rank
    terms.use("convolution-of-blocks")
    return einsum(terms, split, range(out), weight, [out, 1, *cells], [0, out, *places])


def _windows(terms: Terms, value: Value, weight: Value, window: SlidingWindow, groups: int) -> Value:
    if value.dtype != weight.dtype or not value.is_float:
        raise Uninterpreted("a convolution of other types")
    batch = joined([slots_of([value.layout[0]])])
    left = accesses(batch.slots)
    extents = window.places(value.shape[2:])
    out = extent_of(weight.layout[0])
    shape = (*(slot.extent for slot in batch.slots), *(e for e in (out, *extents) if e != 1))
    pairs = zip(window.stride, extents, strict=True)
    gaps = zip(window.dilation, window.kernel, strict=True)
    window = dataclasses.replace(
        window,
        stride=tuple(1 if extent == 1 else step for step, extent in pairs),
        dilation=tuple(1 if size == 1 else gap for gap, size in gaps),
    )
    attributes = (len(left), out, window, groups, value.shape[1:], extents)
    operands = [Operand(value.term, (*left, *value.layout[1:])), Operand(weight.term, weight.layout)]
    term = terms.term("convolution", attributes, operands, value.dtype, shape)
    return Value(term=term, known_layout=(*batch.layout, *own_axes((out, *extents), len(left))))


SITES = ("dot", "convolution")
"""Operators that sum products with weights."""


def scaled_weights(terms: Terms, value: Value, scale: Value, *, is_held: bool = False) -> Value | None:
    """The site with its weights scaled, where the scale runs over its outputs alone; else None.

    Args:
        terms: the table.
        value: what the site gives.
        scale: what it is multiplied by.
        is_held: whether its type is known to hold what either gives.
    """
    if value.term.op not in SITES:
        return None
    weight = value.term.operands[1]
    if not weight.term.is_closed or value.term.operands[0].term.is_closed:
        return None
    if weight.term.array is None and not are_moderate(Value(term=weight.term, known_layout=()), scale):
        return None  # scaled once already
    placed = over_axes(value, scale)
    if placed is None or not (is_held or _leads_out(scale)):
        return None
    if value.term.op == "convolution":
        return _scaled_convolution(terms, value, placed)
    outputs: int = value.term.attributes[0]  # type: ignore[assignment]
    access = weight.access or ()
    own = [axis for axis in range(outputs) if access[axis]]
    if any(parts for axis, parts in enumerate(placed.layout) if axis not in own):
        return None
    walked = [axis for axis in range(len(access)) if access[axis]]
    factor = placed.seen(tuple(placed.layout[axis] if axis in own else () for axis in walked))
    stored = Value(term=weight.term, known_layout=tuple(access[axis] for axis in walked))
    product = multiply(terms, stored, factor)
    if any(len(parts) != 1 for parts in product.layout):
        return None
    found = dict(zip(walked, product.layout, strict=True))
    operand = Operand(product.term, tuple(found.get(axis, ()) for axis in range(len(access))))
    term = terms.term(
        "dot", value.term.attributes, [value.term.operands[0], operand], value.dtype, value.term.shape
    )
    return value.seen(value.layout) if term is value.term else Value(term=term, known_layout=value.layout)


def _leads_out(scale: Value) -> bool:
    """Whether what a site gives leaves its type only where the scale times that does: in half precision."""
    if scale.dtype != "float16":
        return True
    try:
        return bool((abs(elements(scale).value) >= 1).all())
    except NotFolded:
        return False


def _scaled_convolution(terms: Terms, value: Value, placed: Value) -> Value | None:
    data, weight = value.term.operands
    axis: int = value.term.attributes[0]  # type: ignore[assignment]
    if value.term.attributes[1] == 1 or any(parts for a, parts in enumerate(placed.layout) if a != axis):
        return None
    stored = Value(term=weight.term, known_layout=weight.access)
    factor = placed.seen((placed.layout[axis], *((),) * (stored.rank - 1)))
    product = multiply(terms, stored, factor)
    operand = Operand(product.term, product.layout)
    term = terms.term("convolution", value.term.attributes, [data, operand], value.dtype, value.term.shape)
    return Value(term=term, known_layout=value.layout)


def before_sites(terms: Terms, value: Value, dims: Sequence[int], apply: Callable[[Value], Value]) -> Value:
    """A linear operator along dimensions that no site sums over or makes, done before the sites.

    Args:
        terms: the table.
        value: what the operator reads.
        dims: the dimensions along which it works.
        apply: the operator; it keeps the number of dimensions and a constant along ``dims`` as it is.
    """
    core, scale, shift = parts_of(value)
    if is_alike_along(value, dims):
        terms.use("average-of-affine")
        inner = before_sites(terms, core, dims, apply)
        return scaled(terms, inner, scale=scale, shift=shift)
    if value.term.op == "dot" and value.term.operands[1].term.is_closed and value.dtype != "float16":
        moved = _before_dot(terms, value, dims, apply)
        if moved is not None:
            terms.use("average-of-site")
            return moved
    return apply(value)


def is_alike_along(value: Value, dims: Sequence[int]) -> bool:
    """Whether a core is scaled or shifted alike in all cells along the dimensions, and within its type."""
    _, scale, shift = parts_of(value)
    closed = [item for item in (scale, shift) if item is not None]
    layouts: list[Layout] = [((),) * (value.rank - item.rank) + item.layout for item in closed]
    is_alike = not any(layout[dim] for layout in layouts for dim in dims)
    return bool(closed) and is_alike and keeps_average(scale, shift)


def _is_scaled_along(value: Value, scale: Value | None, dim: int) -> bool:
    """Whether a scale of a value changes along one of its dimensions."""
    place = dim - value.rank
    return scale is not None and -place <= scale.rank and bool(scale.layout[place])


def _before_dot(
    terms: Terms, value: Value, dims: Sequence[int], apply: Callable[[Value], Value]
) -> Value | None:
    opened = opened_sum(value)
    if opened is None or not all(opened[0][dim] == (True, False) for dim in dims):
        return None
    _, source, stored = opened
    inner = before_sites(terms, source, dims, apply)
    labels = list(range(source.rank))
    return einsum(terms, inner, labels, stored, labels, labels[: value.rank])


def opened_sum(value: Value) -> tuple[list[tuple[bool, bool]], Value, Value] | None:
    """What a sum of products reads: the value's dimensions, and behind them those that are summed.

    Returns:
        Of each dimension of the value whether the first and the second operand lie along it, and both; None
        where two kinds are parts of one dimension.
    """
    first, second = value.term.operands
    outputs: int = value.term.attributes[0]  # type: ignore[assignment]
    read, held = first.access or (), second.access or ()
    kinds: list[tuple[bool, bool]] = []
    for parts in value.layout:
        found = {(bool(read[part.axis]), bool(held[part.axis])) for part in parts if not part.is_repeated}
        if len(found) > 1:
            return None
        kinds.append(found.pop() if found else (True, False))
    operands: list[Value] = []
    for place, (operand, access) in enumerate(((first, read), (second, held))):
        slots = [parts[0] if parts else None for parts in access]
        pairs = zip(value.layout, kinds, strict=True)
        layout = [behind(parts, slots) if kind[place] else () for parts, kind in pairs]
        operands.append(Value(term=operand.term, known_layout=(*layout, *access[outputs:])))
    return kinds, operands[0], operands[1]


def without_shift_of_keys(terms: Terms, value: Value, dim: int) -> Value:
    """Scores without what each key is shifted by alike, which adds the same to all scores of a query.

    Args:
        terms: the table.
        value: the scores.
        dim: the dimension of the keys.
    """
    core, scale, shift = parts_of(value)
    opened = opened_sum(core) if core.term.op == "dot" and value.dtype != "float16" else None
    if opened is None or opened[0][dim] == (True, True) or _is_scaled_along(core, scale, dim):
        return value
    kinds, *operands = opened
    place = 0 if kinds[dim][0] else 1
    keys, own, added = parts_of(operands[place])
    if added is None or not is_alike_along(scaled(terms, keys, shift=added), [dim]):
        return value
    if not rounds_little(added):
        return value
    terms.use("softmax-of-shifted-keys")
    operands[place] = scaled(terms, keys, scale=own)
    labels = list(range(keys.rank))
    product = einsum(terms, operands[0], labels, operands[1], labels, labels[: core.rank])
    return scaled(terms, product, scale=scale, shift=shift)
