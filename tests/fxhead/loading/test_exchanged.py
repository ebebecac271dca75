"""A file that somebody exchanges while it is read: what was checked is what is used, or it is an error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from fxhead import load_model, save_model
from fxpasses.errors import FileError
from fxpasses.wall.wall import lowered

Run = Callable[..., Any]
IMAGE = torch.ones(2, 3, 4, 4)
_HAS_NAMES_OF_OPEN_FILES = os.path.exists("/proc/self/fd")


def net(fill: float) -> nn.Module:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    for parameter in model.parameters():
        nn.init.constant_(parameter, fill)
    return model


def write_module(path: Path, fill: float) -> None:
    torch.save(net(fill), path)


def write_legacy(path: Path, fill: float) -> None:
    torch.save(net(fill), path, _use_new_zipfile_serialization=False)


def write_program(path: Path, fill: float) -> None:
    save_model(torch.export.export(net(fill), (IMAGE,)), path)


def write_weights(path: Path, fill: float) -> None:
    safetensors.torch.save_file(net(fill).state_dict(), path)


def load_weights(path: Path) -> Any:
    with patch("fxhead.loading.state_dicts.build", lambda *_, **__: net(0.0)):
        return load_model("torchvision:resnet18", weights=str(path))


@pytest.mark.parametrize(
    ("name", "write", "read"),
    [
        ("a.pt", write_module, load_model),
        ("a.pth", write_legacy, load_model),
        ("a.pt2", write_program, load_model),
        ("a.safetensors", write_weights, load_weights),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_file_of_its_name_is_an_error(
    name: str, write: Callable[[Path, float], None], read: Callable[[Path], Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path, other = tmp_path / name, tmp_path / f"other.{name}"
    write(path, 1.0)
    write(other, 2.0)
    open_file, opened = os.open, []

    def exchange(what: Any, *arguments: Any, **options: Any) -> int:
        opened.extend([what] if what == path else [])
        if what == path and len(opened) == 3:  # first it is looked at outside of the wall
            with lowered():  # it is another process that does so
                other.replace(path)
        return open_file(what, *arguments, **options)

    monkeypatch.setattr(os, "open", exchange)
    with pytest.raises(FileError, match="was changed or replaced while it was read"):
        read(path)


@pytest.mark.skipif(not _HAS_NAMES_OF_OPEN_FILES, reason="this system has no names of open files")
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.npy"])
def test_what_a_library_opens_is_the_file_that_was_checked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    owner, function = {
        "a.pt": (torch.UntypedStorage, "from_file"),
        "a.safetensors": (safetensors, "safe_open"),
        "a.npy": (np, "load"),
    }[name]
    library = getattr(owner, function)
    model = net(1.0)
    torch.save(model, "model.pt")
    path = Path(name)
    write: dict[str, Callable[[], object]] = {
        "a.pt": lambda: torch.save(model, path),
        "a.safetensors": lambda: safetensors.torch.save_file(model.state_dict(), path),
        "a.npy": lambda: np.save(path, IMAGE.numpy()),
    }
    write[name]()

    def pipe_instead(what: Any, *arguments: Any, **options: Any) -> Any:
        with lowered():
            path.unlink()
            os.mkfifo(path)  # whoever opens it waits for ever
        return library(what, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(owner, function, pipe_instead)
        if name == "a.npy":
            done = run("check", "model.pt", "model.pt", "--inputs", name, "--providers", "cpu")
            assert done.code == 2
            assert "a.npy: is no regular file" in done.err.splitlines()[-1]  # when it is hashed
            return
        found = load_weights(path) if name == "a.safetensors" else load_model(path)
    assert all(bool((parameter == 1).all()) for parameter in found.parameters())
