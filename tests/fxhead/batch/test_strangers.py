"""Of what strangers wrote, in a table and in the working folder, nothing is run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from fxhead.batch import process
from fxhead.batch.process import Done, State
from fxhead.batch.store import Store


def test_no_file_of_the_working_folder_is_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows are not forked, an interpreter is started in that folder."""
    (tmp_path / "runpy.py").write_text("open('canary', 'w').close()")
    monkeypatch.setattr(process, "can_fork", lambda: False)
    with (tmp_path / "said").open("w+b") as said:
        assert process._AT_WORK.started(["--version"], [said, said], 1, str(tmp_path), []).wait(60) == 0
    assert not (tmp_path / "canary").exists()


def test_no_cell_of_the_table_is_a_formula(tmp_path: Path) -> None:
    evil = '=HYPERLINK("http://x.test")'
    row = Done(
        name="+m", source=evil, key="", state=State.FAILED, reason="@SUM(1)", exit_code=-9, seconds=1.0,
        peak_bytes=None, document=None,
    )  # fmt: skip
    Store(tmp_path).finish([row])
    with (tmp_path / "batch.csv").open(newline="") as file:
        (found,) = csv.DictReader(file)
    assert [found[key] for key in ("name", "source", "reason", "exit_code")] == [
        "'+m",
        f"'{evil}",
        "'@SUM(1)",
        "-9",
    ]
    assert json.loads((tmp_path / "batch.jsonl").read_text())["source"] == evil


def test_a_name_that_is_no_utf8_is_told_escaped(tmp_path: Path) -> None:
    row = Done(
        name="a", source="\udcc3.pt", key="", state=State.FAILED, reason="x", exit_code=2, seconds=1.0,
        peak_bytes=None, document=None,
    )  # fmt: skip
    Store(tmp_path).finish([row])
    for name in ("batch.csv", "batch.html"):
        assert r"\udcc3.pt" in (tmp_path / name).read_text()
    assert json.loads((tmp_path / "batch.jsonl").read_text())["source"] == "\udcc3.pt"


def test_a_page_of_such_a_name_is_linked_by_its_bytes(tmp_path: Path) -> None:
    page = tmp_path / "a" / "\udcc3.html"
    page.parent.mkdir()
    page.touch()
    row = Done(
        name="a", source="x.pt", key="", state=State.DONE, reason=None, exit_code=0, seconds=1.0,
        peak_bytes=None, document={"files": [{"path": str(page), "size_bytes": 0}]},
    )  # fmt: skip
    Store(tmp_path).finish([row])
    assert 'href="a/%C3.html"' in (tmp_path / "batch.html").read_text()
