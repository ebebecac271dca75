"""Files that other tools wrote, and pairs of every kind of model: good accepted, damaged refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from torch import nn

from fxexport import Certificate, LayerName, Verdict, certify, export_onnx
from fxexport.certificate import Certifier
from fxpasses import rewrite
from fxpasses.errors import CheckError

SIDE = 8


class Net(nn.Module):
    """A convolution, a batch norm with statistics, a head of one Linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5)
        nn.init.normal_(self.norm.running_mean, std=0.2)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(torch.relu(self.norm(self.conv(x))), 1)
        return self.fc(nn.functional.dropout(x.view(x.size(0), -1), training=self.training))


def images(samples: int = 8) -> torch.Tensor:
    return torch.randn(samples, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Net().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("foreign")


@pytest.fixture(scope="module")
def reference(model: nn.Module, folder: Path) -> Path:
    return export_onnx(model, images(2), folder / "reference.onnx")


def scripted(module: nn.Module, path: Path, opset: int, *, is_folded: bool = True) -> Path:
    """The file that the TorchScript-based exporter writes; not folded, it keeps the batch norm."""
    mode = torch.onnx.TrainingMode.EVAL if is_folded else torch.onnx.TrainingMode.TRAINING
    clone = copy.deepcopy(module)
    for part in clone.modules():
        part.training = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is deprecated
        torch.onnx.export(
            clone,
            (images(2),),
            path,
            dynamo=False,
            opset_version=opset,
            training=mode if is_folded else torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=is_folded,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
        )
    return path


def optimised(source: Path, target: Path, level: str) -> Path:
    """The file that ONNX Runtime writes after its own optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return target


def simplified(source: Path, target: Path) -> Path:
    tool = pytest.importorskip("onnxsim")
    simple, is_right = tool.simplify(onnx.load(source))
    assert is_right
    onnx.save(simple, target)
    return target


def with_passes(source: Path, target: Path) -> Path:
    tool = pytest.importorskip("onnxoptimizer")
    onnx.save(tool.optimize(onnx.load(source)), target)
    return target


def converted(source: Path, target: Path, version: int) -> Path:
    onnx.save(onnx.version_converter.convert_version(onnx.load(source), version), target)
    return target


def as_convolution(source: Path, target: Path) -> Path:
    """Gemm as a convolution by another tool's convention: copied weights, other names."""
    proto = onnx.load(source)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    nodes = list(proto.graph.node)
    gemm = next(node for node in nodes if node.op_type == "Gemm")
    flatten = next(node for node in nodes if gemm.input[0] in node.output)
    weight = stored[gemm.input[1]]
    proto.graph.initializer.extend(
        [
            numpy_helper.from_array(weight.reshape(*weight.shape, 1, 1).copy(), "head/kernel"),
            numpy_helper.from_array(stored[gemm.input[2]].copy(), "head/offset"),
        ]
    )
    kept = [node for node in nodes if node not in (gemm, flatten)]
    kept.append(helper.make_node("Conv", [flatten.input[0], "head/kernel", "head/offset"], ["head/map"]))
    kept.append(helper.make_node("Flatten", ["head/map"], [gemm.output[0]]))
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    used = [tensor for tensor in proto.graph.initializer if tensor.name not in gemm.input]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(used)
    onnx.save(proto, target)
    return target


def stored_elsewhere(source: Path, target: Path) -> Path:
    onnx.save(
        onnx.load(source), target, save_as_external_data=True, location=f"{target.stem}.bin", size_threshold=0
    )
    return target


def typed(source: Path, target: Path) -> Path:
    """Weights as ``float_data`` in place of raw bytes, and one of them as a Constant node."""
    proto = onnx.load(source)
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(
                helper.make_tensor(tensor.name, TensorProto.FLOAT, array.shape, array.reshape(-1).tolist())
            )
    moved = next(t for t in proto.graph.initializer if t.name == "fc.weight")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["fc.weight"], value=moved))
    proto.graph.initializer.remove(moved)
    onnx.save(proto, target)
    return target


def in_functions(source: Path, target: Path) -> Path:
    """The activation as a function of the file's own."""
    proto = onnx.load(source)
    node = next(node for node in proto.graph.node if node.op_type == "Relu")
    body = [helper.make_node("Max", ["v", "zero"], ["w"])]
    zero = helper.make_node(
        "Constant", [], ["zero"], value=helper.make_tensor("z", TensorProto.FLOAT, [], [0])
    )
    proto.functions.append(
        helper.make_function("own", "Positive", ["v"], ["w"], [zero, *body], list(proto.opset_import))
    )
    proto.opset_import.append(helper.make_opsetid("own", 1))
    node.domain, node.op_type = "own", "Positive"
    onnx.save(proto, target)
    return target


FOREIGN: dict[str, Callable[[nn.Module, Path, Path], Path]] = {
    "torchscript_11": lambda m, r, t: scripted(m, t, 11),
    "torchscript_13": lambda m, r, t: scripted(m, t, 13),
    "torchscript_17": lambda m, r, t: scripted(m, t, 17),
    "torchscript_unfolded": lambda m, r, t: scripted(m, t, 17, is_folded=False),
    "opset_21": lambda m, r, t: converted(r, t, 21),
    "onnxruntime_basic": lambda m, r, t: optimised(r, t, "ORT_ENABLE_BASIC"),
    "onnxruntime_unfolded": lambda m, r, t: optimised(
        scripted(m, t.with_suffix(".raw.onnx"), 17, is_folded=False), t, "ORT_ENABLE_BASIC"
    ),
    "onnxruntime_extended": lambda m, r, t: optimised(r, t, "ORT_ENABLE_EXTENDED"),
    "onnxsim": lambda m, r, t: simplified(scripted(m, t.with_suffix(".raw.onnx"), 17, is_folded=False), t),
    "onnxoptimizer": lambda m, r, t: with_passes(
        scripted(m, t.with_suffix(".raw.onnx"), 17, is_folded=False), t
    ),
    "as_convolution": lambda m, r, t: as_convolution(r, t),
    "stored_elsewhere": lambda m, r, t: stored_elsewhere(r, t),
    "typed": lambda m, r, t: typed(r, t),
    "in_functions": lambda m, r, t: in_functions(r, t),
}


def damaged(path: Path, target: Path) -> Path:
    """The file with the weight of its head damaged by one per cent in one place."""
    proto = onnx.load(path)
    tensors = [t for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT]
    tensors += [
        n.attribute[0].t for n in proto.graph.node if n.op_type == "Constant" and n.attribute[0].t.dims
    ]
    head = next(t for t in tensors if np.prod(t.dims) == 30)
    array = numpy_helper.to_array(head).copy()
    array.reshape(-1)[7] *= 1.01
    head.CopyFrom(numpy_helper.from_array(array, head.name))
    onnx.save(proto, target)
    return target


@pytest.mark.parametrize("name", FOREIGN)
def test_another_tools_file(name: str, model: nn.Module, reference: Path, folder: Path) -> None:
    path = FOREIGN[name](model, reference, folder / f"{name}.onnx")
    for pair in ((reference, path), (path, reference), (model, path)):
        certificate = certify(*pair, images())
        assert certificate.is_accepted, certificate.reason
    bad = damaged(path, folder / f"{name}.bad.onnx")
    for pair in ((reference, bad), (model, bad)):
        certificate = certify(*pair, images())
        assert certificate.verdict is Verdict.BROKEN
        assert failed(certificate) is LayerName.WEIGHTS, certificate.reason


def failed(certificate: Certificate) -> LayerName | None:
    return next((layer.layer for layer in certificate.layers if layer.failures), None)


def kinds(model: nn.Module, folder: Path) -> dict[str, object]:
    """One model as everything that certify takes."""
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(model, (images(2),), dynamic_shapes=(batch,))
    torch.export.save(program, folder / "model.pt2")
    return {
        "module": model,
        "graph": rewrite(model, to="conv").module,
        "program": program,
        "decomposed": program.run_decompositions(),
        "pt2": folder / "model.pt2",
        "onnx": export_onnx(model, images(2), folder / "model.onnx"),
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return kinds(Net().eval(), tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    broken = Net().eval()
    with torch.no_grad():
        broken.fc.weight[2, 3] *= 1.01
    return kinds(broken, tmp_path_factory.mktemp("bad"))


@pytest.fixture(scope="module")
def certifier() -> Certifier:
    """One for all: each model is exported and run once."""
    return Certifier(images())


@pytest.mark.parametrize("right", ["graph", "program", "decomposed", "pt2", "onnx"])
@pytest.mark.parametrize("left", ["module", "graph", "decomposed", "pt2", "onnx"])
def test_any_two_kinds(
    left: str, right: str, good: dict[str, object], bad: dict[str, object], certifier: Certifier
) -> None:
    certificate = certifier.certify(good[left], good[right])
    assert certificate.is_accepted, certificate.reason
    certificate = certifier.certify(good[left], bad[right])
    assert certificate.verdict is Verdict.BROKEN
    assert failed(certificate) is LayerName.WEIGHTS


RNG = np.random.default_rng(4)
WEIGHT = RNG.standard_normal((5, 4)).astype(np.float32)
BIAS = RNG.standard_normal(5).astype(np.float32)
GRID = RNG.standard_normal((5, 4 * 36)).astype(np.float32)
CONSTANTS = {
    "w": WEIGHT,
    "wt": WEIGHT.T,
    "wk": WEIGHT.reshape(5, 4, 1, 1),
    "b": BIAS,
    "b1": BIAS.reshape(1, 5),
    "same": np.full((5,), 0.25, np.float32),
    "one": np.array([0.25], np.float32),
    "scalar": np.float32(0.25),
    "axes": np.array([2, 3]),
    "last": np.array([-2, -1]),
    "three": np.array([3]),
    "two": np.array([2]),
    "zero": np.array(0),
    "first": np.array([0]),
    "rest": np.array([-1]),
    "cells": np.array([0, 4, 36]),
    "grid": GRID,
    "kernel": GRID.reshape(5, 4, 6, 6),
}
POOL = "p = GlobalAveragePool(x) "
FLAT = POOL + "f = Flatten<axis=1>(p) "
GEMM = "y = Gemm<transB=1>(f, w, b)"
SPELLINGS = {
    "negative_axes": (18, "f = ReduceMean<keepdims=0>(x, last) " + GEMM),
    "axes_attribute": (13, "f = ReduceMean<axes=[2,3], keepdims=0>(x) " + GEMM),
    "axis_by_axis": (18, "a = ReduceMean<keepdims=0>(x, three) f = ReduceMean<keepdims=0>(a, two) " + GEMM),
    "mean_of_cells": (18, "c = Reshape(x, cells) f = ReduceMean<keepdims=0>(c, two) " + GEMM),
    "squeeze_attribute": (11, POOL + "f = Squeeze<axes=[2,3]>(p) " + GEMM),
    "squeeze_twice": (18, POOL + "q = Squeeze(p, three) f = Squeeze(q, two) " + GEMM),
    "unsqueeze": (18, FLAT + "u = Unsqueeze(f, axes) c = Conv(u, wk, b) y = Flatten<axis=1>(c)"),
    "shape_chain": (
        17,
        POOL + "s = Shape(p) n = Gather(s, zero) m = Unsqueeze(n, first) t = Concat<axis=0>(m, rest) "
        "f = Reshape(p, t) " + GEMM,
    ),
    "shape_chain_old": (
        11,
        POOL + "s = Shape(p) n = Gather(s, zero) m = Unsqueeze<axes=[0]>(n) t = Concat<axis=0>(m, rest) "
        "f = Reshape(p, t) " + GEMM,
    ),
    "identities": (18, FLAT + "g = Identity(f) d = Dropout(g) c = Cast<to=1>(d) y = Gemm<transB=1>(c, w, b)"),
    "trans_a": (18, FLAT + "t = Transpose<perm=[1,0]>(f) y = Gemm<transA=1, transB=1>(t, w, b)"),
    "bias_apart": (18, FLAT + "g = Gemm<transB=1>(f, w) y = Add(g, b)"),
    "bias_first": (18, FLAT + "g = MatMul(f, wt) y = Add(b1, g)"),
    "transposed_twice": (
        18,
        FLAT + "t = Transpose<perm=[1,0]>(w) u = Transpose<perm=[1,0]>(t) y = Gemm<transB=1>(f, u, b)",
    ),
}
GIVEN = (18, FLAT + GEMM)
OTHERS = {
    "bias_scalar": (
        (18, FLAT + "y = Gemm<transB=1>(f, w, same)"),
        (18, FLAT + "y = Gemm<transB=1>(f, w, scalar)"),
    ),
    "bias_of_one": (
        (18, FLAT + "y = Gemm<transB=1>(f, w, same)"),
        (18, FLAT + "y = Gemm<transB=1>(f, w, one)"),
    ),
    "bias_none": ((18, FLAT + "y = Gemm<transB=1>(f, w)"), (18, FLAT + "y = MatMul(f, wt)")),
    "beta_zero": (
        (18, FLAT + "y = Gemm<transB=1>(f, w)"),
        (18, FLAT + "y = Gemm<transB=1, beta=0.0>(f, w, b)"),
    ),
    "grid": (
        (18, "f = Flatten<axis=1>(x) y = Gemm<transB=1>(f, grid, b)"),
        (18, "c = Conv(x, kernel, b) y = Flatten<axis=1>(c)"),
    ),
}


def write(path: Path, spelling: tuple[int, str], domain: str = "") -> Path:
    """A file of one opset whose graph is the body, with those of the constants that it names."""
    opset, body = spelling
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,4,6,6] x) => (float[N,5] y)'
    proto = parser.parse_model(f"{head} {{ {body} }}")
    used = {name for node in proto.graph.node for name in node.input} & set(CONSTANTS)
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.array(CONSTANTS[name], order="C"), name) for name in sorted(used)
    )
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("name", [*SPELLINGS, *OTHERS])
def test_a_hand_built_head(name: str, tmp_path: Path) -> None:
    given, spelling = OTHERS.get(name) or (GIVEN, SPELLINGS[name])
    left, right = write(tmp_path / "a.onnx", given), write(tmp_path / "b.onnx", spelling)
    for pair in ((left, right), (right, left)):
        certificate = certify(*pair)
        assert certificate.verdict is Verdict.PROVED, certificate.reason


def test_a_limit_below_is_no_limit_above(tmp_path: Path) -> None:
    body = "r = Clip({}) p = GlobalAveragePool(r) f = Flatten<axis=1>(p) " + GEMM
    left = write(tmp_path / "a.onnx", (18, body.format("x, , scalar")))
    right = write(tmp_path / "b.onnx", (18, body.format("x, scalar")))
    assert certify(left, left).verdict is Verdict.PROVED
    assert certify(left, right).verdict is Verdict.BROKEN


def test_softmax_means_another_axis_before_opset_13(tmp_path: Path) -> None:
    body = "s = Softmax(x) p = GlobalAveragePool(s) f = Flatten<axis=1>(p) " + GEMM
    left, right = write(tmp_path / "a.onnx", (12, body)), write(tmp_path / "b.onnx", (13, body))
    assert certify(left, right).verdict is Verdict.BROKEN


def test_a_file_that_declares_wrong_shapes_is_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", GIVEN)
    proto = onnx.load(path)
    proto.graph.value_info.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 4, 3, 3]))
    onnx.save(proto, tmp_path / "b.onnx")
    assert certify(path, tmp_path / "b.onnx").verdict in (Verdict.PROVED, Verdict.BROKEN)


def test_weights_changed_beside_the_file(tmp_path: Path, model: nn.Module, reference: Path) -> None:
    path = stored_elsewhere(reference, tmp_path / "m.onnx")
    assert certify(reference, path).verdict is Verdict.PROVED
    values = np.fromfile(tmp_path / "m.bin", np.float32)
    values[5] *= 1.5
    values.tofile(tmp_path / "m.bin")
    assert certify(reference, path).verdict is Verdict.BROKEN


def test_one_name_for_two_values_is_an_error(tmp_path: Path) -> None:
    proto = onnx.load(write(tmp_path / "a.onnx", GIVEN))
    proto.graph.node.append(helper.make_node("Relu", ["x"], ["f"]))
    onnx.save(proto, tmp_path / "b.onnx")
    with pytest.raises(CheckError, match="not valid"):
        certify(tmp_path / "a.onnx", tmp_path / "b.onnx")


def test_inputs_in_another_order_are_known_by_their_names(tmp_path: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 18]> g ({}) => (float[N,5] y) '
        "{{ d = Sub(u, v) p = GlobalAveragePool(d) f = Flatten<axis=1>(p) y = Gemm<transB=1>(f, w, b) }}"
    )
    for name, order in (
        ("a", "float[N,4,6,6] u, float[N,4,6,6] v"),
        ("b", "float[N,4,6,6] v, float[N,4,6,6] u"),
    ):
        proto = parser.parse_model(text.format(order))
        proto.graph.initializer.extend(numpy_helper.from_array(CONSTANTS[key], key) for key in ("w", "b"))
        onnx.save(proto, tmp_path / f"{name}.onnx")
    assert certify(tmp_path / "a.onnx", tmp_path / "b.onnx").verdict is Verdict.PROVED
    given = tuple(torch.randn(8, 4, 6, 6) for _ in range(2))
    assert certify(tmp_path / "a.onnx", tmp_path / "b.onnx", given).verdict is Verdict.PROVED


def test_an_open_image_size_is_that_of_the_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", GIVEN)
    proto = onnx.load(path)
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    onnx.save(proto, tmp_path / "open.onnx")
    assert certify(path, tmp_path / "open.onnx", torch.randn(8, 4, 6, 6)).verdict is Verdict.PROVED
