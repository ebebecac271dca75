"""The result of ``fxhead cam`` for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType

from fxhead.show.fitting_table import FittingTable
from fxhead.show.tables import file_table, miss_lines, model_line

if TYPE_CHECKING:
    from fxhead.cam.outcome import CamOutcome
    from fxhead.inputs.images import Preparation


def cam_lines(outcome: CamOutcome) -> Iterator[RenderableType]:
    """The result, from top to bottom."""
    yield model_line(outcome.model)
    if not outcome.images:
        yield from miss_lines(outcome.misses)
        yield ""
        reason = "its head cannot stand before a pool" if outcome.misses else "it has no head behind a pool"
        yield f"[bold]no maps[/]: {reason}; nothing was written"
        return
    yield ""
    table = FittingTable(
        "image", "class", "logit", "highest score", "at x, y", right=("logit", "highest score")
    )
    for image in outcome.images:
        for record in image.classes:
            x, y = record.peak_at
            name = str(image.path) if record is image.classes[0] else ""
            table.add(name, record.name, f"{record.logit:.3f}", f"{record.peak:.3f}", f"{x:.0f}, {y:.0f}")
    yield table
    yield ""
    if outcome.preparation is not None:
        yield f"images: {_preparation(outcome.preparation, outcome.interpolation or '')}"
        yield ""
    yield file_table(outcome.files)


def _preparation(how: Preparation, interpolation: str) -> str:
    text = how.told(interpolation)
    for name, values in (("mean", how.mean), ("deviation", how.std)):
        text += f", {name} {' '.join(f'{value:g}' for value in values)}" if values else ""
    return text
