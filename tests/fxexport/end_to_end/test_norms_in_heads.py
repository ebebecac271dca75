"""Batch norms beside a head's sites, and pools over an extent that is written out."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxexport import certify, export_onnx
from fxexport.results import Verdict
from fxpasses import rewrite

SAMPLES = torch.randn(8, 3, 9, 7, generator=torch.Generator().manual_seed(0))


def net(*head: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    model = nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *copy.deepcopy(head)).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (part.running_mean, part.weight, part.bias):
                assert tensor is not None
                nn.init.normal_(tensor)
            assert part.running_var is not None
            nn.init.uniform_(part.running_var, 0.5, 2)
    return model


class OwnExtent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.avg_pool2d(x, x.shape[2:]).flatten(1))


BEHIND = (nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))
BETWEEN = (nn.BatchNorm1d(8), nn.Linear(8, 5))


def written(module: nn.Module, path: Path) -> Path:
    return export_onnx(module, SAMPLES[:2], path)


@pytest.mark.parametrize("head", [BEHIND, BETWEEN], ids=["behind", "between"])
def test_a_head_keeps_its_weights_whatever_norm_is_beside_them(
    head: tuple[nn.Module, ...], tmp_path: Path
) -> None:
    model = net(*head)
    result = rewrite(model, to="conv", example_inputs=SAMPLES)
    linear, conv = (
        export_onnx(form, SAMPLES[:2], tmp_path / f"{name}.onnx", fold_norms=True)
        for name, form in (("linear", model), ("conv", result.module))
    )
    assert certify(linear, conv).verdict is Verdict.PROVED
    assert certify(model, linear, SAMPLES).is_accepted
    for path in (linear, conv):  # the one of the backbone is part of its convolution
        kinds = [node.op_type for node in onnx.load(path).graph.node]
        assert kinds.count("BatchNormalization") == 1


@pytest.mark.parametrize("outputs", [("logits",), ("logits", "map")], ids=["plain", "map"])
@pytest.mark.parametrize("head", [BETWEEN, (nn.Linear(8, 5), nn.BatchNorm1d(5))], ids=["between", "behind"])
def test_a_norm_that_passes_the_pool_is_not_called_broken(
    head: tuple[nn.Module, ...], outputs: tuple[str, ...], tmp_path: Path
) -> None:
    model = net(*head)
    dense = rewrite(model, to="dense", outputs=outputs).module
    files = written(model, tmp_path / "linear.onnx"), written(dense, tmp_path / "dense.onnx")
    for pair in ((model, dense), files):
        found = certify(*pair, SAMPLES)
        assert found.verdict is not Verdict.BROKEN, found.reason


@pytest.mark.parametrize("fold_norms", [False, True])
def test_norms_are_folded_where_asked_for(fold_norms: bool, tmp_path: Path) -> None:
    model = net(nn.Linear(8, 5))
    path = export_onnx(model, SAMPLES[:2], tmp_path / "model.onnx", fold_norms=fold_norms)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("BatchNormalization") == (0 if fold_norms else 1)
    certificate = certify(model, path, SAMPLES)
    assert certificate.verdict is Verdict.PROVED
    assert ("folded" in certificate.reason) is fold_norms


class Times(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 30


@pytest.mark.parametrize("head", [(Times(), nn.Linear(8, 5)), (nn.Linear(8, 5), Times())])
def test_a_map_that_is_scaled_is_the_scaled_site_at_every_position(
    head: tuple[nn.Module, ...], tmp_path: Path
) -> None:
    model = net(*head)
    mapped = rewrite(model, to="dense", outputs=("logits", "map"))
    files = [written(item, tmp_path / f"{k}.onnx") for k, item in enumerate((model, mapped.module))]
    program = torch.export.export(mapped.module, (SAMPLES[:2],))
    for pair in ((model, mapped.module), (model, program), files):
        found = certify(*pair, SAMPLES)
        assert found.verdict is Verdict.PROVED, found.reason
        ratios = {item.output: item.max_ratio for item in found.statistics}
        assert ratios.keys() == {"logits", "map"}
        assert all(ratio is not None and ratio < 1 for ratio in ratios.values())


def test_a_norm_that_passes_the_pool_hides_no_weight_of_the_plan() -> None:
    model, other = net(*BETWEEN), net(*BETWEEN)
    result = rewrite(model, to="dense")
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        next(other[-1].parameters())[0, 0] += 1e-3
    wrong = rewrite(other, to="dense").module
    assert certify(model, result.module, SAMPLES, plan=result.plan).is_accepted
    assert certify(model, wrong, SAMPLES, plan=result.plan).verdict is Verdict.BROKEN


def test_a_pool_over_the_extent_of_what_the_site_reads_is_an_average() -> None:
    torch.manual_seed(0)
    model = OwnExtent().eval()
    dense = rewrite(model, to="dense", example_inputs=SAMPLES, outputs=("logits", "map")).module
    assert certify(model, dense, SAMPLES).verdict is Verdict.PROVED
