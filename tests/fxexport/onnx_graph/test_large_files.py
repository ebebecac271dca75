"""Weights beside the file, files larger than protobuf can hold, weights that two files share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fxexport import Status, Verdict, certify
from fxexport.onnx_dialect.arrays import WeightPool
from fxexport.subjects.onnx_subject import OnnxSubject

LIMIT = 2**31


def write(path: Path, out: int, channels: int, side: int, form: str, *, heads: int = 1) -> Path:
    """Heads over one ``side × side`` map, their weights in a file of their own, written piece by piece."""
    value = helper.make_tensor_value_info
    count = channels * side * side
    nodes = [helper.make_node("Relu", ["x"], ["map"])]
    if form == "linear":
        nodes.append(helper.make_node("Flatten", ["map"], ["features"]))
    tensors, outputs = [], []
    data = path.with_suffix(".data")
    with data.open("wb") as file:
        for head in range(heads):
            tensors += [_outside(head, out, channels, side, form, data.name, file.tell()), _bias(head, out)]
            values = np.random.default_rng(head).standard_normal(count + out, np.float32)
            values /= np.float32(count)
            for row in range(out):
                values[row : row + count].tofile(file)
            nodes += _head(head, form)
            outputs.append(value(f"logits{head}", TensorProto.FLOAT, ["batch", out]))
    source = value("x", TensorProto.FLOAT, ["batch", channels, side, side])
    graph = helper.make_graph(nodes, "heads", [source], outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def _outside(head: int, out: int, channels: int, side: int, form: str, file: str, offset: int) -> TensorProto:
    """A weight whose values lie in ``file``."""
    dims = [out, channels, side, side] if form == "conv" else [out, channels * side * side]
    weight = TensorProto(name=f"fc{head}.weight", data_type=TensorProto.FLOAT, dims=dims)
    weight.data_location = TensorProto.EXTERNAL
    length = 4 * out * channels * side * side
    for key, text in (("location", file), ("offset", str(offset)), ("length", str(length))):
        weight.external_data.add(key=key, value=text)
    return weight


def _bias(head: int, out: int) -> TensorProto:
    return helper.make_tensor(f"fc{head}.bias", TensorProto.FLOAT, [out], np.arange(out, dtype=np.float32))


def _head(head: int, form: str) -> list[onnx.NodeProto]:
    parameters = [f"fc{head}.weight", f"fc{head}.bias"]
    if form == "linear":
        return [helper.make_node("Gemm", ["features", *parameters], [f"logits{head}"], transB=1)]
    return [
        helper.make_node("Conv", ["map", *parameters], [f"cells{head}"]),
        helper.make_node("Flatten", [f"cells{head}"], [f"logits{head}"]),
    ]


def test_weights_beside_the_file(tmp_path):
    files = [write(tmp_path / f"{form}.onnx", 5, 8, 3, form) for form in ("linear", "conv")]
    certificate = certify(*files)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    data = files[1].with_suffix(".data")
    values = np.fromfile(data, np.float32)
    values[17] *= 2
    values.tofile(data)
    certificate = certify(*files)
    assert certificate.verdict is Verdict.BROKEN
    assert certificate.weights.status is Status.FAILED


def test_equal_weights_are_held_once(tmp_path):
    files = [write(tmp_path / f"{form}.onnx", 64, 8, 3, form) for form in ("linear", "conv")]
    pool = WeightPool()
    weights = [OnnxSubject(path, pool).head.sites[0].affine.weight for path in files]
    assert np.shares_memory(*weights)
    apart = [OnnxSubject(path).head.sites[0].affine.weight for path in files]
    assert not np.shares_memory(*apart)


def test_the_pool_tells_bits_apart():
    pool = WeightPool()
    first = pool.shared(np.zeros(10, np.float32))
    assert pool.shared(np.zeros((2, 5), np.float32)).base is first
    negative = np.zeros(10, np.float32)
    negative[7] = -0.0
    assert not np.shares_memory(pool.shared(negative), first)
    assert not np.shares_memory(pool.shared(np.zeros(10, np.int32)), first)
    nan = np.full(10, np.nan, np.float32)
    assert np.shares_memory(pool.shared(nan.copy()), pool.shared(nan.copy()))


@pytest.mark.slow
def test_a_file_of_more_than_two_gigabytes(tmp_path):
    """Both forms of four 2048 × 67,584 heads, 2.2 GB a file; one tensor has to stay below 2 GB."""
    files = [write(tmp_path / f"{form}.onnx", 2048, 1056, 8, form, heads=4) for form in ("linear", "conv")]
    assert all(path.with_suffix(".data").stat().st_size > LIMIT for path in files)
    certificate = certify(*files)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
