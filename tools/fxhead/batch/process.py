"""One row in a process of its own: it may fail, hang, eat memory or be killed, and the rest goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fxhead.batch.rows import Row

_LOOK_S = 0.1
_SHOWN = 300


class State(enum.StrEnum):
    """How a row ended."""

    DONE = "done"
    NO = "no"
    FAILED = "failed"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    KILLED = "killed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one row may take.

    Attributes:
        seconds: wall-clock time; None for no limit.
        bytes: resident memory, looked at ten times a second (Linux); None for no limit.
        threads: threads of each process.
    """

    seconds: float | None
    bytes: int | None
    threads: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of a row.

    Attributes:
        name: the row's.
        source: the row's.
        key: what it was made of (see ``store.key_of``); once it is kept, the mark of that and all the rest.
        state: how it ended.
        reason: why, where it is not done; else None.
        exit_code: of the process; negative where a signal ended it.
        seconds: wall-clock time.
        peak_bytes: peak of its resident memory; None where that is not told.
        document: what ``fxhead rewrite --json`` wrote; None where it wrote none.
    """

    name: str
    source: str
    key: str
    state: State
    reason: str | None
    exit_code: int
    seconds: float
    peak_bytes: int | None
    document: dict[str, Any] | None

    @property
    def verdict(self) -> str | None:
        """The verdict of its certificates."""
        return (self.document or {}).get("verdict")

    @property
    def files(self) -> tuple[dict[str, Any], ...]:
        """What it wrote: paths and sizes."""
        return tuple((self.document or {}).get("files", ()))


def perform(row: Row, key: str, folder: str, limits: Limits, place: str) -> Done:
    """The row's end; raises nothing that the row does.

    Args:
        row: the model.
        key: what it is made of.
        folder: of the batch; the row's outputs go into one of its name below.
        limits: what it may take.
        place: the working folder, from which paths are seen.
    """
    out = Path(folder) / row.name
    command = [sys.executable, "-m", "fxhead", "rewrite", *row.options]
    command += ["-o", f"{out}{os.sep}", "--force", "--json", "--", row.source]
    threads = str(limits.threads)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "NO_COLOR": "1"}
    start = time.monotonic()
    # files, not pipes: a row that writes much must not wait for a reader
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            cwd=place,
            start_new_session=True,
        )
        with _RUNNING.entered(process):
            state, peak = _watched(process, start, limits)
        written, said = _text(stdout), _text(stderr)
    document = _document(written)
    code = process.returncode
    if state is None:
        state = State.DONE if code == 0 else State.NO if code == 1 else State.FAILED
        state = State.KILLED if code < 0 else state
    return Done(
        name=row.name,
        source=row.source,
        key=key,
        state=state,
        reason=_reason(state, code, document, said, limits),
        exit_code=code,
        seconds=round(time.monotonic() - start, 3),
        peak_bytes=peak,
        document=document,
    )


class _Running:
    """Processes that are at work, so that an interruption ends them too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False

    @contextlib.contextmanager
    def entered(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        with self._lock:
            self._processes.add(process)
            if self._is_stopped:
                _kill(process)
        try:
            yield
        finally:
            if process.poll() is None:
                _kill(process)
            with self._lock:
                self._processes.discard(process)

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            for process in self._processes:
                _kill(process)


_RUNNING = _Running()


def stop_all() -> None:
    """Ends every row that is at work in this process."""
    _RUNNING.stop()


def _watched(
    process: subprocess.Popen[bytes], start: float, limits: Limits
) -> tuple[State | None, int | None]:
    """The limit that the process went beyond, if any, and its peak; it has ended then."""
    peak: int | None = None
    while True:
        try:
            process.wait(_LOOK_S)
            return None, peak
        except subprocess.TimeoutExpired:
            peak = max(filter(None, (peak, _resident_peak(process.pid))), default=None)
        state = None
        if limits.bytes is not None and peak is not None and peak > limits.bytes:
            state = State.MEMORY
        elif limits.seconds is not None and time.monotonic() - start > limits.seconds:
            state = State.TIMEOUT
        if state is not None:
            _kill(process)
            return state, peak


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and what it started; it cannot refuse."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _resident_peak(pid: int) -> int | None:
    """Peak resident bytes so far; None where the system does not tell (other than Linux)."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    line = next((line for line in text.splitlines() if line.startswith("VmHWM:")), None)
    return int(line.split()[1]) * 1024 if line else None


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode("utf-8", "replace"))


def _document(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _reason(
    state: State, code: int, document: dict[str, Any] | None, said: str, limits: Limits
) -> str | None:
    """In one line."""
    if state is State.DONE:
        return None
    if state is State.TIMEOUT:
        return f"it took more than {limits.seconds:g} s"
    if state is State.MEMORY:
        return f"it took more than {limits.bytes or 0:,} bytes"
    if state is State.KILLED:
        return f"signal {-code} ended it (out of memory?)" if -code == signal.SIGKILL else f"signal {-code}"
    error = (document or {}).get("error")
    if isinstance(error, dict):
        return ": ".join(str(error[key]) for key in ("where", "what") if error.get(key))[:_SHOWN]
    if state is State.NO and document is not None:
        misses = (document.get("report") or {}).get("misses") or [{}]
        verdict = document.get("verdict")
        return f"verdict {verdict}" if verdict else str(misses[0].get("code", "nothing to rewrite"))
    return (said.strip().splitlines() or [f"exit code {code}"])[-1][:_SHOWN]
