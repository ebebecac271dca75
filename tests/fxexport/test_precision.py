"""The precision that a session really has is measured: the probe tells the formats apart."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import fxexport.precision
from fxexport.precision import Precision, measured_precision
from fxexport.providers import Session


def in_tf32(values: np.ndarray) -> np.ndarray:
    """fp32 values to the nearest with eleven significant bits."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


CASTS = {
    "fp32": lambda values: values,
    "tf32": in_tf32,
    "fp16": lambda values: values.astype(np.float16).astype(np.float32),
    "bf16": lambda values: values.astype(ml_dtypes.bfloat16).astype(np.float32),
}


def test_the_cpu_provider_takes_fp32_for_fp32():
    assert measured_precision("cpu") is Precision.FP32


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("coarse", CASTS)
@pytest.mark.parametrize("of", ["product", "convolution"])
def test_a_coarser_product_or_convolution_is_seen(coarse, of, monkeypatch):
    real = Session.run

    def coarser(self, inputs):
        product, convolved = real(self, inputs)
        return (CASTS[coarse](product), convolved) if of == "product" else (product, CASTS[coarse](convolved))

    monkeypatch.setattr(Session, "run", coarser)
    assert str(fxexport.precision.measured_precision.__wrapped__("cpu")) == coarse


def test_one_further_rounding_to_fp32_does_not_count(monkeypatch):
    real = Session.run
    monkeypatch.setattr(
        Session, "run", lambda self, inputs: [np.nextafter(y, np.float32(9e9)) for y in real(self, inputs)]
    )
    assert measured_precision.__wrapped__("cpu") is Precision.FP32
