"""Weights beside the file, files larger than protobuf can hold, weights that two files share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export import Status, Verdict, certify
from export.heads import OnnxSubject
from export.weight_pool import WeightPool

LIMIT = 2**31


def write(path: Path, out: int, channels: int, side: int, form: str, *, shift: int = 0) -> Path:
    """A head over a ``side × side`` map, its weights in a file of their own, written piece by piece."""
    count = channels * side * side
    dims = [out, channels, side, side] if form == "conv" else [out, count]
    weight = TensorProto(name="fc.weight", data_type=TensorProto.FLOAT, dims=dims)
    weight.data_location = TensorProto.EXTERNAL
    data = path.with_suffix(".data")
    for key, value in (("location", data.name), ("offset", "0"), ("length", str(4 * out * count))):
        weight.external_data.add(key=key, value=value)
    with data.open("wb") as file:
        for row in range(out):
            rng = np.random.default_rng(row + shift)
            (rng.standard_normal(count, np.float32) / np.float32(count)).tofile(file)
    bias = helper.make_tensor("fc.bias", TensorProto.FLOAT, [out], np.arange(out, dtype=np.float32))
    nodes = [
        helper.make_node("Relu", ["x"], ["map"]),
        *(
            [
                helper.make_node("Conv", ["map", "fc.weight", "fc.bias"], ["cells"]),
                helper.make_node("Flatten", ["cells"], ["logits"]),
            ]
            if form == "conv"
            else [
                helper.make_node("Flatten", ["map"], ["features"]),
                helper.make_node("Gemm", ["features", "fc.weight", "fc.bias"], ["logits"], transB=1),
            ]
        ),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "head",
        [value("x", TensorProto.FLOAT, ["batch", channels, side, side])],
        [value("logits", TensorProto.FLOAT, ["batch", out])],
        [weight, bias],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_weights_beside_the_file(tmp_path):
    files = [write(tmp_path / f"{form}.onnx", 5, 8, 3, form) for form in ("linear", "conv")]
    certificate = certify(*files)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    other = write(tmp_path / "other.onnx", 5, 8, 3, "conv", shift=1)
    certificate = certify(files[0], other)
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
    """Both forms of a 4096 × 135,168 head, 2.2 GB each."""
    files = [write(tmp_path / f"{form}.onnx", 4096, 2112, 8, form) for form in ("linear", "conv")]
    assert all(path.with_suffix(".data").stat().st_size > LIMIT for path in files)
    certificate = certify(*files)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
