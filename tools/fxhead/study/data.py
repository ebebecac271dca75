"""The images: scikit-learn's digits or a folder, split and standardised."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxhead.inputs.images import Preparation, cropped, decoded
from fxhead.study.records import DataInfo
from fxpasses.errors import FileError, InputError

_HELD_OUT = 0.5
"""Share that is never trained on: half, as what it measures is what the study is about."""
_LAYOUT = "give a folder with one folder of images a class, as torchvision's ImageFolder reads it"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """A data set in memory; NumPy arrays, which reach other processes without shared memory.

    Shapes:
        fit_images: [N, C, H, W]; fit_labels: [N]; held_out_images: [M, C, H, W]; held_out_labels: [M].
    """

    name: str
    classes: tuple[str, ...]
    fit_images: NDArray[np.float32]
    fit_labels: NDArray[np.int64]
    held_out_images: NDArray[np.float32]
    held_out_labels: NDArray[np.int64]

    @property
    def channels(self) -> int:
        """Colour channels: 1 or 3."""
        return int(self.fit_images.shape[1])

    def describe(self) -> DataInfo:
        """Its record, with a fingerprint of every value."""
        digest = hashlib.sha256()
        arrays = (self.fit_images, self.fit_labels, self.held_out_images, self.held_out_labels)
        for array in arrays:
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return DataInfo(
            name=self.name,
            classes=self.classes,
            image_shape=tuple(map(int, self.fit_images.shape[1:])),
            fit=len(self.fit_labels),
            held_out=len(self.held_out_labels),
            sha256=digest.hexdigest(),
        )


def load_digits(seed: int) -> Images:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels; they come with the package."""
    from sklearn.datasets import load_digits as load

    digits = load()
    images = np.asarray(digits.images, np.float64)[:, None]
    classes = tuple(str(name) for name in digits.target_names)
    return _split("digits", classes, images, np.asarray(digits.target, np.int64), seed)


def load_folder(folder: Path, image_size: int, seed: int, loaded: Callable[[], None]) -> Images:
    """Every image of ``folder``, its shorter edge resized to ``image_size`` and the middle cut out.

    Units:
        12 bytes × ``image_size``² an image in memory.

    Raises:
        FileError: the folder or an image in it cannot be read.
        InputError: there are too few classes, or too few images of one.
    """
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except OSError as error:  # no folder, or no images in it
        raise FileError(f"holds no classes of images ({error})", where=str(folder), fix=_LAYOUT) from error
    if len(found.classes) < 2:
        raise InputError("holds one class, which cannot be learnt", where=str(folder), fix=_LAYOUT)
    how = Preparation(resize=image_size, crop=image_size, mean=(), std=())
    images = np.empty((len(found.samples), 3, image_size, image_size), np.float32)
    for index, (path, _) in enumerate(found.samples):
        pixels = np.asarray(cropped(decoded(Path(path), "RGB", how), how), np.float32)
        images[index] = pixels.transpose(2, 0, 1)
        loaded()
    return _split(str(folder), tuple(found.classes), images, np.asarray(found.targets, np.int64), seed)


def _split(
    name: str, classes: tuple[str, ...], images: NDArray[Any], labels: NDArray[np.int64], seed: int
) -> Images:
    """The two halves, each class halved; both standardised by the half that is trained on."""
    from sklearn.model_selection import train_test_split

    fewest = int(np.bincount(labels, minlength=len(classes)).argmin())
    if (labels == fewest).sum() < 4:
        raise InputError(
            f"class {classes[fewest]!r} has fewer than 4 images",
            where=name,
            fix="add some: half of each class is held out",
        )
    fit, held_out = train_test_split(
        np.arange(len(labels)), test_size=_HELD_OUT, stratify=labels, random_state=seed
    )
    mean = images[fit].mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    deviation = images[fit].std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    # a channel without contrast stays without
    scale = np.where(deviation > 0, deviation, 1.0)

    def standardised(part: NDArray[np.int64]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = ((images[part] - mean) / scale).astype(np.float32)
        return result

    return Images(
        name=name,
        classes=classes,
        fit_images=standardised(fit),
        fit_labels=labels[fit],
        held_out_images=standardised(held_out),
        held_out_labels=labels[held_out],
    )
