"""A staging folder: where the files of a run lie until all of them are there, and what is written of them.

Its name ends in a code that only this user can make, and so does its manifest: a folder that somebody else
put beside a model is never taken for one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

from fxhead.files.mark import is_marked, mark
from fxpasses.wall.wall import lowered

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is settled while it could still be in use
    fcntl = None  # type: ignore[assignment]

LOCK, MANIFEST, NEW, OLD = "lock", "manifest.json", "new", "old"
_NAME = re.compile(r"\.fxhead-(?P<done>done-)?(?P<token>[0-9a-f]{16})-(?P<code>[0-9a-f]{64})")
_MOST_BYTES = 2**24
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

FileIdentity = list[int]
"""Device, inode, size and time of change: what tells a file from another one of its name."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeldFolder:
    """A folder; names in it are not followed where they are links.

    Attributes:
        descriptor: the folder held open, so that nobody can put another one in its place; None where the
            process made it itself a moment ago.
    """

    path: Path
    descriptor: int | None = None

    def at(self, name: str) -> Path:
        """What goes with ``dir_fd=descriptor``."""
        return self.path / name if self.descriptor is None else Path(name)

    def status(self) -> os.stat_result:
        """Of the folder itself."""
        return os.stat(self.path if self.descriptor is None else self.descriptor)

    def identity(self, name: str) -> FileIdentity | None:
        """Of the file of that name, or None where there is none."""
        try:
            found = os.stat(self.at(name), dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]

    def is_file(self, name: str) -> bool:
        """Whether it is a regular file."""
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(self.at(name), dir_fd=self.descriptor, follow_symlinks=False).st_mode
            return stat.S_ISREG(mode)
        return False

    def move(self, name: str, to: HeldFolder) -> None:
        """Renames a file into another folder, over one of that name."""
        source, target = self.at(name), to.at(name)
        os.replace(source, target, src_dir_fd=self.descriptor, dst_dir_fd=to.descriptor)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.at(name), dir_fd=self.descriptor)

    def flush(self) -> None:
        """Returns when what was done to its entries is on the disk."""
        if self.descriptor is None:
            flush(self.path)
        else:
            os.fsync(self.descriptor)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StagedFile:
    """A file that a run writes.

    Attributes:
        before: the one of its name that it replaces, or None.
    """

    new: FileIdentity
    before: FileIdentity | None


Manifest = dict[str, StagedFile]


def make_staging(folder: Path) -> Path:
    """A new folder in ``folder``, under a name of this user's own."""
    token = secrets.token_hex(8)
    staging = folder / f".fxhead-{token}-{mark('staging', token.encode())}"
    staging.mkdir(mode=0o700)
    return staging


def is_staging(name: str) -> bool:
    """Whether the name is one that ``make_staging`` gave to this user."""
    found = _NAME.fullmatch(name)
    return found is not None and is_marked("staging", found["token"].encode(), found["code"])


def is_committed(name: str) -> bool:
    """Whether the run counts as done by its folder's name."""
    return name.startswith(".fxhead-done-")


def committed(staging: Path) -> Path:
    """The folder's name from when on the run counts as done."""
    return staging.with_name(staging.name.replace(".fxhead-", ".fxhead-done-", 1))


def write_manifest(staging: Path, manifest: Manifest) -> None:
    """Writes down what was there before, with the code that says who wrote it."""
    files = {name: [entry.new, entry.before] for name, entry in manifest.items()}
    text = json.dumps({"files": files, "code": _code(files, os.stat(staging))})
    (staging / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(staging: HeldFolder) -> Manifest:
    """What was there before, by name; nothing where the process was killed before it wrote that down."""
    try:
        whole = json.loads(_read_regular(staging, MANIFEST))
        files, code = whole["files"], whole["code"]
        if not is_marked("manifest", _signed(files, staging.status()), code):
            return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    return {name: StagedFile(new=new, before=before) for name, (new, before) in files.items()}


def _code(files: Any, place: os.stat_result) -> str:
    return mark("manifest", _signed(files, place))


def _signed(files: Any, place: os.stat_result) -> bytes:
    """What the code is of: the folder too, so that a copy of it elsewhere says nothing."""
    return json.dumps([place.st_dev, place.st_ino, files], sort_keys=True).encode()


def _read_regular(place: HeldFolder, name: str) -> bytes:
    descriptor = os.open(place.at(name), _READ, dir_fd=place.descriptor)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is no regular file")
        return file.read(_MOST_BYTES)


def take_back(folder: HeldFolder, old: HeldFolder, manifest: Manifest) -> None:
    """Puts the files back that were there before a run that is not to count."""
    for name, entry in manifest.items():
        if folder.identity(name) != entry.new:
            continue  # it was not moved, or somebody has changed it since
        if entry.before is None:
            folder.remove(name)
        elif old.identity(name) is not None:
            old.move(name, folder)
    folder.flush()


def lock_staging(staging: HeldFolder) -> int:
    """A descriptor that locks the folder as long as the process lives, or -1 where another has it."""
    if fcntl is None:
        return -1
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with lowered():  # which is not told in which folder this is
            descriptor = os.open(staging.at(LOCK), flags, 0o600, dir_fd=staging.descriptor)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


def flush(path: Path) -> None:
    """Returns when a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
