"""The command line as a user has it: a folder of one's own, files in it, arguments in, text out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fxhead import cli
from fxhead.batch.fork_server import ForkServer
from fxhead.processes import can_fork

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "export", ROOT / "tools")))

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))


def watch(module, inputs, output):
    pass


class Hooked(Net):
    def __init__(self):
        super().__init__()
        self.fc.register_forward_hook(watch)


class NoHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.conv(x)


class Talkative(Net):
    def forward(self, x):
        return super().forward(x)

    def __init__(self):
        super().__init__()
        print("this is not the result")


def build():
    return Net()


def broken_build():
    raise RuntimeError("no such luck")


number = 3
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Stdout as the one JSON document that it must be, and of the schema that it must have."""
        document = json.loads(self.out)
        if document.get("command") != "study":
            validate("result", document)
        return document


Run = Callable[..., Ran]


@functools.cache
def _validator(name: str) -> Any:
    if importlib.util.find_spec("jsonschema") is None:  # the environment of .ci has it
        return None
    import jsonschema

    from fxhead.schema.documents import SCHEMAS

    return jsonschema.Draft202012Validator(SCHEMAS[name]())


def validate(name: str, document: Any) -> None:
    """Holds a document against the schema that ``fxhead schema NAME`` prints."""
    validator = _validator(name)
    if validator is not None:
        validator.validate(document)


def validate_files(folder: Path, since_ns: int) -> None:
    """Holds certificates, plans and rows of batches that were written since then against their schemas."""
    kinds = {"*.certificate.json": "certificate", "*.plan.json": "plan", "*.intoto.json": "statement"}
    kinds["batch.jsonl"] = "batch-row"
    for pattern, name in kinds.items():
        for path in folder.glob(pattern):
            if path.is_file() and path.stat().st_mtime_ns >= since_ns:
                for text in path.read_text().splitlines() if name == "batch-row" else [path.read_text()]:
                    validate(name, json.loads(text))


def _admitted(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments as whoever wrote ``nets.py`` gives them: its classes may come from a file."""
    reads = arguments[:1] in (("rewrite",), ("inspect",), ("check",), ("cam",)) and len(arguments) > 1
    says = {"--allow", "--replay"} & {*arguments}  # a certificate says what it was made with
    return (*arguments, "--allow", "nets.Net") if reads and not says else arguments


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a new folder with ``nets.py`` in it."""
    (tmp_path / "nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    # each test has its own nets.py
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


@pytest.fixture
def net(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``model.pt`` in the working directory: a pickled module."""
    import torch

    monkeypatch.syspath_prepend(str(folder))
    torch.manual_seed(0)
    nets = __import__("nets")
    torch.save(nets.Net(), folder / "model.pt")
    return Path("model.pt")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process, which saves importing torch each time."""

    def call(*arguments: str) -> Ran:
        capsys.readouterr()
        start = time.time_ns() - 10**8  # clocks of files are coarse
        code = cli.main(_admitted(arguments))
        captured = capsys.readouterr()
        validate_files(Path.cwd(), start)
        return Ran(code=code, out=captured.out, err=captured.err)

    return call


SEED = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
"""Of hashes, in other processes than this one."""


@functools.cache
def _server() -> ForkServer:
    return ForkServer(os.environ | {"PYTHONPATH": PATHS, "PYTHONHASHSEED": SEED, "PYTHONUTF8": "1"})


@contextlib.contextmanager
def started(*arguments: str, **variables: str) -> Iterator[Callable[[], Ran]]:
    """Starts the command line in the working folder, in a process of its own; gives what waits for its end.

    It is forked from one that has imported everything, which saves importing torch each time.
    """
    environment = os.environ | {"PYTHONPATH": PATHS, "PYTHONHASHSEED": SEED} | variables
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        forked = _server().start(arguments, (out, err), environment, os.getcwd())

        def ended() -> Ran:
            code = forked.wait(1200)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
            return Ran(code=code, out=texts[0], err=texts[1])

        try:
            yield ended
        finally:
            forked.kill()


def commanded(*arguments: str, **variables: str) -> Ran:
    """What the command line did as a process of its own."""
    if can_fork():
        with started(*arguments, **variables) as ended:
            return ended()
    command = [sys.executable, "-m", "fxhead", *arguments]
    environment = os.environ | {"PYTHONPATH": PATHS, "PYTHONHASHSEED": SEED} | variables
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=1200)
    return Ran(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture
def spawn(folder: Path) -> Run:
    """Runs the command line as a process of its own, with a hash seed that this one does not have."""
    return lambda *arguments: commanded(*_admitted(arguments))


@pytest.fixture
def written(folder: Path) -> Callable[[], set[str]]:
    """Names of what the command left in the working directory, hidden things included."""
    given = {"nets.py", "model.pt", "__pycache__"}
    return lambda: {path.name for path in folder.iterdir()} - given


def waited_for(is_so: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


Cluster = tuple[str, list[subprocess.Popen[bytes]]]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Dask scheduler and two workers on loopback, which work in a folder of their own."""
    pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    place = tmp_path_factory.mktemp("cluster")

    def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *arguments, "--no-dashboard"]
        environment = os.environ | {"PYTHONPATH": PATHS}
        silent = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=place, env=environment, **silent)

    told = place / "scheduler.json"
    processes = [start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(told))]
    waited_for(lambda: told.exists() and told.read_text().rstrip().endswith("}"))  # it is written in place
    address = json.loads(told.read_text())["address"]
    options = ("--nthreads", "1", "--no-nanny", "--local-directory", str(place))
    processes += [start("worker", address, *options) for _ in range(2)]
    yield address, processes
    for process in processes:
        process.kill()
        process.wait()
