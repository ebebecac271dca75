"""What ``fxhead convert-weights`` did."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from fxhead.outcome import SCHEMA_VERSION, ExitCode, WrittenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType


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
class ConvertOutcome:
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
        from fxhead.convert.lines import convert_lines  # with it comes rich, which JSON does not need

        return convert_lines(self)

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "convert-weights",
            "checkpoint": self.checkpoint,
            "container": self.container,
            "to": self.to,
            "converted": [dataclasses.asdict(tensor) for tensor in self.converted],
            "left": list(self.left),
            "files": [file.to_dict() for file in self.files],
            "seconds": round(self.seconds, 3),
        }
