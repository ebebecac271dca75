"""Terms of a graph in which sites may change form anywhere: every operator stated over its operands' axes.

``terms`` takes away views that keep a sample's order, which is enough behind a pool. In the middle of a
network a site that changes form takes its layout with it: ``[N, H, W, C]`` becomes ``[N, C, H, W]``. Here
each value is a term and a layout over it, views and permutations only change the layout, and what an
operator does is told by the parts of its operands' axes that it works on:

=====================================  ==========================================================
operator                               told by
=====================================  ==========================================================
elementwise, one operand               nothing: it keeps the layout
elementwise, several operands          which parts meet
site (Linear, Conv without groups)     the parts that it sums over, its columns in their order
norm or softmax along dimensions       their parts
mean, maximum, sum over dimensions     their parts
part of a dimension, padding           the dimension's parts and the index behind each of its cells
join along a dimension                 which parts meet, and those joined
any other                              the layout in which it reads each operand
=====================================  ==========================================================

A convolution with a kernel is the gathering of its windows, which is an index for each spatial axis, and a
sum over channels and window; so is ``unfold`` with a matrix product behind it. All of this follows from what
the operators are by definition, in real arithmetic. Equal terms are the same function of equal operands,
whatever layouts the two graphs hold their values in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from fxexport.terms.axis_parts import (
    AxisPart,
    Joined,
    Layout,
    aligned,
    arranged,
    extents_of,
    in_order,
    joined,
    merged,
    plain,
    reshaped,
    within,
)
from fxexport.terms.gathers import Gather, Index, nothing_taken, taken
from fxexport.terms.term import Array, Kind, Shape, SiteWeights, Term

_SMALL_BYTES = 2**20
"""Constants up to this size are compared by their bits where terms are merged, larger ones by their place."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacedValue:
    """A value of a graph: a term, and how it lies over the term's axes; None where its shape is unknown."""

    term: Term
    layout: Layout | None

    @property
    def shape(self) -> Shape | None:
        """Its extents, the batch included."""
        return None if self.layout is None else extents_of(self.layout)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Named:
    """An operator as it is written: the value that it gives, its node, and what it computes."""

    value: str
    node: str
    signature: str


class Terms:
    """Makes terms; the same operator on the same operands is one term, however often a graph has it."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Term] = {}
        self._gathers: dict[Term, tuple[Term, Gather]] = {}

    def source(
        self, named: Named, kind: Kind, shape: Shape | None, constants: tuple[Array, ...] = ()
    ) -> PlacedValue:
        """An input or a constant: its own axes."""
        term = Term(
            kind=kind,
            value=named.value,
            node=named.node,
            signature=named.signature,
            shape=shape,
            constants=constants,
        )
        return PlacedValue(term=term, layout=None if shape is None else plain(shape))

    def viewed(self, value: PlacedValue, shape: Shape) -> PlacedValue | None:
        """The value in another shape, or None where that is no view of whole parts."""
        layout = None if value.layout is None else reshaped(value.layout, shape)
        return None if layout is None else PlacedValue(term=value.term, layout=layout)

    def permuted(self, value: PlacedValue, perm: Sequence[int]) -> PlacedValue | None:
        """The value with its dimensions in another order."""
        if value.layout is None or sorted(perm) != list(range(len(value.layout))):
            return None
        return PlacedValue(term=value.term, layout=tuple(value.layout[axis] for axis in perm))

    def pointwise(self, named: Named, operands: Sequence[PlacedValue]) -> PlacedValue | None:
        """A function of each cell of operands that are broadcast together; constants move to its own axes."""
        rank = max(0 if item.layout is None else len(item.layout) for item in operands)
        if any(item.layout is None for item in operands):
            return None
        dynamic = [i for i, item in enumerate(operands) if item.term.kind is not Kind.CONSTANT]
        if len(dynamic) == 1 and all(_is_one_cell(x) for i, x in enumerate(operands) if i not in dynamic):
            constants = tuple(c for x in operands for c in x.term.constants if x.term.kind is Kind.CONSTANT)
            return self._alike(named, operands[dynamic[0]], rank, constants)
        found = _together([item.layout or () for item in operands], rank, dynamic)
        if found is None:
            return None
        columns = [[slot.parts[i] for slot in found.slots] for i in range(len(operands))]
        constants = tuple(
            _over(item.term.constants[0], columns[i])
            for i, item in enumerate(operands)
            if item.term.kind is Kind.CONSTANT
        )
        shape = tuple(slot.extent for slot in found.slots)
        told = [[_told_part(part) for part in column] for i, column in enumerate(columns) if i in dynamic]
        kept = [[part is not None for part in column] for i, column in enumerate(columns) if i not in dynamic]
        term = self._term(
            named,
            Kind.ELEMENTWISE,
            f"{named.signature} over {shape} {told} {kept}",
            [operands[i].term for i in dynamic],
            shape,
            constants,
        )
        return PlacedValue(term=term, layout=found.layout)

    def _alike(
        self, named: Named, value: PlacedValue, rank: int, constants: tuple[Array, ...]
    ) -> PlacedValue:
        term = self._term(
            named,
            Kind.ELEMENTWISE,
            named.signature,
            [value.term],
            value.term.shape,
            tuple(array.reshape(-1) for array in constants),
        )
        layout = value.layout or ()
        return PlacedValue(term=term, layout=((),) * (rank - len(layout)) + layout)

    def along(
        self,
        named: Named,
        value: PlacedValue,
        dims: Sequence[int],
        constants: Sequence[Array] = (),
    ) -> PlacedValue | None:
        """An operator that works along ``dims`` and keeps the shape: a norm, a softmax.

        Shapes:
            constants: each the extents of ``dims``.
        """
        if value.layout is None:
            return None
        parts = [part for dim in dims for part in value.layout[dim]]
        active = in_order(parts)
        term = self._term(
            named,
            Kind.OP,
            f"{named.signature}(along {_told(active)})",
            [value.term],
            value.term.shape,
            tuple(_sorted_by(array, parts) for array in constants),
        )
        return PlacedValue(term=term, layout=value.layout)

    def reduced(
        self, named: Named, value: PlacedValue, dims: Sequence[int], *, keeps: bool
    ) -> PlacedValue | None:
        """A mean, maximum or sum over ``dims``, which does not care for their order."""
        if value.layout is None or not dims:
            return None
        gone = frozenset(dims)
        free = in_order([p for dim, parts in enumerate(value.layout) if dim not in gone for p in parts])
        active = in_order([part for dim in sorted(gone) for part in value.layout[dim]])
        shape = tuple(part.extent for part in free)
        signature = f"{named.signature}(over {_told(active)})"
        term = self._term(named, Kind.OP, signature, [value.term], shape)
        layout = [
            () if dim in gone else merged([within(part, free) for part in parts])
            for dim, parts in enumerate(value.layout)
            if keeps or dim not in gone
        ]
        return PlacedValue(term=term, layout=tuple(layout))

    def site(
        self, named: Named, value: PlacedValue, contracted: Sequence[int], affine: SiteWeights, place: int
    ) -> PlacedValue | None:
        """An affine map of the cells along ``contracted``, its result at dimension ``place`` of the others.

        The columns of ``affine.weight`` follow ``contracted``; the term's follow the axes of the operand.
        """
        if value.layout is None:
            return None
        inside = [part for dim in contracted for part in value.layout[dim]]
        rest = [parts for dim, parts in enumerate(value.layout) if dim not in set(contracted)]
        free = in_order([part for parts in rest for part in parts])
        rows = len(affine.weight)
        if merged(inside) != in_order(inside):
            affine = _reordered(affine, inside)
        shape = (*(part.extent for part in free), rows)
        term = self._term(
            named,
            Kind.AFFINE,
            f"affine over {_told(in_order(inside))}",
            [value.term],
            shape,
            affine=affine,
        )
        layout: list[tuple[AxisPart, ...]] = [
            merged([within(part, free) for part in parts]) for parts in rest
        ]
        layout.insert(place, () if rows == 1 else (AxisPart(len(free), 1, rows),))
        return PlacedValue(term=term, layout=tuple(layout))

    def biased(
        self, named: Named, value: PlacedValue, bias: PlacedValue, name: str, *, is_beside: bool
    ) -> PlacedValue | None:
        """A constant for each output of a site that has none yet, as part of the site; or None.

        ``is_beside``: whether the constant is added to what the site itself gives, with no view between.
        """
        affine, own = value.term.affine, value.layout
        if affine is None or affine.bias is not None or own is None or bias.layout is None:
            return None
        if len(bias.layout) > len(own):
            return None
        rows = len(affine.weight)
        outputs = (AxisPart(len(value.term.shape or ()) - 1, 1, rows),)
        shift = len(own) - len(bias.layout)
        for dim, parts in enumerate(bias.layout):
            if parts and own[dim + shift] != outputs:
                return None
        if math.prod(extents_of(bias.layout)) != rows:
            return None
        spelling = f"{affine.spelling} + Add"
        spots = None if affine.spots is None else affine.spots.added(named.value if is_beside else None)
        whole = dataclasses.replace(
            affine,
            bias=bias.term.constants[0].reshape(-1),
            bias_name=name,
            spelling=spelling if is_beside else affine.spelling,
            spots=spots,
        )
        term = value.term
        signature, operands, shape = term.signature, list(term.operands), term.shape
        biased = self._term(named, Kind.AFFINE, signature, operands, shape, affine=whole)
        return PlacedValue(term=biased, layout=own)

    def concatenated(self, named: Named, operands: Sequence[PlacedValue], axis: int) -> PlacedValue | None:
        """Values joined along one dimension."""
        layouts = [item.layout for item in operands if item.layout is not None]
        if len(layouts) != len(operands) or any(item.term.kind is Kind.CONSTANT for item in operands):
            return None
        rank = len(layouts[0])
        axis %= rank
        free = [tuple(parts for dim, parts in enumerate(layout) if dim != axis) for layout in layouts]
        found = _together(free, rank - 1, range(len(operands)))
        if found is None:
            return None
        told = [[_told_part(slot.parts[i]) for slot in found.slots] for i in range(len(operands))]
        ends = [_told(merged(layout[axis])) for layout in layouts]
        total = sum(extents_of(layout)[axis] for layout in layouts)
        shape = (*(slot.extent for slot in found.slots), total)
        signature = f"{named.signature}(of {told} and {ends})"
        term = self._term(named, Kind.OP, signature, [item.term for item in operands], shape)
        layout = list(found.layout)
        layout.insert(axis, (AxisPart(len(found.slots), 1, total),))
        return PlacedValue(term=term, layout=tuple(layout))

    def gathered(self, named: Named, value: PlacedValue, dim: int, index: Index) -> PlacedValue | None:
        """The cells of one dimension that ``index`` names, in its shape in the place of the dimension."""
        if value.layout is None or 0 in index.shape:
            return None
        if index.size == 1 and not value.layout[dim] and not index.any():
            unit = ((),) * index.ndim  # the only cell, as it is
            return PlacedValue(term=value.term, layout=(*value.layout[:dim], *unit, *value.layout[dim + 1 :]))
        term, inner = self._gathers.get(value.term, (value.term, nothing_taken(value.layout)))
        found = taken(inner, value.layout, dim, index)
        if found is None:
            term, inner = value.term, nothing_taken(value.layout)
            found = taken(inner, value.layout, dim, index)
        if found is None:
            return None
        gather, layout = found
        if not gather.groups:
            return PlacedValue(
                term=term, layout=tuple(merged([_of(p, gather.free) for p in d]) for d in layout)
            )
        keys = sorted(gather.groups)
        signature = f"part(of {_told(gather.free)} and {[_told(key) for key in keys]})"
        constants = tuple(gather.groups[key] for key in keys)
        result = self._term(named, Kind.OP, signature, [term], gather.shape, constants)
        self._gathers.setdefault(result, (term, gather))
        return PlacedValue(term=result, layout=layout)

    def other(
        self, named: Named, operands: Sequence[PlacedValue], constants: tuple[Array, ...], shape: Shape | None
    ) -> PlacedValue:
        """Any other operator: told by the layout in which it reads each operand; axes of its own."""
        told = ["?" if x.layout is None else [_told(merged(parts)) for parts in x.layout] for x in operands]
        signature = f"{named.signature} of {told} as {shape}"
        term = self._term(named, Kind.OP, signature, [item.term for item in operands], shape, constants)
        return PlacedValue(term=term, layout=None if shape is None else plain(shape))

    def _term(
        self,
        named: Named,
        kind: Kind,
        signature: str,
        operands: Sequence[Term],
        shape: Shape | None,
        constants: tuple[Array, ...] = (),
        affine: SiteWeights | None = None,
    ) -> Term:
        weights = () if affine is None else (_place_of(affine.weight), _held(affine.bias))
        key = (kind, signature, tuple(operands), tuple(map(_held, constants)), weights)
        if key not in self._known:
            self._known[key] = Term(
                kind=kind,
                value=named.value,
                node=named.node,
                signature=signature,
                operands=tuple(operands),
                shape=shape,
                constants=constants,
                affine=affine,
            )
        return self._known[key]


def _together(layouts: Sequence[Layout], rank: int, order: Sequence[int]) -> Joined | None:
    """Operands that are broadcast together, over axes of their own; those in ``order`` lead."""
    full = [((),) * (rank - len(layout)) + tuple(layout) for layout in layouts]
    dimensions = []
    for dim in range(rank):
        slots = aligned([layout[dim] or None for layout in full])
        if slots is None:
            return None
        dimensions.append(slots)
    rest = [index for index in range(len(layouts)) if index not in order]
    return joined(dimensions, [*order, *rest])


def _of(part: AxisPart, axes: Sequence[AxisPart]) -> AxisPart:
    """A part of one of ``axes`` as a part of the tensor that has these."""
    own = axes[part.axis]
    return AxisPart(own.axis, own.stride * part.stride, part.extent)


def _is_one_cell(value: PlacedValue) -> bool:
    return value.layout is not None and not any(value.layout)


def _over(array: Array, column: Sequence[AxisPart | None]) -> Array:
    """A constant over the axes of a result; those along which it is broadcast are left out."""
    return np.ascontiguousarray(arranged(array, [part for part in column if part is not None]))


def _sorted_by(array: Array, parts: Sequence[AxisPart]) -> Array:
    """Elements that follow ``parts``, as they follow one another in the parts' tensor; flat."""
    return array.reshape([part.extent for part in parts]).transpose(_order(parts)).reshape(-1)


def _reordered(affine: SiteWeights, parts: Sequence[AxisPart]) -> SiteWeights:
    """The columns, which follow ``parts``, as these follow one another in their tensor."""
    extents, count = [part.extent for part in parts], affine.weight.shape[1]
    order = np.arange(count).reshape(extents).transpose(_order(parts)).reshape(-1)
    columns = np.empty_like(order)
    columns[order] = np.arange(count)
    return dataclasses.replace(affine, weight=affine.weight[:, order], columns=columns)


def _order(parts: Sequence[AxisPart]) -> list[int]:
    return sorted(range(len(parts)), key=lambda index: (parts[index].axis, -parts[index].stride))


def _told(parts: Sequence[AxisPart]) -> str:
    return " ".join(map(_told_part, parts)) or "-"


def _told_part(part: AxisPart | None) -> str:
    return "-" if part is None else f"{part.axis}:{part.stride}×{part.extent}"


def _held(array: Array | None) -> object:
    """What two constants have in common only if they are the same, bit for bit."""
    if array is None or array.nbytes > _SMALL_BYTES:
        return array is None or _place_of(array)
    return array.dtype.str, array.shape, array.tobytes()


def _place_of(array: Array) -> object:
    return array.__array_interface__["data"][0], array.dtype.str, array.shape, array.strides
