"""ONNX's evaluator gives values in float64 where it is given some."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from fxexport.onnx_graph.evaluated import evaluated64

X = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)


def normalised(x: np.ndarray) -> np.ndarray:
    groups = x.reshape(2, 2, -1)
    spread = np.sqrt(groups.var(-1, keepdims=True) + np.float64(np.float32(1e-5)))
    found: np.ndarray = ((groups - groups.mean(-1, keepdims=True)) / spread).reshape(x.shape)
    return found


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Erf(x)", np.vectorize(math.erf)(X.astype(np.float64))),
        ("y = GroupNormalization<num_groups = 2>(x, one, zero)", normalised(X.astype(np.float64))),
    ],
)
def test_nothing_is_computed_in_fewer_digits_within(body: str, expected: np.ndarray) -> None:
    tensors = "float[4] one = {1, 1, 1, 1}, float[4] zero = {0, 0, 0, 0}"
    text = f'<ir_version: 10, opset_import: ["": 21]> g (float[2, 4, 3] x) => (float[2, 4, 3] y) <{tensors}>'
    found = evaluated64(parser.parse_model(f"{text} {{ {body} }}"), {}, [X])
    assert found is not None
    assert np.abs(found["y"] - expected).max() < 1e-13


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("axis", [None, 0, 2])
def test_steps_are_those_of_the_runtime(kind: str, axis: int | None) -> None:
    rng = np.random.default_rng(0)
    shape = () if axis is None else (3,)
    scale, zero = rng.uniform(0.02, 0.1, shape).astype(np.float32), np.full(shape, 3, kind)
    how = "" if axis is None else f"<axis = {axis}>"
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 21]> g (float[3,2,3] x) => (float[3,2,3] y) '
        f"{{ q = QuantizeLinear {how} (x, s, z) y = DequantizeLinear {how} (q, s, z) }}"
    )
    held = {"s": scale, "z": zero}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    x = rng.standard_normal((3, 2, 3)).astype(np.float32) * 9
    (expected,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    found = evaluated64(model, {}, [x])
    assert found is not None
    assert found["y"].dtype == np.float64
    np.testing.assert_allclose(found["y"], expected, rtol=1e-6)
