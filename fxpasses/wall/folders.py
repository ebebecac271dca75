"""Folders that may be written to while the wall is up."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Folders by their real paths, links followed.

    Attributes:
        places: each with a separator at its end.
    """

    places: tuple[str, ...] = ()

    def and_in(self, folder: Path) -> Folders:
        """These, and one more."""
        return Folders(places=(*self.places, os.path.join(os.path.realpath(folder), "")))

    def hold(self, path: Any, descriptor: int | None = None) -> bool:
        """Whether what the path names lies in one of them, whatever links lead there.

        ``path`` may be the descriptor of an open file; ``descriptor`` is that of the folder where the path
        starts.
        """
        if not self.places:
            return False
        name = _name_of(path) if isinstance(path, int) else os.fsdecode(path)
        if descriptor is not None:
            folder = _name_of(descriptor)
            name = None if folder is None or name is None else os.path.join(folder, name)
        if name is None:
            return False
        # the last part is what is deleted or replaced, not what it links to: both have to lie inside
        folder, last = os.path.split(os.path.abspath(name))
        inside = os.path.join(os.path.realpath(folder), last)
        return inside.startswith(self.places) and os.path.realpath(name).startswith(self.places)


def _name_of(descriptor: int) -> str | None:
    """The path of an open file or folder, where the system tells."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return _name_on_macos(descriptor)


def _name_on_macos(descriptor: int) -> str | None:
    try:
        import fcntl

        command: int = vars(fcntl)["F_GETPATH"]
        return os.fsdecode(fcntl.fcntl(descriptor, command, bytes(1024)).rstrip(b"\0"))
    except (ImportError, KeyError, OSError):
        return None
