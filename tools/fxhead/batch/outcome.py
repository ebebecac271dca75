"""What ``fxhead batch`` did."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from fxhead.batch.process import Done, State
from fxhead.outcome import ExitCode, Outcome, WrittenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BatchOutcome(Outcome):
    """Result of ``fxhead batch``.

    Attributes:
        rows: one for each model, in the order in which they were named.
        skipped: how many of them an earlier run had done.
        files: the tables that were written.
        seconds: wall-clock time.
        require: the least verdict that is a yes.
    """

    command = "batch"
    unwritten = ("require",)

    rows: tuple[Done, ...]
    skipped: int
    files: tuple[WrittenFile, ...]
    seconds: float
    require: str = "agrees"

    @property
    def below(self) -> tuple[Done, ...]:
        """Rows that are done, with less than what is required; nothing checked proves nothing."""
        enough = {"proved": ("proved",), "agrees": ("proved", "agrees", None)}[self.require]
        done = (row for row in self.rows if row.state is State.DONE)
        return tuple(row for row in done if row.verdict not in enough)

    @property
    def exit_code(self) -> ExitCode:
        """DONE where every row is, with what is required."""
        is_done = all(done.state is State.DONE for done in self.rows) and not self.below
        return ExitCode.DONE if is_done else ExitCode.NO

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        from fxhead.batch.lines import batch_lines  # with it comes rich, which JSON does not need

        return batch_lines(self)
