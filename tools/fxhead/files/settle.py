"""Finishes or takes back what a killed process left where files are about to be written.

Only commands that write do this, and only with what this user's own runs left: nothing in a folder that
somebody else made is believed (staging.py says how that is told). Every name is taken in a folder that is
held open, and no link is followed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from fxhead.files.staging import (
    LOCK,
    NEW,
    OLD,
    HeldFolder,
    Manifest,
    is_committed,
    is_staging,
    lock_staging,
    read_manifest,
    take_back,
)
from fxpasses.wall.wall import lowered

_GRACE_S = 60
_CAN_SETTLE = {os.open, os.stat, os.rename, os.unlink} <= os.supports_dir_fd and hasattr(os, "geteuid")
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def settle(folder: Path) -> None:
    """Finishes what a killed process had done all but moving, and removes what it had not done.

    A folder of a process that is still at it is left alone, and so is an output that somebody else has
    changed since. Inside the wall the caller has to open it, for this folder alone (``writing``).
    """
    if not _CAN_SETTLE:
        return
    with contextlib.suppress(OSError), contextlib.ExitStack() as until:
        with lowered():  # the user's secret may have to be made
            names = sorted(name for name in os.listdir(folder) if is_staging(name))
        # the folder itself may be named by a link; what is in it may not
        place = _opened(folder, None, until, os.O_RDONLY)
        for name in names:
            with contextlib.suppress(OSError):
                _settle(place, name)


def _settle(folder: HeldFolder, name: str) -> None:
    with contextlib.ExitStack() as until:
        staging = _opened(Path(name), folder, until)
        if not _is_left_over(staging):
            return
        lock = lock_staging(staging)
        if lock < 0:
            return
        until.callback(os.close, lock)
        manifest = read_manifest(staging)
        if manifest:
            if is_committed(name):
                _finish(folder, _opened(Path(NEW), staging, until), manifest)
            else:
                take_back(folder, _opened(Path(OLD), staging, until), manifest)
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder.descriptor)


def _opened(
    path: Path, inside: HeldFolder | None, until: contextlib.ExitStack, flags: int = _FOLDER
) -> HeldFolder:
    descriptor = os.open(path, flags, dir_fd=None if inside is None else inside.descriptor)
    until.callback(os.close, descriptor)
    return HeldFolder(path=path, descriptor=descriptor)


def _is_left_over(staging: HeldFolder) -> bool:
    """Whether it is this user's, and no process has only just made and not yet locked it."""
    found = staging.status()
    is_old = time.time() - found.st_mtime > _GRACE_S
    return found.st_uid == os.geteuid() and (staging.identity(LOCK) is not None or is_old)


def _finish(folder: HeldFolder, new: HeldFolder, manifest: Manifest) -> None:
    for name, entry in manifest.items():
        if new.is_file(name) and new.identity(name) == entry.new and folder.identity(name) == entry.before:
            new.move(name, folder)
    folder.flush()
