"""What is in a file is told from its content, and each kind works or says what to do."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fxexport import export_onnx
from fxhead.loading.recognise import FileKind, recognise
from fxpasses import rewrite
from fxpasses.errors import FileError
from hostile import Net, program

Run = Callable[..., Any]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()


def _save(value: Any, **options: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path, **options)


def _script(path: Path) -> None:
    members = {
        "m/data.pkl": b"\x80\x02}.",
        "m/constants.pkl": b"\x80\x02).",
        "m/code/__torch__.py": b"pass\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _optimizer() -> dict[str, Any]:
    net = model()
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9).state_dict()


def _state(prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in model().state_dict().items()}


def _as_a_pickle_begins(path: Path) -> None:
    """One header in 32 has a length whose first byte is that of a pickle; the second is its protocol here."""
    save_file(_state(), path, {"note": ""})
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    save_file(_state(), path, {"note": " " * (0x0280 - length)})
    assert path.read_bytes().startswith(b"\x80\x02")


KINDS: dict[str, tuple[Callable[[Path], object], FileKind]] = {
    "module": (_save(model()), FileKind.MODULE),
    "legacy module": (_save(model(), _use_new_zipfile_serialization=False), FileKind.MODULE),
    "protocol 4": (_save(model(), pickle_protocol=4), FileKind.MODULE),
    "graph module": (_save(rewrite(model(), to="conv").module), FileKind.GRAPH_MODULE),
    "state dict": (_save(_state()), FileKind.STATE_DICT),
    "legacy state dict": (_save(_state(), _use_new_zipfile_serialization=False), FileKind.STATE_DICT),
    "state dict of one layer": (_save(nn.Linear(2, 3).state_dict()), FileKind.STATE_DICT),
    "torchvision's reference training": (
        _save(
            {
                "model": _state(),
                "optimizer": _optimizer(),
                "lr_scheduler": {"last_epoch": 3},
                "epoch": 3,
                "model_ema": AveragedModel(model()).state_dict(),
            }
        ),
        FileKind.CHECKPOINT,
    ),
    "Lightning": (
        _save(
            {
                "epoch": 1,
                "global_step": 9,
                "pytorch-lightning_version": "2.5.0",
                "state_dict": _state("model."),
                "callbacks": {},
                "optimizer_states": [_optimizer()],
                "hyper_parameters": {"lr": 0.1},
            }
        ),
        FileKind.CHECKPOINT,
    ),
    "a list": (_save([1, 2]), FileKind.OBJECT),
    "a tensor": (_save(torch.zeros(3)), FileKind.OBJECT),
    "TorchScript": (_script, FileKind.TORCHSCRIPT),
    "program": (lambda path: path.write_bytes(program()), FileKind.PROGRAM),
    "safetensors": (lambda path: save_file(_state(), path), FileKind.SAFETENSORS),
    "safetensors, its length as a pickle begins": (_as_a_pickle_begins, FileKind.SAFETENSORS),
    "ONNX": (lambda path: export_onnx(Net().eval(), torch.randn(2, 3, 8, 8), path), FileKind.ONNX),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_recognised_under_any_name(name: str, tmp_path: Path) -> None:
    write, kind = KINDS[name]
    for suffix in (".pt", ".onnx", ".txt"):
        path = tmp_path / f"file{suffix}"
        write(path)
        assert recognise(path).kind is kind


@pytest.mark.parametrize("name", KINDS)
def test_inspect_names_the_kind_and_says_what_to_do(name: str, run: Run, folder: Path) -> None:
    write, kind = KINDS[name]
    write(folder / "file.bin")
    done = run("inspect", "file.bin", "--input-shape", "2x3x8x8")
    if kind in (FileKind.MODULE, FileKind.GRAPH_MODULE, FileKind.PROGRAM):
        assert done.code == 0, done.err
        assert str(kind) in done.out
        assert run("inspect", "file.bin", "--json").document["model"]["container"].startswith(str(kind))
        return
    assert (done.code, done.out) == (2, "")
    last = done.err.splitlines()[-1]
    assert str(kind) in last
    assert "; " in last
    if kind in (FileKind.STATE_DICT, FileKind.CHECKPOINT, FileKind.SAFETENSORS):
        assert "--arch" in last


def _numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"GGUF" + bytes(50), "GGUF"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x18\0\0\0ORTM" + bytes(50), "give the .onnx file"),
        (b"hello, world", "not a file that torch.save wrote"),
        (bytes(100), "not a file that torch.save wrote"),
    ],
    ids=["hdf5", "gguf", "gzip", "lfs", "html", "ort", "text", "zeros"],
)
def test_other_files_are_named(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(FileError, match=says) as caught:
        recognise(path)
    assert str(caught.value).count("; ") == 1  # one thing to do


def test_a_zip_file_of_something_else_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(FileError, match=r"a zip archive, but not a file that torch\.save wrote"):
        recognise(path)
