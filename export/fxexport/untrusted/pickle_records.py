"""What a pickle would make and call, as records; whoever reads them decides what may become real."""

from __future__ import annotations

import dataclasses
from typing import Any

from fxexport.untrusted.refused import Refused


class PickleError(Refused):
    """The pickle is damaged or uses what no file here needs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Made:
    """An object that the pickle would make, by a call or as a bare instance of a class.

    Attributes:
        function: what it would call; a ``Global`` in every honest file.
        args: the arguments.
        is_instance: whether it is ``cls.__new__(cls, *args)`` and no call.
        states: what the object would be given as its state.
        items: key and value pairs, or single elements, that would be added.
    """

    function: Any
    args: Any
    is_instance: bool
    states: list[Any] = dataclasses.field(default_factory=list)
    items: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True, eq=False)
class Persistent:
    """A reference to something outside the pickle: a tensor's storage."""

    key: Any


class PlainSet(list[Any]):
    """The elements of a set, which may be records and then have no hash."""


class PlainDict:
    """The pairs of a dict in order; its keys may be records."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pickled:
    """What a pickle describes.

    Attributes:
        root: numbers, strings, tuples, lists, and the records of this file.
        names: every name that the pickle would import, used or not.
        references: every reference to something outside it, used or not.
    """

    root: Any
    names: tuple[Global, ...]
    references: tuple[Persistent, ...]
