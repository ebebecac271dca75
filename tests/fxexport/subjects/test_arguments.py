"""What callers give ``certify``: results of rewrites, models of ONNX in memory, and what is no argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import pytest
import torch
from torch import nn

from fxexport import Verdict, certify, export_onnx
from fxexport.onnx_dialect.rewrite import rewrite_onnx
from fxpasses import rewrite
from fxpasses.errors import CheckError, InputError
from tests.fxexport.pairs import small_pair

IMAGES = torch.randn(3, 3, 9, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_pair()[0]


@pytest.fixture(scope="module")
def file(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, IMAGES, tmp_path_factory.mktemp("file") / "a.onnx")


def test_a_result_stands_for_its_model_and_its_plan(model: nn.Module) -> None:
    result = rewrite(model, to="conv")
    certificate = certify(model, result, IMAGES)
    assert certificate.verdict is Verdict.PROVED
    assert certificate.candidate == certify(model, result.module, IMAGES).candidate
    again = rewrite(result, to="linear")
    assert certify(result, again, IMAGES).verdict is Verdict.PROVED
    other = rewrite(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), to="conv")
    assert certify(model, result.module, IMAGES, plan=result).verdict is Verdict.PROVED
    with pytest.raises(CheckError, match="the plan does not fit the reference"):
        certify(model, result, IMAGES, plan=other)


def test_models_of_onnx_need_no_file(file: Path, tmp_path: Path) -> None:
    result = rewrite_onnx(file, "conv")
    assert isinstance(result.module, onnx.ModelProto)
    for candidate in (result, result.module, onnx_ir.serde.deserialize_model(result.module)):
        certificate = certify(file, candidate)
        assert (certificate.verdict, certificate.candidate) == (Verdict.PROVED, "candidate.onnx")
    assert export_onnx(rewrite(small_pair()[0], to="conv"), IMAGES, tmp_path / "b.onnx").is_file()


def test_one_provider_may_be_a_text(file: Path) -> None:
    assert certify(file, file, providers="cpu").providers == ("cpu",)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"reference": None}, "reference: is of class NoneType, no model; give a module"),
        ({"reference": {"fc.weight": torch.ones(1)}}, "reference: is of class dict, no model"),
        ({"candidate": nn.Linear}, "candidate: is the class Linear, no model"),
        ({"candidate": onnx.TensorProto()}, "candidate: is of class TensorProto, no model"),
        ({"inputs": 5}, "inputs: is of class int; give a tensor"),
        ({"inputs": "x.npz"}, "inputs: is of class str; give a tensor"),
        ({"providers": [3]}, "providers: are no names; name them"),
        ({"providers": 3}, "providers: are no names; name them"),
        ({"plan": {"entries": []}}, "plan: is of class dict, no WeightPlan; give result.plan"),
        ({"seed": "a"}, "seed: is of class str; give an integer"),
    ],
)
def test_what_is_no_argument_is_told(model: nn.Module, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        certify(**{"reference": model, "candidate": model, "inputs": IMAGES, **changed})


def test_a_state_dict_is_no_model_to_rewrite() -> None:
    with pytest.raises(InputError, match="a dict cannot be traced"):
        rewrite({"fc.weight": torch.ones(1)}, to="conv")  # type: ignore[call-overload]
