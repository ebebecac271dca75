"""A number beside elements of 16 bits: PyTorch multiplies with 32 bits of it, a file holds 16 of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from fxexport import Verdict, certify, export_onnx
from fxexport.language import derive, graph_of_module


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


class Scaled(nn.Module):
    """Elements times a number, or held above one."""

    def __init__(self, factor: float | torch.Tensor, *, is_bound: bool = False) -> None:
        super().__init__()
        self.factor, self.is_bound = factor, is_bound

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=self.factor) if self.is_bound else x * self.factor


@pytest.mark.parametrize(("factor", "other"), [(1e-9, 0.0), (1e6, float("inf")), (1e-7, 1.2e-7)])
def test_a_number_that_vanishes_or_has_no_end_in_half_precision_is_itself(
    factor: float, other: float
) -> None:
    x = torch.tensor([[3e4, 2e-3]]).repeat(2, 1).half()
    models = Scaled(factor), Scaled(torch.tensor(other, dtype=torch.float16))
    assert not torch.equal(*(model(x) for model in models))
    assert not derive(*(graph_of_module(model, (x,)) for model in models)).is_proved
    bounds = (Scaled(item, is_bound=True) for item in (1e-12, 0.0))  # which is held by its elements' type
    assert derive(*(graph_of_module(model, (x,)) for model in bounds)).is_proved


FACTORS = [(4.0, 0.25, True), (2.0**-10, 2.0**10, True), (2.0**10, 2.0**-10, False)]


@pytest.mark.parametrize(("first", "second", "is_one"), FACTORS)
def test_a_factor_that_is_taken_back_may_have_left_half_precision(
    first: float, second: float, is_one: bool
) -> None:
    """1000·x / 1000 has no end where x is 66."""
    x = torch.ones(2, 4).half()
    numbers = [torch.tensor(number, dtype=torch.float16) for number in (first, second)]
    whole = Scaled((numbers[0].double() * numbers[1].double()).half())
    both = nn.Sequential(*map(Scaled, numbers))
    assert derive(*(graph_of_module(model, (x,)) for model in (both, whole))).is_proved is is_one
