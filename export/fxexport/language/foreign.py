"""Operators that the language does not interpret: equal to their exact twin only."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from fxexport.language.extents import Extent, symbol
from fxexport.language.layout import own_axes
from fxexport.language.term import Operand, Terms, Value


def foreign(
    terms: Terms,
    key: tuple[Hashable, ...],
    operands: Sequence[Value | None],
    results: Sequence[tuple[str, tuple[Extent | None, ...] | None]],
    *,
    is_random: bool,
) -> list[Value]:
    """The results of an operator that is known by its key alone.

    Args:
        terms: the table.
        key: domain, name, version and every attribute with its type and value.
        operands: what it reads, in order; None for an operand that is left out.
        results: type and extents of each result; None for a free extent or an unknown rank.
        is_random: whether two runs give different results: it is then not even equal to its twin.
    """
    read = [Operand(value.term, value.known_layout) for value in operands if value is not None]
    gaps = tuple(value is None for value in operands)
    number = len(terms.origins) if is_random else None
    side = terms.side if is_random else None
    found: list[Value] = []
    for place, (dtype, dims) in enumerate(results):
        attributes = (*key, gaps, place, number, side)
        if dims is None:
            term = terms.term("foreign", attributes, read, dtype, None, is_closed=False)
            found.append(Value(term=term, known_layout=None))
            continue
        probe = terms.term("foreign-extents", attributes, read, dtype, None, is_closed=False)
        extents: list[Extent] = [
            symbol(f"extent{probe.serial}.{axis}") if extent is None else extent
            for axis, extent in enumerate(dims)
        ]
        shape = tuple(extent for extent in extents if extent != 1)
        term = terms.term("foreign", attributes, read, dtype, shape, is_closed=False)
        found.append(Value(term=term, known_layout=own_axes(extents)))
    return found
