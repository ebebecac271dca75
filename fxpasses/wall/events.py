"""What the audit events of Python would do, in words, where the wall forbids it.

Source:
    https://docs.python.org/3/library/audit_events.html
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from typing import Any

from fxpasses.wall.folders import Folders

_ANY_FOLDER = -1
"""How an event says that no folder was given with a name."""
_DEVICES = (os.devnull, "/dev/urandom")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Judge = Callable[[tuple[Any, ...], Folders], str | None]
"""From an event's arguments and the folders that may be written to, to what it would do; None lets it."""


def _program(at: int) -> Judge:
    return lambda args, _: f"start a program ({_named(args, at)})"


def _network(args: tuple[Any, ...], _: Folders) -> str:
    return f"reach the network ({', '.join(map(_brief, args))})"


def _forbidden(what: str) -> Judge:
    return lambda args, _: what


def _opened(args: tuple[Any, ...], folders: Folders) -> str | None:
    path, _, flags = args
    if not isinstance(flags, int) or isinstance(path, int) or path in _DEVICES:
        return None
    if not flags & _WRITES:
        return f"wait for what {_brief(path)} gives" if _may_never_end(path, flags) else None
    return None if folders.hold(path) else f"write {_brief(path)}"


def _may_never_end(path: Any, flags: int) -> bool:
    """Whether it is a pipe or a device, and the caller did not take care that it does not block."""
    if flags & getattr(os, "O_NONBLOCK", 0):
        return False
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # which opening it will tell
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _changed(verb: str, *places: tuple[int, int | None]) -> Judge:
    """``places``: where the event has a path, and where the descriptor of the folder that it is in."""

    def judge(args: tuple[Any, ...], folders: Folders) -> str | None:
        for path, folder in places:
            descriptor = _ANY_FOLDER if folder is None else args[folder]
            if not folders.hold(args[path], None if descriptor == _ANY_FOLDER else descriptor):
                return f"{verb} {_brief(args[path])}"
        return None

    return judge


def _made_folder(args: tuple[Any, ...], folders: Folders) -> str | None:
    path, _, descriptor = args
    if descriptor == _ANY_FOLDER and (os.path.isdir(path) or _is_cache(path)):
        return None  # libraries ask for theirs to be there, whether it is or not
    return _MADE(args, folders)


_MADE = _changed("make the folder", (0, 2))


def _is_cache(path: Any) -> bool:
    """Whether it is the folder that torch makes in a place of its own as soon as it is imported."""
    folder, name = os.path.split(os.fsdecode(path))
    return path == os.environ.get("TORCHINDUCTOR_CACHE_DIR") or (
        folder == tempfile.gettempdir() and name.startswith("torchinductor_")
    )


def _library(args: tuple[Any, ...], _: Folders) -> str | None:
    return None if _is_installed(args[0]) else f"load the library {_brief(args[0])}"


def _symbol(args: tuple[Any, ...], _: Folders) -> str | None:
    """Every library gives out the functions of those that it needs itself, those of C among them."""
    library, name = getattr(args[0], "_name", ""), args[1]
    is_pythons = library is None and isinstance(name, str) and name.startswith("Py")
    return None if is_pythons else f"call {_brief(name)} of the library {_brief(library)}"


def _imported(args: tuple[Any, ...], _: Folders) -> str | None:
    """The event has a file name for what is machine code, and none for modules that are only looked for."""
    path = args[1]
    return None if not path or _is_installed(path) else f"load the library {_brief(path)}"


def _installed_in() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    places = {*(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")), *sys.path}
    # the working directory and what is relative to it is not where anything is installed
    found = {os.path.realpath(place) for place in places if os.path.isabs(place)}
    here = os.path.realpath(os.getcwd())
    return tuple(os.path.join(place, "") for place in found if place != here)


_INSTALLED: list[tuple[str, ...]] = []


def take_note() -> None:
    """Remembers where Python's packages are, and its temporary files, before anything could change that."""
    _INSTALLED[:] = [_installed_in()]
    with contextlib.suppress(OSError):  # no folder that could be written to
        tempfile.gettempdir()  # the first call tries by writing to it


def _is_installed(path: Any) -> bool:
    if not isinstance(path, str | bytes) or not os.path.isabs(path):
        return False
    return os.path.realpath(os.fsdecode(path)).startswith(_INSTALLED[0])


def _named(args: tuple[Any, ...], at: int) -> str:
    return _brief(args[at]) if len(args) > at else "?"


def _brief(value: Any) -> str:
    text = os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else str(value)
    return repr(text if len(text) <= 80 else f"{text[:79]}…")


FORBIDDEN: dict[str, Judge] = {
    "subprocess.Popen": _program(0),
    "os.system": _program(0),
    "os.exec": _program(0),
    "os.posix_spawn": _program(0),
    "os.spawn": _program(1),
    "os.startfile": _program(0),
    "os.startfile/2": _program(0),
    "pty.spawn": _program(0),
    "webbrowser.open": _program(0),
    "_winapi.CreateProcess": _program(1),
    "os.fork": _forbidden("start a process"),
    "os.forkpty": _forbidden("start a process"),
    "fxpasses.wall.fork_exec": _forbidden("start a program"),
    "fxpasses.wall.mkfifo": _forbidden("make a pipe"),
    "fxpasses.wall.mknod": _forbidden("make a device"),
    "os.kill": _forbidden("send a signal to a process"),
    "os.killpg": _forbidden("send a signal to processes"),
    "sys.remote_exec": _forbidden("run code in another process"),
    "os.chdir": _forbidden("change the working directory"),
    "os.fchdir": _forbidden("change the working directory"),
    "cpython._PySys_ClearAuditHooks": _forbidden("take the wall down"),
    "sqlite3.connect": _forbidden("open a database"),
    "sqlite3.load_extension": _forbidden("load a library"),
    "ctypes.dlopen": _library,
    "ctypes.dlsym": _symbol,
    "ctypes.dlsym/handle": _forbidden("call a function of a library"),
    "ctypes.call_function": _forbidden("call a function of a library"),
    "import": _imported,
    "open": _opened,
    "os.mkdir": _made_folder,
    "os.remove": _changed("delete", (0, 1)),
    "os.rmdir": _changed("delete", (0, 1)),
    "os.rename": _changed("move", (0, 2), (1, 3)),
    "os.link": _forbidden("make a link"),
    "os.symlink": _forbidden("make a link"),
    "os.truncate": _changed("shorten", (0, None)),
    "os.chmod": _changed("change the rights of", (0, 2)),
    "os.chown": _changed("change the owner of", (0, 3)),
    "os.lchmod": _forbidden("change the rights of a file"),
    "os.chflags": _forbidden("change the rights of a file"),
    "os.lchflags": _forbidden("change the rights of a file"),
    "os.utime": _changed("change the times of", (0, 3)),
    "os.setxattr": _changed("change attributes of", (0, None)),
    "os.removexattr": _changed("change attributes of", (0, None)),
}
_FAMILIES: dict[str, Judge] = dict.fromkeys(
    ("socket", "urllib", "http", "ftplib", "smtplib", "poplib", "imaplib", "nntplib", "telnetlib"), _network
) | {"winreg": _forbidden("change the registry")}
_HARMLESS = frozenset({"socket.gethostname"})


@functools.lru_cache(maxsize=1024)
def judge_of(event: str) -> Judge | None:
    """What tells whether such an event is let through; None where every one is."""
    found = FORBIDDEN.get(event)
    if found is None and event not in _HARMLESS:
        found = _FAMILIES.get(event.partition(".")[0])
    return found
