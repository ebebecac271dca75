"""What the user says about samples, read from the text and checked without reading any."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from fxhead.inputs.images import LARGEST, ImageSize, holds_images, resized_from
from fxhead.inputs.naturals import natural_in
from fxpasses.errors import InputError

_SIZES = "write it as 224, as 256,224 (shorter side, crop), or as 48x192 (height, width)"

_MOST = 4.0
"""Of a mean or deviation of pixels from 0 to 1; an image is silently white or black beyond."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """What the user said about samples.

    Attributes:
        path: an ``.npz`` or ``.npy`` file, an image or a folder of them; None draws random samples.
        samples: how many random ones; None takes as many as the batches of a proof need.
    """

    path: str | None = None
    samples: int | None = None
    size: ImageSize | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def require_sound(self) -> None:
        """Returns where the options go together; else raises InputError."""
        if self.path is not None and self.samples is not None:
            what = "all samples of --inputs are run, no random ones"
            raise InputError(what, where="--samples", fix="leave one or the other out")
        if self.size is not None:
            require_size(self.size)
        are_images = self.path is not None and holds_images(Path(self.path))
        for option, value in (("--size", self.size), ("--mean", self.mean), ("--std", self.std)):
            if value and not are_images:
                raise InputError("is for images", where=option, fix="leave it out")


def parse_size(text: str) -> ImageSize:
    """The size that ``224``, ``256,224`` (shorter side, crop) or ``48x192`` (height, width) says.

    Of two numbers with a comma the first is the height where it is the smaller one; ``ImageSize.of_input``
    says it of others.

    Raises:
        InputError: it says none of these.
    """
    parts = re.split(r"[x,×]", text.strip().lower())
    sides = [side for side in map(natural_in, parts) if side is not None]
    if len(parts) > 2 or len(sides) < len(parts):
        raise InputError(f"{text!r} is no size", where="--size", fix=_SIZES)
    if len(sides) == 1:
        return ImageSize(resize=resized_from(sides[0]), crop=sides[0])
    if "," not in text or sides[0] < sides[1]:
        return ImageSize(resize=0, crop=(sides[0], sides[1]))
    return ImageSize(resize=sides[0], crop=sides[1])


def require_size(size: ImageSize) -> None:
    """Returns where images can be resized and cropped so; else raises InputError."""
    if (
        min(size.extents) < 1
        or max(*size.extents, size.resize if isinstance(size.resize, int) else 0) > LARGEST
    ):
        raise InputError(f"sides lie between 1 and {LARGEST}", where="--size", fix=_SIZES)


def parse_numbers(text: str, option: str) -> tuple[float, ...]:
    """The numbers of ``0.485,0.456,0.406``.

    Raises:
        InputError: it has something else in it, or is of pixels that are not scaled.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        fix = "write them as 0.485,0.456,0.406"
        raise InputError(f"{text!r} are no numbers", where=option, fix=fix) from error
    if any(abs(number) > _MOST for number in found):
        what = f"{text!r} is not of pixels from 0 to 1, to which they are scaled first"
        raise InputError(what, where=option, fix="divide numbers that are of 0 … 255 by 255")
    return found
