"""Writing several files as one: all of them appear, or none does, also when the process is killed.

No file system renames several files at once, so this is done as a database does it. Everything is written to
a folder of its own beside the outputs, flushed, and that folder is renamed: from then on the run counts as
done, before it as never begun. Only then are the files moved into place, one rename each. A process that is
killed among these leaves that folder; the next fxhead command that writes there finishes its moves
(settle.py). Until then, and only after a kill within those few renames, new files and old ones can be seen
together.

A move that fails, for want of permission say, takes the others back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from fxhead.files.settle import settle
from fxhead.files.staging import (
    MANIFEST,
    NEW,
    OLD,
    HeldFolder,
    StagedFile,
    committed,
    flush,
    lock_staging,
    make_staging,
    take_back,
    write_manifest,
)
from fxhead.outcome import WrittenFile
from fxpasses.errors import FileError
from fxpasses.wall.heartbeat import leaving
from fxpasses.wall.wall import lowered, writing


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder inside ``folder``, which is made if need be and removed if left empty.

    Raises:
        FileError: writing failed, for want of space or of permission; nothing is left behind.
    """
    made: list[Path] = []
    staging: Path | None = None
    lock = -1
    until = contextlib.ExitStack()
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(made):
            until.enter_context(leaving("rmdir", path))
        until.enter_context(leaving("settle", folder))
        with lowered():
            folder.mkdir(parents=True, exist_ok=True)
        with writing(folder):  # and nowhere else, whatever lies there
            settle(folder)
        with lowered():
            staging = make_staging(folder)
            lock = lock_staging(HeldFolder(path=staging))
            (staging / NEW).mkdir()
        with writing(staging / NEW):
            yield staging / NEW
    except OSError as error:
        raise FileError(
            f"cannot be written to ({error.strerror or error})",
            where=str(folder),
            fix="make room, or name another folder with -o",
        ) from error
    finally:
        with lowered():
            for path in [] if staging is None else [staging, committed(staging)]:
                # else what was there before is still in it: settle.py puts it back
                if not (path / MANIFEST).exists():
                    shutil.rmtree(path, ignore_errors=True)
            if lock >= 0:
                os.close(lock)
            for path in made:
                with contextlib.suppress(OSError):  # not empty: the outputs are in it
                    path.rmdir()
        until.close()


def publish(new: Path, *, force: bool, first: Sequence[str] = ()) -> tuple[WrittenFile, ...]:
    """Moves all files of what ``staged`` gave into the folder around it: every one of them, or none.

    Names in ``first`` are told first, in that order.

    Raises:
        OSError: one cannot be moved, or there is one of that name and not ``force``; nothing has changed.
    """
    with lowered():
        paths = _publish(new, force=force)
    ranks = {name: rank for rank, name in enumerate(first)}
    ranked = sorted(paths, key=lambda path: ranks.get(path.name, len(ranks)))
    return tuple(WrittenFile(path=path, size_bytes=path.stat().st_size) for path in ranked)


def _publish(new: Path, *, force: bool) -> tuple[Path, ...]:
    staging, folder = new.parent, new.parent.parent
    names = sorted(path.name for path in new.iterdir() if path.is_file())
    for name in names:
        flush(new / name)
    written, target = HeldFolder(path=new), HeldFolder(path=folder)
    manifest = {
        name: StagedFile(new=written.identity(name) or [], before=target.identity(name)) for name in names
    }
    for name, entry in manifest.items():
        if entry.before is not None and not force:
            raise FileExistsError(None, "it appeared meanwhile", str(folder / name))
    old = HeldFolder(path=staging / OLD)
    old.path.mkdir()
    for name, entry in manifest.items():
        if entry.before is not None:
            _keep_old(folder / name, old.path / name)
    done = committed(staging)
    try:
        write_manifest(staging, manifest)
        for path in (staging / MANIFEST, new, staging):
            flush(path)
        staging.rename(done)  # from here on it is done
        flush(folder)
        for name, entry in manifest.items():
            _move(done / NEW / name, folder / name, replace=entry.before is not None)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            done.rename(staging)  # from here on it was never begun
        take_back(target, old, manifest)
        (staging / MANIFEST).unlink(missing_ok=True)
        raise
    flush(folder)
    (done / MANIFEST).unlink()
    shutil.rmtree(done, ignore_errors=True)
    return tuple(folder / name for name in names)


def _keep_old(path: Path, kept: Path) -> None:
    """Keeps what will be replaced within reach, so that it can be put back."""
    try:
        os.link(path, kept, follow_symlinks=False)
    except (OSError, NotImplementedError):  # a file system without hard links
        shutil.copy2(path, kept, follow_symlinks=False)


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
