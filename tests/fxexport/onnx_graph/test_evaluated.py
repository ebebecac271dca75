"""ONNX's evaluator gives values in float64 where it is given some."""

from __future__ import annotations

import math

import numpy as np
import onnx.parser
import pytest

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
    found = evaluated64(onnx.parser.parse_model(f"{text} {{ {body} }}"), {}, [X])
    assert found is not None
    assert np.abs(found["y"] - expected).max() < 1e-13
