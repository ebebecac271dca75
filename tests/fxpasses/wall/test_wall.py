"""The wall: what is tried inside of it does not happen and is told; what is outside goes on as ever."""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fxpasses import rewrite
from fxpasses.wall.marks import is_unvouched, mark_unvouched
from fxpasses.wall.wall import (
    Stopped,
    WallError,
    downloading,
    lowered,
    walled,
    writing,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="tries what POSIX has")


def in_a_thread(job: Callable[[], Any]) -> None:
    """What it raises is told by the wall."""

    def quietly() -> None:
        with contextlib.suppress(OSError):
            job()

    thread = threading.Thread(target=quietly)
    thread.start()
    thread.join()


def by_fork_exec() -> None:
    """As ``subprocess`` does it, past ``subprocess``."""
    import _posixsubprocess

    # arguments differ between versions of Python: it is stopped before it looks at them
    _posixsubprocess.fork_exec([b"touch", b"ran"], [b"/bin/touch"])


TRIES: dict[str, Callable[[], Any]] = {
    "system": lambda: os.system("touch ran"),
    "popen": lambda: os.popen("touch ran").read(),
    "run": lambda: subprocess.run(["touch", "ran"]),
    "posix_spawn": lambda: os.posix_spawn("/bin/touch", ["touch", "ran"], {}),
    "spawn": lambda: os.spawnlp(os.P_WAIT, "touch", "touch", "ran"),
    "exec": lambda: os.execv("/bin/touch", ["touch", "ran"]),
    "fork": lambda: os.fork() or os._exit(0),
    "fork_exec": by_fork_exec,
    "kill": lambda: os.kill(os.getpid(), 0),
    "connect": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
    "socket": lambda: socket.socket(),
    "lookup": lambda: socket.getaddrinfo("localhost", 80),
    "url": lambda: urllib.request.urlopen("http://127.0.0.1:9/", timeout=1),
    "library": lambda: ctypes.CDLL("libc.so.6"),
    "own library": lambda: ctypes.CDLL(None),
    "symbol": lambda: ctypes.pythonapi.system(b"touch ran"),
    "symbol of an installed one": lambda: ctypes.CDLL(torch._C.__file__).system(b"touch ran"),
    "hooks": lambda: ctypes.pythonapi._PySys_ClearAuditHooks,
    "torch library": lambda: torch.ops.load_library("evil.so"),
    "write": lambda: Path("ran").write_text(""),
    "append": lambda: Path("kept").open("a"),
    "update": lambda: Path("kept").open("r+"),
    "create": lambda: os.open("ran", os.O_CREAT),
    "empty": lambda: os.open("kept", os.O_TRUNC),
    "bytes": lambda: open(b"ran", "wb"),
    "delete": lambda: os.remove("kept"),
    "move": lambda: os.rename("kept", "ran"),
    "replace": lambda: os.replace("kept", "ran"),
    "truncate": lambda: os.truncate("kept", 0),
    "folder": lambda: os.mkdir("ran"),
    "folders": lambda: os.makedirs("ran/deep"),
    "remove folder": lambda: os.rmdir("empty"),
    "link": lambda: os.link("kept", "ran"),
    "symlink": lambda: os.symlink("kept", "ran"),
    "pipe": lambda: os.mkfifo("ran"),
    "rights": lambda: os.chmod("kept", 0o777),
    "times": lambda: os.utime("kept", (0, 0)),
    "temporary": lambda: tempfile.mkdtemp(),
    "endless": lambda: Path("/dev/zero").open("rb"),
    "database": lambda: sqlite3.connect("ran"),
    "directory": lambda: os.chdir("/"),
    "thread": lambda: in_a_thread(lambda: Path("ran").write_text("")),
    "thread of a thread": lambda: in_a_thread(lambda: in_a_thread(lambda: os.system("touch ran"))),
    "thread by hand": lambda: _thread.start_new_thread(lambda: os.system("touch ran"), ()),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "empty").mkdir()
    return tmp_path


def state(folder: Path) -> dict[str, Any]:
    found = {path.name: path.lstat() for path in folder.iterdir()}
    return {name: (one.st_mode, one.st_size, one.st_mtime_ns, one.st_nlink) for name, one in found.items()}


@pytest.mark.parametrize("is_swallowed", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize("name", TRIES)
def test_what_is_tried_is_stopped_and_told(folder: Path, name: str, is_swallowed: bool) -> None:
    before = state(folder)
    with pytest.raises(WallError, match=r"^it\.pt: something in it tried to .*, and was stopped; "):
        with walled("it.pt"), contextlib.suppress(Exception) if is_swallowed else contextlib.nullcontext():
            TRIES[name]()
    assert state(folder) == before
    assert Path.cwd() == folder


def test_reading_and_what_is_harmless_goes_on(folder: Path) -> None:
    with walled():
        assert Path("kept").read_text() == "kept"
        os.makedirs("empty", exist_ok=True)
        Path(os.devnull).write_text("gone")
        in_a_thread(lambda: Path("kept").read_text())
        torch.export.export(torch.nn.Linear(3, 4), (torch.zeros(2, 3),))


def test_its_own_folder_may_be_written_to_and_no_other(folder: Path) -> None:
    Path("out").mkdir()
    Path("out/away").symlink_to(folder / "empty")
    Path("other").mkdir()
    with walled(), writing(Path("out")):
        Path("out/a").write_text("a")
        with tempfile.TemporaryDirectory(dir="out") as draft:
            Path(draft, "b").write_text("b")
            os.replace(Path(draft, "b"), "out/b")
        descriptor = os.open("out", os.O_RDONLY)
        os.unlink("a", dir_fd=descriptor)
        os.close(descriptor)
    assert sorted(os.listdir("out")) == ["away", "b"]
    elsewhere = os.open("empty", os.O_RDONLY)
    for job in (
        lambda: Path("out/../ran").write_text(""),
        lambda: Path("out/away/ran").write_text(""),
        lambda: os.replace("out/b", "ran"),
        lambda: os.replace("kept", "out/kept"),
        lambda: os.mkdir("out", dir_fd=elsewhere),
        lambda: os.remove("out/away/../kept"),
        lambda: Path("outer").write_text(""),
    ):
        with pytest.raises(WallError), walled(), writing(Path("out")):
            job()
    os.close(elsewhere)
    assert {*os.listdir()} == {"kept", "empty", "out", "other"}
    assert os.listdir("empty") == []


def test_our_own_code_may_and_downloads_only_where_the_user_said(folder: Path) -> None:
    with walled():
        with lowered():
            Path("ran").write_text("")
    with walled(may_download=True), downloading():
        Path("fetched").write_text("")
    with pytest.raises(WallError), walled(may_download=False), downloading():
        Path("not fetched").write_text("")
    with pytest.raises(WallError), walled(), lowered(), walled():
        Path("inside again").write_text("")
    assert {*os.listdir()} == {"kept", "empty", "ran", "fetched"}


def test_other_threads_are_left_alone(folder: Path) -> None:
    goes, came = threading.Event(), []

    def bystander() -> None:
        goes.wait(10)
        came.append(subprocess.run(["true"]).returncode)
        Path("theirs").write_text("")

    thread = threading.Thread(target=bystander)
    thread.start()
    with walled():
        goes.set()
        thread.join()
    assert came == [0]
    assert Path("theirs").exists()


def test_a_thread_that_outlives_the_wall_keeps_it(folder: Path) -> None:
    goes, told = threading.Event(), []

    def later() -> None:
        goes.wait(10)
        try:
            Path("ran").write_text("")
        except Stopped as error:
            told.append(str(error))

    with walled():
        thread = threading.Thread(target=later)
        thread.start()
    goes.set()
    thread.join()
    assert len(told) == 1
    assert not Path("ran").exists()
    Path("ran").write_text("")  # this thread has none any more


def test_two_walls_at_once_come_down_one_by_one(folder: Path) -> None:
    inside, done, before = threading.Barrier(2), threading.Event(), sys.dont_write_bytecode

    def first() -> None:
        with walled():
            inside.wait(10)
            done.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    with walled():
        inside.wait(10)
        assert sys.dont_write_bytecode
    Path("ran").write_text("")
    assert sys.dont_write_bytecode
    done.set()
    thread.join()
    assert sys.dont_write_bytecode is before


def test_an_error_of_its_own_passes_as_it_is(folder: Path) -> None:
    with pytest.raises(KeyError), walled():
        raise KeyError("x")


class Writes(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Path("ran").write_text("")
        return super().forward(x)


def test_a_model_from_a_file_is_held_in_memory_too(folder: Path) -> None:
    own = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), Writes(8, 3))
    read = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), Writes(8, 3))
    mark_unvouched(read)
    with pytest.raises(WallError, match="write 'ran'"):
        rewrite(read, "conv", way="export", example_inputs=torch.zeros(2, 8, 4, 4))
    assert not Path("ran").exists()
    harmless = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    mark_unvouched(harmless)
    assert is_unvouched(rewrite(harmless, "conv").module)
    assert not is_unvouched(own)
    assert is_unvouched(read[2]), "a part of it may be used alone"
