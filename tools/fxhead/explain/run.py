"""``fxhead explain``: looks a code up."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import RenderableType
from rich.markup import escape

from fxhead.outcome import Outcome
from fxhead.show.fitting_table import FittingTable
from fxpasses.errors import InputError, suggest
from fxpasses.miss_codes import EXAMPLE_PARTS, MissCode


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOutcome(Outcome):
    """Result of ``fxhead explain``: one code in full, or a list of all."""

    command = "explain"
    unwritten = ("is_listing",)

    codes: tuple[MissCode, ...]
    is_listing: bool = True

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        return _listing(self.codes) if self.is_listing else _in_full(self.codes[0])

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        names = ("meaning", "fix", "example", "asked")
        codes = [{"code": code} | {name: getattr(code, name) for name in names} for code in self.codes]
        return Outcome.to_dict(self) | {"codes": codes}


def run_explain(code: str | None) -> ExplainOutcome:
    """One code explained, or all of them listed.

    Raises:
        InputError: there is no such code.
    """
    if code is None:
        return ExplainOutcome(codes=tuple(MissCode))
    name = code.upper().replace("-", "_")
    if name not in MissCode.__members__:
        near = suggest(name, MissCode)
        # all of them are too many for a line
        fix = near if near.startswith("did you mean") else "fxhead explain lists all"
        raise InputError("no such code", where=code, fix=fix)
    return ExplainOutcome(codes=(MissCode[name],), is_listing=False)


def _listing(codes: Iterable[MissCode]) -> Iterator[RenderableType]:
    """Every code with its meaning."""
    table = FittingTable("code", "meaning", prose="meaning")
    for code in codes:
        table.add(code, code.meaning)
    yield table
    yield ""
    yield "what to do, and an example: fxhead explain CODE"


def _in_full(code: MissCode) -> Iterator[RenderableType]:
    """One code in full."""
    yield f"[bold]{code}[/]  {escape(code.meaning)}"
    yield f"what to do: {escape(code.fix)}"
    yield ""
    yield "for example, on a map x of 2x8x4x4:"
    yield ""
    words = {*re.findall(r"\w+", code.example)}
    parts = [f"{name} = {made}" for name, made in EXAMPLE_PARTS.items() if name in words]
    for line in (*parts, *code.example.splitlines()):
        yield f"    {escape(line)}"
    yield ""
    arguments = ", ".join(filter(None, ("model", code.asked)))
    yield escape(f"found by find_sites({arguments})")
