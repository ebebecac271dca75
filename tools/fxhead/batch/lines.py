"""The result of ``fxhead batch`` for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.filesize import decimal
from rich.markup import escape

from fxhead.batch.process import State
from fxhead.show.fitting_table import FittingTable
from fxhead.show.tables import count_text, file_table

if TYPE_CHECKING:
    from fxhead.batch.outcome import BatchOutcome


_MOST_NAMED = 100


def batch_lines(outcome: BatchOutcome) -> Iterator[RenderableType]:
    """A row for each model, then how many ended how, then the files."""
    table = FittingTable("model", "state", "verdict", "why", "seconds", "peak", right=("seconds", "peak"))
    for done in outcome.rows:
        peak = "" if done.peak_bytes is None else decimal(done.peak_bytes)
        table.add(done.name, done.state, done.verdict or "", done.reason or "", f"{done.seconds:.1f}", peak)
    yield table
    yield ""
    ends = [(state, sum(done.state is state for done in outcome.rows)) for state in State]
    told = ", ".join(f"{number} {state}" for state, number in ends if number)
    skipped = f" ({outcome.skipped} of them by an earlier run)" if outcome.skipped else ""
    yield f"{count_text(len(outcome.rows), 'model')}: {told}{skipped}"
    if outcome.below:
        names = [done.name for done in outcome.below]
        further = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
        yield escape(f"less than {outcome.require}: {', '.join(names[:_MOST_NAMED])}{further}")
    yield ""
    yield file_table(outcome.files)
