"""What ``fxhead convert-weights`` did, as records and for a person."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from rich.console import RenderableType
from rich.filesize import decimal
from rich.markup import escape

from fxhead.outcome import ExitCode, Outcome, WrittenFile
from fxhead.show.fitting_table import FittingTable
from fxhead.show.tables import file_table, shape_text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """One tensor that was reshaped.

    Attributes:
        place: where it is in the checkpoint.
        before: its shape before.
        after: its shape after.
        copied_bytes: bytes that got another order; 0 where only the shape changed.
    """

    place: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    copied_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOutcome(Outcome):
    """Result of ``fxhead convert-weights``.

    Attributes:
        checkpoint: the file that was read.
        container: its format.
        to: the form that was asked for.
        converted: what was reshaped; empty where it has that form already.
        left: what looks like one of these and was left as it is.
        files: what was written; empty where nothing had to be.
        seconds: wall-clock time.
    """

    command = "convert-weights"

    checkpoint: str
    container: str
    to: str
    converted: tuple[Converted, ...]
    left: tuple[str, ...]
    files: tuple[WrittenFile, ...]
    seconds: float

    @property
    def exit_code(self) -> ExitCode:
        """NO where it has the form already."""
        return ExitCode.DONE if self.converted else ExitCode.NO

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        yield f"[bold]{escape(self.checkpoint)}[/]  {self.container} checkpoint"
        yield ""
        if not self.converted:
            yield f"[bold]nothing to convert[/]: it has the {self.to} form already; nothing was written"
            return
        table = FittingTable("tensor", "shape")
        for tensor in self.converted:
            copied = f" ({decimal(tensor.copied_bytes)} reordered)" if tensor.copied_bytes else ""
            table.add(tensor.place, f"{shape_text(tensor.before)} → {shape_text(tensor.after)}{copied}")
        yield table
        yield ""
        yield file_table(self.files)
