"""Integers that count through cells: a place that grows by one step along each axis, free or not.

``n·C + c`` over ranges of ``n`` and ``c`` names the cells of ``[N, C]`` in the order in which they are
flattened. Exporters write the memory layouts of torch so, which ONNX has none of.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fxexport.language.extents import Extent, plus, times
from fxexport.language.term import Array, Operand, Term, Value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """``start + Σ step · i`` over the indices ``i`` of a term's axes.

    Attributes:
        start: the first integer.
        steps: by how much it grows along each axis.
    """

    start: Extent
    steps: tuple[Extent, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Digit:
    """One of the parts of an index along which the place grows by one step.

    Attributes:
        dim: the index's dimension.
        number: which of the dimension's parts.
        extent: how often it steps.
    """

    dim: int
    number: int
    extent: Extent


def all_places(index: Value, extent: Extent) -> list[Digit] | None:
    """What counts through all places below an extent, each named once, the longest steps first.

    None where a place may be left out, named twice, or not within the extent.
    """
    found = _steps_of(index.term)
    if found is None or found.start != 0:
        return None
    left: list[tuple[Extent, Digit]] = []
    for dim, parts in enumerate(index.layout):
        for number, part in enumerate(parts):
            step = 0 if part.is_repeated else times(found.steps[part.axis], part.stride)
            left.append((step, Digit(dim=dim, number=number, extent=part.extent)))
    order: list[Digit] = []
    behind: Extent = 1
    while (
        left
    ):  # each step is as long as all that shorter ones count through, or places are skipped or met twice
        own = [item for item in left if item[0] == behind]
        if len(own) != 1:
            return None
        left.remove(own[0])
        order.insert(0, own[0][1])
        behind = times(behind, own[0][1].extent)
    return order if behind == extent else None


def _steps_of(term: Term) -> Steps | None:
    """The integers of a term as steps along its axes; None where they are not known to be that."""
    every = _sums_below(term)
    if every is None:
        return None
    found: dict[Term, Steps] = {}
    for item in every:
        steps = _of_sum(item, found) if item.op == "map" else _of_leaf(item)
        if steps is None:
            return None
        found[item] = steps
    return found[term]


def _sums_below(term: Term) -> list[Term] | None:
    """The term and what it adds up and multiplies, operands first; None where it does anything else."""
    found: set[Term] = set()
    left = [term]
    while left:
        item = left.pop()
        if item in found:
            continue
        if item.dtype != "int64":  # a shorter type may not hold all places
            return None
        found.add(item)
        if item.op == "map":
            if item.attributes not in _OPERATORS:
                return None
            left.extend(operand.term for operand in item.operands)
    return sorted(found, key=lambda item: item.serial)


_OPERATORS = (("add",), ("sub",), ("mul",))


def _of_leaf(term: Term) -> Steps | None:
    if term.array is not None:
        return _of_stored(term.array)
    if term.op == "sizes" and term.shape == () and len(term.attributes) == 1:
        return Steps(start=term.attributes[0], steps=())  # type: ignore[arg-type]
    if term.op == "foreign" and term.attributes[0] == "range":
        start, step = term.attributes[1:3]
        return Steps(start=start, steps=(step,) * len(term.shape or ()))  # type: ignore[arg-type]
    return None


def _of_stored(array: Array) -> Steps | None:
    if not array.size:
        return None
    with np.errstate(over="ignore"):  # what leaves 64 bits comes back with the sums that it is read in
        start = array.flat[0]
        steps = [array.take(1, axis).flat[0] - start for axis in range(array.ndim)]
        expected = np.full(array.shape, start)
        places: Array
        for step, places in zip(steps, np.indices(array.shape, sparse=True), strict=True):
            expected += step * places
    if not np.array_equal(array, expected):
        return None
    return Steps(start=int(start), steps=tuple(int(step) for step in steps))


def _of_sum(term: Term, known: dict[Term, Steps]) -> Steps | None:
    read = [_as_read(operand, known[operand.term]) for operand in term.operands]
    if len(read) != 2 or read[0] is None or read[1] is None:
        return None
    first, second = read[0], read[1]
    if term.attributes == ("mul",):
        if any(step != 0 for step in first.steps):
            first, second = second, first
        return None if any(step != 0 for step in first.steps) else _multiple(second, first.start)
    if term.attributes == ("sub",):
        second = _multiple(second, -1)
    steps = tuple(plus(one, other) for one, other in zip(first.steps, second.steps, strict=True))
    return Steps(start=plus(first.start, second.start), steps=steps)


def _multiple(item: Steps, factor: Extent) -> Steps:
    return Steps(start=times(item.start, factor), steps=tuple(times(step, factor) for step in item.steps))


def _as_read(operand: Operand, own: Steps) -> Steps | None:
    """The steps along the axes of what reads the operand."""
    if operand.access is None or any(len(parts) > 1 for parts in operand.access):
        return None
    along: list[Extent] = []
    for parts in operand.access:
        part = parts[0] if parts and not parts[0].is_repeated else None
        along.append(0 if part is None else times(own.steps[part.axis], part.stride))
    return Steps(start=own.start, steps=tuple(along))
