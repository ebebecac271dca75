"""What ``fxhead inspect`` found, as a record and for a person."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import RenderableType
from rich.markup import escape

from fxhead.outcome import ModelInfo, Outcome
from fxhead.rewriting.memory_lines import memory_lines
from fxhead.show.fitting_table import FittingTable
from fxhead.show.tables import count_text, image_lines, miss_lines, model_line, trace_lines
from fxpasses.report import Site, Sites


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InspectOutcome(Outcome):
    """Result of ``fxhead inspect``."""

    command = "inspect"

    model: ModelInfo
    scope: str
    sites: Sites

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        found = self.sites
        yield model_line(self.model, with_container=True)
        yield from image_lines(self.model)
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

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return Outcome.to_dict(self) | self.sites.to_dict()


def _site_table(sites: Iterable[Site]) -> FittingTable:
    table = FittingTable("site", "scope", "now", "can become", "node", "source")
    for site in sites:
        other = site.linear if site.form == "conv" else site.conv
        if site.scope == "unfolded" and site.form == "conv":
            other = site.unfolded
        table.add(site.name, site.scope, site.now, other, site.node, site.source or "")
    return table
