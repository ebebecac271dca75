"""How a fold computes each operator, and how far its roundings may take what it gives (Higham, §3.3)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from fxexport.language.term import Array

UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Unit roundoffs."""
LARGEST = {"float32": (2 - 2.0**-23) * 2.0**127, "bfloat16": (2 - 2.0**-7) * 2.0**127, "float16": 65504.0}
SMALLEST = {"float64": 2.0**-1074, "float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}
"""Ends of the types, and the steps between numbers next to nothing."""
_PRODUCTS = 1 << 28
"""So many products are summed up."""


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

    def with_value(self, value: Array) -> Folded:
        """Another value, as far off."""
        return dataclasses.replace(self, value=value)


class NotFolded(Exception):
    """The closed term holds an operator that is not evaluated."""


Rule: TypeAlias = Callable[..., Folded]
"""From operands along the axes of the result, the operator's attributes, and the unit roundoff."""


def _add(read: list[Folded], *_: object) -> Folded:
    def over(join: Callable[[Array, Array], Array], name: str) -> Array:
        return functools.reduce(join, (getattr(item, name) for item in read))

    sums = {name: over(np.add, name) for name in ("value", "error", "defined")}
    return Folded(**sums, step=over(np.maximum, "step"))


def _multiply(read: list[Folded], *_: object) -> Folded:
    a, b = read

    def wider(one: Array, two: Array) -> Array:
        return np.asarray(np.abs(a.value) * two + np.abs(b.value) * one + one * two)

    return Folded(
        value=a.value * b.value,
        error=wider(a.error, b.error),
        defined=wider(a.defined, b.defined),
        step=np.maximum(np.abs(a.value) * b.step, np.abs(b.value) * a.step),
    )


def _negate(read: list[Folded], *_: object) -> Folded:
    return dataclasses.replace(read[0], value=-read[0].value)


def _power(read: list[Folded], parameters: Sequence[object], *_: object) -> Folded:
    if not parameters:
        return _raised(*read)
    (base,) = read
    exponent = float(str(parameters[0]))
    value = base.value**exponent
    slope = 1.01 * np.abs(exponent * base.value ** (exponent - 1))
    return Folded(value=value, error=slope * base.error, defined=slope * base.defined, step=slope * base.step)


def _raised(base: Folded, exponent: Folded) -> Folded:
    """A power whose exponent is an operand."""
    if not np.all(base.value > 0):
        raise NotFolded("a power of what is not positive")
    value = base.value**exponent.value
    by_base, by_exponent = (
        1.01 * value * np.abs(item) for item in (exponent.value / base.value, np.log(base.value))
    )

    def wider(name: str) -> Array:
        return np.asarray(by_base * getattr(base, name) + by_exponent * getattr(exponent, name))

    return Folded(value=value, **{name: wider(name) for name in ("error", "defined", "step")})


def _exp(read: list[Folded], *_: object) -> Folded:
    value = np.exp(read[0].value)
    return _sloped(read[0], value, 1.01 * value)


def _sloped(read: Folded, value: Array, slope: Array) -> Folded:
    return Folded(value=value, error=slope * read.error, defined=slope * read.defined, step=slope * read.step)


def _curved(function: Callable[[Array], Array], slope_of: Callable[[Array, Array], Array]) -> Rule:
    """A function whose second derivative is at most 2; its slope is told from what it reads and gives."""

    def rule(read: list[Folded], *_: object) -> Folded:
        (item,) = read
        value = function(item.value)
        return _sloped(item, value, np.abs(slope_of(item.value, value)) + item.error + item.defined)

    return rule


def _sigmoid(read: list[Folded], _: Sequence[object], unit: float) -> Folded:
    """Runtimes have it as a quotient of polynomials, which leaves small results as far off as large ones."""
    found = _LOGISTIC(read)
    return dataclasses.replace(found, error=found.error + 3 * unit, step=np.maximum(found.step, 3 * unit))


_LOGISTIC = _curved(lambda x: 1 / (1 + np.exp(-x)), lambda _, y: y * (1 - y))


def _dot(read: list[Folded], parameters: Sequence[object], unit: float) -> Folded:
    """A sum of products over all axes behind those of the result, whichever way it is added up."""
    a, b = read
    outputs = int(str(parameters[0]))
    extents = np.broadcast_shapes(a.value.shape, b.value.shape)
    if math.prod(extents) > _PRODUCTS:
        raise NotFolded("a matrix product that takes long")

    def summed(first: Array, second: Array) -> Array:
        operands: list[Any] = []
        for item in (first, second):
            walked = [axis for axis, extent in enumerate(item.shape) if extent != 1]
            operands += [item.reshape([item.shape[axis] for axis in walked]), walked]
        kept = [axis for axis in range(outputs) if extents[axis] != 1]
        found = np.einsum(*operands, kept, optimize=True)
        return np.asarray(found).reshape(extents[:outputs])

    left, right = np.abs(a.value), np.abs(b.value)

    def wider(one: Array, two: Array) -> Array:
        return summed(left, two) + summed(one, right) + summed(one, two)

    rounding = unit * summed(left, right)
    return Folded(
        value=summed(a.value, b.value),
        error=wider(a.error, b.error) + (1 + math.prod(extents[outputs:])) * rounding,
        defined=wider(a.defined, b.defined),
        step=rounding + summed(left, b.step) + summed(a.step, right),
    )


def _reduced(read: list[Folded], parameters: Sequence[object], unit: float) -> Folded:
    """A reduction over all axes behind those of the result."""
    name, outputs = str(parameters[0]), int(str(parameters[1]))
    (item,) = read
    axes = tuple(range(outputs, item.value.ndim))
    if name in ("max", "min"):
        return item.as_given(functools.partial(np.max, axis=axes)).with_value(
            getattr(np, name)(item.value, axes)
        )
    if name not in ("mean", "sum"):
        raise NotFolded(f"a reduction by {name}")
    count = math.prod(item.value.shape[outputs:])
    rounding = unit * np.abs(item.value).sum(axes)
    share = 1 / count if name == "mean" else 1.0
    return Folded(
        value=item.value.sum(axes) * share,
        error=(item.error.sum(axes) + (1 + count) * rounding) * share,
        defined=item.defined.sum(axes) * share,
        step=(item.step.sum(axes) + rounding) * share,
    )


def _windows(cells: Array, size: int, gap: int, step: int, count: int) -> Array:
    return cells[..., np.add.outer(np.arange(size) * gap, np.arange(count) * step).reshape(-1)]


def _moved(change: Callable[..., Array]) -> Rule:
    """What takes cells along the last axis; a last axis of one cell is none."""

    def rule(read: list[Folded], parameters: Sequence[Any], *_: object) -> Folded:
        def moved(array: Array) -> Array:
            found = change(array, *parameters)
            return found[..., 0] if found.shape[-1:] == (1,) else found

        return read[0].as_given(moved)

    return rule


def _concatenated(read: list[Folded], parameters: Sequence[Any], *_: object) -> Folded:
    """What is joined along the last axis, each operand repeated to as many cells as it has there."""
    rest = np.broadcast_shapes(*(item.value.shape[:-1] for item in read))
    parts = [
        item.as_given(functools.partial(np.broadcast_to, shape=(*rest, extent)))
        for item, extent in zip(read, parameters, strict=True)
    ]
    fields = (field.name for field in dataclasses.fields(Folded))
    return Folded(**{name: np.concatenate([getattr(part, name) for part in parts], -1) for name in fields})


def _clamp(read: list[Folded], parameters: Sequence[object], *_: object) -> Folded:
    ends = iter(read[1:])
    value = read[0].value
    for has_end, hold in zip(parameters, (np.maximum, np.minimum), strict=True):
        value = hold(value, next(ends).value) if has_end else value
    return dataclasses.replace(_add(read), value=value)


def _chosen(function: Callable[..., Array]) -> Rule:
    """What compares and chooses tells nothing of values that rounding may have moved."""

    def rule(read: list[Folded], *_: object) -> Folded:
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
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "where": np.where,
}
RULES: dict[str, tuple[Rule, int]] = {
    "add": (_add, 1),
    "mul": (_multiply, 1),
    "neg": (_negate, 0),
    "pow": (_power, 2),
    "exp": (_exp, 5),
    "sigmoid": (_sigmoid, 8),
    "tanh": (_curved(np.tanh, lambda _, y: 1 - y * y), 8),
    "sin": (_curved(np.sin, lambda x, _: np.cos(x)), 5),
    "cos": (_curved(np.cos, lambda x, _: np.sin(x)), 5),
    "clamp": (_clamp, 0),
    "dot": (_dot, 0),
    "reduce": (_reduced, 1),
    "take": (_moved(lambda x, start, step, count: x[..., start : start + step * (count - 1) + 1 : step]), 0),
    "gather": (_moved(lambda x, *places: x[..., list(places)]), 0),
    "concatenate": (_concatenated, 0),
    "slide": (_moved(_windows), 0),
    "flip": (_moved(lambda x: x[..., ::-1]), 0),
    "merge": (_moved(lambda x: x), 0),
    **{name: (_chosen(function), 0) for name, function in CHOICES.items()},
}
"""What a fold computes, and how often it rounds but for sums: a root and a division for a power, exp and
what is made of it as libraries have them."""
