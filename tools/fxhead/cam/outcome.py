"""What ``fxhead cam`` found and drew: frozen records that the tables show and JSON holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxhead.outcome import SCHEMA_VERSION, ExitCode, ModelInfo, WrittenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from fxhead.inputs.images import Preparation
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

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self) | {"path": str(self.path), "picture": str(self.picture)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CamOutcome:
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
        from fxhead.cam.lines import cam_lines  # with it comes rich, which JSON does not need

        return cam_lines(self)

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        how = None if self.preparation is None else dataclasses.asdict(self.preparation)
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "cam",
            "model": self.model.to_dict(),
            "head": self.head,
            "preparation": how if how is None else how | {"interpolation": self.interpolation},
            "images": [image.to_dict() for image in self.images],
            "misses": [miss.to_dict() for miss in self.misses],
            "files": [file.to_dict() for file in self.files],
            "seconds": round(self.seconds, 3),
        }
