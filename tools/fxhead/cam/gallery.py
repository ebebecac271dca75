"""What is drawn and kept of each image while a model runs over them: pictures, records, arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fxhead.cam.labels import choose_classes
from fxhead.cam.outcome import ClassRecord, ImageRecord
from fxhead.cam.picture import PER_SHEET, THUMBNAIL, Drawn, Scored, draw_image, draw_sheet
from fxhead.cam.run_images import SeenImage
from fxpasses.errors import InputError

ARRAYS, _SHEET = "maps.npz", "sheet"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PictureChoice:
    """Which classes are drawn.

    Attributes:
        top: those of the highest logits, so many of each image.
        given: numbers or labels instead, the same for every image.
        labels: names of all classes; empty where there are none.
    """

    top: int
    given: tuple[str, ...]
    labels: tuple[str, ...]


def file_names(pictures: Sequence[str]) -> tuple[str, ...]:
    """All files that are written: the pictures, the sheets where there are several, and the arrays."""
    return (*pictures, *_sheet_names(len(pictures)), ARRAYS)


def _sheet_names(images: int) -> tuple[str, ...]:
    sheets = math.ceil(images / PER_SHEET)
    if images == 1:
        return ()
    return (f"{_SHEET}.png",) if sheets == 1 else tuple(f"{_SHEET}-{n}.png" for n in range(1, sheets + 1))


class Gallery:
    """Pictures in a folder, and what is written beside them at the end.

    Args:
        out: where the pictures lie at last.
    """

    def __init__(self, folder: Path, out: Path, choice: PictureChoice) -> None:
        self._folder, self._out, self._choice = folder, out, choice
        self._chosen: tuple[int, ...] = ()
        self._thumbnails: list[Drawn] = []
        self._logits: list[np.ndarray] = []
        self._maps: list[np.ndarray] = []
        self.records: list[ImageRecord] = []

    def add(self, seen: SeenImage) -> None:
        """Draws an image with its maps, and keeps what the sheet and the arrays need.

        Raises:
            InputError: the labels, or the classes asked for, are not those of the model.
        """
        logits = seen.logits
        classes = self._classes(logits)
        maps = seen.maps[list(classes)]  # a copy: what is kept does not hold the maps of all classes
        records = tuple(self._record(seen, index, float(logits[index])) for index in classes)
        drawn = Drawn(
            name=seen.file.path.name,
            pixels=np.asarray(seen.crop),
            classes=tuple(
                Scored(label=record.name, logit=record.logit, scores=scores)
                for record, scores in zip(records, maps, strict=True)
            ),
        )
        draw_image(drawn, self._folder / seen.file.picture)
        small = seen.crop.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        self._thumbnails.append(
            dataclasses.replace(drawn, pixels=np.asarray(small), classes=drawn.classes[:1])
        )
        self._logits.append(logits)
        self._maps.append(maps)
        self.records.append(
            ImageRecord(
                path=seen.file.path,
                picture=self._out / seen.file.picture,
                size=seen.size,
                box=seen.box,
                classes=records,
            )
        )

    def finish(self) -> None:
        """Draws the sheets and writes the arrays."""
        for number, name in enumerate(_sheet_names(len(self.records))):
            draw_sheet(self._thumbnails[number * PER_SHEET : (number + 1) * PER_SHEET], self._folder / name)
        # savez gives each array the same date, so that the same arrays are the same bytes
        np.savez(
            self._folder / ARRAYS,
            logits=np.stack(self._logits),
            classes=np.array([[c.index for c in record.classes] for record in self.records], np.int64),
            maps=np.stack(self._maps),
            images=np.array([str(record.path) for record in self.records]),
            sizes=np.array([record.size for record in self.records], np.int64),
            boxes=np.array([record.box for record in self.records], np.float64),
            labels=np.array(self._choice.labels, np.str_),
        )

    def _classes(self, logits: np.ndarray) -> tuple[int, ...]:
        choice, count = self._choice, len(logits)
        if not self.records:
            if choice.labels and len(choice.labels) != count:
                what = f"{len(choice.labels)} labels for {count} classes"
                raise InputError(
                    what, where="--labels", fix="give the labels that the model was trained with"
                )
            self._chosen = choose_classes(choice.given, choice.labels, count)
        if self._chosen:
            return self._chosen
        return tuple(int(index) for index in np.argsort(-logits, kind="stable")[: choice.top])

    def _record(self, seen: SeenImage, index: int, logit: float) -> ClassRecord:
        scores = seen.maps[index]
        row, column = divmod(int(scores.argmax()), scores.shape[1])
        left, top, right, bottom = seen.box
        x = left + (column + 0.5) * (right - left) / scores.shape[1]
        y = top + (row + 0.5) * (bottom - top) / scores.shape[0]
        return ClassRecord(
            index=index,
            label=self._choice.labels[index] if self._choice.labels else None,
            logit=logit,
            peak=float(scores.max()),
            peak_at=(x, y),
        )
