"""What ``fxhead batch`` did."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from fxhead.batch.process import Done, State
from fxhead.outcome import SCHEMA_VERSION, ExitCode, WrittenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BatchOutcome:
    """Result of ``fxhead batch``.

    Attributes:
        rows: one for each model, in the order in which they were named.
        skipped: how many of them an earlier run had done.
        files: the tables that were written.
        seconds: wall-clock time.
    """

    rows: tuple[Done, ...]
    skipped: int
    files: tuple[WrittenFile, ...]
    seconds: float

    @property
    def exit_code(self) -> ExitCode:
        """DONE where every row is."""
        return ExitCode.DONE if all(done.state is State.DONE for done in self.rows) else ExitCode.NO

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        from fxhead.batch.lines import batch_lines  # with it comes rich, which JSON does not need

        return batch_lines(self)

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "batch",
            "rows": [dataclasses.asdict(done) for done in self.rows],
            "skipped": self.skipped,
            "files": [file.to_dict() for file in self.files],
            "seconds": round(self.seconds, 3),
        }
