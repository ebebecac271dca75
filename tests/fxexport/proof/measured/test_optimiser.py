"""Where ONNX Runtime's optimiser changes what a file computes, the certificate says that it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxexport import Verdict, certify, export_onnx

SAYS = "file.onnx gives the other's value where ONNX Runtime optimises nothing"


class PadsThenPools(nn.Module):
    """As transformers' BiT: 1.31 takes the pad's zeros for the pool's own padding, minus infinity."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(self.stem(x) - 1, (1, 1, 1, 1))
        return self.fc(F.max_pool2d(padded, 3, 2).mean((2, 3)))


def is_changed(path: Path, images: Tensor) -> bool:
    """Whether this ONNX Runtime's optimiser is one that changes the file: from 1.32 on it is not."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    runs = (
        onnxruntime.InferenceSession(path, chosen, providers=["CPUExecutionProvider"]).run(
            None, {"x": images.numpy()}
        )
        for chosen in (None, options)
    )
    return not np.allclose(*(outputs[0] for outputs in runs), atol=1e-3)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_file_that_the_optimiser_changes(is_damaged: bool, tmp_path: Path) -> None:
    model, images = PadsThenPools().eval(), torch.randn(2, 3, 12, 12)
    path = export_onnx(model, images, tmp_path / "file.onnx")
    if is_damaged:
        with torch.no_grad():
            model.fc.weight.mul_(1.5)
    elif not is_changed(path, images):
        pytest.skip("this ONNX Runtime's optimiser changes nothing")
    certificate = certify(model, path, images)
    assert certificate.verdict is Verdict.BROKEN
    assert (SAYS in certificate.reason) is not is_damaged
    assert (SAYS in certificate.rounding.failures[0].what) is not is_damaged  # as the command shows it
