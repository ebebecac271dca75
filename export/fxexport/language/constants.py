"""What closed terms are: their elements in float64, with a bound of what rounding may have made of them.

A tool that folds constants rounds after each operation, in the type of the constants. A closed term is
evaluated in float64 together with the running error that such a fold may have (Higham, §3.3).
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable

import numpy as np

from fxexport.language.extents import Extent
from fxexport.language.layout import Part, Parts, plain
from fxexport.language.term import Array, Operand, Rounded, Term, Value, numpy_type

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
        step: the largest share that a single rounding has in these.
    """

    value: Array
    error: Array
    defined: Array
    step: Array

    @property
    def is_exact(self) -> bool:
        """Whether nothing was computed."""
        return not (self.error.any() or self.defined.any())

    def noise(self, dtype: str) -> Array:
        """How far float64 itself may be off, which rounds wherever a fold does."""
        share = (self.error + self.defined) * (UNIT["float64"] / UNIT.get(dtype, 1.0))
        return np.asarray(share if self.is_exact else share + 4 * UNIT["float64"] * np.abs(self.value))

    def as_given(self, arranged: Callable[[Array], Array]) -> Folded:
        """The same elements, arranged in another way."""
        fields = (field.name for field in dataclasses.fields(self))
        return Folded(**{name: arranged(getattr(self, name)) for name in fields})


class NotFolded(Exception):
    """The closed term holds an operator that is not evaluated."""


def stored(term: Term) -> Counter[Term]:
    """The constants that a closed term is computed from, and how often; of a stored one itself."""
    known: dict[Term, Counter[Term]] = {}
    stack = [term]
    while stack:
        item = stack[-1]
        below = [operand.term for operand in item.operands]
        left = [other for other in below if other not in known]
        stack.extend(left)
        if left:
            continue
        stack.pop()
        found: Counter[Term] = Counter()
        if item.array is not None:
            found.update(dict(item.rounded.made_of) if item.rounded and item.rounded.made_of else [item])
        for other in below:
            found.update(known[other])
        known[item] = found
    return known[term]


_known: dict[Term, Folded | NotFolded] = {}


def folded(term: Term) -> Folded:
    """The elements of a closed term, in the order of its axes; without recursion, since graphs are deep.

    Raises:
        NotFolded: it holds an operator that is not evaluated, or loses its digits.
    """
    stack = [term]
    while stack:
        left = [operand.term for operand in stack[-1].operands if operand.term not in _known]
        stack.extend(left)
        if left:
            continue
        item = stack.pop()
        if item not in _known:
            try:
                _known[item] = _folded(item)
            except NotFolded as error:
                _known[item] = error
    found = _known[term]
    if isinstance(found, NotFolded):
        raise NotFolded(*found.args)
    return found


def is_folded(term: Term) -> bool:
    """Whether a term is closed, and all of it evaluated."""
    if not term.is_closed:
        return False
    try:
        folded(term)
    except NotFolded:
        return False
    return True


def forget() -> None:
    """Drops what is known of the terms of a table that is done with."""
    _known.clear()


def _folded(term: Term) -> Folded:
    if term.array is not None:
        if term.array.dtype.kind == "c":
            raise NotFolded("complex numbers")
        value = term.array if term.array.dtype.kind in "iub" else term.array.astype(np.float64)
        rounded = term.rounded or Rounded()
        error, defined, step = (
            np.broadcast_to(item, value.shape) for item in (rounded.folded, rounded.defined, rounded.step)
        )
        return Folded(value=value, error=error, defined=defined, step=step)
    if term.op != "map" or term.attributes[0] not in _RULES:
        raise NotFolded(term.op)
    name, *parameters = term.attributes
    read = [arranged(operand) for operand in term.operands]
    with np.errstate(all="ignore"):
        rule, roundings = _RULES[str(name)]
        found = rule(read, parameters)
        size, unit = np.abs(found.value), UNIT.get(term.dtype, 0.0)
        share = roundings * unit * np.where(_is_held(found.value, term.dtype), 0.0, size)
        error = found.error + share
        known = np.isfinite(size)
        largest = max(_VISIBLE, 16 * unit) * size[known].max(initial=0.0)
    if np.any((error + found.defined)[known] > largest):
        raise NotFolded("a sum that loses its digits")
    return dataclasses.replace(found, error=error, step=np.maximum(found.step, share))


def _is_held(value: Array, dtype: str) -> Array:
    """Which elements no rounding to the type changes, where float64 can tell."""
    if UNIT.get(dtype, 0.0) <= UNIT["float64"]:
        return np.zeros(value.shape, bool)
    return np.asarray(value.astype(numpy_type(dtype)).astype(np.float64) == value)


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
    def over(join: Callable[[Array, Array], Array], name: str) -> Array:
        return functools.reduce(join, (getattr(item, name) for item in read))

    sums = {name: over(np.add, name) for name in ("value", "error", "defined")}
    return Folded(**sums, step=over(np.maximum, "step"))


def _multiply(read: list[Folded], _: list[object]) -> Folded:
    a, b = read

    def wider(one: Array, two: Array) -> Array:
        return np.asarray(np.abs(a.value) * two + np.abs(b.value) * one + one * two)

    return Folded(
        value=a.value * b.value,
        error=wider(a.error, b.error),
        defined=wider(a.defined, b.defined),
        step=np.maximum(np.abs(a.value) * b.step, np.abs(b.value) * a.step),
    )


def _negate(read: list[Folded], _: list[object]) -> Folded:
    return dataclasses.replace(read[0], value=-read[0].value)


def _power(read: list[Folded], parameters: list[object]) -> Folded:
    (base,) = read
    exponent = float(str(parameters[0]))
    value = base.value**exponent
    slope = 1.01 * np.abs(exponent * base.value ** (exponent - 1))
    return Folded(value=value, error=slope * base.error, defined=slope * base.defined, step=slope * base.step)


def _exp(read: list[Folded], _: list[object]) -> Folded:
    (power,) = read
    value = np.exp(power.value)
    slope = 1.01 * value
    return Folded(
        value=value, error=slope * power.error, defined=slope * power.defined, step=slope * power.step
    )


def _clamp(read: list[Folded], parameters: list[object]) -> Folded:
    ends = iter(read[1:])
    value = read[0].value
    for has_end, hold in zip(parameters, (np.maximum, np.minimum), strict=True):
        value = hold(value, next(ends).value) if has_end else value
    return dataclasses.replace(_add(read, []), value=value)


def _chosen(function: Callable[..., Array]) -> Callable[[list[Folded], list[object]], Folded]:
    """What compares and chooses tells nothing of values that rounding may have moved."""

    def rule(read: list[Folded], _: list[object]) -> Folded:
        if not all(item.is_exact for item in read):
            raise NotFolded("a choice among computed numbers")
        value = np.asarray(function(*(item.value for item in read)))
        none = np.zeros(value.shape)
        return Folded(value=value, error=none, defined=none, step=none)

    return rule


CHOICES: dict[str, Callable[..., Array]] = {
    "eq": np.equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "ne": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "where": np.where,
}
_RULES: dict[str, tuple[Callable[[list[Folded], list[object]], Folded], int]] = {
    "add": (_add, 1),
    "mul": (_multiply, 1),
    "neg": (_negate, 0),
    "pow": (_power, 2),
    "exp": (_exp, 5),
    "clamp": (_clamp, 0),
    **{name: (_chosen(function), 0) for name, function in CHOICES.items()},
}
"""What a fold computes, and how often it rounds: a root and a division for a power, numpy's exp."""
