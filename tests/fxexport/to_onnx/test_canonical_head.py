"""canonicalize_head: what it rewrites, what it refuses, and that values stay equal."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import parser
from torch import nn

from fxexport import export_onnx
from fxexport.to_onnx.canonical_head import canonicalize_head
from tests.fxexport.pairs import ConvHead, Small

LINEAR = ["GlobalAveragePool", "Flatten", "Gemm"]

POOLS = {
    "mean": (lambda x: x.mean((2, 3)), 2, LINEAR),
    "mean_negative": (lambda x: x.mean((-1, -2)), 2, LINEAR),
    "mean_keepdim": (lambda x: x.mean((2, 3), keepdim=True).flatten(1), 2, LINEAR),
    "mean_twice": (lambda x: x.mean(3).mean(2), 2, ["ReduceMean", *LINEAR]),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), 2, LINEAR),
    "adaptive_view": (lambda x: F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1), 2, LINEAR),
    "adaptive_view_minus": (lambda x: F.adaptive_avg_pool2d(x, 1).view(-1, 8), 2, LINEAR),
    "fixed": (lambda x: F.avg_pool2d(x, 7).squeeze(-1).squeeze(-1), 2, LINEAR),
    "fixed_squeeze": (lambda x: F.avg_pool2d(x, (7, 7)).squeeze((2, 3)), 2, LINEAR),
    "index": (lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0], 2, LINEAR),
    "index_last": (lambda x: x.mean((2, 3), keepdim=True)[..., -1, 0], 2, LINEAR),
    "index_in_two": (lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1)[:, :, 0], 2, LINEAR),
    "corner": (lambda x: x[:, :, 0, 0], 2, ["Relu", "Gather", "Gather", "Gemm"]),
    "one_dimension": (lambda x: x.mean(2), 1, LINEAR),
    "one_dimension_pool": (lambda x: F.adaptive_avg_pool1d(x, 1).squeeze(-1), 1, LINEAR),
    "three_dimensions": (lambda x: F.adaptive_avg_pool3d(x, 1).flatten(1), 3, LINEAR),
    "max": (lambda x: x.amax((2, 3)), 2, ["ReduceMax", "Gemm"]),
}


@pytest.mark.parametrize("name", POOLS)
def test_spellings_of_a_pool(tmp_path, name):
    pool, rank, tail = POOLS[name]
    torch.manual_seed(0)
    net = Small(pool, rank).eval()
    x = torch.randn(5, 3, *(9,) * rank)
    path = export_onnx(net, x[:1], tmp_path / "m.onnx")
    found = [node.op_type for node in onnx.load(path).graph.node]
    assert found[-len(tail) :] == tail
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = net.double()(x.double()).detach().numpy()
    error = np.abs(session.run(None, {"x": x.numpy()})[0] - expected).max()
    assert error <= 2.0**-24 * 9**rank * 40 * np.abs(expected).max()


@pytest.mark.parametrize("kernel", [(1,), (1, 1), (1, 1, 1)])
def test_the_convolution_form(tmp_path, kernel):
    rank = len(kernel)
    net = Small(lambda x: x.mean(tuple(range(2, 2 + rank)), keepdim=True), rank)
    net.fc = ConvHead(net.fc, 8, kernel)
    path = export_onnx(net, torch.randn(1, 3, *(9,) * rank), tmp_path / "m.onnx")
    found = [node.op_type for node in onnx.load(path).graph.node]
    assert found == ["Conv", "Relu", "GlobalAveragePool", "Conv", "Flatten"]


def test_a_grid_keeps_its_pool_and_flattens_once(tmp_path):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(3 * 49, 4))
    path = export_onnx(net, torch.randn(1, 3, 7, 7), tmp_path / "m.onnx")
    found = [node.op_type for node in onnx.load(path).graph.node]
    assert found == ["AveragePool", "Flatten", "Gemm"]


def test_features_beside_the_logits_stay(tmp_path):
    class Both(Small):
        def forward(self, x):
            features = self.pool(self.features(x))
            return {"logits": self.fc(features), "features": features}

    net = Both(lambda x: x.mean((2, 3))).eval()
    path = export_onnx(net, torch.randn(1, 3, 9, 9), tmp_path / "m.onnx")
    graph = onnx.load(path).graph
    assert [output.name for output in graph.output] == ["logits", "features"]
    assert [node.op_type for node in graph.node] == ["Conv", *LINEAR]
    x = torch.randn(3, 3, 9, 9)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": x.numpy()})[1].shape == (3, 8)


def graph(body: str, inputs: str = "float[N,4,6,6] x", outputs: str = "float[N,4] y") -> ir.Model:
    text = f'<ir_version: 9, opset_import: ["" : 18]> g ({inputs}) => ({outputs}) <{body}'
    proto = onnx.shape_inference.infer_shapes(parser.parse_model(text))
    return ir.from_proto(proto)


REFUSED = {
    "one_axis": ("int64[1] a = {2}> { y = ReduceMean<keepdims=0>(x, a) }", "float[N,4,6] y"),
    "channels": ("int64[2] a = {1, 2}> { y = ReduceMean<keepdims=0>(x, a) }", "float[N,6] y"),
    "partial_pool": ("float z = {0}> { y = AveragePool<kernel_shape=[3,3]>(x) }", "float[N,4,4,4] y"),
    "padded_pool": (
        "float z = {0}> { y = AveragePool<kernel_shape=[6,6], pads=[1,1,1,1], count_include_pad=1>(x) }",
        "float[N,4,3,3] y",
    ),
    "batch_mixed": ("int64[2] s = {-1, 36}> { y = Reshape(x, s) }", "float[M,36] y"),
    "squeeze_all": (
        "int64[2] a = {2, 3}> { p = ReduceMax<keepdims=1>(x, a) y = Squeeze(p) }",
        "float[N,4] y",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    body, outputs = REFUSED[name]
    model = graph(body, outputs=outputs)
    before = [node.op_type for node in model.graph]
    assert canonicalize_head(model) == 0
    assert [node.op_type for node in model.graph] == before


def test_unknown_rank_is_refused():
    model = graph(
        "int64[2] a = {2, 3}> { y = ReduceMean<keepdims=1>(x, a) }", inputs="float[] x", outputs="float[] y"
    )
    model.graph.inputs[0].shape = None
    assert canonicalize_head(model) == 0


def test_a_shared_matmul_keeps_its_value():
    model = graph(
        "float[4,2] w = {1,2,3,4,5,6,7,8}, float[2] b = {1, 2}> { m = MatMul(x, w) y = Add(m, b) }",
        inputs="float[N,4] x",
        outputs="float[N,2] y, float[N,2] m",
    )
    canonicalize_head(model)
    assert [node.op_type for node in model.graph] == ["Gemm", "Add"]


@pytest.mark.parametrize("turned", ["", "v = Transpose(w)", "v = Transpose<perm=[1, 0]>(w)"])
def test_matmul_and_add_become_gemm(turned):
    stored = "float[2,4] w = {1,3,5,7,2,4,6,8}" if turned else "float[4,2] v = {1,2,3,4,5,6,7,8}"
    model = graph(
        f"{stored}, float[2] b = {{1, 2}}> {{ {turned} m = MatMul(x, v) y = Add(m, b) }}",
        inputs="float[N,4] x",
        outputs="float[N,2] y",
    )
    assert canonicalize_head(model) == 1
    assert [node.op_type for node in model.graph] == ["Gemm"]
    assert model.graph.outputs[0].name == "y"
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    expected = x @ np.arange(1, 9, dtype=np.float32).reshape(4, 2) + np.array([1, 2], np.float32)
    assert np.array_equal(session.run(None, {"x": x})[0], expected)
