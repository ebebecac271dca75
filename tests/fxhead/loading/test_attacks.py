"""No code in a file runs, nothing outside is read or written; each attack is one error with exit code 2."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hostile_names import PAYLOADS
from onnx import TensorProto, helper

from fxexport.onnx_dialect.external import locations
from fxexport.onnx_dialect.rewrite import read_content
from fxhead import load_model
from fxhead.cli import main
from fxpasses.errors import FileError, FxHeadError
from hostile import CANARY

Run = Callable[..., Any]
ARCH = ("--arch", "torchvision:resnet18")
_WEIGHTS = (".pth", ".ckpt", ".safetensors")


class Ran(BaseException):
    """Something that a file must not reach was reached; no ``except Exception`` hides it."""


@pytest.fixture
def tripwires(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the payloads call raises instead, and says that it was called."""

    def reached(name: str) -> Callable[..., Any]:
        def trip(*arguments: object, **options: object) -> Any:
            raise Ran(f"{name}{arguments}")

        return trip

    # torch.export itself uses torch.load and eval; the canary is there for those
    for owner, name in (
        (os, "system"),
        (os, "popen"),
        (subprocess, "Popen"),
        (subprocess, "getoutput"),
        (torch, "save"),
        (torch, "from_file"),
        (torch.hub, "load"),
        (torch.jit, "load"),
        (torch.ops, "load_library"),
    ):
        monkeypatch.setattr(owner, name, reached(name))


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(PAYLOADS) >= 150


@pytest.mark.parametrize("name", sorted(PAYLOADS))
def test_nothing_in_a_hostile_file_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = PAYLOADS[name](tmp_path)
    monkeypatch.chdir(tmp_path)
    request.getfixturevalue("tripwires")
    before = {entry.name: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()}
    modules = {*sys.modules}
    for options in ((), ARCH):
        code = main(["rewrite", path.name, "--to", "conv", "--no-onnx", *options])
        shown = capsys.readouterr()
        assert code == 2, shown.err
        assert shown.out == ""
        last = shown.err.splitlines()[-1]
        assert last.startswith(f"fxhead: error: {path.name}"), last
        assert "Traceback" not in shown.err
        assert "; " in last, "it says what to do"
    assert {entry.name: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()} == before
    assert not (tmp_path / CANARY).exists()
    assert not {"antigravity", "evil_module", "theirs"} & ({*sys.modules} - modules)


def test_the_payloads_do_run_where_they_are_trusted(tmp_path: Path) -> None:
    """The canary sings: what is tested above would be noticed."""
    for name in ("os_system", "legacy_reduce", "graph_import_statement", "graph_default_argument"):
        folder = tmp_path / name
        folder.mkdir()
        with pytest.warns(UserWarning, match="runs whatever code"), contextlib.suppress(FxHeadError):
            load_model(PAYLOADS[name](folder), trust=True)
        assert (folder / CANARY).exists(), name


# --- ONNX ------------------------------------------------------------------------------------------


def external_model(path: Path, location: str, place: str = "initializer", **info: str) -> None:
    """A model whose one weight, in some place of it, lies in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **info}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    held, functions = [], []
    stored = [tensor] if place == "initializer" else []
    if place == "attribute":
        held = [helper.make_node("Constant", [], ["w"], value=tensor)]
    elif place == "graph":
        output = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3])
        branch = helper.make_graph([], "branch", [], [output], [tensor])
        yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
        held = [
            helper.make_node("Constant", [], ["c"], value=yes),
            helper.make_node("If", ["c"], ["w"], then_branch=branch, else_branch=branch),
        ]
    elif place == "function":
        held = [helper.make_node("f", [], ["w"], domain="own")]
        body = [helper.make_node("Constant", [], ["w"], value=tensor)]
        functions = [helper.make_function("own", "f", [], ["w"], body, opsets[:1])]
    graph = helper.make_graph(
        [*held, node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        stored,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("kind", ["parent", "absolute", "symlink", "fifo", "proc", "huge", "negative", "far"])
def test_weights_of_an_onnx_file_stay_in_its_folder(
    run: Run, tmp_path: Path, kind: str, folder: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(48))
    (inside / "weights.bin").write_bytes(bytes(48))
    location, info = "weights.bin", {}
    if kind == "parent":
        location = "../secret.bin"
    elif kind == "absolute":
        location = str(secret)
    elif kind == "proc":
        location = "/proc/self/environ"
    elif kind == "symlink":
        location = "link.bin"
        (inside / "link.bin").symlink_to(secret)
    elif kind == "fifo":
        location = "pipe.bin"
        os.mkfifo(inside / "pipe.bin")
    elif kind == "huge":
        info = {"length": str(1 << 60)}
    else:
        info = {"offset": "-16" if kind == "negative" else str(1 << 40)}
    external_model(inside / "evil.onnx", location, **info)
    external_model(inside / "good.onnx", "weights.bin")
    for arguments in (("evil.onnx", "good.onnx"), ("good.onnx", "evil.onnx")):
        done = run("check", *(str(inside / name) for name in arguments), "--providers", "cpu")
        assert done.code == 2, done.out + done.err
        assert "evil.onnx" in done.err.splitlines()[-1]
        assert "Traceback" not in done.err


_PLACES = ("initializer", "attribute", "graph", "function")


@pytest.mark.parametrize("place", _PLACES)
def test_no_place_of_a_file_opens_another_file(run: Run, folder: Path, place: str) -> None:
    """Python's own readers of tensors open what these name, from the working directory on."""
    Path("inside").mkdir()
    Path("secret.bin").write_bytes(bytes(48))
    os.mkfifo("pipe.bin")
    for location in (str(folder / "secret.bin"), "pipe.bin", ""):
        external_model(Path("inside/evil.onnx"), location, place)
        done = run("check", "inside/evil.onnx", "inside/evil.onnx", "--providers", "cpu")
        assert done.code == 2, done.out + done.err
        assert "fxhead: error: inside/evil.onnx: " in done.err.splitlines()[-1]
        assert run("inspect", "inside/evil.onnx").code in (0, 2)  # which reads no weights


@pytest.mark.parametrize(
    ("location", "info"),
    [("a\0b", {}), ("", {}), ("a" * 5000, {}), ("a", {"offset": "x"}), ("a", {"length": "9" * 9999})],
    ids=range(5),
)
def test_a_location_that_is_none_is_damage(location: str, info: dict[str, str], tmp_path: Path) -> None:
    external_model(tmp_path / "evil.onnx", location, **info)
    with pytest.raises(FileError, match=r"evil.onnx: is damaged \(the weights of 'w' lie "):
        locations(read_content(tmp_path / "evil.onnx"))


@pytest.mark.parametrize("place", _PLACES)
def test_a_good_external_file_is_read(run: Run, folder: Path, place: str) -> None:
    """Else the tests above would prove nothing."""
    Path("weights.bin").write_bytes(np.arange(12, dtype=np.float32).tobytes())
    external_model(Path("good.onnx"), "weights.bin", place)
    onnx.save(onnx.load("good.onnx"), "whole.onnx")
    done = run("check", "good.onnx", "whole.onnx", "--providers", "cpu")
    assert done.code == 0, done.out + done.err
    Path("weights.bin").write_bytes(np.ones(12, dtype=np.float32).tobytes())
    assert run("check", "good.onnx", "whole.onnx", "--providers", "cpu").code == 1
