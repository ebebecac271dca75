"""Damaged files: one clear error, no traceback, nothing written, the input as it was; or the same model."""

from __future__ import annotations

import io
import os
import random
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxhead
from fxexport import certify, export_onnx
from fxexport.untrusted.pickles import read_pickle
from fxhead import find_sites, load_model, save_model
from fxhead.cli import main
from fxhead.outcome import ExitCode
from fxpasses import rewrite
from fxpasses.errors import FileError, FxHeadError
from hostile import Net, program

Run = Callable[..., Any]
FLIPS, FEW_FLIPS, CUTS = 1000, 200, 200


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()


def build() -> nn.Module:
    """What ``--arch test_damage:build`` builds."""
    return small()


def _saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _safetensors(folder: Path) -> bytes:
    save_file(small().state_dict(), folder / "weights.safetensors")
    return (folder / "weights.safetensors").read_bytes()


CONTAINERS: dict[str, Callable[[Path], bytes]] = {
    "module.pt": lambda folder: _saved(small()),
    "legacy.pt": lambda folder: _saved(small(), _use_new_zipfile_serialization=False),
    "graph.pt": lambda folder: _saved(rewrite(small(), to="conv").module),
    "state.pth": lambda folder: _saved(small().state_dict()),
    "checkpoint.ckpt": lambda folder: _saved({"model": small().state_dict(), "epoch": 3}),
    "program.pt2": lambda folder: program(),
    "weights.safetensors": _safetensors,
}
WEIGHTS = ("state.pth", "checkpoint.ckpt", "weights.safetensors")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "test_damage", sys.modules[__name__])


def options(name: str) -> dict[str, str]:
    return {"arch": "test_damage:build"} if name in WEIGHTS else {}


def flipped(content: bytes, count: int) -> Iterator[bytes]:
    """The content with one byte changed, at random places, the same ones in every run."""
    chance = random.Random(0)
    for _ in range(count):
        data = bytearray(content)
        data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        yield bytes(data)


def cut(content: bytes, count: int) -> Iterator[bytes]:
    for index in range(count):
        yield content[: len(content) * index // count]


def survives(path: Path, content: bytes, **given: Any) -> bool:
    """Whether the file still loads; else it is an error of ours, and the file is as it was."""
    path.write_bytes(content)
    error: FxHeadError | None = None
    try:
        load_model(path, **given)
    except FxHeadError as caught:
        error = caught
    assert path.read_bytes() == content
    assert error is None or (error.fix and path.name in str(error))
    return error is None


def _flip(name: str, tmp_path: Path, flips: int) -> None:
    content = CONTAINERS[name](tmp_path)
    path = tmp_path / name
    assert survives(path, content, **options(name))
    loaded = sum(survives(path, damaged, **options(name)) for damaged in flipped(content, flips))
    if name not in ("legacy.pt", "weights.safetensors"):
        assert loaded < flips / 2  # checksums: what loads has a flip in the archive's own bookkeeping
    assert {entry.name for entry in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_flipped_byte_does_no_harm(name: str, tmp_path: Path) -> None:
    _flip(name, tmp_path, FEW_FLIPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTAINERS)
def test_no_flipped_byte_does_harm(name: str, tmp_path: Path) -> None:
    _flip(name, tmp_path, FLIPS)


@pytest.mark.parametrize("name", ["module.pt", "graph.pt", "state.pth"])
def test_a_flipped_weight_is_noticed(name: str, tmp_path: Path) -> None:
    content = CONTAINERS[name](tmp_path)
    weight = small()[3].weight.detach().numpy().tobytes()  # type: ignore[index,operator,union-attr]
    place = content.index(weight)
    damaged = bytearray(content)
    damaged[place + 5] ^= 1
    path = tmp_path / name
    path.write_bytes(bytes(damaged))
    with pytest.raises(FxHeadError, match="checksum"):
        load_model(path, **options(name))


@pytest.mark.parametrize("name", CONTAINERS)
def test_no_cut_file_loads(name: str, tmp_path: Path) -> None:
    content = CONTAINERS[name](tmp_path)
    path = tmp_path / name
    assert not any(survives(path, damaged, **options(name)) for damaged in cut(content, CUTS))


def onnx_file(folder: Path) -> bytes:
    export_onnx(Net().eval(), torch.randn(2, 3, 8, 8), folder / "good.onnx")
    return (folder / "good.onnx").read_bytes()


def _check(path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> int:
    path.write_bytes(content)
    code = main(["check", str(path.with_name("good.onnx")), str(path), "--providers", "cpu"])
    shown = capsys.readouterr()
    assert code in (ExitCode.DONE, ExitCode.NO, ExitCode.USAGE), shown.err
    assert "Traceback" not in shown.err
    assert path.read_bytes() == content
    return code


def _damage_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str], flips: int, cuts: int) -> None:
    content = onnx_file(tmp_path)
    path = tmp_path / "bad.onnx"
    assert _check(path, content, capsys) == ExitCode.DONE
    for damaged in flipped(content, flips):
        _check(path, damaged, capsys)
    for damaged in cut(content, cuts):
        assert _check(path, damaged, capsys) == ExitCode.USAGE


def test_a_damaged_onnx_file_does_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _damage_onnx(tmp_path, capsys, 40, 20)


@pytest.mark.slow
def test_no_damage_to_an_onnx_file_does_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _damage_onnx(tmp_path, capsys, FLIPS, CUTS)


# --- what is no file, or no file of its name -----------------------------------------------------------


@pytest.mark.parametrize("content", ["module.pt", "program.pt2", "weights.safetensors", "graph.pt"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pt2", ".bin", ".safetensors", ".ckpt", ""])
def test_the_name_says_nothing(content: str, suffix: str, tmp_path: Path) -> None:
    data = CONTAINERS[content](tmp_path)
    assert survives(tmp_path / f"renamed{suffix}", data, **options(content))


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "empty", "missing", "null byte"])
def test_what_is_no_file_is_refused_at_once(run: Run, folder: Path, kind: str) -> None:
    name = "model.pt"
    if kind == "folder":
        Path(name).mkdir()
    elif kind == "fifo":
        os.mkfifo(name)
    elif kind == "device":
        name = "/dev/zero"
    elif kind == "empty":
        Path(name).touch()
    elif kind == "null byte":
        name = "mo\0del.pt"
    for command in (("inspect", name), ("rewrite", name, "--to", "conv", "--no-onnx")):
        done = run(*command)
        assert (done.code, done.out) == (2, "")
        assert "Traceback" not in done.err


LIBRARY: dict[str, Callable[..., Any]] = {
    "load": load_model,
    "weights": lambda path: load_model("torchvision:resnet18", weights=path),
    "save": lambda path: save_model(small(), path),
    "export": lambda path: export_onnx(small(), torch.zeros(2, 3, 8, 8), path),
    "export a program": lambda path: export_onnx(path, torch.zeros(2, 3, 8, 8), "out.onnx"),
    "find": find_sites,
    "rewrite": lambda path: fxhead.rewrite(path, "conv"),
    "certify": lambda path: certify(path, path),
}


@pytest.mark.parametrize("function", LIBRARY)
@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_name_that_no_file_has_is_refused_by_the_library(folder: Path, function: str, name: str) -> None:
    for suffix in (".pt", ".pt2", ".onnx"):
        if function == "save" and suffix != ".pt":
            continue
        with pytest.raises(FxHeadError) as caught:
            LIBRARY[function](name + suffix)
        assert "\n" not in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["nets.py"]


def test_a_path_that_no_system_has_is_refused(run: Run, folder: Path) -> None:
    model = small()
    save_model(model, "model.pt")
    long = "/".join(["a" * 200] * 21) + "/"
    for command in (("rewrite", "model.pt", "--to", "conv", "--no-onnx", "-o"), ("report", "c.json", "-o")):
        done = run(*command, long)
        assert (done.code, done.out) == (2, "")
        assert "a path has at most 3,800 bytes" in done.err
    for path in (long + "model.pt", "a" * 300 + ".pt"):
        with pytest.raises(FileError, match="File name too long"):
            save_model(model, path)
        with pytest.raises(FileError, match="File name too long"):
            export_onnx(model, torch.zeros(1, 3, 8, 8), path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(run: Run, folder: Path) -> None:
    Path("model.pt").write_bytes(CONTAINERS["module.pt"](folder))
    Path("model.pt").chmod(0)
    done = run("inspect", "model.pt")
    assert done.code == 2
    assert "permissions" in done.err


@pytest.mark.parametrize(("limit", "more"), [(0, ["--no-onnx"]), (3000, ["--no-onnx"]), (1500, [])])
def test_a_full_disk_leaves_nothing(run: Run, folder: Path, limit: int, more: list[str]) -> None:
    """A limit on the size of files fails as a full disk does: in the middle of a write."""
    save_model(small(), "model.pt")
    before = Path("model.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # Python ignores the signal that comes with it
    try:
        done = run("rewrite", "model.pt", "--to", "conv", "--input-shape", "1x3x8x8", *more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.code == 2, done.err
    assert "cannot be written" in done.err
    assert "Traceback" not in done.err
    assert sorted(entry.name for entry in folder.iterdir()) == ["model.pt", "nets.py"]
    assert Path("model.pt").read_bytes() == before


def test_an_odd_escape_in_a_file_gives_no_warning() -> None:
    assert read_pickle(io.BytesIO(b"S'a\\l'\n.")).root == "a\\l"
