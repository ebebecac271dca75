"""Writing several files as one: all of them appear, or none does, also when the process is killed.

No file system renames several files at once, so this is done as a database does it. Everything is written to
a folder of its own beside the outputs, flushed, and that folder is renamed: from then on the run counts as
done, before it as never begun. Only then are the files moved into place, one rename each. A process that is
killed among these leaves that folder; the next fxhead command that reads or writes there finishes its moves
(``settle``). Until then, and only after a kill within those few renames, new files and old ones can be seen
together.

A move that fails, for want of permission say, takes the others back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fxpasses.errors import FileError

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is settled while it could still be in use
    fcntl = None  # type: ignore[assignment]

_STAGING, _COMMITTED = ".fxhead-", ".fxhead-done-"
_GRACE_S = 60
_LOCK, _MANIFEST, _NEW, _OLD = "lock", "manifest.json", "new", "old"


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder inside ``folder``, which is made if need be and removed if left empty.

    Raises:
        FileError: writing failed, for want of space or of permission; nothing is left behind.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    staging: Path | None = None
    lock = -1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        settle(folder)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=folder))
        lock = _locked(staging)
        (staging / _NEW).mkdir()
        yield staging / _NEW
    except OSError as error:
        raise FileError(
            f"cannot be written to ({error.strerror or error})",
            where=str(folder),
            fix="make room, or name another folder with -o",
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        if lock >= 0:
            os.close(lock)
        for path in made:
            with contextlib.suppress(OSError):  # not empty: the outputs are in it
                path.rmdir()


def publish(new: Path, *, force: bool) -> tuple[Path, ...]:
    """Moves all files of what ``staged`` gave into the folder around it: every one of them, or none.

    Raises:
        OSError: one cannot be moved, or there is one of that name and not ``force``; nothing has changed.
    """
    staging, folder = new.parent, new.parent.parent
    names = sorted(path.name for path in new.iterdir() if path.is_file())
    for name in names:
        _flush(new / name)
    before = {name: _identity(folder / name) for name in names}
    for name, identity in before.items():
        if identity is not None and not force:
            raise FileExistsError(None, "it appeared meanwhile", str(folder / name))
    _keep_old(folder, staging, before)
    (staging / _MANIFEST).write_text(json.dumps(before), encoding="utf-8")
    for path in (staging / _MANIFEST, new, staging):
        _flush(path)
    committed = folder / staging.name.replace(_STAGING, _COMMITTED, 1)
    staging.rename(committed)  # from here on it is done
    _flush(folder)
    try:
        for name in names:
            _move(committed / _NEW / name, folder / name, replace=before[name] is not None)
    except BaseException:
        committed.rename(staging)  # from here on it was never begun
        _take_back(folder, staging, before)
        raise
    _flush(folder)
    shutil.rmtree(committed, ignore_errors=True)
    return tuple(folder / name for name in names)


def settle(folder: Path) -> None:
    """Finishes what a killed process had done all but moving, and removes what it had not done.

    A folder of a process that is still at it is left alone, and so is an output that somebody else has
    changed since.
    """
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob(f"{_STAGING}*")):
            if not _is_left_over(path):
                continue
            lock = _locked(path)
            if lock < 0:
                continue
            try:
                if path.name.startswith(_COMMITTED):
                    _finish(folder, path)
                else:
                    _undo(folder, path)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _is_left_over(path: Path) -> bool:
    """Whether it is a folder of this user's that no process has only just made and not yet locked."""
    found = path.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid())
    return is_ours and ((path / _LOCK).exists() or time.time() - found.st_mtime > _GRACE_S)


def _finish(folder: Path, committed: Path) -> None:
    before = _manifest(committed)
    for name, identity in before.items():
        new = committed / _NEW / name
        if new.is_file() and _identity(folder / name) == identity:
            os.replace(new, folder / name)
    _flush(folder)


def _undo(folder: Path, staging: Path) -> None:
    """Takes back what a process was killed over taking back; where it was not that far, nothing."""
    before = _manifest(staging)
    if before:
        _take_back(folder, staging, before)


def _take_back(folder: Path, staging: Path, before: dict[str, Any]) -> None:
    for name, identity in before.items():
        new = staging / _NEW / name
        if os.path.lexists(new) and not _is_same(new, folder / name):
            continue  # it was not moved
        if identity is None:
            (folder / name).unlink(missing_ok=True)
        elif os.path.lexists(staging / _OLD / name):
            os.replace(staging / _OLD / name, folder / name)
    _flush(folder)


def _manifest(staging: Path) -> dict[str, Any]:
    """What was there before, by name; nothing where the process was killed before it wrote that down."""
    try:
        before = json.loads((staging / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    plain = isinstance(before, dict) and all(name == os.path.basename(name) for name in before)
    return before if plain else {}


def _keep_old(folder: Path, staging: Path, before: dict[str, Any]) -> None:
    """Keeps what will be replaced within reach, so that it can be put back."""
    (staging / _OLD).mkdir()
    for name, identity in before.items():
        if identity is None:
            continue
        try:
            os.link(folder / name, staging / _OLD / name, follow_symlinks=False)
        except (OSError, NotImplementedError):  # a file system without hard links
            shutil.copy2(folder / name, staging / _OLD / name, follow_symlinks=False)


def _move(new: Path, target: Path, *, replace: bool) -> None:
    if replace:
        os.replace(new, target)
        return
    try:
        os.link(new, target)  # unlike a rename, it replaces nothing
    except FileExistsError as error:
        raise FileExistsError(None, "it appeared meanwhile", str(target)) from error
    except OSError:  # a file system without hard links
        os.replace(new, target)
        return
    new.unlink()


def _identity(path: Path) -> list[int] | None:
    """What tells a file from another one of its name, or None where there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]


def _is_same(one: Path, other: Path) -> bool:
    return _identity(one) == _identity(other)


def _locked(staging: Path) -> int:
    """A descriptor that locks the folder as long as the process lives, or -1 where another has it."""
    if fcntl is None:
        return -1
    try:
        descriptor = os.open(staging / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
