"""A limit in seconds for what a file makes a thread do: read it, trace, rewrite or export what is in it.

Another thread looks at the processor time that the limited one has used, so that neither a slow disk nor a
busy machine counts, and raises an exception in it. Python sees that between two of its own instructions: a
call into compiled code that never returns is not covered. Nor are model runs, which take what they take.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator

from fxpasses.errors import FxHeadError
from fxpasses.wall.wall import lowered

MAX_SECONDS = 60
_AGAIN_S = 0.5
"""Somebody may take the exception for one of their own and go on."""


class SlowError(FxHeadError):
    """What a file asks for takes longer than it may."""


class _TimeIsUp(BaseException):
    """No ``except Exception`` takes it for a fault of what was running."""


class _Watch:
    """Watches one thread until it is closed."""

    def __init__(self, seconds: float) -> None:
        self._ident, self._seconds = threading.get_ident(), seconds
        self._clock = _processor_clock(self._ident)
        self._start = self._now()
        self._lock, self._over = threading.Lock(), threading.Event()
        with lowered():  # the thread is ours, and outside of any wall
            threading.Thread(target=self._run, daemon=True, name="fxhead clock").start()

    def close(self) -> None:
        """From now on nothing is raised any more."""
        self._over.set()
        with self._lock:
            _raise_in(self._ident, None)

    def _now(self) -> float:
        return time.monotonic() if self._clock is None else time.clock_gettime(self._clock)

    def _run(self) -> None:
        while not self._over.wait(max(self._start + self._seconds - self._now(), _AGAIN_S)):
            with self._lock:
                if self._now() - self._start >= self._seconds and not self._over.is_set():
                    _raise_in(self._ident, _TimeIsUp)


@contextlib.contextmanager
def in_time(where: str | None = None, seconds: float = MAX_SECONDS) -> Iterator[None]:
    """Within it this thread may use so many seconds of a processor.

    Raises:
        SlowError: it has used more.
    """
    watch = _Watch(seconds)
    try:
        try:
            yield
        finally:
            watch.close()
    except _TimeIsUp:
        watch.close()
        raise SlowError(
            f"takes more than the limit of {seconds:g} s of processor time",
            where=where,
            fix="do not use it; if you know where it comes from, --trust has no such limit",
        ) from None


def _raise_in(ident: int, error: type[BaseException] | None) -> None:
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), raised)


def _processor_clock(ident: int) -> int | None:
    """The clock of that thread alone, where the system has one."""
    found = getattr(time, "pthread_getcpuclockid", None)
    return None if found is None else int(found(ident))
