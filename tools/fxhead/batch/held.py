"""A folder that one process at a time works in, by a lock that the kernel takes off where that is killed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from fxpasses.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_AGAIN_S = 0.05


@contextlib.contextmanager
def held(folder: Path, *, seconds: float = 0) -> Iterator[list[int]]:
    """Within it the folder is no other process's; it is made where it is missing, and removed if left empty.

    Gives the descriptors of its lock, if there are locks here: whoever inherits them holds the folder too.

    Raises:
        InputError: another process has it, for longer than so many seconds.
    """
    is_made, locks = not folder.exists(), list[int]()
    try:
        with contextlib.suppress(OSError):  # whoever writes there says so
            folder.mkdir(parents=True, exist_ok=True)
            locks += [] if fcntl is None else [os.open(folder, os.O_RDONLY)]
        for lock in locks:
            _take(lock, folder, time.monotonic() + seconds)
        yield locks
    finally:
        for lock in locks:
            os.close(lock)
        with contextlib.suppress(OSError):  # not empty
            if is_made:
                folder.rmdir()


def _take(lock: int, folder: Path, end: float) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise InputError(
                    "another batch is at work there", where=str(folder), fix="wait for its end, or end it"
                ) from None
            time.sleep(_AGAIN_S)
        except OSError:  # a file system without locks
            return
