"""``check -o``: a broken pair leaves what shows it; ``--require`` says what is enough."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn

from fxexport import export_onnx
from tests.fxexport.proof.measured.test_in_float64 import quantised
from tests.fxhead.conftest import Run

OUTPUT = '{1/0}"); open("canary", "w"); ("'


def written(folder: Path) -> None:
    """``good.onnx``, and ``limited.onnx`` with a limit that no ordinary image reaches."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    ).eval()
    export_onnx(model, torch.randn(2, 3, 8, 8), folder / "good.onnx")
    proto = onnx.load(folder / "good.onnx")
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = OUTPUT
    onnx.save(proto, folder / "good.onnx")
    relu = next(node for node in proto.graph.node if node.op_type == "Relu")
    name = relu.output[0]
    relu.output[0] = "free"
    position = list(proto.graph.node).index(relu) + 1
    proto.graph.node.insert(position, helper.make_node("Clip", ["free", "", "most"], [name]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1e5), "most"))
    onnx.save(proto, folder / "limited.onnx")


def test_a_witness_can_be_run_alone(run: Run, folder: Path) -> None:
    written(folder)
    done = run("check", "good.onnx", "limited.onnx", "-o", "c.json", "--json")
    assert done.code == 1
    assert {Path(entry["path"]).name for entry in done.document["files"]} == {
        "c.json",
        "c.witness.npz",
        "c.witness.py",
    }
    script = Path("c.witness.py").read_text()
    assert len(script.splitlines()) <= 12
    assert "fx" not in script.replace("fxhead", "")
    shown = subprocess.run([sys.executable, "c.witness.py"], capture_output=True, text=True, check=True)
    numbers = [float(word.strip(";,:")) for word in shown.stdout.split() if word[:1] in "-0123456789"]
    assert repr(OUTPUT) in shown.stdout
    assert not Path("canary").exists()
    place, expected, found, bound = numbers[-4:]
    assert abs(expected - found) > bound
    assert place >= 0
    again = run("check", "good.onnx", "limited.onnx", "-o", "c.json")
    assert again.code == 2  # nothing is replaced without --force


def test_what_is_required_is_what_exits_with_0(run: Run, folder: Path) -> None:
    written(folder)
    assert run("check", "good.onnx", "good.onnx", "--require", "proved").code == 0
    assert run("check", "good.onnx", "limited.onnx", "--require", "agrees").code == 1
    assert run("check", "good.onnx", "good.onnx", "--require", "within").code == 2


def test_a_witness_in_float64_can_be_run_alone(run: Run, folder: Path) -> None:
    """One weight one unit off, which float32 hides: beside a file, and beside a module."""
    written(folder)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    torch.save(model, "model.pt")
    with torch.no_grad():
        weight = model[1].weight.view(-1)
        weight[4] = torch.nextafter(weight[4], torch.tensor(9.0))
    export_onnx(model, torch.randn(2, 3, 2, 2), folder / "off.onnx")
    assert run("check", "model.pt", "off.onnx", "-o", "c.json").code == 1
    script = Path("c.witness.py").read_text()
    assert ".double()" in script
    assert "ReferenceEvaluator" in script
    shown = subprocess.run([sys.executable, "c.witness.py"], capture_output=True, text=True, check=True)
    *_, expected, _, found, _, _, bound = (word.strip(";,:") for word in shown.stdout.split())
    assert abs(float(expected) - float(found)) > float(bound)


def test_operators_that_onnx_has_in_float32_alone_are_in_the_script(run: Run, folder: Path) -> None:
    quantised(folder / "first.onnx", scale=1e-6)
    quantised(folder / "second.onnx", scale=1e-6, zero=1)
    assert run("check", "first.onnx", "second.onnx", "-o", "c.json").code == 1
    assert "QuantizeLinear" in Path("c.witness.py").read_text()
    shown = subprocess.run([sys.executable, "c.witness.py"], capture_output=True, text=True, check=True)
    *_, expected, _, found, _, _, bound = (word.strip(";,:") for word in shown.stdout.split())
    assert abs(float(expected) - float(found)) > float(bound)
