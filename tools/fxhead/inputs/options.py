"""What the user says about samples, read from the text and checked without reading any."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fxhead.inputs.images import LARGEST, resized_from
from fxpasses.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """What the user said about samples.

    Attributes:
        path: an ``.npz`` or ``.npy`` file, or a folder of images; None draws random samples.
        samples: how many random ones; None takes as many as the batches of a proof need.
        size: (shorter side after resizing, both sides after cropping) of images.
        mean: for images.
        std: for images.
    """

    path: str | None = None
    samples: int | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def require_sound(self) -> None:
        """Returns where the options go together.

        Raises:
            InputError: they do not.
        """
        if self.path is not None and self.samples is not None:
            what = "all samples of --inputs are run, no random ones"
            raise InputError(what, where="--samples", fix="leave one or the other out")
        if self.size is not None:
            require_size(self.size)
        is_folder = self.path is not None and Path(self.path).is_dir()
        for option, value in (("--size", self.size), ("--mean", self.mean), ("--std", self.std)):
            if value and not is_folder:
                raise InputError("is for a folder of images", where=option, fix="leave it out")


def parse_size(text: str) -> tuple[int, int]:
    """Shorter side after resizing, and both sides after cropping, of ``224`` or ``256,224``.

    Raises:
        InputError: it says neither.
    """
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise InputError(f"{text!r} is no size", where="--size", fix="write it as 224 or 256,224")
    sides = [int(part) for part in parts]
    return (sides[0], sides[1]) if len(sides) == 2 else (resized_from(sides[0]), sides[0])


def require_size(size: tuple[int, int]) -> None:
    """Returns where images can be resized and cropped so.

    Raises:
        InputError: a side is none, too long, or the crop's is the longer one.
    """
    if not 0 < size[1] <= size[0] <= LARGEST:
        what = f"sides lie between 1 and {LARGEST}, the crop is not the longer one"
        raise InputError(what, where="--size", fix="write it as 224 or 256,224")


def parse_numbers(text: str, option: str) -> tuple[float, ...]:
    """The numbers of ``0.485,0.456,0.406``.

    Raises:
        InputError: it has something else in it.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        fix = "write them as 0.485,0.456,0.406"
        raise InputError(f"{text!r} are no numbers", where=option, fix=fix) from error
