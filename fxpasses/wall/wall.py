"""Puts the wall up around a thread, and takes it down again.

One audit hook is installed, once and for good, as Python has it; what it does depends on the thread that an
event comes from. A thread has a wall while it is inside ``walled``, and so has every thread that it starts
there, as long as that lives. Other threads of the process are left alone. Without a wall anywhere the hook
looks at one dictionary.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fxpasses.errors import FileError, FxHeadError
from fxpasses.wall.clock import in_budget
from fxpasses.wall.events import judge_of, take_note
from fxpasses.wall.folders import Folders
from fxpasses.wall.unannounced import STARTS, announce


class WallError(FxHeadError):
    """What a file's content tried to do was stopped; nothing of it has happened."""


class Stopped(PermissionError):
    """Raised in the place of what was tried."""


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class _Wall:
    """What holds for a thread.

    Attributes:
        folders: what may be written to; None while our own code is at work.
        may_download: whether the user named what our own code may fetch.
        tried: what was stopped.
        opened: device, inode, size and time of change of each file that was opened, by its path.
    """

    folders: Folders | None
    may_download: bool
    tried: list[str]
    opened: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


_lock = threading.Lock()
_hooked: list[bool] = []
_walls: dict[int, _Wall] = {}
_ever_started: list[bool] = []
_of_started: weakref.WeakKeyDictionary[threading.Thread, _Wall] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def walled(
    where: str | None = None, *, may_download: bool = False, is_limited: bool = True
) -> Iterator[None]:
    """Within it this thread starts no program, reaches no network, loads no library and changes no file.

    It has a budget of processor time and memory, too.

    Args:
        where: the file that is read, for the error.
        may_download: whether ``downloading`` opens the network, for what the user has named.
        is_limited: whether it has a budget, as what comes out of files has.

    Raises:
        WallError: something of that was tried, even if whoever tried it went on without.
        SlowError: it took more than the budget.
    """
    own = threading.get_ident()
    outer = _wall_here()
    if outer is not None:  # it is up already, and whoever put it up tells what was tried
        with _with_folders(outer, outer.folders or Folders()):
            yield
        return
    wall = _Wall(folders=Folders(), may_download=may_download, tried=[])
    with in_budget(where) if is_limited else contextlib.nullcontext():
        _put_up(own, wall)
        try:
            yield
        except Exception as error:
            if wall.tried and not isinstance(error, WallError):
                raise _error(wall, where) from error
            raise
        finally:
            _take_down(own)
        if wall.tried:
            raise _error(wall, where)


@contextlib.contextmanager
def lowered() -> Iterator[None]:
    """Within it this thread does what it likes: for our own code, on what the user named."""
    wall = _wall_here()
    if wall is None:
        yield
        return
    with _with_folders(wall, None):
        yield


@contextlib.contextmanager
def downloading() -> Iterator[None]:
    """``lowered``, if the user named what is fetched."""
    wall = _wall_here()
    with lowered() if wall is None or wall.may_download else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Within it this thread may change what is in that folder, too."""
    wall = _wall_here()
    if wall is None or wall.folders is None:
        yield
        return
    with _with_folders(wall, wall.folders.and_in(folder)):
        yield


def is_written_to(path: Path) -> bool:
    """Whether the file lies where this thread may write, inside of the wall."""
    wall = _wall_here()
    return wall is not None and wall.folders is not None and wall.folders.hold(path)


def require_same_file(path: Path, status: os.stat_result) -> None:
    """Returns where that is the file that was opened by this name before, if one was inside of this wall.

    What was checked of one file says nothing of another one that somebody has put in its place.

    Raises:
        FileError: it is another one, or was changed.
    """
    wall = _wall_here()
    if wall is None or is_written_to(path):
        return  # it changes
    found = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if wall.opened.setdefault(os.path.abspath(path), found) != found:
        fix = "run again when nobody writes to it"
        raise FileError("was changed or replaced while it was read", where=str(path), fix=fix)


@contextlib.contextmanager
def _with_folders(wall: _Wall, folders: Folders | None) -> Iterator[None]:
    before, wall.folders = wall.folders, folders
    try:
        yield
    finally:
        wall.folders = before


def _error(wall: _Wall, where: str | None) -> WallError:
    more = f" and {len(wall.tried) - 1} more" if len(wall.tried) > 1 else ""
    return WallError(
        f"something in it tried to {wall.tried[0]}{more}, and was stopped",
        where=where,
        fix="do not use it; if you know where it comes from, --trust holds nothing back",
    )


def _put_up(ident: int, wall: _Wall) -> None:
    with _lock:
        take_note()
        if not _hooked:
            _hooked.append(True)
            sys.addaudithook(_hook)
            announce()
        if not _walls:
            _bytecode.append(sys.dont_write_bytecode)
            sys.dont_write_bytecode = True  # else each import inside of the wall would try to write
        _walls[ident] = wall


def _take_down(ident: int) -> None:
    with _lock:
        del _walls[ident]
        if not _walls:
            sys.dont_write_bytecode = _bytecode.pop()


_bytecode: list[bool] = []


def _wall_here() -> _Wall | None:
    wall = _walls.get(threading.get_ident())
    if wall is None and _ever_started:
        # not current_thread(), which makes a thread where there is none
        thread = threading._active.get(threading.get_ident())  # type: ignore[attr-defined]
        wall = None if thread is None else _of_started.get(thread)
    return wall


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _walls and not _ever_started:
        return
    if event == STARTS:
        _mark_started(args)
        return
    judge = judge_of(event)
    if judge is None:
        return
    wall = _wall_here()
    if wall is None or wall.folders is None:
        return
    tried = judge(args, wall.folders)
    if tried is not None:
        wall.tried.append(tried)
        raise Stopped(1, f"not allowed here: {tried}")


def _mark_started(args: tuple[Any, ...]) -> None:
    """A thread has the wall of the one that starts it."""
    wall = _wall_here()
    if wall is None or wall.folders is None:
        return
    thread = getattr(args[0] if args else None, "__self__", None)
    if isinstance(thread, threading.Thread):
        _of_started[thread] = dataclasses.replace(wall)
        _ever_started[:] = [True]  # a list is looked at faster than the dictionary
    else:
        wall.tried.append("start a thread by hand")
        raise Stopped(1, f"not allowed here: {wall.tried[-1]}")
