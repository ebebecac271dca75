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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from fxhead.cam.overlay import ColourScale, Map, Pixels, overlay

PER_SHEET, THUMBNAIL = 100, 180
"""Images on a sheet at most, and the longer side in pixels in which each is shown there."""
_DPI = 100
_PANEL, _SHEET_PANEL = 3.0, THUMBNAIL / 100
_GAP, _TITLE, _BAR = 0.15, 0.66, 1.35
"""Inches: between panels, above one for its title, right of all for the colour bar."""
_COLUMNS, _PAIRS = 4, 5
"""Panels in a row of a picture at most, and pairs in one of a sheet."""
_LETTER = 0.105
"""Inches that a letter of a title takes at most, but for the widest ones."""
_UNIT = "score of each place\n(mean = logit)"
_STYLE: dict[Any, Any] = {"font.size": 14.0, "font.family": "DejaVu Sans", "axes.linewidth": 0.6}


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


def draw_image(drawn: Drawn, path: Path) -> None:
    """Writes the image beside the maps of its classes, on one scale of colours, as PNG.

    The same input gives the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    count = 1 + len(drawn.classes)
    rows = math.ceil(count / _COLUMNS)
    grid = _Grid(columns=math.ceil(count / rows), count=count, panel=_PANEL, panels=1)
    scale = ColourScale.of(*(scored.scores for scored in drawn.classes))
    with mpl.rc_context(_STYLE):
        figure = grid.figure()
        _show(grid.place(figure, 0), drawn.pixels)
        height, width, *_ = drawn.pixels.shape
        grid.title(figure, 0, drawn.name, f"{width}×{height}")
        for index, scored in enumerate(drawn.classes, 1):
            _show(grid.place(figure, index), overlay(_enlarged(drawn.pixels), scored.scores, scale))
            grid.title(figure, index, scored.label, f"logit {scored.logit:.2f}")
        grid.bar(figure, scale)
        _save(figure, path)


def draw_sheet(images: Sequence[Drawn], path: Path) -> None:
    """Writes every image beside the map of its first class, all on one scale of colours, as PNG.

    Raises:
        OSError: it cannot be written.
    """
    # pairs are wider than they are high: about as many rows as columns make a page
    columns = min(math.ceil(math.sqrt(len(images) * 0.8)), _PAIRS)
    grid = _Grid(columns=columns, count=len(images), panel=_SHEET_PANEL, panels=2)
    scale = ColourScale.of(*(drawn.classes[0].scores for drawn in images))
    with mpl.rc_context(_STYLE | {"font.size": 12.0}):
        figure = grid.figure()
        for index, drawn in enumerate(images):
            first = drawn.classes[0]
            _show(grid.place(figure, index), drawn.pixels)
            _show(grid.place(figure, index, 1), overlay(_enlarged(drawn.pixels), first.scores, scale))
            grid.title(figure, index, drawn.name, first.label, f"  {first.logit:.2f}")
        grid.bar(figure, scale)
        _save(figure, path)


def _enlarged(pixels: Pixels) -> Pixels:
    """The pixels of a small image as squares, so that the map over them is as fine as the picture."""
    factor = max(1, int(_PANEL * _DPI) // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _show(axes: Axes, pixels: Pixels) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])


def _save(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="rgba", dpi=_DPI)
    image = Image.frombytes("RGBA", figure.canvas.get_width_height(), drawn.getvalue())
    # without the alpha channel and at this level, a smaller file in half the time of matplotlib's own
    image.convert("RGB").save(path, format="png", compress_level=4)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """Tiles in rows with a title each, and a colour bar beside the first row; lengths in inches.

    Attributes:
        columns: tiles in a row.
        count: all tiles.
        panel: side of a panel.
        panels: how many of them, side by side, make a tile.
    """

    columns: int
    count: int
    panel: float
    panels: int

    def figure(self) -> Figure:
        """An empty picture."""
        rows = math.ceil(self.count / self.columns)
        width = self.columns * self._step + 2 * _GAP + _BAR
        return Figure(figsize=(width, rows * self._row + _GAP), dpi=_DPI)

    @property
    def _step(self) -> float:
        """From a tile to the next."""
        return self.panels * self.panel + 2 * _GAP

    @property
    def _row(self) -> float:
        return _TITLE + self.panel

    def place(self, figure: Figure, index: int, panel: int = 0) -> Axes:
        """Axes for one panel of a tile."""
        left, bottom = self._corner(figure, index)
        return _axes(figure, left + panel * self.panel, bottom, self.panel, self.panel)

    def title(self, figure: Figure, index: int, first: str, second: str, end: str = "") -> None:
        """Two lines over a tile, cut to its width but for ``end``."""
        left, bottom = self._corner(figure, index)
        width, height = figure.get_size_inches()
        letters = int(self.panels * self.panel / _LETTER * 14 / mpl.rcParams["font.size"])
        lines = (_short(first, letters), _short(second, letters - len(end)) + end)
        for line, rise in zip(lines, (0.29, 0.06), strict=True):
            x, y = left / width, (bottom + self.panel + rise) / height
            figure.text(x, y, line, weight="bold" if rise > 0.1 else "normal", parse_math=False)

    def bar(self, figure: Figure, scale: ColourScale) -> None:
        """The colours and what they mean."""
        left, bottom = self._corner(figure, 0)
        axes = _axes(figure, left + self.columns * self._step, bottom, 0.22, self.panel)
        figure.colorbar(scale.bar(), cax=axes).set_label(_UNIT)

    def _corner(self, figure: Figure, index: int) -> tuple[float, float]:
        """The lower left corner of a tile."""
        row, column = divmod(index, self.columns)
        return _GAP + column * self._step, figure.get_size_inches()[1] - (row + 1) * self._row


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _short(text: str, letters: int) -> str:
    """The text on one line, cut at a word where it can be; a name may hold bytes that are no text."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    shorter = textwrap.shorten(line, letters, placeholder=" …")
    return shorter if len(shorter) > 2 else f"{line[: letters - 1]}…"
