"""Operators that act on each element alone, and everything that is made of them.

They do not care how their operands lie in memory: a map of permuted values is the permuted map.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from fxexport.language.constants import along, exact_array, folded, is_folded, scalar
from fxexport.language.extents import Extent
from fxexport.language.fold_rules import CHOICES
from fxexport.language.layout import (
    Joined,
    Layout,
    Parts,
    Slot,
    accesses,
    aligned,
    extent_of,
    extents_of,
    joined,
    plain,
    repeated,
)
from fxexport.language.term import FLOATS, Array, Operand, Term, Terms, Uninterpreted, Value, numpy_type


def mapped(
    terms: Terms, op: str, attributes: tuple[Hashable, ...], values: Sequence[Value], dtype: str
) -> Value:
    """The operator at every element of the values, which are broadcast against each other."""
    join = broadcast(values)
    operands = [Operand(value.term, accesses(join.slots, number)) for number, value in enumerate(values)]
    shape = tuple(slot.extent for slot in join.slots)
    term = terms.term(op, attributes, operands, dtype, shape)
    return Value(term=term, known_layout=join.layout)


def broadcast(values: Sequence[Value]) -> Joined:
    """The dimensions of the values' broadcast result, cut where any value changes parts."""
    return joined([slots_of(dimension) for dimension in dimensions(values)])


def dimensions(values: Sequence[Value]) -> list[list[Parts]]:
    """For each dimension of the broadcast result the parts of every value."""
    rank = max((value.rank for value in values), default=0)
    filled: list[Layout] = [((),) * (rank - value.rank) + value.layout for value in values]
    return [list(parts) for parts in zip(*filled, strict=True)]


def slots_of(dimension: Sequence[Parts]) -> tuple[Slot, ...]:
    """One dimension's slots; values of extent 1 along it are broadcast."""
    extents = {extent_of(parts) for parts in dimension if parts}
    if len(extents) > 1:
        raise Uninterpreted(f"extents {sorted(map(str, extents))} that may differ")
    slots = aligned([parts or None for parts in dimension])
    if slots is None:
        raise Uninterpreted("views that cut across each other")
    return slots


def elementwise(terms: Terms, name: str, values: Sequence[Value], dtype: str, *parameters: Hashable) -> Value:
    """A map that no identity takes apart; constants of integers and booleans are computed."""
    if all(value.term.array is not None for value in values) and name in _EXACT:
        shape = extents_of(broadcast(values).layout)
        arrays = [exact_array(value.seen(along(value.layout))) for value in values]
        if all(array is not None and array.dtype.kind in "iub" for array in arrays):
            with np.errstate(all="ignore"):
                found = terms.constant(np.asarray(_EXACT[name](*arrays)).astype(dtype))
            return _spread(found, shape)
    kept = _beside_neutral(name, values) if {value.dtype for value in values} == {dtype} else None
    if kept is not None:
        terms.use("neutral-integer")
        return _spread(kept, extents_of(broadcast(values).layout))
    return mapped(terms, "map", (name, *parameters), values, dtype)


def _spread(value: Value, shape: Sequence[Extent]) -> Value:
    """The value repeated to this shape, along dimensions of one cell and those that it lacks."""
    layout = ((),) * (len(shape) - value.rank) + value.layout
    found = tuple(parts or repeated(extent) for parts, extent in zip(layout, shape, strict=True))
    return value if found == value.layout else value.seen(found)


def _beside_neutral(name: str, values: Sequence[Value]) -> Value | None:
    """The one of two values that an operator on integers leaves as it is, for what the other one is."""
    if name not in _NEUTRAL or values[0].is_float:
        return None
    pairs = [tuple(values), tuple(reversed(values))]
    kept = (value for value, other in pairs[: 1 + (name != "sub")] if scalar(other) == _NEUTRAL[name])
    return next(kept, None)


_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "and": 1, "or": 0}
"""What each of these leaves an integer, or a truth value, as it is beside."""
_EXACT: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "abs": np.abs,
    **CHOICES,
    "minimum": np.minimum,
    "maximum": np.maximum,
}
"""What is computed on integers and booleans bit for bit."""


def cast(terms: Terms, value: Value, dtype: str) -> Value:
    """The value in another type; of its own type it is itself."""
    if value.dtype == dtype:
        terms.use("cast-to-own-type")
        return value
    if value.contents is not None and dtype in ("int64", "int32") and fits(value.contents, dtype):
        return terms_of_contents(terms, value.contents, value.rank, dtype)
    if value.term.op == "cast" and value.known_layout is not None:
        inner = value.term.operands[0].value(value.layout)
        if value.dtype in _HOLD.get(inner.dtype, ()) and (dtype in FLOATS or dtype == inner.dtype):
            terms.use("cast-of-wider")
            return cast(terms, inner, dtype)
    array = None if value.term.rounded or value.known_layout is None else _held(value.term, dtype)
    if array is not None and _is_exact_cast(array, dtype):
        with np.errstate(all="ignore"):
            return terms.constant(array.astype(numpy_type(dtype))).seen(value.layout)
    return mapped(terms, "cast", (), [value], dtype)


_HOLD = {
    "float16": ("float32", "float64"),
    "bfloat16": ("float32", "float64"),
    "float32": ("float64",),
    "bool": ("uint8", "int32", "int64", *FLOATS),
    "uint8": ("int32", "int64", "float32", "float64"),
    "int32": ("int64", "float64"),
}
"""Which types have every number of a type, so that a cast to them rounds nothing."""


def _held(term: Term, dtype: str) -> Array | None:
    """The elements of a constant that is stored, or computed without a rounding: a place as an integer."""
    if term.array is not None or dtype in FLOATS or not is_folded(term):
        return term.array
    found = folded(term)
    return found.value.astype(numpy_type(term.dtype)) if found.is_exact else None


def _is_exact_cast(array: Array, dtype: str) -> bool:
    """Whether every tool computes this cast alike: between reals, from integers, or within their range."""
    if array.dtype.kind in "iub" or dtype in FLOATS:
        return array.dtype.kind in "iubfV" and dtype != "string"
    values = array.astype(np.float64)
    return dtype in ("int64", "int32", "bool") and bool(np.all(np.abs(values) < 2.0**31))


def fits(contents: Sequence[Extent], dtype: str) -> bool:
    """Whether the type of integers holds the numbers among extents."""
    ends = np.iinfo(dtype)
    return all(ends.min <= item <= ends.max for item in contents if isinstance(item, int))


def terms_of_contents(terms: Terms, contents: Sequence[Extent], rank: int, dtype: str = "int64") -> Value:
    """A vector or a scalar of extents."""
    if all(isinstance(item, int) for item in contents):
        array = np.array(contents, dtype=dtype)
        return terms.constant(array if rank else array.reshape(()))
    kept = tuple(contents)
    shape = () if len(kept) == 1 else (len(kept),)
    term = terms.term("sizes", kept, (), dtype, shape, is_closed=False)
    layout = plain((len(kept),)) if rank else ()
    return Value(term=term, known_layout=layout, contents=kept)
