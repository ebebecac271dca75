"""The folder of a study: each finished run is a file, and only one study's runs are in it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fxhead.files.put import put
from fxhead.files.strict_json import Field, read_json
from fxpasses.errors import FileError, InputError, telling

SETTINGS = "settings.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyStore:
    """Finished runs on disk."""

    folder: Path

    def require_own(self) -> None:
        """Returns where the folder is a study's, or empty, or not there yet; else raises FileError."""
        if (self.folder / SETTINGS).exists() or not self.folder.exists():
            return
        if not self.folder.is_dir() or any(self.folder.iterdir()):
            raise FileError(
                "is not the folder of a study", where=str(self.folder), fix="name another one with -o"
            )

    def open(self, settings: dict[str, Any]) -> None:
        """Makes the folder, or checks that its runs were made with the same settings.

        Raises:
            FileError: it cannot be written to, or holds other things.
            InputError: it holds the runs of a study with other settings.
        """
        self.require_own()
        path = self.folder / SETTINGS
        if any(self.folder.glob("*/*.json")):
            self._require_same(settings, _read(path).value)
        with self.writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, settings)

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Within it, what fails to be written is an error that says what to do.

        Raises:
            FileError: the disk is full, or the folder is gone or closed to us.
        """
        fix = "make room, or name another folder with -o"
        return telling("cannot be written to", where=self.folder, fix=fix)

    def _require_same(self, asked: dict[str, Any], stored: dict[str, Any]) -> None:
        before, now = dict(_leaves(stored)), dict(_leaves(asked))
        other = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        if other:
            key = other[0]
            more = f", and {len(other) - 1} more" if other[1:] else ""
            raise InputError(
                f"holds runs with other settings ({key} {before.get(key)}, not {now.get(key)}{more})",
                where=str(self.folder),
                fix="name another folder with -o, or remove this one",
            )

    def has(self, name: str) -> bool:
        """Whether the run is finished."""
        return self._path(name).exists()

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Stores a finished run; whoever looks sees all of it or nothing.

        Raises:
            FileError: the disk is full, or the folder is gone.
        """
        path = self._path(name)
        with self.writing():
            path.parent.mkdir(exist_ok=True)
            write_whole(path, record)

    def read(self, name: str) -> Field:
        """A finished run.

        Raises:
            FileError: the file is not one that ``write`` wrote.
        """
        return _read(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def write_whole(path: Path, record: dict[str, Any]) -> None:
    """Writes JSON; whoever looks sees all of it or what was there before."""
    put(path, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())


def _read(path: Path) -> Field:
    found = read_json(path, "remove it")
    if not isinstance(found.value, dict):
        found.refuse("is not a record of a study")
    return found


def _leaves(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
