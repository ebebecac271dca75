"""What ``fxhead cam`` found and drew, as records and for a person."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from fxhead.inputs.images import Preparation
from fxhead.outcome import ExitCode, ModelInfo, Outcome, WrittenFile
from fxhead.show.fitting_table import FittingTable
from fxhead.show.tables import file_table, miss_lines, model_line
from fxpasses.report import Miss


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClassRecord:
    """A class whose map was drawn.

    Attributes:
        index: its number.
        label: its name; None where there are no labels.
        logit: what the model gives, the mean of the map.
        peak: the highest score.
        peak_at: where that is in the image: x and y in pixels, the middle of the map's cell.
    """

    index: int
    label: str | None
    logit: float
    peak: float
    peak_at: tuple[float, float]

    @property
    def name(self) -> str:
        """What it is called in tables and pictures."""
        return f"class {self.index}" if self.label is None else self.label


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """An image that was run.

    Attributes:
        path: the file.
        picture: the file that was drawn of it.
        size: height and width in pixels, turned upright.
        box: the part of it that the model has seen: left, top, right and bottom in its pixels.
        classes: what was drawn, in this order.
    """

    path: Path
    picture: Path
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    classes: tuple[ClassRecord, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CamOutcome(Outcome):
    """Result of ``fxhead cam``.

    Attributes:
        model: what was read.
        head: which head was drawn; None where the model has no map.
        preparation: of the images; None where the model has no map.
        interpolation: of their resizing.
        images: what was drawn; empty where the model has no map.
        misses: why it has none, then.
        files: what was written: the pictures, the sheet, the arrays.
        seconds: wall-clock time.
    """

    command = "cam"
    unwritten = ("interpolation",)

    model: ModelInfo
    head: str | None = None
    preparation: Preparation | None = None
    interpolation: str | None = None
    images: tuple[ImageRecord, ...] = ()
    misses: tuple[Miss, ...] = ()
    files: tuple[WrittenFile, ...] = ()
    seconds: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        """NO where the model has no map."""
        return ExitCode.DONE if self.images else ExitCode.NO

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        yield model_line(self.model)
        if not self.images:
            yield from miss_lines(self.misses)
            yield ""
            reason = "its head cannot stand before a pool" if self.misses else "it has no head behind a pool"
            yield f"[bold]no maps[/]: {reason}; nothing was written"
            return
        yield ""
        table = FittingTable(
            "image", "class", "logit", "highest score", "at x, y", right=("logit", "highest score")
        )
        for image in self.images:
            for record in image.classes:
                x, y = record.peak_at
                name = str(image.path) if record is image.classes[0] else ""
                table.add(name, record.name, f"{record.logit:.3f}", f"{record.peak:.3f}", f"{x:.0f}, {y:.0f}")
        yield table
        yield ""
        if self.preparation is not None:
            yield f"images: {_preparation(self.preparation, self.interpolation or '')}"
            yield ""
        yield file_table(self.files)

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        written = Outcome.to_dict(self)
        if self.preparation is not None:
            written["preparation"]["interpolation"] = self.interpolation
        return written


def _preparation(how: Preparation, interpolation: str) -> str:
    text = how.told(interpolation)
    for name, values in (("mean", how.mean), ("deviation", how.std)):
        text += f", {name} {' '.join(f'{value:g}' for value in values)}" if values else ""
    return text
