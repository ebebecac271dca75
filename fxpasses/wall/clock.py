"""A budget for what files make a thread do, all of it together: seconds of a processor, and memory.

Another thread looks at the processor time that the limited one has used, so that neither a slow disk nor a
busy machine counts, and at the memory of the process (on Linux), and raises an exception in it. Python sees
that between two of its own instructions; a call into compiled code is told to stop, where that can be, and
where it never returns, the watching thread ends by the same error, on which a command ends the process. One
that keeps Python's lock stops that thread, too: a command is watched by another process (``heartbeat``).

A large model honestly takes more: each file that is opened adds to both by the bytes that it has on the disk,
of which one that is mostly holes has few. A model of that size is run some hundred times for a certificate.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from fxpasses.errors import FxHeadError
from fxpasses.wall.heartbeat import Budget, beat, tell_nobody

MAX_SECONDS = 60
MAX_BYTES = 1 << 31
"""Beside what the process had before; never more than what the machine has left."""
_SECONDS_PER_BYTE = 1e-6
_BYTES_PER_BYTE = 8
_PART = 0.95
_LOOK_S = 0.1
_AGAIN_S = 1.0
"""Somebody may take the exception for one of their own and go on, or be slow to give memory back."""
_STUCK_S = 20
_FAR_BYTES = 1 << 28
"""So much above the limit, nobody waits for a call that fills memory."""


class SlowError(FxHeadError):
    """What a file asks for takes more time or memory than it may."""


def slow_error(limit: str, where: str | None) -> SlowError:
    """What says that this was the limit."""
    fix = "do not use it; if you know where it comes from, --trust has no such limit"
    return SlowError(f"takes more than the limit of {limit}", where=where, fix=fix)


class _TimeIsUp(BaseException):
    """No ``except Exception`` takes it for a fault of what was running."""


class _Watch:
    """Watches one thread until it is closed."""

    _live: ClassVar[list[_Watch]] = []

    def __init__(self, where: str | None, seconds: float, most: int) -> None:
        self._ident, self._where = threading.get_ident(), where
        self._seconds, self._bytes = seconds, most
        self._clock = _processor_clock(self._ident)
        self._start, self._before, self._left = self._now(), _memory(), _left()
        self._limit: str | None = None
        self._has_raised = False
        self._files: set[tuple[int, int]] = set()
        self._given = 0
        self._lock, self._over = threading.Lock(), threading.Event()
        self.left = self._budget()
        self._live.append(self)
        _tell(self._live)
        threading.Thread(target=self._run, daemon=True, name="fxhead clock").start()

    def close(self) -> None:
        """From now on nothing is raised any more."""
        self._over.set()
        with contextlib.suppress(ValueError):  # closed already
            self._live.remove(self)
        _tell(self._live)
        with self._lock:
            may_be_raised, self._has_raised = self._has_raised, False
        if may_be_raised:
            _take(self._ident)

    def add(self, size: int, file: tuple[int, int] | None = None, *, is_own: bool = False) -> None:
        """More for so many bytes of weights or samples; of a file once."""
        if file is None or file not in self._files:
            size = min(size, self._given) if is_own else size
            self._given += 0 if is_own else size
            self._files.update([] if file is None else [file])
            self._seconds += 1 + size * _SECONDS_PER_BYTE
            self._bytes += size * _BYTES_PER_BYTE
            self._beat()

    def require_room(self, size: int) -> None:
        """Returns where so many bytes more are within the limit.

        Raises:
            SlowError: they are not.
        """
        most = self._grown(-size)
        if most is not None:
            self._limit = _told(most)
            raise self.error()

    def error(self) -> SlowError:
        """What says which limit it was."""
        return slow_error(str(self._limit), self._where)

    def _now(self) -> float:
        return time.monotonic() if self._clock is None else time.clock_gettime(self._clock)

    def _beyond(self) -> str | None:
        """The limit that was passed, if one was."""
        if self._now() - self._start >= self._seconds:
            return _told_time(self._seconds)
        most = self._grown()
        return None if most is None else _told(most)

    def _grown(self, further: int = 0) -> float | None:
        """The limit of memory that was passed, by so much; None where none was.

        What files have in memory the system may take back meanwhile: all in all it is no more then.
        """
        whole, own = (now - then for now, then in zip(_memory(), self._before, strict=True))
        pairs = ((max(whole, own), self._bytes), (own, self._left))
        return next((most for grown, most in pairs if grown >= most + further), None)

    def _budget(self) -> Budget:
        most = min(self._bytes, self._left)
        return Budget(
            where=self._where,
            seconds=self._seconds - (self._now() - self._start) + _STUCK_S,
            resident_bytes=self._before[0] + most + _FAR_BYTES,
            time_limit=_told_time(self._seconds),
            memory_limit=_told(most),
        )

    def _beat(self) -> None:
        self.left = self._budget()
        _tell(self._live)

    def _run(self) -> None:
        while not self._over.wait(_LOOK_S):
            self._beat()
            limit = self._beyond()
            if limit is not None:
                self._limit = limit
                self._end()

    def _end(self) -> None:
        """Ends the other thread.

        Raises:
            SlowError: it does not end.
        """
        since = again = time.monotonic()
        while not self._over.wait(_LOOK_S):
            self._beat()
            now = time.monotonic()
            with self._lock:
                if now >= again and not self._over.is_set() and not _is_on_its_way(self._ident):
                    self._has_raised = True
                    _raise_in(self._ident, _TimeIsUp)  # before a call returns, or the next one may begin
                    for stop in tuple(_stops.get(self._ident, ())):
                        stop()
                    again = now + _AGAIN_S
            if now - since > _STUCK_S or self._grown(_FAR_BYTES):
                raise self.error()


_watches: dict[int, _Watch] = {}
_stops: dict[int, list[Callable[[], object]]] = {}


@contextlib.contextmanager
def stopped_by(stop: Callable[[], object]) -> Iterator[None]:
    """Within it ``stop`` is called when a budget of this thread ends: a call into machine code returns."""
    own = threading.get_ident()
    stops = _stops.setdefault(own, [])
    stops.append(stop)
    try:
        yield
    finally:
        stops.remove(stop)
        if not stops:
            _stops.pop(own, None)


@contextlib.contextmanager
def in_budget(
    where: str | None = None, seconds: float | None = None, most: int | None = None
) -> Iterator[None]:
    """Within it this thread may use so many seconds of a processor, and the process so much more memory.

    Raises:
        SlowError: it has used more.
    """
    own = threading.get_ident()
    outer = _watches.get(own)
    watch = _Watch(where, MAX_SECONDS if seconds is None else seconds, MAX_BYTES if most is None else most)
    try:
        try:
            _watches[own] = watch
            yield
        finally:
            _restore(own, outer)
            watch.close()
    except Exception:
        if watch._limit is not None:  # what was stopped says so in its own words
            raise watch.error() from None
        raise
    except _TimeIsUp:
        _restore(own, outer)
        watch.close()
        if watch._limit is None:  # that of a budget around this one
            raise
        raise watch.error() from None


def _told(most: float) -> str:
    return f"{most / 1e9:.3g} GB of memory"


def _told_time(seconds: float) -> str:
    return f"{seconds:.4g} s of processor time"


def _tell(watches: list[_Watch]) -> None:
    """Tells of the one that has the least left."""
    beat(min((watch.left for watch in tuple(watches)), key=lambda left: left.seconds, default=None))


def _restore(own: int, outer: _Watch | None) -> None:
    if outer is None:
        _watches.pop(own, None)
    else:
        _watches[own] = outer


def is_limited() -> bool:
    """Whether this thread has a budget."""
    return threading.get_ident() in _watches


def left() -> Budget | None:
    """What this thread's budget leaves to it; None where it has none."""
    watch = _watches.get(threading.get_ident())
    return None if watch is None else watch.left


def forget() -> None:
    """Ends all budgets in a process that was forked just now: the threads that watch have not come along."""
    tell_nobody()
    _watches.clear()
    _Watch._live.clear()


def add_file(status: os.stat_result, *, is_own: bool) -> None:
    """Adds to the budget of this thread, if it has one, for a file that is read.

    One that was written here (``is_own``) adds no more than all others: of a hole, zeros are written.
    """
    size = getattr(status, "st_blocks", status.st_size // 512) * 512
    add_bytes(size, (status.st_dev, status.st_ino), is_own=is_own)


def add_bytes(size: int, file: tuple[int, int] | None = None, *, is_own: bool = False) -> None:
    """The same for a model that comes from no file here."""
    watch = _watches.get(threading.get_ident())
    if watch is not None:
        watch.add(size, file, is_own=is_own)


def require_room(size: int) -> None:
    """Returns where this thread has no budget, or may take so many bytes: one call that does is not stopped.

    Raises:
        SlowError: they are beyond it.
    """
    watch = _watches.get(threading.get_ident())
    if watch is not None:
        watch.require_room(size)


def _raise_in(ident: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error))


def _is_on_its_way(ident: int) -> bool:
    """Whether that thread cleans up after the exception: a second one would skip what takes the first."""
    found = sys._current_exceptions().get(ident)
    error = found[1] if isinstance(found, tuple) else found  # from Python 3.12 on
    while error is not None and not isinstance(error, _TimeIsUp):
        error = error.__context__
    return error is not None


def _take(ident: int) -> None:
    """Takes what may still be raised in this thread.

    To set it to none instead would leave the interpreter looking for it at every call from then on, and make
    CPython 3.11 do nothing else as soon as a profiler or tracer is on.
    """
    try:
        _raise_in(ident, _TimeIsUp)
        while True:
            time.sleep(0)
    except _TimeIsUp:
        pass


def _processor_clock(ident: int) -> int | None:
    """The clock of that thread alone, where the system has one."""
    found = getattr(time, "pthread_getcpuclockid", None)
    return None if found is None else int(found(ident))


def _memory() -> tuple[int, int]:
    """Bytes of memory that the process has, and how many of them are no file's; none where nobody tells."""
    try:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_bytes().split())
    except OSError:
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    return resident * page, (resident - shared) * page


def _left() -> float:
    """Bytes of memory that could be had now; infinite where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return _PART * 1024 * found[0] if found else math.inf
