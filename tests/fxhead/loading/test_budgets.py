"""Files that would take for ever or all memory are one error with exit code 2, soon, in every command."""

from __future__ import annotations

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

from fxhead.convert.safetensors_stream import open_safetensors
from fxpasses.errors import FxHeadError
from hostile import graph_module

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
