"""A model's graph before it is terms: its inputs, its outputs, and a way to read it at given extents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

from fxexport.language.term import Terms, Value

Dims: TypeAlias = tuple[int | None, ...]
"""Extents of an input; None for a free one."""


class NotRead(Exception):
    """The model is no graph of the language; at best its results agree.

    Attributes:
        reason: what refuses.
    """

    def __init__(self, reason: str) -> None:
        """Keeps the reason."""
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GraphInput:
    """An input of a graph.

    Attributes:
        name: its name.
        dtype: type of its elements.
        dims: its extents, None for a free one.
        least: the smallest extent that the graph takes along each axis.
        most: the largest, or None.
        same: for each axis a key; free axes with equal keys have to be equal. None where it stands alone.
    """

    name: str
    dtype: str
    dims: Dims
    least: tuple[int, ...]
    most: tuple[int | None, ...]
    same: tuple[str | None, ...]


Read: TypeAlias = Callable[[Terms, Sequence[Value]], list[Value]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """A model that can be read as terms.

    Attributes:
        inputs: what it takes.
        outputs: names of what it gives.
        scope: what a claim about it covers, and what not.
        read: its outputs as values over values of its inputs.
        conditions: what extents have to be besides, for the graph to be the model, in Python.
        outside: extents of all inputs at which the model may be another function.
        fixed: extents at which the model may run too, though the graph shows those of one call alone.
        takes: whether the graph is the model where inputs have these extents; None if it always is.
        at: the graph for inputs of these extents where it does not take them.
    """

    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]
    scope: tuple[str, ...]
    read: Read
    conditions: tuple[str, ...] = ()
    outside: tuple[tuple[Dims, ...], ...] = ()
    fixed: tuple[tuple[Dims, ...], ...] = ()
    takes: Callable[[Sequence[Dims]], bool] | None = None
    at: Callable[[Sequence[Dims]], Graph] | None = None
