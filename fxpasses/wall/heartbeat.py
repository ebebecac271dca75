"""What a process tells the one that watches over it: its budget, and what it would leave behind.

It is a text in memory that both share, so that it can be read whatever the process is in the middle of: a
call that never gives Python's lock back, or one that has ended it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path

_SIZE = 1 << 16
_MOST_TEXT = 1000
_lock = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What the tightest budget of a process leaves to it.

    Attributes:
        where: the file that is read.
        seconds: of a processor, from now on: then nobody waits any longer.
        resident_bytes: of memory, all in all, the same.
        time_limit: the limit of time, as the user is told of it.
        memory_limit: the limit of memory.
    """

    where: str | None
    seconds: float
    resident_bytes: float
    time_limit: str
    memory_limit: str


@dataclasses.dataclass(slots=True, kw_only=True)
class Told:
    """All that is told.

    Attributes:
        beats: changes each time that something is told.
        budget: None where nothing is read that anybody may have written.
        leftovers: what is to be done with which path where the process ends without having done it.
    """

    beats: int = 0
    budget: Budget | None = None
    leftovers: list[tuple[str, str]] = dataclasses.field(default_factory=list)


class Record:
    """Memory that a process shares with the one that forked it."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _SIZE)

    def write(self, told: Told) -> None:
        """From now on ``read`` gives this."""
        text = json.dumps(dataclasses.asdict(told)).encode()
        if len(text) < _SIZE:
            self._page[: len(text) + 1] = text + b"\n"

    def read(self) -> Told | None:
        """What was told last; None while it is written, or where nothing was told."""
        text, _, _ = self._page[:].partition(b"\n")
        try:
            told = json.loads(text)
            budget = told.pop("budget")
            return Told(budget=budget and Budget(**budget), **told)
        except (ValueError, KeyError):
            return None


_records: list[Record] = []
_told = Told()


def tell_in(record: Record) -> None:
    """From now on what this process tells is in there."""
    _records[:] = [record]


def tell_nobody() -> None:
    """From now on what this process tells is for nobody: it was forked by one that is watched."""
    _records.clear()


def beat(budget: Budget | None) -> None:
    """Tells that the process lives, and what it may still use."""
    if _records:
        if budget is not None and budget.where is not None:
            budget = dataclasses.replace(budget, where=budget.where[:_MOST_TEXT])
        with _lock:
            _told.beats += 1
            _told.budget = budget
            _records[0].write(_told)


@contextlib.contextmanager
def leaving(what: str, path: Path) -> Iterator[None]:
    """Within it there is something that has to be done with the path, should the process end at once."""
    left = (what, str(path.absolute()))
    _leave(left, is_left=True)
    try:
        yield
    finally:
        _leave(left, is_left=False)


def _leave(left: tuple[str, str], *, is_left: bool) -> None:
    if _records:
        with _lock:
            (_told.leftovers.append if is_left else _told.leftovers.remove)(left)
            _told.beats += 1
            _records[0].write(_told)
