"""Which images are drawn, and what their pictures are called."""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from fxhead.inputs.images import list_images
from fxpasses.errors import FileError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An image to draw.

    Attributes:
        picture: file name of the picture that is drawn of it.
    """

    path: Path
    picture: str


def find_images(arguments: Sequence[str]) -> tuple[ImageFile, ...]:
    """The images that were named, each once: files as they are, and those in folders in sorted order.

    Raises:
        FileError: one is missing, or a folder holds no images.
    """
    paths = list(dict.fromkeys(path for argument in arguments for path in _paths(Path(argument))))
    taken: set[str] = set()
    return tuple(ImageFile(path=path, picture=_free_name(path.stem, taken)) for path in paths)


def _free_name(stem: str, taken: set[str]) -> str:
    """A picture's name that no other picture of the run has, added to those."""
    for number in itertools.count(1):
        name = f"{stem}.cam.png" if number == 1 else f"{stem}.{number}.cam.png"
        # file systems may not tell "A.jpg" from "a.jpg", nor an accent from one written apart
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if key not in taken:
            break
    taken.add(key)
    return name


def _paths(path: Path) -> list[Path]:
    if path.is_dir():
        return [path / name for name in list_images(path).images]
    if not path.is_file():
        reason = "is no regular file" if path.exists() else "no such file"
        raise FileError(reason, where=str(path), fix="give image files, or folders of them")
    return [path]
