"""Pictures of maps: one of each image with its classes side by side, and a sheet of all images."""

from __future__ import annotations

import dataclasses
import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from fxhead.cam.overlay import ColourScale, Map, Pixels, overlay

PER_SHEET, THUMBNAIL = 100, 180
"""Images on a sheet at most, and the longer side in pixels in which each is shown there."""
_DPI = 100
_PANEL, _SHEET_PANEL = 3.0, THUMBNAIL / 100
_GAP, _LINE, _BAR = 0.15, 0.36, 1.35
"""Inches: between panels, above and below one for a line, right of all for the colour bar."""
_COLUMNS, _PAIRS = 4, 5
"""Panels in a row of a picture at most, and pairs in one of a sheet."""
_LETTER = 0.105
"""Inches that a letter of a title takes at most, but for the widest ones."""
_UNIT = "score of each place\n(mean = logit)"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "axes.linewidth": 0.6, "axes.titlesize": "medium", "axes.labelpad": 2.0
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """A class's map over an image.

    Attributes:
        scores: [h, w].
    """

    label: str
    logit: float
    scores: Map


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """An image, as the model has seen it, and what it scored.

    Attributes:
        pixels: [H, W, 3] or [H, W].
        classes: in the order in which they are shown.
    """

    name: str
    pixels: Pixels
    classes: tuple[Scored, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tile:
    """Panels side by side, with a line above them and one below, which ends in ``end`` whatever is cut."""

    panels: tuple[Pixels, ...]
    above: str
    below: str
    end: str = ""


def draw_image(drawn: Drawn, path: Path) -> None:
    """Writes the image beside the maps of its classes, on one scale of colours, as PNG.

    The same input gives the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    scale = ColourScale.of(*(scored.scores for scored in drawn.classes))
    height, width, *_ = drawn.pixels.shape
    pixels = _enlarged(drawn.pixels)
    tiles = [_Tile(panels=(drawn.pixels,), above=drawn.name, below=f"{width}×{height}")]
    for scored in drawn.classes:
        shown = overlay(pixels, scored.scores, scale)
        tiles.append(_Tile(panels=(shown,), above=scored.label, below=f"logit {scored.logit:.2f}"))
    rows = math.ceil(len(tiles) / _COLUMNS)
    _save(tiles, math.ceil(len(tiles) / rows), _PANEL, scale, path, letters=14.0)


def draw_sheet(images: Sequence[Drawn], path: Path) -> None:
    """Writes every image beside the map of its first class, all on one scale of colours, as PNG.

    Raises:
        OSError: it cannot be written.
    """
    scale = ColourScale.of(*(drawn.classes[0].scores for drawn in images))
    tiles = []
    for drawn in images:
        first = drawn.classes[0]
        panels = drawn.pixels, overlay(_enlarged(drawn.pixels), first.scores, scale)
        tiles.append(_Tile(panels=panels, above=drawn.name, below=first.label, end=f"  {first.logit:.2f}"))
    # pairs are wider than they are high: about as many rows as columns make a page
    columns = min(math.ceil(math.sqrt(len(images) * 0.8)), _PAIRS)
    _save(tiles, columns, _SHEET_PANEL, scale, path, letters=12.0)


def _enlarged(pixels: Pixels) -> Pixels:
    """The pixels of a small image as squares, so that the map over them is as fine as the picture."""
    factor = max(1, int(_PANEL * _DPI) // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _save(
    tiles: Sequence[_Tile], columns: int, panel: float, scale: ColourScale, path: Path, *, letters: float
) -> None:
    """Writes tiles in rows and, beside the first, what the colours mean; ``letters`` are so many points."""
    panels = len(tiles[0].panels)
    across, rows = columns * panels, math.ceil(len(tiles) / columns)
    width, height = across * (panel + _GAP) + _GAP + _BAR, rows * (panel + 2 * _LINE)
    room = int(panels * panel / _LETTER * 14 / letters)
    with mpl.rc_context(_STYLE | {"font.size": letters}):
        figure = Figure(figsize=(width, height), dpi=_DPI)
        spaces = {"wspace": _GAP / panel, "hspace": 2 * _LINE / panel}
        spaces |= {"left": _GAP / width, "right": across * (panel + _GAP) / width}
        spaces |= {"bottom": _LINE / height, "top": 1 - _LINE / height}
        grid = figure.subplots(rows, across, squeeze=False, gridspec_kw=spaces).reshape(-1, panels)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
        for tile, own in zip(tiles, grid, strict=False):
            for axes, pixels in zip(own, tile.panels, strict=True):
                axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
            below = _short(tile.below, room - len(tile.end)) + tile.end
            own[0].set_title(_short(tile.above, room), loc="left", weight="bold", parse_math=False)
            own[0].set_xlabel(below, loc="left", parse_math=False)
        for axes in grid[len(tiles) :].flat:
            axes.set_axis_off()
        place = (1 - _BAR / width, 1 - (_LINE + panel) / height, 0.22 / width, panel / height)
        figure.colorbar(scale.bar(), cax=figure.add_axes(place)).set_label(_UNIT)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="rgba", dpi=_DPI)
    image = Image.frombytes("RGBA", figure.canvas.get_width_height(), drawn.getvalue())
    # without the alpha channel and at this level, a smaller file in half the time of matplotlib's own
    image.convert("RGB").save(path, format="png", compress_level=4)


def _short(text: str, letters: int) -> str:
    """The text on one line, cut at a word where it can be; a name may hold bytes that are no text."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    shorter = textwrap.shorten(line, letters, placeholder=" …")
    return shorter if len(shorter) > 2 else f"{line[: letters - 1]}…"
