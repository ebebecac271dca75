"""export_onnx: dynamic batch, names, opset, determinism, and the module left alone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxexport import Verdict, export_onnx
from fxexport.certificate import Certifier
from fxexport.language.recording import shared_recordings
from fxpasses.errors import ExportError, InputError
from tests.fxexport.mutations.families import FAMILIES, build
from tests.fxexport.pairs import Small, small_pair


def run(path, *arrays):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return session.run(None, dict(zip(names, (a.numpy() for a in arrays), strict=True)))


def ops(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def model() -> Small:
    torch.manual_seed(0)
    return Small(lambda x: x.mean((2, 3)))


@pytest.mark.parametrize("example_batch", [1, 2, 3])
def test_the_file_runs_at_any_batch(tmp_path, example_batch):
    net = model()
    path = export_onnx(net, torch.randn(example_batch, 3, 9, 9), tmp_path / "m.onnx")
    net.eval()
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 9, 9)
        (found,) = run(path, x)
        bound = 1e-5 * np.abs(net(x).detach().numpy()).max()
        assert np.abs(found - net(x).detach().numpy()).max() <= bound
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch"


def test_a_fixed_batch_where_asked_for(tmp_path):
    path = export_onnx(model(), torch.randn(1, 3, 9, 9), tmp_path / "m.onnx", dynamic_batch=False)
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_value == 1


def test_the_module_is_left_as_it_was(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.train()
    net[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    export_onnx(net, torch.randn(1, 3, 9, 9), tmp_path / "m.onnx")
    assert [part.training for part in net] == [True, False, True, True]
    assert net.training
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_dropout_is_exported_in_evaluation_mode(tmp_path):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(3, 4)).train()
    path = export_onnx(net, torch.randn(2, 3, 9, 9), tmp_path / "m.onnx")
    assert ops(path) == ["GlobalAveragePool", "Flatten", "Gemm"]


def test_dropout_that_tracing_fixed_is_an_error(tmp_path):
    class Net(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5, True)

    with pytest.raises(ExportError, match="dropout stays active"):
        export_onnx(Net(), torch.randn(2, 3), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


Pair = namedtuple("Pair", ["scores", "features"])


class Outputs(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, image):
        return self.make(image * 2, image + 1)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda a, b: a, ["logits"]),
        (lambda a, b: {"out": a, "aux": b}, ["out", "aux"]),
        (lambda a, b: (a, b), ["output_0", "output_1"]),
        (lambda a, b: [a], ["output_0"]),
        (lambda a, b: Pair(a, b), ["scores", "features"]),
        (lambda a, b: {"out": a, "pyramid": (a + 1, b)}, ["out", "pyramid_0", "pyramid_1"]),
        (lambda a, b: {"out": a, "none": None, "aux": b}, ["out", "aux"]),
    ],
    ids=["tensor", "dict", "tuple", "list", "namedtuple", "nested", "none"],
)
def test_output_names(tmp_path, make, names):
    path = export_onnx(Outputs(make), torch.randn(2, 3), tmp_path / "m.onnx")
    graph = onnx.load(path).graph
    assert [output.name for output in graph.output] == names
    assert [value.name for value in graph.input] == ["image"]


def test_inputs_by_name_and_by_position(tmp_path):
    class Two(nn.Module):
        def forward(self, left, right, *, scale=1.0):
            return left @ right.mT * scale

    x, y = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    for example in ((x, y), {"left": x, "right": y}):
        path = export_onnx(Two(), example, tmp_path / "m.onnx")
        assert [value.name for value in onnx.load(path).graph.input] == ["left", "right"]
        assert run(path, torch.randn(1, 3, 4), torch.randn(1, 5, 4))[0].shape == (1, 3, 5)


def test_inputs_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="do not fit forward"):
        export_onnx(model(), (torch.randn(2, 3), torch.randn(2)), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="batch axis"):
        export_onnx(model(), torch.tensor(1.0), tmp_path / "m.onnx")


def test_a_baked_batch_is_an_error(tmp_path):
    class Baked(nn.Module):
        def forward(self, x):
            return x.view(2, 3) + 1

    with pytest.raises(ExportError, match="dynamic batch"):
        export_onnx(Baked(), torch.randn(2, 3, 1), tmp_path / "m.onnx")


@pytest.mark.parametrize("opset", [17, 18, 20, 21, 23])
def test_the_opset_is_the_one_asked_for(tmp_path, opset):
    path = export_onnx(model(), torch.randn(2, 3, 9, 9), tmp_path / "m.onnx", opset=opset)
    proto = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]
    onnx.checker.check_model(proto, full_check=True)
    x = torch.randn(5, 3, 9, 9)
    other = export_onnx(model(), x, tmp_path / "default.onnx")
    assert np.allclose(run(path, x)[0], run(other, x)[0], rtol=1e-5, atol=1e-6)


def test_an_opset_that_cannot_be_had_is_an_error(tmp_path):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Hardswish(), nn.Linear(3, 4))
    with pytest.raises(ExportError, match="from opset 18 to 13"):
        export_onnx(net, torch.randn(2, 3, 9, 9), tmp_path / "m.onnx", opset=13)
    with pytest.raises(ExportError, match="opset 99 cannot be written"):
        export_onnx(net, torch.randn(2, 3, 9, 9), tmp_path / "m.onnx", opset=99)
    assert list(tmp_path.iterdir()) == []


def test_an_onnxscript_that_torch_finds_too_old_is_told(tmp_path, monkeypatch):
    def lacking(*_, **__):
        raise ModuleNotFoundError("No module named 'onnxscript._framework_apis.torch_9_9'")

    monkeypatch.setattr(torch.onnx, "export", lacking)
    with pytest.raises(ExportError, match=r"no onnxscript that fits it .*torch_9_9.*--upgrade onnxscript"):
        export_onnx(model(), torch.randn(1, 3, 9, 9), tmp_path / "m.onnx")
    assert not [*tmp_path.iterdir()]


SCRIPT = """
import sys, torch
from fxexport import Verdict, export_onnx
from fxexport.certificate import Certifier
from fxexport.language.recording import shared_recordings
from tests.fxexport.pairs import small_pair
export_onnx(small_pair()[0], torch.randn(1, 3, 9, 9), sys.argv[1])
"""


def test_another_process_writes_the_same_bytes(tmp_path):
    export_onnx(small_pair()[0], torch.randn(1, 3, 9, 9), tmp_path / "here" / "m.onnx")
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "there" / "m.onnx"], check=True)
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("*/*")}
    assert len(list(tmp_path.glob("*/*"))) == 2
    assert len(digests) == 1


def test_nothing_in_the_file_tells_of_the_machine(tmp_path):
    raw = export_onnx(model(), torch.randn(2, 3, 9, 9), tmp_path / "m.onnx").read_bytes()
    for trace in (b".py", b"site-packages", b"stack_trace", b"pkg.torch", str(tmp_path).encode()):
        assert trace not in raw


def test_printing_and_warnings_of_the_exporter_are_held_back(tmp_path, capfd):
    export_onnx(
        Outputs(lambda a, b: {"out": a, "none": None}), torch.randn(2, 3), tmp_path / "m.onnx", opset=17
    )
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("resnet", ["GlobalAveragePool", "Flatten", "Gemm"]),
        ("mobilenet_v3", ["GlobalAveragePool", "Flatten", "Gemm", "HardSwish", "Gemm"]),
        ("efficientnet", ["GlobalAveragePool", "Flatten", "Gemm"]),
    ],
)
def test_heads_of_torchvision(tmp_path, name, tail):
    model, (example,) = build(name, is_calibrated=False), FAMILIES[name].example(1)
    path = export_onnx(model, example, tmp_path / "m.onnx")
    assert ops(path)[-len(tail) :] == tail


class Counting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).view(len(x), -1)


def test_len_of_the_input_is_the_free_batch(tmp_path: Path) -> None:
    path = export_onnx(Counting().eval(), (torch.randn(2, 3, 5, 5),), tmp_path / "m.onnx")
    x = torch.rand(5, 3, 5, 5)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, Counting()(x).numpy(), rtol=1e-6)


@pytest.fixture
def recorded(monkeypatch) -> list[nn.Module]:
    """What torch.export was asked to record."""
    modules: list[nn.Module] = []
    export = torch.export.export

    def counted(module, *args, **kwargs):
        modules.append(module)
        return export(module, *args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counted)
    return modules


def test_a_file_and_its_proof_share_the_recording(tmp_path, recorded):
    (net, other), x = small_pair(), torch.randn(8, 3, 9, 9)
    alone = export_onnx(net, x, tmp_path / "alone.onnx").read_bytes()
    recorded.clear()
    with shared_recordings():
        shared = export_onnx(net, x[:2], tmp_path / "m.onnx").read_bytes()
        certificate = Certifier(x).certify(net, other)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    assert len(recorded) == 2  # one of each
    assert shared == alone


class Halves(nn.Module):
    """Takes even batches only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).view(x.size(0) // 2, 2, -1).flatten(0, 1)


def test_a_recording_that_asks_something_of_the_batch_is_not_the_file(tmp_path, recorded):
    with shared_recordings(), pytest.raises(ExportError, match="dynamic batch"):
        export_onnx(Halves().eval(), torch.randn(4, 3, 5, 5), tmp_path / "m.onnx")
    assert len(recorded) == 2
