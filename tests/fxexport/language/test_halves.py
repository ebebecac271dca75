"""A number beside elements of 16 bits: PyTorch multiplies with 32 bits of it, a file holds 16 of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from fxexport import Verdict, certify, export_onnx


class Attention(nn.Module):
    """As in ultralytics' models, which are saved in half precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 16, 3, 2), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.conv(x).relu().flatten(2)
        shares = ((q.transpose(1, 2) @ q) * 32**-0.5).softmax(-1)
        return self.fc((q @ shares).mean(2))


def test_a_number_that_half_precision_does_not_hold_is_its_rounding_and_no_other(tmp_path: Path) -> None:
    model = Attention().half().eval()
    images = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0)).half()
    file = export_onnx(model, images, tmp_path / "half.onnx")
    found = certify(model, file, images)
    assert found.verdict is Verdict.PROVED, found.reason
    stored = onnx.load(file)
    (scale,) = (t for t in stored.graph.initializer if not t.dims and t.data_type == onnx.TensorProto.FLOAT16)
    value = numpy_helper.to_array(scale)
    scale.CopyFrom(numpy_helper.from_array(np.nextafter(value, np.float16(1)), scale.name))
    onnx.save(stored, file)
    assert certify(model, file, images).verdict is Verdict.BROKEN
