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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from fxhead.batch.fork_server import Forked, ForkServer
from fxhead.batch.held import held
from fxhead.batch.rows import Row
from fxhead.files.digests import digest_file
from fxhead.files.settle import settle
from fxhead.processes import can_fork
from fxpasses.errors import FileError, FxHeadError

_LOOK_S = 0.1
_ORPHAN_S = 30
_SHOWN = 300
_ROW = "from fxhead.cli import run; run(is_watched=True)"


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
        key: what it was made of (see ``store.key_of``).
        state: how it ended.
        reason: why, where it is not done; else None.
        exit_code: of the process; negative where a signal ended it.
        seconds: wall-clock time.
        peak_bytes: peak of its resident memory; None where that is not told.
        document: what ``fxhead rewrite --json`` wrote; None where it wrote none.
        digests: SHA-256 of each file that it wrote, by its name.
        mark: what says that this user's own batch has kept it; empty until then.
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
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    mark: str = ""

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
    try:
        return _end(row, key, folder, limits, place)
    except OSError as error:
        what = f"it cannot be started ({error.strerror or error})"
        return not_begun(row, FileError(what, where=place, fix="make room"))
    except FxHeadError as error:
        return not_begun(row, error)


def _end(row: Row, key: str, folder: str, limits: Limits, place: str) -> Done:
    out = os.path.join(folder, row.name, "")
    arguments = ["rewrite", *row.options, "-o", out, "--force", "--json", "--", row.source]
    with contextlib.ExitStack() as open_:
        # files, not pipes: a row that writes much must not wait for a reader
        files = [open_.enter_context(tempfile.TemporaryFile()) for _ in ("stdout", "stderr")]
        locks = open_.enter_context(held(Path(place, out), seconds=_ORPHAN_S))
        process = _AT_WORK.started(arguments, files, limits.threads, place, locks)
        start = time.monotonic()
        with _AT_WORK.entered(process):
            state, peak = _watched(process, start, limits)
        settle(Path(place, out))  # it may have ended in the middle of writing
        written, said = map(_text, files)
    document = _document(written)
    code = process.wait()
    if state is None:
        # an answer is a document: whatever else ends with its code has given none
        answers = {0: State.DONE, 1: State.NO} if document and "error" not in document else {}
        state = State.KILLED if code < 0 else answers.get(code, State.FAILED)
    done = Done(
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
    made = [Path(place, file["path"]) for file in done.files] if state in (State.DONE, State.NO) else []
    return dataclasses.replace(done, digests={path.name: digest_file(path) for path in made})


class _Spawned(subprocess.Popen[bytes]):
    """One in a new interpreter, where none can be forked."""

    peak_bytes: int | None = None

    def kill(self) -> None:
        if not hasattr(os, "killpg"):
            super().kill()
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.poll() is None:
                os.killpg(self.pid, signal.SIGKILL)


_Started = Forked | _Spawned
"""A command at work."""


class _AtWork:
    """Commands that are at work, so that an interruption ends them too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._servers: dict[int, ForkServer] = {}
        self._commands: set[_Started] = set()
        self._is_stopped = False

    def started(
        self, arguments: list[str], files: Sequence[IO[bytes]], threads: int, place: str, locks: list[int]
    ) -> _Started:
        number = str(threads)
        environment = os.environ | {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, "NO_COLOR": "1"}
        if can_fork():
            with self._lock:
                # libraries read the number of threads when they are imported
                server = self._servers.setdefault(threads, ForkServer(environment))
            return server.start(arguments, files, environment, place, locks)
        return _Spawned(
            # -P: a file in the working folder that is called like a library is not one
            [sys.executable, "-P", "-c", _ROW, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=files[0],
            stderr=files[1],
            env=environment,
            cwd=place,
            start_new_session=True,
            pass_fds=locks,
        )

    @contextlib.contextmanager
    def entered(self, command: _Started) -> Iterator[None]:
        with self._lock:
            self._commands.add(command)
            if self._is_stopped:
                command.kill()
        try:
            yield
        finally:
            command.kill()
            command.wait()
            with self._lock:
                self._commands.discard(command)

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            for command in self._commands:
                command.kill()
            for server in self._servers.values():
                server.close()

    def go_on(self) -> None:
        with self._lock:
            self._is_stopped = False


_AT_WORK = _AtWork()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within it, ``stop_all`` ends every row in this process, and those that would begin."""
    try:
        yield
    finally:
        _AT_WORK.go_on()


def stop_all() -> None:
    """Ends every row that is at work in this process."""
    _AT_WORK.stop()


def _watched(process: _Started, start: float, limits: Limits) -> tuple[State | None, int | None]:
    """The limit that the process went beyond, if any, and its peak; it has ended then."""
    seen: list[int] = []
    state = None
    while True:
        try:
            process.wait(None if state else _LOOK_S)
            return state, max([*seen, process.peak_bytes or 0]) or None
        except subprocess.TimeoutExpired:
            seen += filter(None, [_resident_peak(process.pid)])
        if limits.bytes is not None and max(seen, default=0) > limits.bytes:
            state = State.MEMORY
        elif limits.seconds is not None and time.monotonic() - start > limits.seconds:
            state = State.TIMEOUT
        if state is not None:
            process.kill()


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
    if code == 0:
        return "it ended without an answer"
    return (said.strip().splitlines() or [f"exit code {code}"])[-1][:_SHOWN]


def not_begun(row: Row, error: FxHeadError, state: State = State.FAILED) -> Done:
    """The end of a row that could not be started, or of which nothing is known but that."""
    return Done(
        name=row.name,
        source=row.source,
        key="",
        state=state,
        reason=f"{error.where}: {error.what}" if error.where else error.what,
        exit_code=2,
        seconds=0.0,
        peak_bytes=None,
        document=None,
    )
