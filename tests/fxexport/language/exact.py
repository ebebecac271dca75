"""What a term means, element by element in fractions: written apart from the language's own rules."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np

from fxexport.language.constants import folded
from fxexport.language.layout import Layout, Parts
from fxexport.language.sliding_window import SlidingWindow
from fxexport.language.term import Operand, Term, Value

Array = np.ndarray[Any, np.dtype[Any]]


def exact(array: Array) -> Array:
    """The same numbers as fractions."""
    found = np.empty(array.shape, dtype=object)
    for index in np.ndindex(*array.shape):
        found[index] = Fraction(float(array[index])).limit_denominator(10**9)
    return found


def result(value: Value, inputs: dict[Term, Array]) -> Array:
    """The elements of a value, where the inputs have these."""
    return seen(elements(value.term, inputs, {}), value.layout)


def seen(cells: Array, layout: Layout) -> Array:
    """A term's elements as a layout shows them: each index walked by hand."""
    shape = [count(parts) for parts in layout]
    found = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        place = [0] * cells.ndim
        for number, parts in zip(index, layout, strict=True):
            rest = number
            for part in reversed(parts):
                digit, rest = rest % int(part.extent), rest // int(part.extent)  # type: ignore[arg-type]
                if part.axis >= 0:
                    place[part.axis] += digit * int(part.stride)  # type: ignore[arg-type]
        found[index] = cells[tuple(place)]
    return found


def count(parts: Parts) -> int:
    """The extent of a dimension."""
    found = 1
    for part in parts:
        found *= int(part.extent)  # type: ignore[arg-type]
    return found


def elements(term: Term, inputs: dict[Term, Array], known: dict[Term, Array]) -> Array:
    """The elements of a term along its own axes."""
    if term not in known:
        known[term] = _elements(term, inputs, known)
    return known[term]


def _read(operand: Operand, inputs: dict[Term, Array], known: dict[Term, Array]) -> Array:
    return seen(elements(operand.term, inputs, known), operand.access or ())


def _elements(term: Term, inputs: dict[Term, Array], known: dict[Term, Array]) -> Array:
    if term in inputs:
        return inputs[term]
    if term.is_closed:
        return exact(np.asarray(folded(term).value, dtype=np.float64))
    read = [_read(operand, inputs, known) for operand in term.operands]
    shape = tuple(int(extent) for extent in term.shape or ())  # type: ignore[arg-type]
    if term.op == "affine":
        has_scale, has_shift = term.attributes
        core, *rest = read
        core = core * rest[0] if has_scale else core
        return np.broadcast_to(core + rest[-1] if has_shift else core, shape)
    if term.op == "sum":
        return np.broadcast_to(sum(read[1:], read[0]), shape)
    if term.op == "product":
        found: Any = Fraction(1)
        for array, power in zip(read, term.attributes, strict=True):
            found = found * powered(array, Fraction(str(power)))
        return np.broadcast_to(found, shape)
    if term.op == "map":
        return np.broadcast_to(mapped(term, read), shape)
    if term.op == "dot":
        summed = range(len(shape), read[0].ndim)
        return np.asarray(
            np.asarray(read[0] * read[1], dtype=object).sum(axis=tuple(summed)), dtype=object
        ).reshape(shape)
    if term.op == "reduce":
        axes = tuple(range(len(shape), read[0].ndim))
        cells = int(np.prod([read[0].shape[axis] for axis in axes]))
        how = {"mean": np.sum, "sum": np.sum, "max": np.max, "min": np.min}[str(term.attributes[0])]
        total = np.asarray(how(read[0], axis=axes), dtype=object)
        return total / Fraction(cells) if term.attributes[0] == "mean" else total
    if term.op == "convolution":
        return convolved(term, read).reshape(shape)
    if term.op == "average-pool":
        return pooled(term, read[0]).reshape(shape)
    if term.op == "take":
        start, step, cells = (int(str(item)) for item in term.attributes)
        return read[0][..., start : start + step * cells : step].reshape(shape)
    if term.op == "slide":
        size, gap, step, cells = (int(str(item)) for item in term.attributes)
        places = [row * gap + column * step for row in range(size) for column in range(cells)]
        return read[0][..., places].reshape(shape)
    if term.op == "gather":
        return read[0][..., [int(str(place)) for place in term.attributes]].reshape(shape)
    if term.op == "foreign" and term.attributes[0] == "gather":
        return np.take(read[0], read[1].astype(np.int64), int(str(term.attributes[1]))).reshape(shape)
    if term.op == "pad":
        before, after, mode = term.attributes
        sizes = [*[(0, 0)] * (read[0].ndim - 1), (int(str(before)), int(str(after)))]
        how = {"constant_values": read[1].item()} if mode == "constant" else {}
        return np.pad(read[0], sizes, "constant" if how else "edge", **how).reshape(shape)
    if term.op == "merge":
        return read[0]
    if term.op == "concatenate":
        return np.concatenate(read, axis=-1).reshape(shape)
    raise AssertionError(term.op)


def powered(array: Array, power: Fraction) -> Array:
    """Powers; those of 1/2 of squares of rational numbers only."""

    def one(number: Fraction) -> Fraction:
        if power.denominator == 1:
            return number ** int(power)
        return Fraction(float(number) ** float(power)).limit_denominator(10**6)

    return np.vectorize(one, otypes=[object])(array)


FUNCTIONS = {
    name: (lambda x, s=seed: (x + s) * (x + s)) for seed, name in enumerate(("exp", "log", "erf"), 1)
}
FUNCTIONS["sigmoid"] = lambda x: Fraction(1) / (1 + FUNCTIONS["exp"](-x))
FUNCTIONS["tanh"] = lambda x: 2 * FUNCTIONS["sigmoid"](2 * x) - 1
FUNCTIONS["softplus"] = lambda x: FUNCTIONS["log"](1 + FUNCTIONS["exp"](x))
FUNCTIONS["abs"] = np.abs
"""Stand-ins: what holds for them holds for whatever log and erf are, and exp but for its 1 at 0."""


INTEGERS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "and": np.logical_and,
    "or": np.logical_or,
}


def mapped(term: Term, read: list[Array]) -> Array:
    """A function of each element."""
    name, *parameters = term.attributes
    if name == "clamp":
        value, *bounds = read
        if parameters[0]:
            value = np.maximum(value, bounds.pop(0))
        return np.minimum(value, bounds.pop(0)) if parameters[1] else value
    if name == "leaky-relu":
        return np.where(read[0] > 0, read[0], read[1] * read[0])
    if name == "elu":
        return np.where(read[0] > 0, read[0], read[1] * (FUNCTIONS["exp"](read[0]) - 1))
    if name in ("maximum", "minimum"):
        return np.asarray(getattr(np, str(name))(*read))
    if name in ("add", "sub", "mul", "and", "or"):
        return np.asarray(INTEGERS[name](*read))
    if name in ("eq", "not"):
        return np.asarray(read[0] == read[1] if name == "eq" else np.logical_not(read[0]))
    return FUNCTIONS[str(name)](read[0])


def convolved(term: Term, read: list[Array]) -> Array:
    """A convolution, window by window."""
    batch, out, window, groups, _, extents = term.attributes
    assert isinstance(window, SlidingWindow)
    value = read[0].reshape((-1, *read[0].shape[int(str(batch)) :]))  # type: ignore[arg-type]
    padded = np.pad(value, [(0, 0), (0, 0), *window.padding], constant_values=Fraction(0))
    found = np.full((len(value), out, *extents), Fraction(0), dtype=object)  # type: ignore[misc]
    inner = value.shape[1] // int(str(groups))
    per_group = int(str(out)) // int(str(groups))
    for index in np.ndindex(*found.shape):
        n, o, *place = index
        for c, *cell in itertools.product(range(inner), *map(range, window.kernel)):  # type: ignore[arg-type]
            at = [
                p * s + k * d for p, s, k, d in zip(place, window.stride, cell, window.dilation, strict=True)
            ]
            found[index] += padded[(n, o // per_group * inner + c, *at)] * read[1][(o, c, *cell)]
    return found


def pooled(term: Term, value: Array) -> Array:
    """An average pool that counts its padding, window by window."""
    sliding, counts, divisor, *_ = term.attributes
    assert isinstance(sliding, SlidingWindow)
    kernel, stride = sliding.kernel, sliding.stride
    spatial = len(kernel)
    assert (divisor, counts) == (None, sliding.is_padded)
    flat = value.reshape((-1, *value.shape[value.ndim - spatial :]))
    flat = np.pad(flat, [(0, 0), *sliding.padding], constant_values=Fraction(0))
    extents = [(size - k) // s + 1 for size, k, s in zip(flat.shape[1:], kernel, stride, strict=True)]  # type: ignore[call-overload]
    found = np.empty((len(flat), *extents), dtype=object)
    for index in np.ndindex(*found.shape):
        n, *place = index
        window = flat[(n, *(slice(p * s, p * s + k) for p, s, k in zip(place, stride, kernel, strict=True)))]  # type: ignore[call-overload]
        found[index] = window.sum() / Fraction(window.size)
    return found
