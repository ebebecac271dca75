"""What each command found out: frozen records that render.py shows and JSON holds."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fxhead.source import Source
from fxpasses.report import JsonRecord

SCHEMA_VERSION = 1

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType


class ExitCode(enum.IntEnum):
    """What the process returns."""

    DONE = 0
    NO = 1
    USAGE = 2
    INTERNAL = 3
    INTERRUPTED = 130


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model that was loaded.

    Attributes:
        source: what the user named.
        class_name: class of the module, ``"ExportedProgram"``, or ``"ONNX"``.
        parameters: number of trainable and frozen weights; None for an ONNX file.
        input_shapes: shapes of its inputs, batch first, or None where they were not needed.
        input_origin: how the shapes are known (``given``, ``metadata``, ``guessed``).
        container: what the file is, in words; None where the model was built, not read.
        images: how images are prepared for it and what its classes are called, where a folder says it.
    """

    source: Source
    class_name: str
    parameters: int | None
    input_shapes: tuple[tuple[int, ...], ...] | None = None
    input_origin: str | None = None
    container: str | None = None
    images: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "source": self.source.text,
            "kind": self.source.kind,
            "class": self.class_name,
            "parameters": self.parameters,
            "input_shapes": self.input_shapes,
            "input_origin": self.input_origin,
            "container": self.container,
            "images": self.images,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """One output file."""

    path: Path
    size_bytes: int


class Outcome(JsonRecord):
    """What a command returns: a frozen record, whose fields are its JSON."""

    __slots__ = ()
    command: ClassVar[str]

    @property
    def exit_code(self) -> ExitCode:
        """Whether the answer is yes; to look is never wrong."""
        return ExitCode.DONE

    def lines(self) -> Iterator[RenderableType]:
        """What to show a person, from top to bottom."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        written = JsonRecord.to_dict(self)
        if "seconds" in written:
            written["seconds"] = round(written["seconds"], 3)
        return {"schema_version": SCHEMA_VERSION, "command": self.command, **written}
