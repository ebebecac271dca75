"""Places of equal values are in no order that a runtime promises: they tell no difference by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fxexport import Verdict, certify, export_onnx
from fxpasses.errors import ExportError

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Ranked(nn.Module):
    """The best classes of a softmax, in which all but one are zero where the logits are large."""

    def __init__(self, largest: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.largest = nn.Conv2d(3, 16, 3), nn.Linear(16, 6), largest

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.topk(self.fc(self.conv(x).relu().mean((2, 3))).softmax(1), 3, largest=self.largest)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(Ranked().eval(), IMAGES, tmp_path_factory.mktemp("ranked") / "a.onnx")


def test_a_module_that_ranks_its_classes_agrees_with_its_file(file: Path) -> None:
    certificate = certify(Ranked().eval(), file, IMAGES)
    assert certificate.verdict is Verdict.AGREES, certificate.reason


def test_the_worst_classes_are_not_the_best(file: Path) -> None:
    assert certify(Ranked(largest=False).eval(), file, IMAGES).verdict is Verdict.BROKEN


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    class Median(Ranked):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)[0].median(1).values

    with pytest.raises(ExportError, match=r"^b\.onnx: .*\(ONNX has no aten\.median\.dim\); replace") as error:
        export_onnx(Median().eval(), IMAGES, tmp_path / "b.onnx")
    assert "\x1b" not in str(error.value)
