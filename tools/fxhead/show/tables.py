"""Tables and lines that the results of several commands share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.filesize import decimal
from rich.markup import escape

from fxhead.outcome import ModelInfo, WrittenFile
from fxhead.show.fitting_table import FittingTable

if TYPE_CHECKING:
    from fxpasses.report import Miss, TraceInfo


def model_line(model: ModelInfo, *, with_container: bool = False) -> str:
    """A model by the name that the user knows, and what it is."""
    parts = [escape(model.class_name)]
    if with_container and model.container is not None:
        parts = [escape(f"{model.container}: {model.class_name}")]
    if model.parameters is not None:
        parts.append(f"{model.parameters:,} parameters")
    if model.input_shapes:
        shapes = " ".join("x".join(map(str, shape)) for shape in model.input_shapes)
        parts.append(f"input {shapes}" + (" (guessed)" if model.input_origin == "guessed" else ""))
    return f"[bold]{escape(model.source.text)}[/]  " + ", ".join(parts)


def image_lines(model: ModelInfo) -> Iterator[RenderableType]:
    """How images are prepared for a model and what its classes are called, where that is known."""
    if model.images is None:
        return
    found = model.images
    parts = [f"unlike here, by {found['unknown']}"] if found["unknown"] else []
    if "crop" in found:
        crop = found["crop"]
        parts.append(f"to {crop if isinstance(crop, int) else shape_text(crop)}, {found['interpolation']}")
    for name in ("mean", "std"):
        parts += [f"{name} {' '.join(f'{value:.4g}' for value in found[name])}"] if found[name] else []
    if parts:
        yield escape(f"images: {', '.join(parts)}")
    if labels := found["labels"]:
        yield escape(f"classes: {', '.join(labels[:3])}{', …' if len(labels) > 3 else ''} ({len(labels)})")


def miss_lines(misses: tuple[Miss, ...]) -> Iterator[RenderableType]:
    """One line for each miss, below an empty one."""
    if misses:
        yield ""
    for miss in misses:
        yield f"[yellow]{escape(str(miss))}[/]"


def trace_lines(trace: TraceInfo) -> Iterator[RenderableType]:
    """How the model was traced, where that is worth a line."""
    if trace.method == "export":
        yield f"traced with torch.export: {escape(trace.reason or '')}"
    for note in trace.notes:
        yield f"note: {escape(note)}"


def file_table(files: Iterable[WrittenFile]) -> FittingTable:
    """Files that were written, with their sizes."""
    table = FittingTable("file", "size", right=("size",))
    for file in files:
        table.add(str(file.path), decimal(file.size_bytes))
    return table


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as users type it: 1x3x224x224."""
    return "x".join(map(str, shape))


def count_text(number: int, singular: str, plural: str | None = None) -> str:
    """A number of things in plain English."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
