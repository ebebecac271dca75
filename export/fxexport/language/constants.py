"""What closed terms are: their elements in float64, with a bound of what rounding may have made of them.

A tool that folds constants rounds after each operation, in the type of the constants. A closed term is
evaluated in float64 together with the running error that such a fold may have (Higham, §3.3).
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np

from fxexport.language.extents import Extent
from fxexport.language.fold_rules import LARGEST, RULES, SMALLEST, UNIT, Folded, NotFolded
from fxexport.language.layout import Parts
from fxexport.language.term import Array, Operand, Rounded, Term, Value, below, numpy_type

_MOST = 2**27
"""No constant is written out to more cells."""
STEPS = 4
"""So many of its largest roundings a fold of constants may be off."""
FOLDS = 2
"""So many folds one constant is made of at most, however many others stand beside it."""
_VISIBLE = 2.0**-10
"""A fold that may lie further off than this share of an element is none: nobody knows what it gives."""
_CORRECT = 2
"""What libraries compute in so many roundings is exact where it can be; of tanh(x) = x each makes its own."""
_HIDDEN = 2.0**8
"""It is one, though, where it lies no further off than so many units of the largest element."""


def stored(term: Term) -> Counter[Term]:
    """The constants that a closed term is computed from, and how often; of a stored one itself."""
    found: Counter[Term] = Counter()
    times = Counter([term])
    for item in reversed(below(term)):
        for operand in item.operands:
            times[operand.term] += times[item]
        if item.array is not None:
            made_of = dict(item.rounded.made_of) if item.rounded else {}
            for constant, number in (made_of or {item: 1}).items():
                found[constant] += number * times[item]
    return found


_known: dict[Term, Folded | NotFolded] = {}


def folded(term: Term) -> Folded:
    """The elements of a closed term, in the order of its axes; without recursion, since graphs are deep.

    Raises:
        NotFolded: it holds an operator that is not evaluated, or loses its digits.
    """
    for item in below(term, _known):
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
    if term.array is not None:
        return term.array.dtype.kind != "c"  # without a copy of it in float64
    try:
        folded(term)
    except NotFolded:
        return False
    return True


def forget(least: int = 0) -> None:
    """Drops what is known of terms of so many elements: all of a table that is done with."""
    for term in [term for term, found in _known.items() if not least or _count(found) >= least]:
        del _known[term]


def _count(found: Folded | NotFolded) -> int:
    return found.value.size if isinstance(found, Folded) else 0


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
    name, *parameters = term.attributes if term.op == "map" else (term.op, *term.attributes)
    if name not in RULES or any(_repeats(operand) for operand in term.operands):
        raise NotFolded(term.op)
    read = [arranged(operand) for operand in term.operands]
    unit = UNIT.get(term.dtype, 0.0)
    with np.errstate(all="ignore"):
        rule, roundings = RULES[str(name)]
        found = rule(read, parameters, unit)
        size = np.abs(found.value)
        # what is exact to the type is rounded all the same where a fold computes it of what it rounded
        is_exact = _is_held(found.value, term.dtype) & (found.error == 0) & (found.defined == 0)
        is_exact &= roundings <= _CORRECT
        share = roundings * np.where(is_exact, 0.0, np.maximum(unit * size, SMALLEST.get(term.dtype, 0.0)))
        error, step = found.error + share, np.maximum(found.step, share)
        apart = np.minimum(error, STEPS * FOLDS * step) + found.defined
        known = np.isfinite(size)
        if np.any(known & (size > LARGEST.get(term.dtype, np.inf))):
            raise NotFolded(
                "a number past the end of its type, which another order of operators may not reach"
            )
        seen = max(_VISIBLE, 16 * unit)
        least = min(seen, _HIDDEN * unit) * size[known].max(initial=0.0)
    if np.any(apart[known] > np.maximum(seen * size[known], least)):
        raise NotFolded("a sum that loses its digits")
    return dataclasses.replace(found, error=error, step=step)


def _repeats(operand: Operand) -> bool:
    """Whether cells that are taken along an axis are repeated ones, which :func:`along` leaves out."""
    return any(part.is_repeated for parts in operand.access or () for part in parts)


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
    """The layout without the dimensions along all of which a value only repeats itself."""
    return tuple(() if all(part.is_repeated for part in parts) else parts for parts in layout)


def elements(value: Value) -> Folded:
    """The elements of a closed value, of extent 1 where it repeats itself.

    Raises:
        NotFolded: it is not evaluated.
    """
    return arranged(Operand(value.term, value.layout))


_ADDING = frozenset("add concatenate dot flip gather merge mul neg reduce take".split())


def sizes(value: Value) -> Array:
    """What ``elements`` of a closed value would be if nothing in it cancelled.

    Raises:
        NotFolded: it is not evaluated.
    """
    found: dict[Term, Array] = {}
    for term in below(value.term):
        name, *parameters = term.attributes if term.op == "map" else (term.op, *term.attributes)
        if term.array is None and name in _ADDING:
            read = [_arranged(found[item.term], along(item.access or ())) for item in term.operands]
            whole = RULES[str(name)][0]([*map(_exactly, read)], parameters, 0.0)
        else:
            whole = folded(term)
        found[term] = np.abs(whole.value)
    return _arranged(found[value.term], along(value.layout))


def _exactly(array: Array) -> Folded:
    none = np.zeros(array.shape)
    return Folded(value=array, error=none, defined=none, step=none)


def exact_array(value: Value) -> Array | None:
    """The elements of a stored constant as the value's dimensions see them; None if computed, or too many."""
    if value.term.array is None or value.term.rounded or value.known_layout is None:
        return None
    try:
        cells = _arranged(value.term.array, along(value.layout))
        extents = [_number(extent) for extent in value.shape]
        is_small = math.prod(extents) <= max(_MOST, value.term.array.size)
        return np.broadcast_to(cells, extents) if is_small else None  # what reads them writes them out
    except NotFolded:
        return None


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
    every = [part for dimension in layout for part in dimension]
    extents = [_number(part.extent) for part in every]
    if math.prod(extents) > max(_MOST, array.size):
        raise NotFolded("too many cells that repeat")
    parts = [part for part in every if not part.is_repeated]
    places = sorted(range(len(parts)), key=lambda k: (parts[k].axis, -_number(parts[k].stride)))
    cells = array.reshape([_number(parts[index].extent) for index in places])
    cells = cells.transpose(np.argsort(places)) if parts else cells
    cells = cells.reshape([1 if part.is_repeated else _number(part.extent) for part in every])
    return np.broadcast_to(cells, extents).reshape([_product(dimension) for dimension in layout])


def _product(parts: Parts) -> int:
    return math.prod(_number(part.extent) for part in parts)


def _number(extent: Extent) -> int:
    if not isinstance(extent, int):
        raise NotFolded("an extent that is free")
    return extent
