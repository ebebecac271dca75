"""The command's two processes: what no thread can end ends, says so in one line and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fxhead import cli
from tests.fxhead.conftest import waited_for

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a command is one process here")

COMMAND = """
import contextlib, ctypes, os, re, signal, sys, time
from pathlib import Path
from fxhead import cli
from fxhead.files.publish import staged
from fxpasses.wall import clock, wall

def lock():
    re.match("(a|a)*b", "a" * 60)

def wait():
    for _ in range(600):  # a signal right before a long sleep is seen to after it
        time.sleep(0.1)

def fault():
    ctypes.string_at(1)

def kill():
    os.kill(os.getpid(), 9)

def main():
    reading = contextlib.nullcontext() if "--trust" in sys.argv else wall.walled("m.onnx")
    with reading, staged(Path("out", "deep")) as new, wall.lowered():
        (new / "half.onnx").write_text("x")
        os.write(int(os.environ["WORKER"]), b"%d" % os.getpid())
        globals()[sys.argv[1]]()
    return 0

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
signal.signal(signal.SIGINT, signal.default_int_handler)  # and a shell, for what it starts in the background
clock.MAX_SECONDS, clock._STUCK_S, cli.main = 0.2, 0.2, main
cli.run()
"""


@pytest.fixture
def begun(folder: Path) -> Iterator[Callable[..., Any]]:
    """Starts the command; gives it and the process that does the work.

    That process tells its number through a pipe of its own: a reader of stderr takes what comes behind
    the number along, and `communicate` never sees it.
    """
    path = os.pathsep.join(str(Path(cli.__file__).parents[index]) for index in (1, 2))
    started = []

    def begin(*arguments: str) -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, "-c", COMMAND, *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        told, tell = os.pipe()
        variables = os.environ | {"PYTHONPATH": path, "WORKER": str(tell)}
        started.append(subprocess.Popen(command, env=variables, process_group=0, pass_fds=[tell], **streams))
        os.close(tell)
        with open(told, "rb") as number:
            return started[0], int(os.read(number.fileno(), 32))

    yield begin
    with started[0] as process:
        process.kill()


ENDS = [
    (("lock",), 2, "m.onnx: takes more than the limit of 0.2 s of processor time; do not use it"),
    (("fault",), 2, "m.onnx: the process that reads it was ended by signal 11 (Segmentation fault"),
    (("kill",), 2, "m.onnx: the process that reads it was ended by signal 9 (Killed); give a smaller model"),
    (("fault", "--trust"), 2, "the process was ended by signal 11 (Segmentation fault); PYTHONFAULT"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), ENDS, ids=lambda value: str(value))
def test_what_no_thread_could_end_is_one_line_and_leaves_nothing(
    begun: Callable[..., Any],
    written: Callable[[], set[str]],
    arguments: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    process, _ = begun(*arguments)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (code, "", 1), err
    assert err.startswith(f"fxhead: error: {says}")
    assert written() == set()


def test_with_json_it_is_a_document(begun: Callable[..., Any]) -> None:
    process, *_ = begun("fault", "--json")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (2, "")
    assert json.loads(out)["error"]["type"] == "CrashError"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, -signal.SIGHUP)],
    ids=["INT", "TERM", "HUP"],
)
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["one", "both"])
def test_a_signal_is_for_both_processes(
    begun: Callable[..., Any],
    written: Callable[[], set[str]],
    send: Callable[[int, int], None],
    number: int,
    code: int,
) -> None:
    """A terminal sends it to both, and the one that watches hands its own on: that is no second one."""
    process, _ = begun("wait", "--trust")
    send(process.pid, number)
    process.communicate(timeout=60)
    assert (process.returncode, written()) == (code, set())


def test_both_stop_and_go_on(begun: Callable[..., Any]) -> None:
    process, worker = begun("wait", "--trust")
    os.kill(process.pid, signal.SIGTSTP)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    waited_for(lambda: _state(worker) == "T")
    os.kill(process.pid, signal.SIGCONT)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others have no such signal")
def test_the_end_of_one_is_the_end_of_the_other(begun: Callable[..., Any]) -> None:
    process, *_ = begun("wait", "--trust")
    process.kill()
    process.communicate(timeout=60)  # until nobody holds its streams


def _state(process: int) -> str:
    command = ["ps", "-o", "stat=", "-p", str(process)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout[0]


def test_where_no_process_can_be_forked_the_command_works_all_the_same(folder: Path) -> None:
    code = """
import os, sys
def fork():
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = fork
from fxhead import cli
cli.run()
"""
    path = os.pathsep.join(str(Path(cli.__file__).parents[index]) for index in (1, 2))
    command = [sys.executable, "-c", code, "explain", "NOT_POOLED"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "NOT_POOLED" in done.stdout
