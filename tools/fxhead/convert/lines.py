"""The result of ``fxhead convert-weights`` for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.filesize import decimal
from rich.markup import escape

from fxhead.show.fitting_table import FittingTable
from fxhead.show.tables import file_table, shape_text

if TYPE_CHECKING:
    from fxhead.convert.outcome import ConvertOutcome


def convert_lines(outcome: ConvertOutcome) -> Iterator[RenderableType]:
    """The result, from top to bottom."""
    yield f"[bold]{escape(outcome.checkpoint)}[/]  {outcome.container} checkpoint"
    yield ""
    if not outcome.converted:
        yield f"[bold]nothing to convert[/]: it has the {outcome.to} form already; nothing was written"
        return
    table = FittingTable("tensor", "shape")
    for tensor in outcome.converted:
        copied = f" ({decimal(tensor.copied_bytes)} reordered)" if tensor.copied_bytes else ""
        table.add(tensor.place, f"{shape_text(tensor.before)} → {shape_text(tensor.after)}{copied}")
    yield table
    yield ""
    yield file_table(outcome.files)
