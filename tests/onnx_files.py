"""Small ONNX classifiers written down as text, and what they compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

Array = np.ndarray[Any, Any]

BACKBONE = "m = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, stem) r = Relu(m)"


def classifier(
    body: str,
    constants: Mapping[str, Any],
    *,
    opset: int = 17,
    dims: str = "N,3,6,6",
    result: str = "float[N,5] y",
    also: str = "",
    ir_version: int = 8,
) -> onnx.ModelProto:
    """A model with a stem of 8 channels, whose head is ``body``: reads ``r``, gives ``y``."""
    domains = f'"" : {opset}' + also
    text = (
        f"<ir_version: {ir_version}, opset_import: [{domains}]>\n"
        f"net (float[{dims}] x) => ({result}) {{ {BACKBONE} {body} }}"
    )
    model = parser.parse_model(text)
    for name, value in {"stem": weights(8, 3, 3, 3), **constants}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def weights(*shape: int, seed: int = 0) -> Array:
    """Random weights."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def images(batch: int = 3, channels: int = 3, size: int = 6) -> Array:
    """Random images."""
    return weights(batch, channels, size, size, seed=1)


def outputs(model: onnx.ModelProto | bytes, *inputs: Array) -> list[Array]:
    """What ONNX Runtime computes, without optimising."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    found: list[Array] = session.run(None, dict(zip(names, inputs, strict=True)))
    return found


def require_same(one: onnx.ModelProto, other: onnx.ModelProto, *inputs: Array) -> None:
    """Checks that two models give outputs of the same shapes, and values but for rounding."""
    pairs = zip(outputs(one, *inputs), outputs(other, *inputs), strict=True)
    for before, after in pairs:
        assert before.shape == after.shape
        assert before.dtype == after.dtype
        np.testing.assert_allclose(after, before, rtol=2e-5, atol=2e-6 * float(np.abs(before).max() or 1))


def operators(model: onnx.ModelProto) -> list[str]:
    """The operators of a model's head, in order."""
    return [node.op_type for node in model.graph.node][2:]
