"""What closed terms are: their elements in float64, with a bound of what rounding may have made of them.

A tool that folds constants rounds after each operation, in the type of the constants. A closed term is
evaluated in float64 together with the running error that such a fold may have (Higham, §3.3).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from fxexport.language.extents import Extent
from fxexport.language.layout import Part, Parts, plain
from fxexport.language.term import Array, Operand, Rounded, Term, Value

UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Unit roundoffs."""

_VISIBLE = 2.0**-10
"""A fold that may lie further off than this over its largest element is none: nobody knows what it gives."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """Elements of a closed term.

    Attributes:
        value: the elements as float64 computes them.
        error: how far each may lie from what a fold gives.
        defined: how far each may lie from a spelling of the definition whose number it holds.
    """

    value: Array
    error: Array
    defined: Array

    @property
    def is_exact(self) -> bool:
        """Whether nothing was computed."""
        return not (self.error.any() or self.defined.any())

    def noise(self, dtype: str) -> Array:
        """How far float64 itself may be off, which rounds wherever a fold does."""
        return np.asarray((self.error + self.defined) * (UNIT["float64"] / UNIT.get(dtype, 1.0)))

    def as_given(self, arranged: Callable[[Array], Array]) -> Folded:
        """The same elements, arranged in another way."""
        return Folded(value=arranged(self.value), error=arranged(self.error), defined=arranged(self.defined))


class NotFolded(Exception):
    """The closed term holds an operator that is not evaluated."""


def stored(term: Term) -> frozenset[Term]:
    """The constants that a closed term is computed from; of a stored one itself."""
    found: set[Term] = set()
    seen: set[Term] = set()
    stack = [term]
    while stack:
        item = stack.pop()
        if item not in seen:
            seen.add(item)
            stack.extend(operand.term for operand in item.operands)
            if item.array is not None:
                found |= (item.rounded and item.rounded.made_of) or {item}
    return frozenset(found)


@functools.lru_cache(maxsize=65536)
def folded(term: Term) -> Folded:
    """The elements of a closed term, in the order of its axes.

    Raises:
        NotFolded: it holds an operator that is not evaluated, or loses its digits.
    """
    if term.array is not None:
        if term.array.dtype.kind == "c":
            raise NotFolded("complex numbers")
        value = term.array if term.array.dtype.kind in "iub" else term.array.astype(np.float64)
        rounded = term.rounded or Rounded()
        error, defined = (np.broadcast_to(item, value.shape) for item in (rounded.folded, rounded.defined))
        return Folded(value=value, error=error, defined=defined)
    if term.op != "map" or term.attributes[0] not in _RULES:
        raise NotFolded(term.op)
    name, *parameters = term.attributes
    read = [arranged(operand) for operand in term.operands]
    with np.errstate(all="ignore"):
        rule, roundings = _RULES[str(name)]
        found = rule(read, parameters)
        size = np.abs(found.value)
        error = found.error + roundings * UNIT[term.dtype] * size
        known = np.isfinite(size)
        largest = max(_VISIBLE, 16 * UNIT[term.dtype]) * size[known].max(initial=0.0)
    if np.any((error + found.defined)[known] > largest):
        raise NotFolded("a sum that loses its digits")
    return dataclasses.replace(found, error=error)


def arranged(operand: Operand) -> Folded:
    """A closed operand's elements along its reader's axes, of extent 1 where it repeats itself.

    Raises:
        NotFolded: it is not evaluated, or its axes have no fixed extents.
    """
    inner = folded(operand.term)
    if operand.access is None:
        raise NotFolded("unknown rank")
    layout = along(operand.access)
    return inner.as_given(lambda array: _arranged(array, layout))


def along(layout: tuple[Parts, ...]) -> tuple[Parts, ...]:
    """The layout without the parts along which a value only repeats itself."""
    return tuple(tuple(part for part in parts if not part.is_repeated) for parts in layout)


def elements(value: Value) -> Folded:
    """The elements of a closed value, of extent 1 where it repeats itself.

    Raises:
        NotFolded: it is not evaluated.
    """
    return arranged(Operand(value.term, value.layout))


def exact_array(value: Value) -> Array | None:
    """The elements of a stored constant as the value's dimensions see them; None if it is computed."""
    if value.term.array is None or value.term.rounded or value.known_layout is None:
        return None
    cells = _arranged(value.term.array, along(value.layout))
    shape = value.shape
    if not all(isinstance(extent, int) for extent in shape):
        return None
    return np.broadcast_to(cells, [_number(extent) for extent in shape])


def scalar(value: Value) -> float | None:
    """The number that a closed value repeats, or None if it is no such value."""
    if not value.is_scalar:
        return None
    try:
        found = folded(value.term)
    except NotFolded:
        return None
    return float(found.value)


def _arranged(array: Array, layout: tuple[Parts, ...]) -> Array:
    parts = [part for dimension in layout for part in dimension]
    places = sorted(range(len(parts)), key=lambda index: _place(parts[index]))
    cells = array.reshape([_number(parts[index].extent) for index in places])
    cells = cells.transpose(np.argsort(places)) if parts else cells
    return cells.reshape([_count(dimension) for dimension in layout])


def _place(part: Part) -> tuple[int, int]:
    return part.axis, -_number(part.stride)


def _count(parts: Parts) -> int:
    count = 1
    for part in parts:
        count *= _number(part.extent)
    return count


def _number(extent: Extent) -> int:
    if not isinstance(extent, int):
        raise NotFolded("an extent that is free")
    return extent


def fresh(array: Array) -> tuple[Parts, ...]:
    """The layout of an array over its own axes, those of one cell left out."""
    axes = iter(range(array.ndim))
    kept = [plain((extent,))[0] for extent in array.shape]
    return tuple(
        tuple(dataclasses.replace(part, axis=axis) for part in parts for axis in (next(axes),))
        for parts in kept
    )


def _add(read: list[Folded], _: list[object]) -> Folded:
    fields = ("value", "error", "defined")
    return Folded(**{name: functools.reduce(np.add, (getattr(x, name) for x in read)) for name in fields})


def _multiply(read: list[Folded], _: list[object]) -> Folded:
    a, b = read

    def wider(one: Array, two: Array) -> Array:
        return np.asarray(np.abs(a.value) * two + np.abs(b.value) * one + one * two)

    error, defined = wider(a.error, b.error), wider(a.defined, b.defined)
    return Folded(value=a.value * b.value, error=error, defined=defined)


def _negate(read: list[Folded], _: list[object]) -> Folded:
    return dataclasses.replace(read[0], value=-read[0].value)


def _power(read: list[Folded], parameters: list[object]) -> Folded:
    (base,) = read
    exponent = float(str(parameters[0]))
    value = base.value**exponent
    slope = 1.01 * np.abs(exponent * base.value ** (exponent - 1))
    return Folded(value=value, error=slope * base.error, defined=slope * base.defined)


_RULES: dict[str, tuple[Callable[[list[Folded], list[object]], Folded], int]] = {
    "add": (_add, 1),
    "mul": (_multiply, 1),
    "neg": (_negate, 0),
    "pow": (_power, 2),
}
"""What a fold computes, and how often it rounds: a root and a division for a power."""
