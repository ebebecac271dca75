"""Places of equal values are in no order that a runtime promises: they tell no difference by themselves."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import parser
from torch import nn

from fxexport import Verdict, certify, export_onnx
from fxexport.language.compare import EQUAL
from fxpasses.errors import ExportError

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Ranked(nn.Module):
    """The best classes of a softmax, in which all but one are zero where the logits are large."""

    def __init__(self, largest: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.largest, self.scale = nn.Conv2d(3, 16, 3), nn.Linear(16, 6), largest, scale

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.fc(self.conv(x).relu().mean((2, 3))) * self.scale
        return torch.topk(logits.softmax(1), 3, largest=self.largest)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(Ranked().eval(), IMAGES, tmp_path_factory.mktemp("ranked") / "a.onnx")


@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["apart", "all but one are 0"])
def test_a_module_that_ranks_its_classes_is_proved_beside_its_file(scale: float, tmp_path: Path) -> None:
    net = Ranked(scale=scale).eval()
    certificate = certify(net, export_onnx(net, IMAGES, tmp_path / "a.onnx"), IMAGES)
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    assert EQUAL in certificate.scope


class Ordered(nn.Module):
    """The places of cells in their order, as fractions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).argsort(1).float()


def test_places_of_equal_values_tell_no_difference_as_fractions_either() -> None:
    file = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[N,3,8,8] x) => (float[N,192] y) '
        "{ f = Flatten (x) k = Constant <value_ints = [192]> () v, i = TopK <largest = 0> (f, k) "
        "y = Cast <to = 1> (i) }"
    )
    found = certify(Ordered().eval(), file, IMAGES)
    assert found.verdict is Verdict.PROVED, found.reason


def test_an_order_that_is_promised_is_not_any_order() -> None:
    """Which cells are equal is no question of rounding where the operator says how they are told apart."""

    class Sorted(nn.Module):
        def __init__(self, is_stable: bool) -> None:
            super().__init__()
            self.is_stable = is_stable

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sort(x.flatten(1), stable=self.is_stable).indices

    assert certify(Sorted(True), Sorted(False), IMAGES).verdict is not Verdict.PROVED


def test_the_worst_classes_are_not_the_best(file: Path) -> None:
    assert certify(Ranked(largest=False).eval(), file, IMAGES).verdict is Verdict.BROKEN


class Best(Ranked):
    """The best class and its score."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores = self.fc(self.conv(x).relu().mean((2, 3)))
        score, place = scores.max(1, keepdim=True) if self.largest else scores.min(1, keepdim=True)
        return score, place, scores.argmax(1) if self.largest else scores.argmin(-1)


@pytest.mark.parametrize("largest", [True, False])
def test_the_first_of_equal_values_is_one_place_in_both(largest: bool, tmp_path: Path) -> None:
    model = Best(largest).eval()
    file = export_onnx(model, IMAGES, tmp_path / "best.onnx")
    found = certify(model, file, IMAGES)
    assert found.verdict is Verdict.PROVED, found.reason
    stored = onnx.load(file)
    (node,) = (node for node in stored.graph.node if node.output[0] == "output_2")
    for attribute in node.attribute:
        attribute.i = 1 if attribute.name == "select_last_index" else attribute.i
    onnx.save(stored, file)
    assert certify(model, file, IMAGES).verdict is not Verdict.PROVED
    assert certify(Best(not largest).eval(), file, IMAGES).verdict is Verdict.BROKEN


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    class Median(Ranked):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)[0].median(1).values

    with pytest.raises(ExportError, match=r"^b\.onnx: .*\(ONNX has no aten\.median\.dim\); replace") as error:
        export_onnx(Median().eval(), IMAGES, tmp_path / "b.onnx")
    assert "\x1b" not in str(error.value)
