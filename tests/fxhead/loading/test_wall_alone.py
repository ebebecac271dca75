"""Each known way to act is stopped by the wall alone, too: what refuses it first is taken away here."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_names import PAYLOADS, injected
from PIL import Image
from torch import nn

from fxhead import load_model, rewrite
from fxhead.check import replay
from fxhead.files import settle, staging
from fxhead.inputs import images
from fxhead.loading import load
from fxpasses.graph import trace
from fxpasses.wall.marks import walled_for
from fxpasses.wall.wall import WallError, walled, writing
from hostile import CANARY, planted, saved, tree

Run = Callable[..., Any]

# of every kind: a call, a chain of them, an old file, source text in each of its places
_RUN_WHEN_LOADED = (
    "os_system",
    "builtins_exec",
    "getattr_chain",
    "legacy_reduce",
    "graph_default_argument",
    "graph_from_import",
    "graph_fstring",
)
_RUN_IN_A_PROGRAM = ("program_input_name", "program_guard", "program_size_is_code", "program_sample_inputs")


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read as torch itself reads them: whatever is in them runs."""

    def read(container: Any, *_: object) -> Any:
        return torch.load(container.path, weights_only=False, map_location="cpu")

    monkeypatch.setattr(load, "recognise", lambda path: types.SimpleNamespace(path=path, title="file"))
    monkeypatch.setattr(load, "_from_file", read)


@pytest.mark.parametrize("name", _RUN_WHEN_LOADED)
def test_what_runs_when_it_is_loaded_is_stopped(unguarded: None, tmp_path: Path, name: str) -> None:
    path = PAYLOADS[name](tmp_path)
    torch.load(path, weights_only=False, map_location="cpu")
    assert (tmp_path / CANARY).exists(), "it acts where nothing stops it"
    (tmp_path / CANARY).unlink()
    with pytest.raises(WallError, match="was stopped"):
        load_model(path)
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize("name", _RUN_IN_A_PROGRAM)
def test_what_a_program_would_run_is_stopped(
    unguarded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Torch's own reader runs names, guards, sizes and sample inputs."""
    path = PAYLOADS[name](tmp_path)

    def read(container: Any, *_: object) -> Any:
        module = torch.export.load(container.path).module()
        module(torch.zeros(2, 3, 8, 8))  # guards are run with it
        return module

    with contextlib.suppress(Exception):
        read(types.SimpleNamespace(path=path))
    assert (tmp_path / CANARY).exists(), "it acts where nothing stops it"
    (tmp_path / CANARY).unlink()
    monkeypatch.setattr(load, "_from_file", read)
    with pytest.raises(WallError, match="was stopped"):
        load_model(path)
    assert not (tmp_path / CANARY).exists()


def test_what_a_name_would_run_is_stopped(
    unguarded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_require_plain_names", lambda target, kwargs: None)
    evil = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    # torch.fx writes it between quotes; every module has an attribute "training"
    evil._modules[injected(tmp_path, "training")] = evil._modules.pop("2")
    path = saved(tmp_path / "evil.pt", evil)
    result = rewrite(load_model(path), "conv").module
    with pytest.raises(WallError, match="start a program"), walled_for(result):
        result(torch.zeros(2, 3, 8, 8))
    assert not (tmp_path / CANARY).exists()
    with contextlib.suppress(AttributeError):
        result(torch.zeros(2, 3, 8, 8))
    assert (tmp_path / CANARY).exists(), "it acts where nothing stops it"


def test_what_a_decoder_would_start_is_stopped(
    run: Run, net: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_FORMATS", None)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(folder / "evil.eps")
    (folder / "evil.eps").rename(folder / "evil.png")
    done = run("cam", "model.pt", "evil.png", "--size", "24,16")
    assert done.code == 2
    assert "something in it tried to " in done.err.splitlines()[-1]  # first to write what gs would read


def test_what_a_certificate_would_fetch_is_stopped(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(folder / "home"))
    (folder / "home/hub/checkpoints").mkdir(parents=True)
    shape = ("--input-shape", "1x3x32x32", "--providers", "cpu")
    model = "torchvision:squeezenet1_1"
    assert run("check", model, model, "-o", "c.json", *shape).code in (0, 1)
    text = Path("c.json").read_text()
    Path("c.json").write_text(text.replace('"weights": null', '"weights": "DEFAULT"', 2))
    monkeypatch.setattr(replay, "_require_no_download", lambda artefact: None)
    asked: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda *arguments, **_: asked.append(arguments))
    done = run("check", "--replay", "c.json")
    assert done.code == 2
    assert "something in it tried to " in done.err.splitlines()[-1], done.err
    assert asked == []


@pytest.fixture
def credulous(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever lies beside a model is believed, and settled as soon as the model is read."""

    def believed(place: staging.HeldFolder) -> staging.Manifest:
        files = json.loads((tmp_path / "inside" / place.path / staging.MANIFEST).read_text())["files"]
        return {name: staging.StagedFile(new=new, before=before) for name, (new, before) in files.items()}

    monkeypatch.setattr(settle, "is_staging", lambda name: name.startswith(".fxhead-"))
    monkeypatch.setattr(settle, "read_manifest", believed)
    monkeypatch.setattr(settle._opened, "__defaults__", (os.O_RDONLY,))
    monkeypatch.setattr(load, "recognise", lambda path: settle.settle(path.parent))


@pytest.mark.parametrize(
    ("kind", "tried"), [("old", "delete 'thesis"), ("link", "move 'thesis"), ("pipe", "wait for what ")]
)
def test_what_is_planted_would_do_is_stopped(credulous: None, tmp_path: Path, kind: str, tried: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    planted(inside, kind)
    (inside / "model.pt").write_bytes(b"model")
    before = tree(tmp_path)
    with pytest.raises(WallError, match=f"something in it tried to {tried}"):
        load_model(inside / "model.pt")
    if kind != "old":  # a command that writes there may change what is in that folder, and no other
        with pytest.raises(WallError, match=f"something in it tried to {tried}"), walled(), writing(inside):
            settle.settle(inside)
    assert tree(tmp_path) == before
    if kind != "pipe":
        settle.settle(inside)
        assert tree(tmp_path) != before, "it acts where nothing stops it"


def test_the_user_is_told_where_there_is_no_wall(run: Run, folder: Path) -> None:
    done = run("inspect", "nets:build", "--input-shape", "1x3x16x16")
    assert done.code == 0
    assert "note: nets:build is code of yours: what the models run is not held back" in done.err
