"""Two processes for a command: one does the work, the other watches over it and tells how it ended.

A call that never gives Python's lock back stops every thread, and a fault in a library ends the process: no
``try`` meets either. So the work is forked off before anything large is imported. It tells its budget in
memory that both share (``fxpasses.wall.heartbeat``), and where it does not come back to that within the
budget, the process that watches ends it, and removes what it would have removed.

Both are one to the user: signals are handed on, the end of one is the end of the other.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from os import _exit
from pathlib import Path
from types import FrameType
from typing import NoReturn

from fxhead.outcome import ExitCode
from fxhead.processes import end_with, processor_seconds, resident
from fxhead.show import render
from fxpasses.errors import FxHeadError
from fxpasses.wall.heartbeat import Budget, Record, tell_in

_LOOK_S = 0.25
_WAITING = 0.2
"""Of a call that uses no processor and never returns, a second counts for this: so may a slow disk look."""
_HANDED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGCONT")

Show = Callable[[Exception], ExitCode]


class CrashError(FxHeadError):
    """What a model does ends the process by a fault in a library, or in code of its own."""


def fork_work(show: Show) -> None:
    """Returns in a new process, which is to do the work; the one that calls it ends as that does.

    It returns in the same process where none can be forked, or where libraries have been imported: their
    threads do not survive it.

    Args:
        show: tells an error, and gives its exit code.
    """
    if not hasattr(os, "fork") or "torch" in sys.modules:
        return
    record, parent = Record(), os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else its end is not told
    numbers = {
        number for number in map(_number, _HANDED_ON) if signal.getsignal(number) is not signal.SIG_IGN
    }
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    gc.freeze()  # or the first collection writes to every page that is shared
    try:
        worker = os.fork()
    except OSError:  # there may be no more processes, or no memory for one: nobody watches
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    if worker:
        _Watched(worker, record, numbers, show).wait(before)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if not end_with(parent):
        _exit(ExitCode.INTERRUPTED)
    tell_in(record)


def _number(name: str) -> int:
    return int(getattr(signal, name))


class _Watched:
    """The process that does the work."""

    def __init__(self, worker: int, record: Record, numbers: set[int], show: Show) -> None:
        self._worker, self._record, self._numbers, self._show = worker, record, numbers, show
        self._told = record.read()
        self._since, self._used = time.monotonic(), processor_seconds(worker)
        self._handed_on: set[int] = set()
        self._limit: str | None = None

    def wait(self, mask: set[int | signal.Signals]) -> NoReturn:
        """Waits for its end, and ends."""
        for number in self._numbers:
            signal.signal(number, self._hand_on)
        signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask - {signal.SIGALRM})
        while True:
            _, status = os.waitpid(self._worker, os.WUNTRACED)  # signals are handled meanwhile
            if not os.WIFSTOPPED(status):
                break
            os.kill(os.getpid(), signal.SIGSTOP)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)  # what is left takes no time
        self._end(os.waitstatus_to_exitcode(status))

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        self._handed_on.add(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._worker, number)

    def _look(self, _number: int, _: FrameType | None) -> None:
        told = self._record.read()
        if told is None or told != self._told:
            self._told, self._since, self._used = told, time.monotonic(), processor_seconds(self._worker)
        elif told.budget is not None and self._limit is None:
            self._limit = self._beyond(told.budget)
            if self._limit is not None:
                os.kill(self._worker, signal.SIGKILL)

    def _beyond(self, budget: Budget) -> str | None:
        """The limit that was passed since it told something, if one was."""
        waited = time.monotonic() - self._since
        used = processor_seconds(self._worker) - self._used if self._used else waited
        if max(used, waited * _WAITING) >= budget.seconds:
            return budget.time_limit
        is_stuck = waited > 4 * _LOOK_S  # else it sees to that itself
        return budget.memory_limit if is_stuck and resident(self._worker) > budget.resident_bytes else None

    def _end(self, code: int) -> NoReturn:
        told = self._record.read() or self._told
        for what, path in reversed(told.leftovers if told else []):
            with contextlib.suppress(OSError):
                _remove(what, Path(path))
        if code < 0 and -code in self._handed_on and self._limit is None:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        if code < 0:
            render.end_progress()
            code = self._show(self._error(-code, told.budget if told else None))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                stream.flush()
        _exit(code)

    def _error(self, number: int, budget: Budget | None) -> Exception:
        if self._limit is not None:
            from fxpasses.wall.clock import slow_error

            return slow_error(self._limit, budget.where if budget else None)
        what = "the process" if budget is None else "the process that reads it"
        fix = "do not use it; it makes a library fail, which should be told to whoever makes that library"
        if budget is None:
            fix = "PYTHONFAULTHANDLER=1 shows where, in a library or in the model's own code"
        if number == signal.SIGKILL:
            fix = "give a smaller model, or use a machine with more memory"
        what = f"{what} was ended by signal {number} ({signal.strsignal(number)})"
        return CrashError(what, where=budget.where if budget else None, fix=fix)


def _remove(what: str, path: Path) -> None:
    if what == "settle":
        from fxhead.files.settle import settle

        settle(path)
    else:
        path.rmdir()
