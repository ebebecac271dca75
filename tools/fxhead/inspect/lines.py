"""The result of ``fxhead inspect`` for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.markup import escape

from fxhead.rewriting.memory_lines import memory_lines
from fxhead.show.fitting_table import FittingTable
from fxhead.show.tables import count_text, image_lines, miss_lines, model_line, trace_lines

if TYPE_CHECKING:
    from fxhead.inspect.outcome import InspectOutcome
    from fxpasses.report import Site


def inspect_lines(outcome: InspectOutcome) -> Iterator[RenderableType]:
    """The result, from top to bottom."""
    found = outcome.sites
    yield model_line(outcome.model, with_container=True)
    yield from image_lines(outcome.model)
    if found.sites:
        yield ""
        yield _site_table(found.sites)
    if len(found.heads) > 1:
        yield ""
        names = ", ".join(f"{number} {escape(head.name)}" for number, head in enumerate(found.heads))
        yield f"heads: {names}"
    if found.memory is not None and found.memory.sites:
        yield ""
        yield from memory_lines(found.memory)
    yield from miss_lines(found.misses)
    yield from trace_lines(found.trace)
    yield ""
    yield f"{count_text(len(found.sites), 'site')}, {count_text(len(found.misses), 'miss', 'misses')}"


def _site_table(sites: Iterable[Site]) -> FittingTable:
    table = FittingTable("site", "scope", "now", "can become", "node", "source")
    for site in sites:
        other = site.linear if site.form == "conv" else site.conv
        if site.scope == "unfolded" and site.form == "conv":
            other = site.unfolded
        written = site.written(site.form)
        table.add(site.name, site.scope, written, other, site.node, site.source or "")
    return table
