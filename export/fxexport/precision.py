"""What precision a session really computes in: measured, since what a provider says of it may be nothing.

A product with the identity is exact in any precision that holds its operand, whatever the order of the sum.
So the operand comes back as it is, or as the nearest value that the session's precision has: ``1 + 2⁻²⁰``
needs 21 significant bits (fp32 has 24), ``1 + 2⁻⁹`` ten (TF32 and fp16 have 11, bf16 has 8), and ``2²⁰`` is
beyond fp16.
"""

from __future__ import annotations

import enum
import functools

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from fxexport.providers import Session
from fxpasses.errors import ProviderError

_SIZE = 64
"""Of the matrix: large enough that a provider takes its usual kernel."""

_FINE, _COARSE, _LARGE = 1 + 2.0**-20, 1 + 2.0**-9, 2.0**20
_NEAR = 2.0**-21
"""Relative: a further rounding to fp32 on the way does not count."""


class ProductFormat(enum.StrEnum):
    """The format in which products are taken, by what it can hold."""

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"


@functools.cache
def measured_precision(target: str) -> ProductFormat:
    """The coarsest precision that a target takes in a matrix product and in a convolution of fp32 values.

    ``target`` is a provider, or one with ``:defaults``; see ``fxexport.providers``.

    Raises:
        ProviderError: the provider is missing or does not run the probe.
    """
    values = np.tile(np.array([_FINE, _COARSE, _LARGE, 1.0], np.float32), (8, _SIZE // 4))
    model = _probe()
    found = [_precision_of(output.reshape(8, _SIZE)) for output in Session(model, target).run((values,))]
    return max(found, key=list(ProductFormat).index)


def precision_on(target: str) -> ProductFormat | None:
    """``measured_precision``; None where the provider does not run the probe."""
    try:
        return measured_precision(target)
    except ProviderError:
        return None


def _precision_of(result: NDArray[np.float32]) -> ProductFormat:
    fine, coarse, large = (result[:, column].astype(np.float64) for column in range(3))
    if np.all(np.abs(fine - _FINE) < _NEAR):
        return ProductFormat.FP32
    if not np.all(np.abs(coarse - _COARSE) < _NEAR):
        return ProductFormat.BF16
    return (
        ProductFormat.TF32 if np.all(np.isfinite(large)) and np.all(large == _LARGE) else ProductFormat.FP16
    )


def _probe() -> bytes:
    """``[8, 64]`` times the identity, as a product and as a 1×1 convolution."""
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 18]>
        precision (float[8, {_SIZE}] x) => (float[8, {_SIZE}] product, float[8, {_SIZE}, 1, 1] convolved) {{
            product = MatMul(x, matrix)
            map = Reshape(x, map_shape)
            convolved = Conv(map, kernel)
        }}"""
    )
    identity = np.eye(_SIZE, dtype=np.float32)
    constants = {
        "matrix": identity,
        "kernel": identity.reshape(_SIZE, _SIZE, 1, 1),
        "map_shape": np.array([8, _SIZE, 1, 1]),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    data: bytes = model.SerializeToString()
    return data
