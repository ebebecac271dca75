"""Tables that stay readable on a narrow terminal: rows become blocks where the columns do not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fxhead.show.visible import visible

_UNBOUNDED = 100_000
_PROSE_WIDTH = 36
_MOST_ROWS = 1_000
"""Of more, nobody reads each; a file may have a hundred thousand of which there is something to say."""


class FittingTable:
    """A table where its columns fit the width, else a block of ``column  value`` lines for each row.

    Args:
        prose: heading of the one column whose text may wrap inside the table.
        right: headings of columns of numbers that are aligned to the right.
    """

    def __init__(self, *columns: str, prose: str | None = None, right: Sequence[str] = ()) -> None:
        self._columns, self._prose, self._right = columns, prose, right
        self._rows: list[tuple[Text, ...]] = []
        self._further = 0

    def add(self, *cells: str | Text) -> None:
        """Adds a row; cells are shown as they are, markup included, and what is not printed written out.

        Rows beyond a thousand are only counted.
        """
        if len(self._rows) < _MOST_ROWS:
            self._rows.append(tuple(map(_shown, cells)))
        else:
            self._further += 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, or the blocks."""
        if self._width(console, options) <= options.max_width:
            yield self._table(self._columns)
        else:
            yield from self._blocks()
        if self._further:
            yield f"… and {self._further:,} more; --json lists all"

    def _blocks(self) -> Iterator[str | Table]:
        for index, row in enumerate(self._rows):
            if index:
                yield ""
            yield self._block(row)

    def _width(self, console: Console, options: ConsoleOptions) -> int:
        """Columns needed so that nothing wraps but prose."""
        wide = options.update(width=_UNBOUNDED)
        width = Measurement.get(console, wide, self._table(self._columns)).maximum
        if self._prose is None:
            return width
        at = self._columns.index(self._prose)
        longest = max((row[at].cell_len for row in self._rows), default=0)
        return width - max(longest - _PROSE_WIDTH, 0)

    def _table(self, columns: Sequence[str]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column in columns:
            table.add_column(
                column,
                overflow="fold",
                no_wrap=column != self._prose,
                justify="right" if column in self._right else "left",
            )
        for row in self._rows:
            table.add_row(*row)
        return table

    def _block(self, row: Sequence[Text]) -> Table:
        block = Table.grid(padding=(0, 2, 0, 0))
        block.add_column(no_wrap=True)
        block.add_column(overflow="fold")
        for column, cell in zip(self._columns, row, strict=True):
            if cell.plain:
                block.add_row(Text(column, style="bold"), cell)
        return block


def _shown(cell: str | Text) -> Text:
    return Text(visible(cell)) if isinstance(cell, str) else Text(visible(cell.plain), style=cell.style)
