"""timm's models: heads that nobody here wrote, with forms and pools that torchvision has not."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from bench.zoo import calibrate
from fxpasses import find_sites, rewrite
from fxpasses.miss_codes import MissCode
from zoo.compare import difference, storages, traced, written

TOLERANCE = 1e-12
# name, options, side of the input, form, sites
MODELS = (
    ("resnet10t", {"global_pool": "catavgmax"}, 64, "linear", ("fc",)),
    ("resnet10t", {"global_pool": "avgmax"}, 64, "linear", ("fc",)),
    ("resnetv2_18", {}, 64, "conv", ("head.fc",)),
    ("dla46_c", {}, 64, "conv", ("fc",)),
    ("regnety_002", {}, 64, "linear", ("head.fc",)),
    ("convnext_atto", {}, 64, "linear", ("head.fc",)),
    ("edgenext_xx_small", {}, 64, "linear", ("head.fc",)),
    ("poolformer_s12", {}, 64, "linear", ("head.fc",)),
    ("mixer_s16_224", {}, 224, "linear", ("head",)),
    ("vit_tiny_patch16_224", {"global_pool": "avg"}, 224, "linear", ("head",)),
)


@pytest.mark.parametrize(
    ("name", "options", "side", "form", "sites"),
    MODELS,
    ids=["-".join([name, *map(str, options.values())]) for name, options, *_ in MODELS],
)
def test_heads_of_timm(
    name: str, options: dict[str, str], side: int, form: str, sites: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **options).double().eval()
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)).double()
    calibrate(model, x)
    found = find_sites(model, example_inputs=x)
    assert tuple(site.name for site in found.sites) == sites
    there = rewrite(model, to="linear" if form == "conv" else "conv", example_inputs=x)
    back = rewrite(there.module, to=form, example_inputs=x)
    assert written(back.module) == written(traced(model, form))
    assert storages(back.module) == storages(model)
    with torch.no_grad():
        assert difference(model(x), there.module(x)) <= TOLERANCE


def test_a_head_of_both_forms() -> None:
    """MobileNetV3 as timm has it: a convolution after the pool, then a Linear."""
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_050", num_classes=10).double().eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    calibrate(model, x)
    found = find_sites(model)
    assert [(site.name, str(site.form)) for site in found.sites] == [
        ("conv_head", "conv"),
        ("classifier", "linear"),
    ]
    for to, name in (("conv", "classifier"), ("linear", "conv_head")):
        result = rewrite(model, to=to)
        assert [done.site.name for done in result.report.rewrites] == [name]
        with torch.no_grad():
            assert difference(model(x), result.module(x)) <= TOLERANCE


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_class_tokens_are_refused(name: str) -> None:
    model: nn.Module = timm.create_model(name, num_classes=10).eval()
    found = find_sites(model)
    assert found.sites == ()
    assert [(miss.name, miss.code) for miss in found.misses] == [("head", MissCode.NOT_POOLED)]
