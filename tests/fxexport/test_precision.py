"""The precision that a session really has is measured: the probe tells the formats apart."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
import torch

import fxexport.precision
from fxexport import Mode, certify, export_onnx
from fxexport.precision import ProductFormat, measured_precision
from fxexport.providers import Session
from fxpasses.errors import ProviderError
from tests.fxexport.pairs import small_pair


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
    assert measured_precision("cpu") is ProductFormat.FP32


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


def coarser_products(monkeypatch: pytest.MonkeyPatch, coarse: str) -> None:
    """Sessions take products in less than fp32 without a word, as OpenVINO's and Qualcomm's may."""
    real = Session.run

    def run(self, inputs):
        outputs = real(self, inputs)
        is_probe = "product" in self.output_names
        return tuple(CASTS[coarse](output) for output in outputs) if is_probe else outputs

    monkeypatch.setattr(Session, "run", run)
    uncached = fxexport.precision.measured_precision.__wrapped__
    monkeypatch.setattr(fxexport.precision, "measured_precision", uncached)


def test_the_certificate_says_what_was_asked_for_and_what_is_done(tmp_path, monkeypatch):
    files = [
        export_onnx(m, torch.randn(2, 3, 9, 9), tmp_path / f"{i}.onnx") for i, m in enumerate(small_pair())
    ]
    (exact,) = certify(*files).targets
    assert (exact.asked_precision, exact.measured_precision, exact.coarser) == ("fp32", "fp32", None)
    (eager,) = certify(*small_pair(), torch.randn(2, 3, 9, 9)).targets
    assert (eager.asked_precision, eager.measured_precision, eager.coarser) == (None, None, None)
    coarser_products(monkeypatch, "bf16")
    certificate = certify(*files)
    (target,) = certificate.targets
    assert target.coarser == "cpu was asked for fp32, and takes products in bf16 (measured)"
    assert certificate.to_dict()["targets"][0]["measured_precision"] == "bf16"
    as_it_comes = dataclasses.replace(target, mode=Mode.DEFAULTS, asked_precision=None)
    assert as_it_comes.coarser == "cpu takes, with its defaults, products in bf16 (measured)"


def test_a_provider_that_does_not_run_the_probe_has_no_precision(monkeypatch):
    def refuse(target):
        raise ProviderError("no session", where=target)

    monkeypatch.setattr(fxexport.precision, "measured_precision", refuse)
    assert fxexport.precision.precision_on("coreml") is None


def test_one_further_rounding_to_fp32_does_not_count(monkeypatch):
    real = Session.run
    monkeypatch.setattr(
        Session, "run", lambda self, inputs: [np.nextafter(y, np.float32(9e9)) for y in real(self, inputs)]
    )
    assert measured_precision.__wrapped__("cpu") is ProductFormat.FP32
