"""``fxhead batch``: every model is a row, whatever it does; what is done is not done again."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from fxexport import export_onnx
from fxhead.batch import run
from fxhead.batch.parcel import Contents, perform_here, perform_sent, unpack
from fxhead.batch.process import Done, Limits, State, not_begun
from fxhead.batch.rows import Row, RowOption, read_rows
from fxhead.batch.store import Stamps, key_of
from fxhead.cli import main
from fxpasses.errors import FileError, InputError
from tests.fxhead.conftest import Cluster, commanded, started, validate, validate_files, waited_for

ROOT = Path(__file__).parents[3]
KNOWN = {name: RowOption(text=f"--{name.replace('_', '-')}", is_flag=name == "ema") for name in
         ("to", "scope", "arch", "ema", "allow", "input_shape", "weights")}  # fmt: skip
MERGES = "- &m0 {source: a.pt}\n" + "".join(
    f"- &m{n + 1}\n  <<: [{', '.join([f'*m{n}'] * 10)}]\n" for n in range(20)
)
NET = """
import os, time
from pathlib import Path
import torch
from torch import nn

def good():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

def headless():
    return nn.Sequential(nn.Conv2d(3, 4, 3))

def hangs():
    time.sleep(600)

def eats():
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20) * 64))

def dies():
    from fxhead.files.staging import LOCK, make_staging
    (make_staging(Path("out/dies")) / LOCK).touch()
    os.kill(os.getpid(), 9)

def raises():
    raise RuntimeError("no such model\\x1b[31m")
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "export", ROOT / "tools"))
    monkeypatch.setenv("PYTHONPATH", paths)
    return tmp_path


def batch(*arguments: str, code: int) -> dict[str, Any]:
    """The document of the command, in this process; its rows are in others anyway."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        ended = main(["batch", *arguments, "--no-onnx", "--json", "--trust"])
    assert ended == code, out.getvalue()
    document: dict[str, Any] = json.loads(out.getvalue())
    validate("result", document)
    if code != 2:
        validate_files(Path("out"), 0)
    return document


def manifest(folder: Path, *sources: str) -> str:
    (folder / "models.csv").write_text("source,to\n" + "".join(f"{source},conv\n" for source in sources))
    return "models.csv"


# --- each row ends for itself -------------------------------------------------------------------------


def test_every_end_is_a_row_with_its_reason_and_the_rest_goes_on(work: Path) -> None:
    names = ("good", "headless", "hangs", "eats", "dies", "raises")
    rows = manifest(work, *(f"net:{name}" for name in names), "missing.pt")
    found = batch(rows, "-o", "out", "--timeout", "20", "--memory", "1GiB", "--jobs", "2", code=1)
    states = {row["name"]: row["state"] for row in found["rows"]}
    assert states == {
        "good": "done",
        "headless": "no",
        "hangs": "timeout",
        "eats": "memory",
        "dies": "killed",
        "raises": "failed",
        "missing": "failed",
    }
    reasons = {row["name"]: row["reason"] for row in found["rows"]}
    assert reasons["good"] is None
    assert reasons["headless"] == "NOT_POOLED"
    assert reasons["hangs"] == "it took more than 20 s"
    assert "1,073,741,824 bytes" in reasons["eats"]
    assert "signal 9" in reasons["dies"]
    assert "no such model" in reasons["raises"]
    assert "missing.pt" in reasons["missing"]
    assert (work / "out" / "good" / "good.conv.pt").is_file()
    assert not (work / "out" / "dies").exists()  # what it had begun to write is gone with it
    # the same three ways
    lines = [json.loads(line) for line in (work / "out" / "batch.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [*names, "missing"]
    with (work / "out" / "batch.csv").open(newline="") as file:
        assert {row["name"]: row["state"] for row in csv.DictReader(file)} == states
    page = (work / "out" / "batch.html").read_text(encoding="utf-8")
    assert cells(page)["name"] == [*names, "missing"]
    assert "://" not in page


def cells(page: str) -> dict[str, list[str]]:
    """Columns of the page's table."""

    class Table(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[list[str]] = []
            self.inside = False

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag == "tr":
                self.rows.append([])
            self.inside = tag in ("td", "th", "button") or (self.inside and tag == "button")

        def handle_data(self, data: str) -> None:
            if self.inside and self.rows:
                self.rows[-1].append(data)

        def handle_endtag(self, tag: str) -> None:
            self.inside = False

    table = Table()
    table.feed(page)
    head, *rows = table.rows
    return {head[0]: [row[0] for row in rows if row]}


# --- nothing twice ------------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again_but_where_something_changed(work: Path) -> None:
    for name in ("a", "b"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        torch.save(model, work / f"{name}.pt")
    first = batch("*.pt", "--to", "conv", "-o", "out", code=0)
    assert (first["skipped"], [row["name"] for row in first["rows"]]) == (0, ["a", "b"])
    before = {path: path.stat().st_mtime_ns for path in (work / "out").glob("*/*.pt")}
    assert batch("*.pt", "--to", "conv", "-o", "out", code=0)["skipped"] == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    torch.save(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), work / "a.pt")
    assert batch("*.pt", "--to", "conv", "-o", "out", code=0)["skipped"] == 1
    written = work / "out" / "b" / "b.conv.pt"
    content = bytearray(written.read_bytes())
    content[len(content) // 2] ^= 1  # as long as before
    written.write_bytes(content)
    assert batch("*.pt", "--to", "conv", "-o", "out", code=0)["skipped"] == 1
    written.unlink()
    assert batch("*.pt", "--to", "conv", "-o", "out", code=0)["skipped"] == 1
    # other models in the same folder, one of which has no outputs, are as they were
    told = batch("net:headless", "--to", "conv", "-o", "out", code=1)
    assert [row["name"] for row in told["rows"]] == ["headless"]
    lines = [json.loads(line) for line in (work / "out" / "batch.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["headless", "a", "b"]
    assert batch("*.pt", "net:headless", "--to", "conv", "-o", "out", code=1)["skipped"] == 3
    assert batch("*.pt", "--to", "conv", "--scope", "pooled", "-o", "out", code=0)["skipped"] == 0
    shutil.rmtree(work / "out" / "b")
    batch("a.pt", "--to", "conv", "-o", "out", code=0)
    assert [line["name"] for line in map(json.loads, (work / "out" / "batch.jsonl").open())] == [
        "a",
        "headless",
    ]


def test_rows_are_read_when_their_turn_comes(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def read(row: Row) -> tuple[str, Stamps]:
        told.append(f"read {row.name}")
        return row.name, ()

    def perform(row: Row, *_: Any) -> tuple[Done, Contents]:
        time.sleep(0.1)
        told.append(f"performed {row.name}")
        return not_begun(row, InputError("it is not done here")), ()

    monkeypatch.setattr(run, "key_of", read)
    monkeypatch.setattr(run, "perform_here", perform)
    batch(*(f"{name}.pt" for name in "abcd"), "--to", "conv", "-o", "out", "--jobs", "1", code=1)
    assert told.index("performed a") < told.index("read c")
    assert told.index("performed b") < told.index("read d")


SLOW = """
import json, os, subprocess, time

def slow():
    keeper = os.getppid()
    with open(f"/proc/{keeper}/stat") as file:
        server = int(file.read().rpartition(")")[2].split()[1])
    child = subprocess.Popen(["sleep", "600"])
    with open("pids.new", "w") as file:
        json.dump([os.getpid(), child.pid, keeper, server], file)
    os.rename("pids.new", "pids")
    time.sleep(600)
"""


def launched(*arguments: str, before: str = "") -> subprocess.Popen[bytes]:
    """``fxhead batch`` in an interpreter of its own."""
    code = f"{before}import fxhead.__main__"
    command = [sys.executable, "-c", code, "batch", *arguments, "-o", "out", "--trust", "--no-onnx"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def require_gone(pids: list[int]) -> None:
    """Returns when all of these processes have ended, which they do at once; zombies have."""

    def is_gone(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    waited_for(lambda: all(map(is_gone, pids)), seconds=20)


def test_a_batch_that_is_killed_goes_on_where_it_was_and_nothing_of_it_stays(work: Path) -> None:
    (work / "late.py").write_text(SLOW)
    rows = manifest(work, "net:good", "late:slow")
    running = launched(rows, "--jobs", "1")
    waited_for((work / "pids").exists)
    running.send_signal(signal.SIGKILL)
    running.wait()
    require_gone(json.loads((work / "pids").read_text()))
    kept = (work / "out" / "batch.jsonl").read_bytes()
    assert [json.loads(line)["name"] for line in kept.splitlines()] == ["good"]
    (work / "out" / "batch.jsonl").write_bytes(kept + b'{"name": "slow", "sta')  # killed while it wrote
    (work / "late.py").write_text("from net import good as slow\n")
    found = batch(rows, "-o", "out", code=0)
    assert (found["skipped"], [row["state"] for row in found["rows"]]) == (1, ["done", "done"])


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interruption_ends_the_rows_too(work: Path) -> None:
    (work / "late.py").write_text(SLOW)
    before = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    running = launched(manifest(work, "late:slow"), before=before)
    waited_for((work / "pids").exists)
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130
    require_gone(json.loads((work / "pids").read_text()))


# --- rows ---------------------------------------------------------------------------------------------


def test_manifests_say_the_same_in_three_formats(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("source,arch,ema\na.pth,torchvision:resnet18,yes\nb.onnx,,\n")
    (tmp_path / "m.jsonl").write_text(
        '{"source": "a.pth", "arch": "torchvision:resnet18", "ema": true}\n\n{"source": "b.onnx"}\n'
    )
    (tmp_path / "m.yaml").write_text(
        "- {source: a.pth, arch: 'torchvision:resnet18', ema: true}\n- source: b.onnx\n"
    )
    read = [
        read_rows([str(tmp_path / f"m.{kind}")], {"to": "conv"}, KNOWN) for kind in ("csv", "jsonl", "yaml")
    ]
    assert read[0] == read[1] == read[2]
    assert read[0][0].options == ("--to", "conv", "--arch", "torchvision:resnet18", "--ema")
    assert [row.name for row in read[0]] == ["a", "b"]


def test_a_row_s_own_options_go_before_those_of_all(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(
        '{"source": "a.pt", "to": "linear", "allow": ["p.A", "p.B"], "input-shape": "1x3x8x8"}'
    )
    (row,) = read_rows([str(tmp_path / "m.jsonl")], {"to": "conv"}, KNOWN, trust=True)
    assert row.options == (
        "--to", "linear", "--allow", "p.A", "--allow", "p.B", "--input-shape", "1x3x8x8"
    )  # fmt: skip


def test_names_are_folders_of_their_own(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "Model.pt").touch()
        (tmp_path / folder / "notes.txt").touch()
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "model.onnx").touch()
    rows = read_rows([str(tmp_path)], {}, KNOWN)
    assert [row.name for row in rows] == ["Model", "Model.2", "model.3"]
    (tmp_path / "m.jsonl").write_text(
        '{"source": "a.pt", "name": "../../etc/x"}\n{"source": "b.pt", "name": ".."}'
    )
    assert [row.name for row in read_rows([str(tmp_path / "m.jsonl")], {}, KNOWN)] == ["_.._etc_x", "model"]


def test_outputs_in_the_folder_of_the_models_are_no_models(tmp_path: Path) -> None:
    for name in ("a.pt", "out/a/a.conv.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    out = tmp_path / "out"
    assert [row.name for row in read_rows([str(tmp_path)], {}, KNOWN, out=out)] == ["a"]
    assert [row.name for row in read_rows([str(out)], {}, KNOWN, out=out)] == ["a.conv"]


def test_no_row_takes_the_name_of_the_batch_s_own_files_and_many_of_one_name_are_quick(
    tmp_path: Path,
) -> None:
    (tmp_path / "m.csv").write_text("source,name\na.pt,batch.jsonl\n" + "b.pt,x\n" * 50_000)
    rows = read_rows([str(tmp_path / "m.csv")], {}, KNOWN)
    assert [rows[0].name, rows[1].name, rows[-1].name] == ["batch.jsonl.2", "x", "x.50000"]


def test_names_that_no_file_can_have_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"source": "' + "x" * 300 + '", "arch": "' + "y" * 300 + '"}')
    (row,) = read_rows([str(tmp_path / "m.jsonl")], {}, KNOWN)
    assert row.inputs() == (Path("x" * 300),)
    assert main(["inspect", "x" * 300]) == 2


def test_what_is_sent_back_replaces_links(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("")
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "a.onnx").symlink_to(tmp_path / "theirs")
    done = Done(
        name="a", source="a.pt", key="", state=State.DONE, reason=None, exit_code=0, seconds=0.0,
        peak_bytes=None, document={"files": [{"path": "out/a/a.onnx", "size_bytes": 3}]},
    )  # fmt: skip
    unpack(done, (("a.onnx", b"new"),), tmp_path / "out")
    assert (tmp_path / "theirs").read_text() == ""
    assert (tmp_path / "out" / "a" / "a.onnx").read_bytes() == b"new"


def test_a_worker_that_cannot_keep_the_files_is_a_row(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(work / "missing"))
    limits = Limits(seconds=None, bytes=None, threads=1)
    row = Row(name="a", source="a.pt", options=())
    for done, _ in (perform_sent(row, "", "out", limits, ()), perform_here(row, "", "out", limits, ".")):
        assert (done.state, "No such file" in str(done.reason)) == (State.FAILED, True)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("m.csv", "model\na.pt\n", "row 1 has no source"),
        ("m.jsonl", '{"source": "a.pt"}\n{"source": ""}', "row 2 has no source"),
        ("m.jsonl", "{", "cannot be read"),
        ("m.jsonl", "[" * 100_000, "cannot be read"),
        ("m.yaml", "a: b", "is no list of rows"),
        ("m.yaml", "- !!python/object/apply:os.system [touch x]", "it has the tag 'tag:yaml.org"),
        ("m.yaml", "- {source: a.pt, seed: !!int ''}", "it has the tag 'tag:yaml.org"),
        ("m.yaml", "\x00", "it is no YAML"),
        ("m.csv", "source\n\xff", None),
        ("m.csv", "source\na.pt,more\n", "row 1 has a value without a name"),
        ("m.csv", "source\n" + "a.pt\n" * 100_001, "has more than 100,000 rows"),
        ("m.csv", "source\n" + "a" * 200_000, "cannot be read"),
        ("m.csv", "source" + ",a" * 100 + "\nx" * 3, "it has more than 100 columns"),
        ("m.jsonl", "{}\n" * 100_001, "has more than 100,000 rows"),
        ("m.yaml", "- {source: a.pt, 1: x}", "row 1 has an option whose name is no text"),
        ("m.yaml", "- &a {source: a.pt}\n- *a", "it has the alias .a"),
        ("m.yaml", MERGES, "it has the alias .m0"),
        ("m.yaml", "- {source: a.pt, seed: 1" + ":1" * 3_000 + "}", "it has a text of more than 4,096"),
        ("m.yaml", "[" * 100, "it is nested too deep"),
        ("m.yaml", "- {source: a.pt, arch: [[x]]}", "row 1 has an option 'arch' that is no text"),
        ("m.yaml", "- {source: a.pt, seed: 0x" + "f" * 200 + "}", "row 1 has an option 'seed'"),
        ("m.jsonl", '{"source": "a.pt", "arch": "' + "x" * 5000 + '"}', "row 1 has an option 'arch'"),
        ("m.jsonl", '{"source": "' + "x" * 5000 + '"}', "row 1 has an option 'source'"),
        ("m.jsonl", '{"source": "a.pt", "arch": "x\\u0000"}', "row 1 has an option 'arch'"),
        ("m.jsonl", '{"source": "\\ud800"}', "row 1 has an option 'source'"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_says_what_is_wrong(
    name: str, text: str, says: str | None, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(FileError, match=says or "is not UTF-8"):
        read_rows([str(tmp_path / name)], {}, KNOWN)


@pytest.mark.parametrize(
    "row",
    [
        '{"source": "os:getcwd"}',
        '{"source": "a.pt", "trust": true}',
        '{"source": "a.pt", "trust": "yes"}',
        '{"source": "a.pt", "allow": ["os.system"]}',
        '{"source": "a.pth", "arch": "os:getcwd"}',
        '{"source": "a.pth", "arch": ["torchvision:resnet18", "os:getcwd"]}',
    ],
)
def test_a_manifest_names_code_only_where_it_is_trusted(row: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(row)
    known = KNOWN | {"trust": RowOption(text="--trust", is_flag=True)}
    with pytest.raises(FileError, match="row 1 names code to be run"):
        read_rows([str(tmp_path / "m.jsonl")], {}, known)
    assert read_rows([str(tmp_path / "m.jsonl")], {}, known, trust=True)


@pytest.mark.parametrize("weights", ['"DEFAULT"', '["own.pth", "IMAGENET1K_V1"]'])
def test_a_manifest_reaches_the_network_only_where_it_is_trusted(weights: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f'{{"source": "torchvision:squeezenet1_1", "weights": {weights}}}')
    with pytest.raises(FileError, match="row 1 names weights to be downloaded; give --trust"):
        read_rows([str(path)], {}, KNOWN)
    assert read_rows([str(path)], {}, KNOWN, trust=True)
    path.write_text('{"source": "torchvision:squeezenet1_1", "weights": "own.pth"}')
    assert read_rows([str(path)], {}, KNOWN)


def test_models_of_one_name_never_share_a_folder(work: Path) -> None:
    """Not in one command, nor in another one, nor where they come in another order."""
    for folder, outputs in (("a", 2), ("b", 3), ("c", 4)):
        Path(folder).mkdir()
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, outputs))
        torch.save(model, f"{folder}/model.pt")

    def folders(*names: str) -> dict[str, str]:
        done = batch(*(f"{name}/model.pt" for name in names), "--to", "conv", "-o", "out", code=0)
        return {row["source"][0]: row["name"] for row in done["rows"]}

    def digest_of(name: str) -> str:
        return hashlib.sha256(Path(f"out/{name}/model.conv.pt").read_bytes()).hexdigest()

    assert folders("a") == {"a": "model"}
    first = digest_of("model")
    assert folders("b") == {"b": "model.2"}
    assert folders("b", "a") == {"a": "model", "b": "model.2"}
    assert folders("c", "b", "a") == {"a": "model", "b": "model.2", "c": "model.3"}
    assert digest_of("model") == first
    lines = [json.loads(line) for line in Path("out/batch.jsonl").read_text().splitlines()]
    assert sorted(line["name"] for line in lines) == ["model", "model.2", "model.3"]
    shutil.rmtree("out/model")
    assert folders("c") == {"c": "model.3"}
    assert folders("b") == {"b": "model.2"}


def test_a_source_is_no_option(work: Path) -> None:
    (work / "m.jsonl").write_text('{"source": "--trust", "to": "conv"}')
    (work / "--trust").write_text("no model")
    (row,) = batch("m.jsonl", "-o", "out", code=1)["rows"]
    assert row["reason"].startswith("--trust: is ")


def test_nothing_in_the_folder_of_outputs_is_believed(work: Path) -> None:
    """Not lines of somebody else, no link, and no pipe."""
    torch.save(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), "a.pt")
    (row,) = batch("a.pt", "--to", "conv", "-o", "out", code=0)["rows"]
    lines = work / "out" / "batch.jsonl"
    forged = json.loads(lines.read_text()) | {"mark": "0" * 64, "seconds": 4711}
    other = forged | {"name": "b", "document": None}
    (work / "theirs").write_text("")
    lines.write_text("[" * 100_000 + "\n" + json.dumps(forged) + "\n" + json.dumps(other) + "\n")
    (work / "out" / ".batch.csv.new").symlink_to(work / "theirs")
    (row,) = batch("a.pt", "--to", "conv", "-o", "out", code=0)["rows"]
    assert row["seconds"] != 4711
    assert [json.loads(line)["name"] for line in lines.read_text().splitlines()] == ["a"]
    assert (work / "theirs").read_text() == ""
    (work / "copy").mkdir()
    (work / "copy" / "batch.jsonl").write_text(lines.read_text())  # without its files
    assert batch("a.pt", "--to", "conv", "-o", "copy", code=0)["skipped"] == 0
    changed = json.loads(lines.read_text()) | {"seconds": 4711}  # with the mark that it has
    lines.write_text(json.dumps(changed) + "\n")
    (row,) = batch("a.pt", "--to", "conv", "-o", "out", code=0)["rows"]
    assert row["seconds"] != 4711
    lines.unlink()
    lines.symlink_to(work / "theirs")
    batch("a.pt", "--to", "conv", "-o", "out", code=2)
    assert (work / "theirs").read_text() == ""
    lines.unlink()
    os.mkfifo(lines)
    batch("a.pt", "--to", "conv", "-o", "out", code=2)


def test_an_option_that_rewrite_does_not_have_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"source": "a.pt", "scop": "all"}')
    with pytest.raises(InputError, match=r"no option 'scop'.*did you mean 'scope'"):
        read_rows([str(tmp_path / "m.jsonl")], {}, KNOWN)
    with pytest.raises(InputError, match="there is no model"):
        read_rows([str(tmp_path / "*.pt")], {}, KNOWN)


# --- a cluster ----------------------------------------------------------------------------------------


MARKED = """
def counted(name):
    def build():
        with open("log", "a") as file:
            file.write(name)
        return good()
    return build

for name in "abcde":
    globals()[name] = counted(name)
"""


def test_a_worker_dies_and_the_scheduler_is_lost_and_every_result_is_there_once(
    work: Path, cluster: Cluster
) -> None:
    address, (scheduler, worker, _) = cluster
    (work / "net.py").write_text(NET + MARKED)
    rows = manifest(work, *(f"net:{name}" for name in "abcde"))
    lines = work / "out" / "batch.jsonl"

    def done() -> list[str]:
        text = lines.read_text() if lines.exists() else ""
        return [json.loads(line)["name"] for line in text.splitlines(keepends=True) if line.endswith("\n")]

    command = ("batch", rows, "-o", "out", "--trust", "--no-onnx", "--scheduler", address)
    with started(*command) as ended:
        waited_for(lambda: len(done()) >= 1)
        worker.kill()
        waited_for(lambda: len(done()) >= 3)  # the other one goes on, with what the first one had too
        scheduler.kill()
        ran = ended()
    assert ran.code == 2, ran.err
    assert "the scheduler was lost" in ran.err
    kept = done()
    assert 3 <= len(kept) < 5
    before = (work / "log").read_text()
    found = batch(rows, "-o", "out", code=0)
    assert (found["skipped"], [row["state"] for row in found["rows"]]) == (len(kept), ["done"] * 5)
    assert sorted(done()) == [*"abcde"]
    assert not {*(work / "log").read_text()[len(before) :]} & {*kept}


def test_files_go_to_workers_that_do_not_see_them_and_outputs_come_back(work: Path, cluster: Cluster) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 200)).eval()
    (work / "models").mkdir()
    export_onnx(model, torch.randn(2, 3, 8, 8), "models/a.onnx")
    onnx.save(onnx.load("models/a.onnx"), "models/a.onnx", save_as_external_data=True, location="a.data")
    command = ["batch", "models", "--to", "conv", "-o", "out", "--json", "--scheduler", cluster[0]]
    ran = commanded(*command, "--send-files", str(work / "models" / "a.onnx"))
    sent, refused = ran.document["rows"]
    assert (sent["state"], sent["document"]["verdict"]) == ("done", "proved"), sent
    assert (refused["state"], refused["exit_code"]) == ("failed", 2)
    assert "is not below the working folder" in refused["reason"]
    written = {Path(file["path"]) for file in sent["document"]["files"]}
    assert written == {path for path in (work / "out" / "a").iterdir()}
    assert {"a.conv.onnx", "a.conv.onnx.data"} <= {path.name for path in written}
    # what the certificate names is where it says, as if it had been written here
    assert commanded("check", "--replay", "out/a/a.conv.certificate.json").code == 0
    # what lies in another file than the model is part of what it was made of
    row = Row(name="a", source="models/a.onnx", options=("--to", "conv"))
    key, _ = key_of(row)
    data = bytearray((work / "models" / "a.data").read_bytes())
    data[-1] ^= 1
    (work / "models" / "a.data").write_bytes(data)
    assert key_of(row)[0] != key


def test_files_are_sent_to_somebody(work: Path) -> None:
    batch("net:good", "--to", "conv", "-o", "out", "--send-files", code=2)


def test_no_scheduler_is_one_line(work: Path) -> None:
    pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    rows = manifest(work, "net:good")
    ran = commanded("batch", rows, "-o", "out", "--trust", "--scheduler", "tcp://127.0.0.1:9")
    assert (ran.code, ran.out) == (2, "")
    assert "no scheduler answers" in ran.err.splitlines()[-1]
