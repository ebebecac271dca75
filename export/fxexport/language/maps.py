"""Operators that act on each element alone, and everything that is made of them.

They do not care how their operands lie in memory: a map of permuted values is the permuted map.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from fxexport.language.constants import exact_array
from fxexport.language.extents import Extent
from fxexport.language.fold_rules import CHOICES
from fxexport.language.layout import Joined, Layout, Parts, Slot, accesses, aligned, extent_of, joined, plain
from fxexport.language.term import FLOATS, Array, Operand, Terms, Uninterpreted, Value, numpy_type


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
        broadcast(values)
        arrays = [exact_array(value) for value in values]
        if all(array is not None and array.dtype.kind in "iub" for array in arrays):
            with np.errstate(all="ignore"):
                return terms.constant(np.asarray(_EXACT[name](*arrays)).astype(dtype))
    return mapped(terms, "map", (name, *parameters), values, dtype)


_EXACT: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
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
    array = exact_array(value) if value.term.array is not None and not value.term.rounded else None
    if array is not None and _is_exact_cast(array, dtype):
        with np.errstate(all="ignore"):
            return terms.constant(value.term.array.astype(numpy_type(dtype))).seen(value.layout)  # type: ignore[union-attr]
    return mapped(terms, "cast", (), [value], dtype)


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
