"""What must hold on every provider, on one that was asked for: ``tools/dev providers``, ``tools/dev gpu``.

``FXHEAD_PROVIDER`` names it. Without it these tests skip; with it they fail where the provider is missing.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import fxexport.providers
from fxexport import certify, export_onnx
from fxexport.precision import ProductFormat, measured_precision
from fxexport.providers import Session, is_defaults, placements, require_provider, targets_of
from fxpasses import rewrite
from fxpasses.errors import ProviderError

PROVIDER = os.environ.get("FXHEAD_PROVIDER", "")
pytestmark = pytest.mark.skipif(
    not PROVIDER, reason="FXHEAD_PROVIDER names no second provider; tools/dev providers does"
)

BATCH = 2
FIXED = {"qnn"}
"""Providers that take no dynamic axes: their files get the batch that they are run with."""


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


def two_layers() -> nn.Module:
    """As in MobileNetV3."""
    head = (nn.Linear(8, 12), nn.Hardswish(), nn.Dropout(), nn.Linear(12, 5))
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


def whole_map() -> nn.Module:
    """As in VGG: a kernel over the whole map."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(8 * 49, 5)
    )


def normed() -> nn.Module:
    """As in ResNet: batch norms, with statistics that are not the initial ones."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), *plain()[2:])
    for _ in range(3):
        model(torch.randn(8, 3, 9, 9) * 2 + 1)
    return model


MODELS = {make.__name__: make for make in (plain, two_layers, whole_map, normed)}


def images(count: int = BATCH) -> torch.Tensor:
    return torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def written(module: nn.Module, path: Path) -> Path:
    export_onnx(module, images(), path)
    if PROVIDER in FIXED:
        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = BATCH
        onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, Path]]:
    """By model: the linear form, the convolution, and the convolution with one weight off by 1 %."""
    folder, made = tmp_path_factory.mktemp("pairs"), {}
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model = make().eval()
        conv = rewrite(model, to="conv").module
        damaged = copy.deepcopy(conv)
        with torch.no_grad():
            [*damaged.parameters()][-2].view(-1)[3] *= 1.01
        forms = {"linear": model, "conv": conv, "damaged": damaged}
        made[name] = tuple(written(form, folder / f"{name}.{kind}.onnx") for kind, form in forms.items())
    return made


def test_the_provider_is_there():
    require_provider(PROVIDER)


@pytest.mark.parametrize("target", targets_of(PROVIDER) if PROVIDER else [])
@pytest.mark.parametrize("form", [0, 1], ids=["linear", "conv"])
def test_every_node_runs_where_it_was_asked_to(target, form, pairs):
    full = require_provider(PROVIDER)
    for files in pairs.values():
        session = Session(files[form], target)
        placed = placements(session._session)
        assert {provider for provider, _ in placed} == {full}
        (logits,) = session.run((images().numpy(),))
        (expected,) = Session(files[form], "cpu").run((images().numpy(),))
        np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-2 * np.abs(expected).max())


def test_a_node_that_it_does_not_have_is_refused_and_not_run_elsewhere():
    domain = "ai.onnx.ml"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Binarizer", ["x"], ["y"], domain=domain, threshold=0.5)],
        "foreign",
        [value("x", TensorProto.FLOAT, [BATCH, 4])],
        [value("y", TensorProto.FLOAT, [BATCH, 4])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    assert Session(model, "cpu").run((np.ones((BATCH, 4), np.float32),))
    with pytest.raises(ProviderError):
        Session(model, PROVIDER)


@pytest.mark.parametrize("name", MODELS)
def test_a_good_pair_is_accepted(name, pairs):
    linear, conv, _ = pairs[name]
    certificate = certify(linear, conv, images(), providers=(PROVIDER,))
    assert certificate.is_accepted, certificate.reason
    by_target = {(target.provider, str(target.mode)): target for target in certificate.targets}
    assert {mode for _, mode in by_target} == {
        "defaults" if is_defaults(target) else "strict" for target in targets_of(PROVIDER)
    }
    strict = by_target[PROVIDER, "strict"]
    assert strict.wiring.covered.probes > 0
    assert strict.is_repeatable
    assert (strict.asked_precision, strict.measured_precision) == ("fp32", "fp32")


@pytest.mark.parametrize("name", MODELS)
def test_a_damaged_pair_is_broken(name, pairs):
    linear, _, damaged = pairs[name]
    assert str(certify(linear, damaged, images(), providers=(PROVIDER,)).verdict) == "broken"


def test_a_strict_session_computes_in_fp32():
    assert measured_precision(PROVIDER) is ProductFormat.FP32


if PROVIDER == "openvino":

    @pytest.mark.parametrize("hint", ["FP16", "FP32"])
    def test_a_precision_that_is_asked_for_is_refused_or_measured(hint, monkeypatch):
        """Where the CPU lacks fp16, some versions refuse it, and others compute in fp32 without a word."""
        monkeypatch.setitem(fxexport.providers._STRICT, PROVIDER, {"precision": hint})
        try:
            found = measured_precision.__wrapped__(PROVIDER)
        except ProviderError:
            assert hint == "FP16"
        else:
            assert found is ProductFormat.FP32 or (hint == "FP16" and found is ProductFormat.FP16)


def test_a_product_is_exact_where_the_sum_is_exact_in_any_order():
    """Small integers, as the certificate's probes: the same bits on every provider."""
    generator = np.random.default_rng(0)
    inputs, weight = generator.integers(-8, 9, (BATCH, 256)), generator.integers(-8, 9, (256, 64))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "exact",
        [value("x", TensorProto.FLOAT, [BATCH, 256])],
        [value("y", TensorProto.FLOAT, [BATCH, 64])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (found,) = Session(model.SerializeToString(), PROVIDER).run((inputs.astype(np.float32),))
    np.testing.assert_array_equal(found, inputs @ weight)
