"""A member of each torchvision family with its head before the pool: its ONNX file at several sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fxexport import Certificate, Verdict, certify, export_onnx
from fxexport.providers import Session
from fxpasses import rewrite
from fxpasses.errors import SizeError
from tests.fxexport.end_to_end.test_families import calibrated

SIDE = 64
FAMILIES = (
    "densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 mnasnet0_5 mobilenet_v2"
    " regnet_x_400mf regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5 wide_resnet50_2"
).split()
BY_SIZE = ("swin_t", "swin_v2_t")
"""These choose their windows by the size of the map."""
SIZES = ((2, 96, 96), (1, 160, 128), (3, 131, 97))


def figures(name: str, folder: Path) -> tuple[list[float], list[Certificate]]:
    """Largest relative difference of logits and map to float64 at each size; the certificates at two."""
    model = calibrated(name, 96)
    example = torch.randn(2, 3, 96, 96)
    dense = rewrite(model, to="dense", example_inputs=example, outputs=("logits", "map")).module
    linear = export_onnx(model, example, folder / "linear.onnx", dynamic_size=True)
    path = export_onnx(dense, example, folder / "dense.onnx", dynamic_size=True)
    certificates = [certify(linear, path, torch.randn(8, 3, *size)) for size in ((96, 96), (128, 112))]
    session, wide = Session(path, "cpu"), model.double()
    differences = []
    for batch, *size in SIZES:
        x = torch.randn(batch, 3, *size)
        with torch.no_grad():
            due = wide(x.double()).numpy()
        logits, scores = session.run([x.numpy()])
        assert scores.ndim == 4
        apart = max(np.abs(logits - due).max(), np.abs(scores.mean((2, 3)) - due).max())
        differences.append(float(apart / np.abs(due).max()))
    return differences, certificates


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_dense_at_several_sizes(name: str, tmp_path: Path) -> None:
    differences, certificates = figures(name, tmp_path)
    assert max(differences) <= 2.0**-13
    for found in certificates:
        assert found.verdict is Verdict.PROVED, found.reason
        assert [size.verdict for size in found.sizes] == [Verdict.PROVED], found.sizes
        assert {record.output for record in found.statistics} == {"logits", "map"}
        assert all(record.max_ratio is not None and record.max_ratio <= 1 for record in found.statistics)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_SIZE)
def test_what_depends_on_the_size_is_proved_at_its_own(name: str, tmp_path: Path) -> None:
    model, example = calibrated(name, 64), torch.randn(2, 3, 64, 64)
    dense = rewrite(model, to="dense", example_inputs=example, outputs=("logits", "map")).module
    with pytest.raises(SizeError, match="other operators at 128x192 than at 64x64"):
        export_onnx(dense, example, tmp_path / "dense.onnx", dynamic_size=True)
    linear = export_onnx(model, example, tmp_path / "linear.onnx")
    path = export_onnx(dense, example, tmp_path / "dense.onnx")
    found = certify(linear, path, torch.randn(8, 3, 64, 64))
    assert found.verdict is Verdict.PROVED, found.reason
    assert "takes 3x64x64 only" in found.reason
