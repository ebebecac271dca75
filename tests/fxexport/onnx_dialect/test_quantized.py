"""Quantised heads: integers are viewed and never requantised, scales stay with their outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

from fxexport import Verdict, certify
from fxexport.onnx_dialect.rewrite import rewrite_onnx
from fxhead.check.lines import certificate_lines
from onnx_files import classifier, images, operators, require_same, weights

B = weights(5)
LOOP = (
    "p0 = GlobalAveragePool(r) pq = QuantizeLinear(p0, ps, pz) p = DequantizeLinear(pq, ps, pz) "
    "f0 = Flatten(p) fq = QuantizeLinear(f0, ps, pz) f = DequantizeLinear(fq, ps, pz) "
)
SCALES: dict[str, Any] = {
    "ps": np.array(0.02, np.float32),
    "pz": np.array(3, np.uint8),
    "ys": np.array(0.1, np.float32),
    "yz": np.array(128, np.uint8),
}
PER_CHANNEL = {"ws": np.linspace(0.01, 0.03, 5).astype(np.float32), "wz": np.zeros(5, np.int8)}
PER_TENSOR = {"ws": np.array(0.01, np.float32), "wz": np.array(0, np.int8)}
OUT = "yq = QuantizeLinear(g, ys, yz) y = DequantizeLinear(yq, ys, yz)"


def integers(*shape: int) -> Any:
    return np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)


HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "per tensor": (
        "w = DequantizeLinear(wq, ws, wz) g = Gemm<transB=1>(f, w, b)",
        {"wq": integers(5, 8), **PER_TENSOR, "b": B},
    ),
    "per channel": (
        "w = DequantizeLinear<axis=0>(wq, ws, wz) g = Gemm<transB=1>(f, w, b)",
        {"wq": integers(5, 8), **PER_CHANNEL, "b": B},
    ),
    "per channel, from behind": (
        "w = DequantizeLinear<axis=-2>(wq, ws, wz) g = Gemm<transB=1>(f, w, b)",
        {"wq": integers(5, 8), **PER_CHANNEL, "b": B},
    ),
    "per channel, untransposed": (
        "w = DequantizeLinear(wq, ws, wz) g = Gemm(f, w, b)",
        {"wq": integers(8, 5), **PER_CHANNEL, "b": B},
    ),
    "matmul": (
        "w = DequantizeLinear<axis=1>(wq, ws, wz) q = MatMul(f, w) g = Add(q, b)",
        {"wq": integers(8, 5), **PER_CHANNEL, "b": B},
    ),
    "bias": (
        "w = DequantizeLinear<axis=0>(wq, ws, wz) b = DequantizeLinear<axis=0>(bq, bs) "
        "g = Gemm<transB=1>(f, w, b)",
        {
            "wq": integers(5, 8),
            **PER_CHANNEL,
            "bq": np.arange(-2, 3, dtype=np.int32) * 100,
            "bs": PER_CHANNEL["ws"] * np.float32(0.02),
        },
    ),
    "quantised in the graph": (
        "q = QuantizeLinear<axis=0>(wf, ws, wz) w = DequantizeLinear<axis=0>(q, ws, wz) "
        "g = Gemm<transB=1>(f, w, b)",
        {"wf": weights(5, 8), **PER_CHANNEL, "b": B},
    ),
    "quantised in the graph, untransposed": (
        "q = QuantizeLinear(wf, ws, wz) w = DequantizeLinear(q, ws, wz) g = Gemm(f, w, b)",
        {"wf": weights(8, 5), **PER_CHANNEL, "b": B},
    ),
    "held between limits": (
        "c = Clip(wq, lo, hi) w = DequantizeLinear<axis=0>(c, ws, wz) g = Gemm<transB=1>(f, w, b)",
        {
            "wq": integers(5, 8),
            **PER_CHANNEL,
            "b": B,
            "lo": np.array(-100, np.int8),
            "hi": np.array(100, np.int8),
        },
    ),
    "quantised in the graph, and held": (
        "q = QuantizeLinear<axis=0>(wf, ws, wz) c = Clip(q, lo, hi) w = DequantizeLinear<axis=0>(c, ws, wz) "
        "g = Gemm<transB=1>(f, w, b)",
        {
            "wf": weights(5, 8),
            **PER_CHANNEL,
            "b": B,
            "lo": np.array(-100, np.int8),
            "hi": np.array(100, np.int8),
        },
    ),
    "the runtime's own operators": (
        "w = com.microsoft.DequantizeLinear<axis=0>(wq, ws, wz) g = Gemm<transB=1>(f, w, b)",
        {"wq": integers(5, 8), **PER_CHANNEL, "b": B},
    ),
}


def quantized(name: str) -> onnx.ModelProto:
    body, constants = HEADS[name]
    whole = LOOP + body + OUT
    if "microsoft" in body:
        whole = re.sub(r"= ([QD])", r"= com.microsoft.\1", whole)
    return classifier(whole, {**constants, **SCALES}, opset=13, also=', "com.microsoft" : 1')


@pytest.mark.parametrize("name", HEADS)
def test_a_quantised_head_becomes_a_convolution_and_comes_back(name: str) -> None:
    model = quantized(name)
    made = rewrite_onnx(model, to="conv")
    assert [miss.code for miss in made.report.misses] == []
    assert "Conv" in operators(made.module)
    assert not {"Gemm", "MatMul"} & {*operators(made.module)}
    onnx.checker.check_model(made.module, full_check=True)
    for batch in (1, 2, 5):
        require_same(model, made.module, images(batch))
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()
    del made.module.metadata_props[:]
    linear = rewrite_onnx(made.module, to="linear").module
    assert "Conv" not in operators(linear)
    require_same(model, linear, images())


@pytest.mark.parametrize("name", HEADS)
def test_a_quantised_head_is_proved(name: str, tmp_path: Path) -> None:
    files = tmp_path / "linear.onnx", tmp_path / "conv.onnx"
    model = quantized(name)
    for path, made in zip(files, (model, rewrite_onnx(model, to="conv").module), strict=True):
        onnx.save(made, path)
    certificate = certify(*files, images(3))
    assert certificate.verdict is Verdict.PROVED
    assert "the last bits of what 'yq' rounds" in certificate.reason  # behind the site, and nothing before
    assert "without one" not in certificate.reason  # every output has a bound


def test_integer_kernels_break_nothing(tmp_path: Path) -> None:
    """They take another step where a sum lies between two: the file was called broken."""
    model = quantized("bias")
    spread = {
        "r": np.linspace(-4, 4, 3 * 36 * 40, dtype=np.float32).reshape(40, 3, 6, 6),
        "n": -np.abs(images(40)),
    }
    files = tmp_path / "linear.onnx", tmp_path / "conv.onnx"
    for path, made in zip(files, (model, rewrite_onnx(model, to="conv").module), strict=True):
        onnx.save(made, path)
    for given in spread.values():
        assert certify(*files, given).verdict is Verdict.PROVED


def test_what_integer_kernels_make_of_the_two_is_measured_beside_the_verdict(tmp_path: Path) -> None:
    files, given = (tmp_path / "linear.onnx", tmp_path / "conv.onnx"), images(40)
    model = quantized("matmul")
    for path, made in zip(files, (model, rewrite_onnx(model, to="conv").module), strict=True):
        onnx.save(made, path)
    a, b = (onnxruntime.InferenceSession(path).run(None, {"x": given})[0] for path in files)
    certificate = certify(*files, given)
    (found,) = certificate.by_default
    assert (found.provider, found.samples, found.max_bound) == ("cpu:defaults", 40, None)
    assert found.max_difference == np.abs(a.astype(np.float64) - b).max() > 0.09  # a step of the output
    assert found.flips == (a.argmax(1) != b.argmax(1)).sum()
    told = "'y' differs by at most 0.1, and 40 of 40 samples keep their class"
    assert f"integer kernels: {told} (measured on cpu:defaults, beside the verdict)" in [
        *certificate_lines(certificate)
    ]
    assert certificate.verdict is Verdict.PROVED
    assert all("defaults" not in item.provider for item in certificate.statistics)
    assert certificate.to_dict()["by_default"][0]["flips"] == 0


def test_a_value_that_is_quantised_twice_in_turn_is_run_so(tmp_path: Path) -> None:
    """Where no Flatten is between them ONNX Runtime makes one of the two: such files were broken."""
    body = (
        "p = GlobalAveragePool(r) q = QuantizeLinear(p, s, z) d = DequantizeLinear(q, s, z) f = Flatten(d) "
        "t = QuantizeLinear(f, u, z) e = DequantizeLinear(t, u, z) g = Gemm<transB=1>(e, w, b) "
        "h = QuantizeLinear(g, v, z) y = DequantizeLinear(h, v, z)"
    )
    scales = {"s": np.float32(0.02), "u": np.float32(0.027), "v": np.float32(0.05), "z": np.uint8(128)}
    stored = {name: np.asarray(number) for name, number in scales.items()}
    model = classifier(body, {"w": weights(5, 8), "b": B, **stored}, opset=13)
    given = images(40)
    made = rewrite_onnx(model, to="conv").module
    a, b = (
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"x": given})[0] for m in (model, made)
    )
    certificate = certify(model, made, given)
    assert certificate.verdict is Verdict.PROVED
    assert certificate.by_default[0].max_difference == np.abs(a.astype(np.float64) - b).max() > 0.01


def test_a_file_that_quantises_nothing_has_no_such_figure() -> None:
    body = "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b)"
    model = classifier(body, {"w": weights(5, 8), "b": B}, opset=13)
    assert certify(model, rewrite_onnx(model, to="conv").module, images(3)).by_default == ()


@pytest.mark.parametrize("what", ["scale", "zero point", "axis", "another channel's scale"])
def test_a_damaged_head_is_broken(what: str, tmp_path: Path) -> None:
    model = quantized("per channel")
    made = rewrite_onnx(model, to="conv").module
    held = {tensor.name: tensor for tensor in made.graph.initializer}
    scales = PER_CHANNEL["ws"]
    if what == "axis":
        body, constants = HEADS["per channel"]
        square = {**constants, "wq": integers(8, 8), "ws": np.linspace(0.01, 0.03, 8).astype(np.float32)}
        square |= {"wz": np.zeros(8, np.int8), "b": weights(8)}
        model = classifier(LOOP + body + OUT, {**square, **SCALES}, opset=13, result="float[N,8] y")
        made = rewrite_onnx(model, to="conv").module
        (node,) = (node for node in made.graph.node if node.output[0] == "w")
        node.attribute[0].i = 1
    elif what == "zero point":
        held["wz"].CopyFrom(numpy_helper.from_array(np.array([0, 0, 1, 0, 0], np.int8), "wz"))
    else:
        other = scales * np.float32(1.01) if what == "scale" else scales[[1, 0, 2, 3, 4]]
        held["ws"].CopyFrom(numpy_helper.from_array(other, "ws"))
    files = tmp_path / "linear.onnx", tmp_path / "conv.onnx"
    for path, file in zip(files, (model, made), strict=True):
        onnx.save(file, path)
    assert certify(*files, images(3)).verdict is Verdict.BROKEN


LEVELS = "q = QuantizeLinear<axis={1}>({0}, s, z) d = DequantizeLinear<axis={1}>(q, s, z) "
ALONG = {
    "behind a flatten": "p = GlobalAveragePool(r) f = Flatten(p) "
    + LEVELS.format("f", 1)
    + "y = Gemm(d, w, b)",
    "counted from behind": "p = GlobalAveragePool(r) f = Flatten(p) "
    + LEVELS.format("f", -1)
    + "y = Gemm(d, w, b)",
    "before a convolution": "p = GlobalAveragePool(r) "
    + LEVELS.format("p", 1)
    + "c = Conv(d, k, b) y = Flatten(c)",
    "before a convolution, counted from behind": "p = GlobalAveragePool(r) "
    + LEVELS.format("p", -3)
    + "c = Conv(d, k, b) y = Flatten(c)",
}


@pytest.mark.parametrize("name", ALONG)
def test_values_with_a_scale_for_each_channel(name: str) -> None:
    """Their scales were laid out as maps, which the operator does not take: the file did not run."""
    stored = {"s": np.abs(weights(8)) + np.float32(0.1), "z": np.arange(8, dtype=np.int8)}
    stored |= {"w": weights(8, 5)} if "Gemm" in ALONG[name] else {"k": weights(5, 8, 1, 1)}
    model = classifier(ALONG[name], {**stored, "b": B}, opset=13)
    there, back = ("conv", "linear") if "Gemm" in ALONG[name] else ("linear", "conv")
    made = rewrite_onnx(model, to=there).module
    require_same(model, made, images())
    assert rewrite_onnx(made, to=back).module.SerializeToString() == model.SerializeToString()


def test_declarations_of_dequantised_weights_follow() -> None:
    model = quantized("per channel")
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [5, 8]))
    made = rewrite_onnx(model, to="conv").module
    onnx.checker.check_model(made, full_check=True)
    (declared,) = (value for value in made.graph.value_info if value.name == "w")
    assert [dim.dim_value for dim in declared.type.tensor_type.shape.dim] == [5, 8, 1, 1]


def test_integers_keep_their_bytes() -> None:
    model = quantized("per channel")
    made = rewrite_onnx(model, to="conv")
    held = {tensor.name: tensor for tensor in made.module.graph.initializer}["wq"]
    assert (tuple(held.dims), held.data_type) == ((5, 8, 1, 1), onnx.TensorProto.INT8)
    assert held.raw_data == HEADS["per channel"][1]["wq"].tobytes()
    assert [entry.copied_bytes for entry in made.report.rewrites] == [0]


def test_one_number_of_four_bits() -> None:
    """Its byte was made a shape of no axes: the file was called broken."""
    values = np.random.default_rng(1).integers(-7, 8, (6, 8)).astype(np.int8)
    model = classifier(
        "p = GlobalAveragePool(r) f = Flatten(p) w = com.microsoft.DequantizeLinear(wq, ws, wz) "
        "y = Gemm<transB=1>(f, w, b)",
        {"ws": np.float32(0.1), "b": weights(6)},
        result="float[N,6] y",
        also=', "com.microsoft" : 1',
    )
    for name, given in {"wq": values, "wz": np.array(0, np.int8)}.items():
        held = onnx.helper.make_tensor(name, onnx.TensorProto.INT4, given.shape, given.reshape(-1))
        model.graph.initializer.append(held)
    made = rewrite_onnx(model, to="conv").module
    assert operators(made) == ["GlobalAveragePool", "DequantizeLinear", "Conv", "Flatten"]
    require_same(model, made, images())


@pytest.mark.parametrize("transposed", [False, True])
def test_four_bits_a_number(transposed: bool) -> None:
    values = np.random.default_rng(1).integers(-7, 8, (8, 6) if transposed else (6, 8)).astype(np.int8)
    scale = np.linspace(0.1, 0.2, 6).astype(np.float32)
    body = "w = DequantizeLinear<axis=%d>(wq, ws) y = Gemm<transB=%d>(f, w, b)"
    model = classifier(
        "p = GlobalAveragePool(r) f = Flatten(p) " + body % ((1, 0) if transposed else (0, 1)),
        {"ws": scale, "b": weights(6)},
        opset=21,
        result="float[N,6] y",
        ir_version=10,
    )
    held = onnx.helper.make_tensor("wq", onnx.TensorProto.INT4, values.shape, values)
    model.graph.initializer.append(held)
    made = rewrite_onnx(model, to="conv")
    assert len(made.report.rewrites) == 1
    onnx.checker.check_model(made.module, full_check=True)
    require_same(model, made.module, images())
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()


QLINEAR = (
    "p0 = GlobalAveragePool(r) f0 = Flatten(p0) fq = QuantizeLinear(f0, ps, pz) "
    "yq = QLinearMatMul(fq, ps, pz, wq, ws, wz, ys, yz) y = DequantizeLinear(yq, ys, yz)"
)
MISSES: dict[str, tuple[str, dict[str, Any]]] = {
    "a convolution whose weight is computed": (
        "p = GlobalAveragePool(r) v = Relu(wq) w = DequantizeLinear(v, ws, wz) c = Conv(p, w, b) "
        "y = Flatten(c)",
        {"wq": integers(5, 8, 1, 1), **PER_TENSOR, "b": B},
    ),
    "QLinear": (QLINEAR, {"wq": integers(8, 5), **PER_TENSOR}),
    "integers": (
        "p0 = GlobalAveragePool(r) f0 = Flatten(p0) fq = QuantizeLinear(f0, ps, pz) "
        "i = MatMulInteger(fq, wq, pz) c = Cast<to=1>(i) y = Mul(c, ys)",
        {"wq": integers(8, 5)},
    ),
    "integers that no pool gives": (
        "f0 = Flatten(x) fq, fs, fz = DynamicQuantizeLinear(f0) "
        "i = MatMulInteger(fq, wq, fz) c = Cast<to=1>(i) y = Mul(c, fs)",
        {"wq": integers(108, 5)},
    ),
    "a scale for each input": (
        LOOP + "w = DequantizeLinear<axis=1>(wq, ws, wz) y = Gemm<transB=1>(f, w, b)",
        {
            "wq": integers(5, 8),
            "ws": np.linspace(0.01, 0.03, 8).astype(np.float32),
            "wz": np.zeros(8, np.int8),
            "b": B,
        },
    ),
}


@pytest.mark.parametrize("name", MISSES)
def test_what_cannot_be_viewed_is_a_miss(name: str) -> None:
    body, constants = MISSES[name]
    used = {
        key: value for key, value in {**SCALES, **constants}.items() if f"{key}," in body or f"{key})" in body
    }
    model = classifier(body, used, opset=13)
    missed = rewrite_onnx(model, to="linear" if "Conv" in body else "conv")
    assert [miss.code for miss in missed.report.misses] == ["QUANTIZED"]
    assert missed.module == model


class Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """A few images."""

    def __init__(self) -> None:
        self.left = [{"x": images(1)}, {"x": images(2)[1:]}]

    def get_next(self) -> dict[str, Any] | None:
        return self.left.pop() if self.left else None


FORMS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "conv": ("p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b)", (5, 8), "Gemm"),
    "linear": ("p = GlobalAveragePool(r) c = Conv(p, w, b) y = Flatten(c)", (5, 8, 1, 1), "Conv"),
}


@pytest.mark.parametrize("is_dynamic", [False, True])
@pytest.mark.parametrize("to", FORMS)
def test_what_a_quantiser_made_of_a_head_is_a_miss(tmp_path: Path, to: str, is_dynamic: bool) -> None:
    body, shape, operator = FORMS[to]
    model = classifier(body, {"w": weights(*shape), "b": B})
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type} {number}"
    source, target = tmp_path / "float.onnx", tmp_path / "integer.onnx"
    onnx.save(model, source)
    if is_dynamic:
        quantize_dynamic(source, target)
    else:
        quantize_static(source, target, Calibration(), quant_format=QuantFormat.QOperator)
    missed = rewrite_onnx(target, to=to)
    assert [miss.code for miss in missed.report.misses] == ["QUANTIZED"]
    assert missed.report.misses[0].node.startswith(operator)
    assert missed.module == onnx.load(target)


def test_a_head_of_floats_behind_a_pool_of_integers() -> None:
    body = (
        "rq = QuantizeLinear(r, ps, pz) pq = com.microsoft.QLinearGlobalAveragePool(rq, ps, pz, ps, pz) "
        "p = DequantizeLinear(pq, ps, pz) f = Flatten(p) y = Gemm<transB=1>(f, w, b)"
    )
    constants = {"ps": SCALES["ps"], "pz": SCALES["pz"], "w": weights(5, 8), "b": B}
    model = classifier(body, constants, opset=13, also=', "com.microsoft" : 1')
    made = rewrite_onnx(model, to="conv").module
    assert operators(made)[1:] == ["QLinearGlobalAveragePool", "DequantizeLinear", "Conv", "Flatten"]
    require_same(model, made, images())
    assert rewrite_onnx(made, to="linear").module.SerializeToString() == model.SerializeToString()
    assert not rewrite_onnx(model, to="dense").report.rewrites


def test_what_only_a_runtime_computes_has_the_shape_that_is_declared() -> None:
    """Nothing behind it had one: the file ended in an error of its graph."""
    head = LOOP + "h = com.microsoft.Gelu(f) hq = QuantizeLinear(h, ps, pz) i = DequantizeLinear(hq, ps, pz) "
    model = classifier(
        head + "w = DequantizeLinear(wq, ws, wz) g = Gemm<transB=1>(i, w, b) " + OUT,
        {"wq": integers(5, 8), **PER_TENSOR, **SCALES, "b": B},
        also=', "com.microsoft" : 1',
    )
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("h", 1, ["N", 8]))
    require_same(model, rewrite_onnx(model, to="conv").module, images())


@pytest.mark.parametrize("scale", ["", "s = Constant<value_float=1.5>() d = Mul(a, s) "])
def test_quantised_values_behind_a_grid_keep_their_declared_type(scale: str) -> None:
    """As files for NPUs have it: the pool's grid is scaled, then quantised on either side of the view."""
    pooled = f"a = AveragePool<kernel_shape=[3,3], strides=[3,3]>(r) {scale}"
    head = LOOP.replace("p0 = GlobalAveragePool(r)", pooled).replace("(p0,", "(d," if scale else "(a,")
    model = classifier(
        head + "w = DequantizeLinear(wq, ws, wz) g = Gemm<transB=1>(f, w, b) " + OUT,
        {"wq": integers(5, 32), **PER_TENSOR, **SCALES, "b": B},
    )
    model = onnx.shape_inference.infer_shapes(model)
    made = rewrite_onnx(model, to="conv")
    assert [entry.site.name for entry in made.report.rewrites] == ["wq"]
    onnx.checker.check_model(made.module, full_check=True)
    require_same(model, made.module, images())
