"""Files that would take for ever or all memory are one error with exit code 2, soon, in every command."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from fxhead import certify
from fxhead.convert.safetensors_stream import open_safetensors
from fxhead.files.digests import digest_file
from fxhead.loading.held import held
from fxhead.loading.load import FileOptions, require_readable
from fxhead.loading.recognise import recognise
from fxhead.source import Source
from fxpasses.errors import FileError, FxHeadError
from fxpasses.wall import clock
from fxpasses.wall.clock import SlowError, in_budget
from hostile import edited_program, graph_module, program

Run = Callable[..., Any]


def test_a_file_of_such_functions_is_one_error(run: Run, tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function(
            "own", f"f{index}", ["x"], ["y"],
            [
                helper.make_node(f"f{index + 1}", ["x"], ["t"], domain="own"),
                helper.make_node(f"f{index + 1}", ["t"], ["y"], domain="own"),
            ]
            if index < 29
            else [helper.make_node("Relu", ["x"], ["y"])],
            opsets,
        )
        for index in range(30)
    ]  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("f0", ["x"], ["y"], domain="own")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    path = tmp_path / "evil.onnx"
    onnx.save(helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10), path)
    done = run("check", str(path), str(path), "--providers", "cpu")
    assert done.code == 2, done.err
    assert "more nodes than the limit" in done.err.splitlines()[-1]


def test_a_loop_without_end_is_stopped_in_a_library_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread of Python's ends a call into ONNX Runtime, and a program that imports fxhead is not ended."""
    text = """<ir_version: 10, opset_import: ["" : 18]> g (float[n, 3] x) => (float[n, 3] y)
        <int64 rounds = {4611686018427387904}, bool yes = {1}> {
        y = Loop (rounds, yes, x) <body = b (int64 i, bool c, float[n, 3] z) => (bool d, float[n, 3] w)
            { d = Identity (c) w = Identity (z) }>
    }"""
    path = tmp_path / "evil.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    monkeypatch.setattr(clock, "MAX_SECONDS", 2)
    monkeypatch.setattr(clock, "_STUCK_S", 600)
    with pytest.raises(SlowError, match="s of processor time"):
        certify(path, path, providers=("cpu",))


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="no such file, or not readable here")
@pytest.mark.parametrize("read", [digest_file, recognise, require_readable])
def test_a_file_that_never_ends_is_an_empty_one(read: Callable[[Path], object], tmp_path: Path) -> None:
    """By its kind it is a regular one, and reading it gives nothing and does not end."""
    (tmp_path / "m.pt").symlink_to("/proc/kmsg")
    found = contextlib.suppress(FileError) if read is not digest_file else contextlib.nullcontext()
    with in_budget(seconds=5), found:
        read(tmp_path / "m.pt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "pipe"), ("inspect", "pipe.onnx"),
        ("check", "pipe.onnx", "pipe.onnx", "--providers", "cpu"),
        ("rewrite", "pipe", "--to", "conv"), ("convert-weights", "pipe", "--plan", "plan.json"),
        ("convert-weights", "weights.pth", "--plan", "pipe"), ("check", "--replay", "pipe"),
        ("convert-weights", "weights.pth", "--plan", "plan.json", "--optimizer-names", "pipe"),
        ("inspect", "torchvision:resnet18", "--weights", "pipe.safetensors"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_command_waits_for_a_pipe(command: tuple[str, ...], run: Run, folder: Path) -> None:
    for name in ("pipe", "pipe.onnx", "pipe.safetensors"):
        os.mkfifo(name)
    done = run(*command)
    assert done.code == 2, done.err
    assert "pipe" in done.err.splitlines()[-1] or "no such file" in done.err.splitlines()[-1]


# --- safetensors -----------------------------------------------------------------------------------


def test_a_tensor_has_no_more_axes_than_torch_s(tmp_path: Path) -> None:

    header = {"w": {"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path = tmp_path / "evil.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    start = time.perf_counter()
    with pytest.raises(FxHeadError, match="more axes than the limit of 64"):
        open_safetensors(path)
    assert time.perf_counter() - start < 5


# --- pickles ---------------------------------------------------------------------------------------


def _shared(folder: Path) -> Path:
    model = nn.Linear(2, 3)
    value: Any = (1,)
    for _ in range(60):
        value = (value, value)
    model.extra = value
    torch.save(model, folder / "evil.pt")
    return folder / "evil.pt"


GRAPHS = {
    "power": "y = (10) ** (100000000)",
    "product": "y = x.size(0)\n" + "".join(f"    y{n} = y * y; y = y{n}\n" for n in range(9)),
    "repeated": "y = x.shape;  z = y * 1000000000",
}


@pytest.mark.parametrize("name", ["shared", *GRAPHS])
@pytest.mark.parametrize("command", [("inspect",), ("rewrite", "--to", "conv", "--no-onnx")], ids=" ".join)
def test_what_never_ends_is_one_error(name: str, command: tuple[str, ...], run: Run, folder: Path) -> None:
    path = _shared(folder) if name == "shared" else graph_module(folder, GRAPHS[name])
    start = time.perf_counter()
    done = run(command[0], str(path), *command[1:])
    assert done.code == 2, done.err
    assert len([line for line in done.err.splitlines() if "error" in line]) == 1
    assert time.perf_counter() - start < 20


# --- what fails when it is run -----------------------------------------------------------------------

SHAPE = ("--input-shape", "1x3x8x8")
FAILING = ["torch.flatten(x, 99)", "x[99]", "torch.cat([x, 1])", "(1) / (0)", "float('x')", "x.to(5)",
           "torch.zeros(1000000, 1000000, 1000000)", "x.to_mkldnn()"]  # fmt: skip


@pytest.mark.parametrize("line", FAILING)
def test_a_line_that_fails_is_one_error(line: str, run: Run, folder: Path) -> None:
    """torch.fx would print the source text, and the error would be one of ours."""
    path = graph_module(folder, f"y = {line}\n    x = y")
    torch.save(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), "m.pt")
    done = run("check", str(path), "m.pt", "--providers", "cpu", *SHAPE)
    assert done.code == 2, done.err
    assert all(shown.startswith("fxhead: ") for shown in done.err.splitlines()), done.err
    assert sum("error" in shown for shown in done.err.splitlines()) == 1


Json = Any


def _tensor(data: Json, name: str) -> Json:
    return data["graph_module"]["graph"]["tensor_values"][name]


def _call(data: Json) -> Json:
    return data["graph_module"]["module_call_graph"][0]["signature"]


def _size(text: str) -> Callable[[Json, Json], None]:
    def edit(data: Json, weights: Json) -> None:
        _tensor(data, "conv2d")["sizes"][0] = {"as_expr": {"expr_str": text, "hint": None}}

    return edit


def _payload(field: str, value: Json) -> Callable[[Json, Json], None]:
    def edit(data: Json, weights: Json) -> None:
        for entry in weights["config"].values():
            entry["tensor_meta"][field] = value

    return edit


DAMAGED: dict[str, Callable[[Json, Json], object]] = {
    "a condition as a size": _size("Eq(1, 1)"),
    "a fraction as a size": _size("Float('1.5', precision=53)"),
    "a size divided by zero": _size("FloorDiv(Integer(1), Integer(0))"),
    "weights without axes": _payload("sizes", []),
    "weights of another dtype": _payload("dtype", 8),
    "weights beyond their bytes": _payload("storage_offset", {"as_int": 1 << 40}),
    "weights on no device": _payload("device", {"type": "meta", "index": None}),
    "a weight that is not there": lambda data, weights: weights["config"].pop("fc.bias"),
    "a size below zero": lambda data, weights: _tensor(data, "conv2d")["sizes"].insert(0, {"as_int": -5}),
    "no strides": lambda data, weights: _tensor(data, "x").update(strides=[]),
    "too many names": lambda data, weights: _call(data).update(forward_arg_names=["x", "y"]),
    "self as a name": lambda data, weights: _call(data).update(forward_arg_names=["self"]),
    "no outputs": lambda data, weights: data["graph_module"]["graph"].update(outputs=[]),
    "a guard that fails": lambda data, weights: data.update(guards_code=["L['x'].size()[0] == 77"]),
    "a guard on no axis": lambda data, weights: data.update(guards_code=["L['x'].size()[9] == 3"]),
    "a guard on no input": lambda data, weights: data.update(guards_code=["L['y'].size()[0] == 3"]),
    "nodes in another order": lambda data, weights: data["graph_module"]["graph"]["nodes"].reverse(),
    "an operator on a number": lambda data, weights: data["graph_module"]["graph"]["nodes"][0]["inputs"][
        0
    ].update(arg={"as_int": 5}),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_program_is_one_error(name: str, run: Run, folder: Path) -> None:
    def change(members: dict[str, bytes]) -> None:
        ends = ("models/model.json", "model_weights_config.json")
        paths = [next(path for path in members if path.endswith(end)) for end in ends]
        data, weights = (json.loads(members[path]) for path in paths)
        DAMAGED[name](data, weights)
        members.update(zip(paths, (json.dumps(part).encode() for part in (data, weights)), strict=True))

    path = edited_program(folder, change)
    Path("good.pt2").write_bytes(program())
    done = run("check", str(path), "good.pt2", "--providers", "cpu")
    assert done.code == 2, done.err
    assert all(shown.startswith("fxhead: ") for shown in done.err.splitlines()), done.err
    assert sum("error" in shown for shown in done.err.splitlines()) == 1


@pytest.mark.parametrize("source", ["torchvision:resnet18", "model.pt"])
@pytest.mark.parametrize("has_files", [False, True])
@pytest.mark.parametrize(("limit", "most"), [("MAX_SECONDS", 0.1), ("MAX_BYTES", 2**20)])
def test_a_packages_own_model_takes_what_it_takes(
    source: str, has_files: bool, limit: str, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, limit, most)
    grown = itertools.count(step=2**21)  # what the process has depends on the tests before
    monkeypatch.setattr(clock, "_memory", lambda: (next(grown), 0))
    is_limited = has_files or source == "model.pt"
    with pytest.raises(SlowError) if is_limited else contextlib.nullcontext():
        with held((Source.parse(source),), FileOptions(), print, has_files=has_files):
            end = time.process_time() + 1.0
            while time.process_time() < end:
                pass
