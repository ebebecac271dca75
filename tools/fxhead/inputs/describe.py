"""What was loaded, in words: the record of a model, and the note where its input was guessed."""

from __future__ import annotations

from torch import nn
from torch.export import ExportedProgram

from fxhead.inputs.input_shapes import InputShapes, ShapeOrigin
from fxhead.inputs.preset import Preset, find_preset
from fxhead.outcome import ModelInfo
from fxhead.show.progress import Progress
from fxhead.source import Source, SourceKind


def describe(
    source: Source,
    module: nn.Module | ExportedProgram,
    shapes: InputShapes | None,
    container: str | None = None,
) -> ModelInfo:
    """What was loaded, for the result."""
    is_told = source.kind in (SourceKind.FOLDER, SourceKind.FILE)
    preset = find_preset(source, None, module) if is_told else Preset()
    return ModelInfo(
        source=source,
        class_name=type(module).__name__,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        input_shapes=shapes.shapes if shapes else None,
        input_origin=str(shapes.origin) if shapes else None,
        container=container,
        images=None if preset == Preset() else preset.to_dict(),
    )


def note_guess(shapes: InputShapes, progress: Progress) -> None:
    """Says on stderr that the input shape was guessed, or that the batch is fixed, where it was."""
    if shapes.fixed_batch is not None:
        progress.note(f"the program takes batches of {shapes.fixed_batch} only, and so do its ONNX files")
    if shapes.origin is ShapeOrigin.GUESSED:
        progress.note(f"input shape {shapes} is a guess that the model accepts; --input-shape gives another")
