"""What unfolding takes, as a line before it runs and as a table of the result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.filesize import decimal
from rich.markup import escape

from fxhead.show.fitting_table import FittingTable

if TYPE_CHECKING:
    from fxpasses.report import Memory


def memory_line(memory: Memory) -> str:
    """The largest columns, and the peak where the size of the input is known."""
    if not memory.sites:
        return "nothing is unfolded"
    largest = max(memory.sites, key=lambda site: (site.columns_bytes or 0, site.per_pixel))
    if memory.peak_bytes is None or memory.peak_before_bytes is None or largest.columns_bytes is None:
        return (
            f"unfolding multiplies a map by up to {largest.per_pixel:.3g} ({largest.name}); "
            "--input-shape tells how many bytes that is"
        )
    return (
        f"unfolded patches take up to {decimal(largest.columns_bytes)} ({largest.name}, "
        f"{largest.factor:.3g} times its map) at {_shapes(memory)}; "
        f"activations {decimal(memory.peak_before_bytes)} → about {decimal(memory.peak_bytes)}"
    )


def memory_lines(memory: Memory) -> Iterator[RenderableType]:
    """A row for each site, and the line."""
    table = FittingTable("site", "map", "unfolded", "factor", right=("map", "unfolded", "factor"))
    for site in memory.sites:
        sizes = ("" if size is None else decimal(size) for size in (site.map_bytes, site.columns_bytes))
        table.add(site.name, *sizes, f"{site.factor:.3g}")
    yield table
    yield ""
    yield escape(memory_line(memory))


def _shapes(memory: Memory) -> str:
    return " ".join("x".join(map(str, shape)) for shape in memory.input_shapes or ())
