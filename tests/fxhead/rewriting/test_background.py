"""Work in a fork: what it gives, that nothing rests on it, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pickle
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fxexport.untrusted.archive import open_regular
from fxhead.processes import can_fork
from fxhead.rewriting import background
from fxhead.rewriting.background import Background, is_worthwhile
from fxpasses.wall.clock import in_budget
from tests.fxhead.conftest import Run, waited_for

pytestmark = pytest.mark.skipif(not can_fork(), reason="no forks of torch here")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_gone(process: int) -> bool:
    return not os.path.exists(f"/proc/{process}")


def test_it_gives_what_the_work_gives_and_changes_nothing_here() -> None:
    kept: list[int] = []
    started = Background(lambda: [*map(str, kept), str(os.getpid()), str(kept.append(1))])
    process = started._pid
    assert started.result() == [str(process), "None"]
    assert not kept
    assert is_gone(process)


def test_it_gives_much() -> None:
    assert Background(lambda: ["x" * 1_000_000]).result() == ["x" * 1_000_000]


def raising() -> list[str]:
    raise KeyboardInterrupt


def test_work_that_fails_was_not_done(capfd: pytest.CaptureFixture[str]) -> None:
    assert Background(raising).result() is None
    assert Background(lambda: os._exit(0)).result() is None
    assert Background(lambda: [str(os.kill(os.getpid(), signal.SIGKILL))]).result() is None
    assert Background(lambda: lambda: 0).result() is None  # which cannot be handed on
    assert capfd.readouterr() == ("", "")


def test_what_it_gave_a_part_of_was_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    dumps = pickle.dumps
    for end in range(-3, 0):
        monkeypatch.setattr(pickle, "dumps", lambda value, end=end: dumps(value)[:end])
        assert Background(lambda: ["x" * 100_000, 1.5]).result() is None


def test_where_no_process_can_be_forked_it_was_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(os, "fork", refused)
    started = Background(lambda: ["done"])
    assert started.result() is None
    started.close()


def test_work_that_waits_for_ever_was_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_STUCK_S", 0.3)
    started = Background(lambda: [str(time.sleep(600))])
    process = started._pid
    assert started.result() is None
    assert is_gone(process)


def test_work_that_goes_on_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_STUCK_S", 1)

    def work() -> list[str]:
        start = time.process_time()
        while time.process_time() - start < 1.2:
            pass
        return ["done"]

    assert Background(work).result() == ["done"]


def test_what_nobody_wants_any_more_is_ended() -> None:
    started = Background(lambda: [str(time.sleep(600))])
    process = started._pid
    started.close()
    started.close()
    assert is_gone(process)


def test_it_holds_no_file_that_is_open_here(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        started = Background(lambda: [str(time.sleep(600))])

    def is_free() -> bool:
        with open(tmp_path / "lock", "w") as asked, contextlib.suppress(BlockingIOError):
            fcntl.flock(asked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    waited_for(is_free)
    started.close()


def test_it_reads_files_where_there_is_a_budget(tmp_path: Path) -> None:
    (tmp_path / "some file").write_text("text")

    def work() -> list[str]:
        with open_regular(tmp_path / "some file") as file:
            return [file.read().decode()]

    with in_budget("some file"):
        assert Background(work).result() == ["text"]


def test_it_has_no_more_than_the_budget_leaves() -> None:
    def limits() -> list[str]:
        kinds = resource.RLIMIT_CPU, resource.RLIMIT_DATA
        return [str(limit) for kind in kinds for limit in resource.getrlimit(kind)]

    def fills() -> list[str]:
        return [str(len(bytearray(1 << 31)))]

    with in_budget("some file", 5, 1 << 28):
        seconds, _, size, _ = map(int, Background(limits).result() or [])
        assert Background(fills).result() is None
    assert 0 < seconds <= 26
    assert (Background(limits).result() or [])[0] == "600"
    assert 0 < size < 1 << 40
    assert Background(fills).result() == [str(1 << 31)]


@pytest.mark.usefixtures("two_threads")
def test_where_it_is_worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    small = torch.zeros(3)
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    assert is_worthwhile([small])
    assert not is_worthwhile([small, torch.zeros(3, device="meta")])
    assert not is_worthwhile([small.expand(1 << 28, 3)])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert not is_worthwhile([small])
    monkeypatch.undo()
    torch.set_num_threads(1)
    assert not is_worthwhile([small])


@pytest.mark.usefixtures("two_threads")
def test_it_computes_where_several_threads_have_computed_before() -> None:
    def product() -> float:
        wide = torch.ones(300, 300)
        return float(
            (wide @ wide).sum() + torch.nn.functional.conv2d(wide[None, None], wide[None, None, :9, :9]).sum()
        )

    expected = product()
    assert Background(lambda: [str(product())]).result() == [str(expected)]


@pytest.mark.usefixtures("two_threads", "folder")
def test_files_are_the_same_whoever_makes_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    found: list[bool] = []
    result = Background.result
    for name, is_lost in (("there", False), ("here", True)):

        def counted(self: Background[object], is_lost: bool = is_lost) -> object:
            told = result(self)
            found.append(told is not None)
            return None if is_lost else told

        monkeypatch.setattr(Background, "result", counted)
        done = run("rewrite", "nets:build", "--to", "conv", "-o", f"{name}/net.pt", "--providers", "cpu")
        assert done.code == 0, done.err
        assert len(os.listdir(name)) == 5
    assert found == [True, True]
    for file in os.listdir("there"):  # the certificate among them
        assert Path("there", file).read_bytes() == Path("here", file).read_bytes()


RECORD = """
import dataclasses, torch
from torch import nn

@dataclasses.dataclass
class Record:
    logits: torch.Tensor

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return Record(logits=self.fc(x.mean((2, 3))))
"""


@pytest.mark.usefixtures("two_threads", "folder")
def test_what_stops_the_export_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    Path("recorded.py").write_text(RECORD)
    done = run("rewrite", "recorded:Net", "--to", "conv", "--input-shape", "1x3x8x8", "--providers", "cpu")
    assert done.code == 2
    assert "register_dataclass" in done.err
