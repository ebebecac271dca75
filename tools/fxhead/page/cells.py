"""Cells of a page's tables: what is shown, and what a column is sorted by."""

from __future__ import annotations

import dataclasses

_COLOURS = {
    **dict.fromkeys(("proved", "held", "done"), "good"),
    **dict.fromkeys(("agrees", "inconclusive", "not run", "no"), "fair"),
    **dict.fromkeys(("broken", "failed", "timeout", "memory", "killed"), "bad"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell.

    Attributes:
        value: what it is sorted by, where that is not its text.
    """

    text: str
    kind: str = ""
    value: float | None = None
    link: str | None = None


def word(text: object) -> Cell:
    """A verdict, a status or a state, in its colour."""
    return Cell(text=str(text), kind=colour(str(text)))


def colour(text: str) -> str:
    """The colour of a verdict, a status or a state."""
    return _COLOURS.get(text, "")


def text(value: object) -> Cell:
    """Anything as text; nothing where it is None."""
    return Cell(text="" if value is None else str(value))


def prose(value: str) -> Cell:
    """A sentence."""
    return Cell(text=value, kind="prose")


def number(value: float | None, shown: str | None = None) -> Cell:
    """A number, sorted by its size."""
    if value is None:
        return Cell(text="", kind="number")
    return Cell(text=f"{value:.2g}" if shown is None else shown, kind="number", value=value)
