"""Images through a model, several at a time; one batch of them is in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fxhead.cam.find_images import ImageFile
from fxhead.cam.places import require_places
from fxhead.cam.scorer import Scorer, Scores
from fxhead.inputs.images import Preparation, cropped, decoded, standardised
from fxpasses.errors import InputError

if TYPE_CHECKING:
    from PIL import Image


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeenImage:
    """An image and what the model made of it.

    Attributes:
        size: height and width in pixels, turned upright.
        box: the part that the model has seen: left, top, right and bottom in these pixels.
        crop: that part, as it was resized for the model.
        logits: [K], what the model gives.
        maps: [K, h, w], of all classes.
    """

    file: ImageFile
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    crop: Image.Image
    logits: Scores
    maps: Scores


def run_images(
    files: Sequence[ImageFile], scorer: Scorer, how: Preparation, interpolation: str, batch: int
) -> Iterator[SeenImage]:
    """What the model makes of each image, in order.

    Raises:
        FileError: an image cannot be read.
        InputError: the model does not run on images of this size, or gives no finite scores.
    """
    channels = (scorer.spec.shape or (3,))[0]
    step = scorer.fixed_batch or batch
    for start in range(0, len(files), step):
        part = files[start : start + step]
        sizes, crops = [], []
        for file in part:  # one image is in memory as it is, the others as they are cut
            image = decoded(file.path, "L" if channels == 1 else "RGB", how)
            sizes.append(image.size)
            crops.append(cropped(image, how, interpolation))
        rows = [standardised(crop, how, np.dtype(scorer.spec.dtype)) for crop in crops]
        if scorer.fixed_batch is not None:
            rows += [rows[-1]] * (step - len(rows))
        if not start:
            require_places(lambda images: _maps(scorer, images, step), rows[0], f"head {scorer.head!r}")
        scores = scorer(np.stack(rows))
        for file, size, crop, logits, maps in zip(part, sizes, crops, *scores, strict=False):
            _require_finite(maps, file)
            width, height = size
            box = box_of(width, height, how)
            yield SeenImage(file=file, size=(height, width), box=box, crop=crop, logits=logits, maps=maps)


def _maps(scorer: Scorer, images: NDArray[Any], step: int) -> NDArray[Any]:
    """The maps of images, as many at a time as the model takes."""
    parts = [images[start : start + step] for start in range(0, len(images), step)]
    if scorer.fixed_batch is not None:
        parts = [np.resize(part, (step, *part.shape[1:])) for part in parts]
    return np.concatenate([scorer(part).maps for part in parts])[: len(images)]


def box_of(width: int, height: int, how: Preparation) -> tuple[float, float, float, float]:
    """The crop in the pixels of the image; all of it where that is taken whole."""
    down, across = how.resized(width, height)
    left, top, right, low = how.box(across, down)
    x, y = width / across, height / down
    return (left * x, top * y, right * x, low * y)


def _require_finite(maps: NDArray[Any], file: ImageFile) -> None:
    if not np.isfinite(maps).all():
        what = f"the model gives scores for {file.path} that are no finite numbers"
        raise InputError(what, fix="check its weights, and --mean and --std")
