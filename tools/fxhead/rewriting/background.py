"""Work that a fork of this process does on a second core, while this one goes on with something else.

A fork of a process whose libraries have been at work has none of their threads, and may wait for one for
ever. So it computes on one thread (as the workers of torch's ``DataLoader`` do), whoever waits for it looks
whether it still gets on, and what it has not done is to be done again: nothing rests on it but time.
"""

from __future__ import annotations

import gc
import math
import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch

from fxhead.processes import can_fork, end_with, processor_seconds, resident
from fxpasses.wall.clock import forget, left
from fxpasses.wall.heartbeat import Budget
from fxpasses.wall.wall import lowered

_STUCK_S = 10
"""What has used no processor for so long waits for what does not come."""
_MOST_S = 600
"""Of a processor, whatever the budget: what turns in a circle uses one, too."""
_LOOK_S = 0.2
_MOST_BYTES = 1 << 30
"""Of tensors: two processes hold more than one while both work with them."""

_NICE = 5
"""The threads of an operator wait for each other: one that shares its core with this holds up all of them."""

T = TypeVar("T")


def is_worthwhile(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether a fork that works with these tensors is safe, and there is a core for it."""
    held = tuple(tensors)
    return (
        can_fork()
        and min(torch.get_num_threads(), len(os.sched_getaffinity(0))) > 1
        and all(tensor.device.type == "cpu" for tensor in held)
        and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        and sum(tensor.nbytes for tensor in held) <= _MOST_BYTES
    )


class Background(Generic[T]):
    """Work that a fork has begun, within what the budget of this thread leaves.

    Args:
        work: what it does, and gives; nothing in this process changes by it.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._reader, writer = os.pipe()
        parent, budget = os.getpid(), left()
        gc.freeze()  # or the first collection there writes to every page that is shared
        self._pid = 0
        try:
            with lowered():
                self._pid = os.fork()
            if self._pid == 0:
                _work(work, writer, parent, budget)
        except OSError:  # there may be no more processes, or no memory for one
            os.close(self._reader)
        gc.unfreeze()
        os.close(writer)

    def result(self) -> T | None:
        """What ``work`` gave; None where it was not done, for whatever reason. It waits for that."""
        if not self._pid:
            return None
        told, used, since = b"", 0.0, time.monotonic()
        while time.monotonic() - since < _STUCK_S:
            if select.select([self._reader], [], [], _LOOK_S)[0]:
                part = os.read(self._reader, 1 << 16)
                told += part
                if not part:
                    break
            now = processor_seconds(self._pid)
            if now > used:
                used, since = now, time.monotonic()
        self.close()
        try:  # what this process's own fork wrote, or as much of it as it came to
            given: T = pickle.loads(told)
        except (EOFError, pickle.UnpicklingError):
            return None
        return given

    def close(self) -> None:
        """Ends the work, should it not have ended."""
        if self._pid:
            os.close(self._reader)
            with lowered():
                os.kill(self._pid, signal.SIGKILL)  # ended or not, it is ours until it was waited for
            os.waitpid(self._pid, 0)
            self._pid = 0


def _work(work: Callable[[], object], writer: int, parent: int, budget: Budget | None) -> None:
    """Never returns, and leaves no file, signal or exit of the process that it was forked from to itself."""
    try:
        if end_with(parent):
            # or a lock that the parent holds would outlive it for as long as this takes to end
            os.closerange(3, writer)
            os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
            forget()
            _limit(budget)
            torch.set_num_threads(1)
            os.nice(_NICE)
            told = pickle.dumps(work())
            while told:
                told = told[os.write(writer, told) :]
    except BaseException:  # noqa: BLE001 - whatever it was comes again where the work is done again
        pass
    finally:
        os._exit(0)


def _limit(budget: Budget | None) -> None:
    """The system's own limits: the threads that watched over the budget did not come along."""
    import resource

    seconds = _MOST_S if budget is None else max(1, math.ceil(budget.seconds))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # which its signal would write
    if budget is not None:
        more = max(0, int(budget.resident_bytes - resident(os.getpid())))
        size = _data() + more
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _data() -> int:
    """The bytes that ``RLIMIT_DATA`` counts."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
