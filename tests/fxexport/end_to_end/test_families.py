"""A member of each torchvision family through both ONNX forms, exported and derived, and ONNX Runtime.

By default the smallest member that the family's own classes make; ``-m slow`` runs one of its real size.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from bench.derived import up_to_names
from fxexport import certify, export_onnx
from fxexport.providers import Session
from fxhead.rewriting.derive import derive
from fxpasses import rewrite
from tests.fxexport.mutations import families

SIDE = 64
FAMILIES = {
    "alexnet": 224,  # a smaller map is spread over the 6x6 positions that its head reads, not pooled
    "convnext_tiny": SIDE,
    "densenet121": SIDE,
    "efficientnet_b0": SIDE,
    "efficientnet_v2_s": SIDE,
    "googlenet": SIDE,
    "inception_v3": 96,
    "mnasnet0_5": SIDE,
    "mobilenet_v2": SIDE,
    "mobilenet_v3_small": SIDE,
    "regnet_x_400mf": SIDE,
    "regnet_y_400mf": SIDE,
    "resnet18": SIDE,
    "resnext50_32x4d": SIDE,
    "shufflenet_v2_x0_5": SIDE,
    "swin_t": SIDE,
}


def calibrated(name: str, side: int) -> torch.nn.Module:
    """The model with batch-norm statistics of random images, so that its features carry signal."""
    torch.manual_seed(0)
    has_auxiliary = name in ("googlenet", "inception_v3")
    options = {"init_weights": True, "aux_logits": False} if has_auxiliary else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns that its own initialisation is slow
        model = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, side, side))
    return model.eval()


def check_both_forms(model: torch.nn.Module, side: int, folder: Path) -> None:
    example = torch.randn(2, 3, side, side)
    result = rewrite(model, to="conv", example_inputs=example)
    assert result.report.rewrites
    linear = export_onnx(model, example, folder / "linear.onnx")
    conv = export_onnx(result.module, example, folder / "conv.onnx")
    assert derive(linear, folder / "derived.onnx", result.report)
    assert up_to_names(folder / "derived.onnx") == up_to_names(conv)
    sessions = [Session(path, "cpu") for path in (linear, conv)]
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, side, side)
        with torch.no_grad():
            expected = model(images).numpy()
        for session in sessions:
            (found,) = session.run([images.numpy()])
            assert found.shape == expected.shape
            assert np.array_equal(found.argmax(1), expected.argmax(1))
    certificate = certify(linear, conv, example, plan=result.plan)
    assert str(certificate.verdict) == "proved", certificate.reason


@pytest.mark.parametrize("name", [name for name, family in families.FAMILIES.items() if family.inputs == 1])
def test_both_forms_of_a_small_member(name: str, tmp_path: Path) -> None:
    check_both_forms(families.build(name, is_calibrated=True), families.FAMILIES[name].side, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_both_forms_of_a_family(name: str, tmp_path: Path) -> None:
    check_both_forms(calibrated(name, FAMILIES[name]), FAMILIES[name], tmp_path)
