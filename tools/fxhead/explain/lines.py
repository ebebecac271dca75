"""The result of ``fxhead explain`` for a person."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.markup import escape

from fxhead.show.fitting_table import FittingTable
from fxpasses.miss_codes import EXAMPLE_PARTS

if TYPE_CHECKING:
    from fxpasses.miss_codes import MissCode


def listing_lines(codes: Iterable[MissCode]) -> Iterator[RenderableType]:
    """Every code with its meaning."""
    table = FittingTable("code", "meaning", prose="meaning")
    for code in codes:
        table.add(code, code.meaning)
    yield table
    yield ""
    yield "what to do, and an example: fxhead explain CODE"


def code_lines(code: MissCode) -> Iterator[RenderableType]:
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
