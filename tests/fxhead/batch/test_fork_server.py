"""Rows that are forked are as those in new processes: nothing goes from one to the next, each ends alone."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxhead.batch import process, run
from fxhead.batch.held import held
from fxhead.batch.rows import Row
from fxhead.batch.store import key_of
from fxhead.executor import Workers
from fxhead.processes import can_fork
from tests.fxhead.batch.test_batch import batch, manifest, require_gone, work

__all__ = ["work"]

pytestmark = pytest.mark.skipif(not can_fork(), reason="no forks of torch here")

PROBE = """
import json, os, pathlib, random, signal, sys, tempfile, threading
import numpy as np
import torch
from torch import nn

def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

def of(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

def tell(name):
    umask = os.umask(0)
    os.umask(umask)
    held = [f"/proc/self/fd/{number}" for number in range(3, 64)]
    facts = {
        "stdin": os.readlink("/proc/self/fd/0"),
        "files": [os.path.basename(os.readlink(link)) for link in held if os.path.lexists(link)],
        "leads": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "umask": umask,
        "folder": os.getcwd(),
        "environment": {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"},
        "arguments": sys.argv[:2],
        "path": sys.path,
        "threads": torch.get_num_threads(),
        "torch": torch.rand(1).item(),
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGCHLD)],
    }
    own = {
        "random": random.random(),
        "numpy": float(np.random.rand()),
        "name": tempfile.mktemp(),
        "server": of(os.getppid()),
    }
    # with all threads there are
    ones = torch.ones(700, 700)
    sum = float((ones @ ones).sum() + (ones.numpy() @ ones.numpy()).sum())
    pathlib.Path(name + ".json").write_text(json.dumps({"facts": facts, "own": own, "sum": sum}))
    return net()

def first():
    return tell("first")

def changes():
    os.environ["FXHEAD_DEBUG"] = "1"
    os.umask(0o077)
    os.chdir("/")
    random.seed(0); np.random.seed(0); torch.manual_seed(0)
    sys.path.append('elsewhere')
    sys.modules['torchvision'] = None
    nn.Linear.forward = None
    return net()

def last():
    return tell("last")

def kills_its_keeper():
    pathlib.Path("pid").write_text(str(os.getpid()))
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()

def kills_the_server():
    os.kill(of(os.getppid()), signal.SIGKILL)
    return net()

def ends_without_an_answer():
    os._exit(0)

def says_no_without_an_answer():
    os._exit(1)

def changes_itself():
    with open(__file__, "a") as file:
        file.write("# changed")
    return net()

def eats():
    bytes(bytearray(b"x") * 300_000_000)
    return net()
"""
EVIL = """
import os
from torch import nn

class Evil(nn.Linear):
    def __setstate__(self, state):
        super().__setstate__(state)
        os.system("touch ran")
"""


@pytest.fixture
def probe(work: Path) -> Path:
    (work / "probe.py").write_text(PROBE)
    for name in ("torch", "numpy", "json"):  # the folder that a user works in is no place of libraries
        (work / f"{name}.py").write_text(f"open({str(work / 'shadowed')!r}, 'w')")
    return work


def rows_of(folder: Path, *names: str) -> list[dict[str, Any]]:
    rows = manifest(folder, *(f"probe:{name}" for name in names))
    return list(batch(rows, "-o", "out", "--jobs", "1", code=0 if names[-1] == "last" else 1)["rows"])


def test_nothing_goes_from_one_row_to_the_next(probe: Path) -> None:
    assert [row["state"] for row in rows_of(probe, "first", "changes", "last")] == ["done"] * 3
    first, last = (json.loads((probe / f"{name}.json").read_text()) for name in ("first", "last"))
    # what it holds open is the lock of its own folder
    assert (first["facts"].pop("files"), last["facts"].pop("files")) == (["first"], ["last"])
    assert first["facts"] == last["facts"]
    assert first["own"].pop("server") == last["own"].pop("server")
    assert all(first["own"][name] != last["own"][name] for name in first["own"])
    assert first["sum"] == 2 * 700**3
    facts = first["facts"]
    assert (facts["stdin"], facts["leads"], facts["folder"]) == ("/dev/null", True, str(probe))
    assert facts["environment"]["OMP_NUM_THREADS"] == str(facts["threads"])
    assert "SIGINT" not in facts["signals"][0]
    assert not (probe / "shadowed").exists()


def test_what_a_row_does_to_those_around_it_is_its_own_end(probe: Path) -> None:
    names = ("first", "kills_its_keeper", "kills_the_server", "last")
    rows = {row["name"]: row["state"] for row in rows_of(probe, *names[:3])}
    assert rows == {"first": "done", "kills_its_keeper": "killed", "kills_the_server": "done"}
    require_gone([int((probe / "pid").read_text())])
    assert [row["state"] for row in rows_of(probe, *names[3:])] == ["done"]
    first, last = (json.loads((probe / f"{name}.json").read_text())["own"] for name in ("first", "last"))
    assert first["server"] != last["server"]


def test_an_end_without_an_answer_is_none(probe: Path) -> None:
    rows = rows_of(probe, "net", "ends_without_an_answer", "says_no_without_an_answer", "changes_itself")
    assert [row["state"] for row in rows] == ["done", "failed", "failed", "failed"]
    assert [row["exit_code"] for row in rows] == [0, 0, 1, 0]
    assert rows[1]["reason"] == "it ended without an answer"
    assert rows[3]["reason"] == "its files changed while it was at work"


def test_the_peak_is_the_row_s_own(probe: Path) -> None:
    before, eats, after = (row["peak_bytes"] for row in rows_of(probe, "net", "eats", "last"))
    assert eats > before + 300_000_000
    assert abs(after - before) < 50_000_000


def test_the_wall_is_up_in_a_row(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(work)
    torch.save(nn.Sequential(importlib.import_module("evil").Evil(2, 2)), "evil.pt")
    monkeypatch.delitem(sys.modules, "evil")
    (work / "m.jsonl").write_text('{"source": "evil.pt", "to": "conv", "allow": "evil.Evil"}')
    (row,) = batch("m.jsonl", "-o", "out", code=1)["rows"]
    assert "tried to start a program" in row["reason"], row
    assert not (work / "ran").exists()


def test_a_row_has_an_interpreter_of_its_own_where_none_can_be_forked(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "can_fork", lambda: False)
    rows = batch(manifest(work, "net:good", "net:dies"), "-o", "out", "--jobs", "2", code=1)["rows"]
    assert [(row["state"], row["exit_code"]) for row in rows] == [("done", 0), ("killed", -9)]
    assert all(row["peak_bytes"] > 10**8 for row in rows)


def test_nobody_else_works_in_the_folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_ORPHAN_S", 0)
    rows = manifest(work, "net:good")
    with held(work / "out"):
        error = batch(rows, "-o", "out", code=2)["error"]
    assert (error["where"], error["what"]) == ("out", "another batch is at work there")
    with held(work / "out" / "good"):
        (row,) = batch(rows, "-o", "out", code=1)["rows"]
    assert (row["state"], row["reason"].partition(": ")[2]) == ("failed", "another batch is at work there")
    batch(rows, "-o", "out", code=0)


def test_code_is_what_a_row_is_made_of(work: Path) -> None:
    rows = [Row(name="a", source="net:good", options=("--to", "conv"))]
    rows += [
        Row(name="a", source="a.pt", options=option)
        for option in (("--allow", "net.N"), ("--arch", "net:good"))
    ]
    (work / "a.pt").touch()
    before = [key_of(row)[0] for row in rows]
    (work / "net.py").write_text("")
    assert not {*before} & {key_of(row)[0] for row in rows}


class _KilledError(Exception):
    pass


def test_a_row_whose_workers_all_died_is_one_and_the_rest_goes_on(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pool(concurrent.futures.ThreadPoolExecutor):
        """Whoever takes the first row dies."""

        def submit(self, call: Any, row: Row, *arguments: Any) -> Any:
            if row.name != "good":
                return super().submit(call, row, *arguments)
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()
            future.set_exception(_KilledError("4 workers"))
            return future

    theirs = Workers(pool=Pool(1), count=1, share=lambda value: value, killed=(_KilledError,))
    monkeypatch.setattr(run, "workers", lambda jobs, scheduler: contextlib.nullcontext(theirs))
    rows = batch(manifest(work, "net:good", "net:headless"), "-o", "out", code=1)["rows"]
    assert [row["state"] for row in rows] == ["killed", "no"]
    assert rows[0]["reason"] == "the workers that had it died (4 workers)"
