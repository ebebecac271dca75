"""torchvision's own models: one of each family here, all of them in the slow run."""

from __future__ import annotations

import pytest
import torch

from bench.zoo import REFUSED, build, examine, model_names
from fxpasses import find_sites, rewrite
from zoo.compare import difference, traced, written

# family: sites, and the kernel of the first
FAMILIES = {
    "alexnet": (("classifier.1", "classifier.4", "classifier.6"), (6, 6)),
    "convnext_tiny": (("classifier.2",), (1, 1)),
    "densenet121": (("classifier",), (1, 1)),
    "efficientnet_b0": (("classifier.1",), (1, 1)),
    "efficientnet_v2_s": (("classifier.1",), (1, 1)),
    "googlenet": (("fc",), (1, 1)),
    "inception_v3": (("fc",), (1, 1)),
    "maxvit_t": (("classifier.3", "classifier.5"), (1, 1)),
    "mnasnet0_5": (("classifier.1",), (1, 1)),
    "mobilenet_v2": (("classifier.1",), (1, 1)),
    "mobilenet_v3_small": (("classifier.0", "classifier.3"), (1, 1)),
    "regnet_x_400mf": (("fc",), (1, 1)),
    "regnet_y_400mf": (("fc",), (1, 1)),
    "resnet18": (("fc",), (1, 1)),
    "resnext50_32x4d": (("fc",), (1, 1)),
    "shufflenet_v2_x0_5": (("fc",), (1, 1)),
    "swin_t": (("head",), (1, 1)),
    "swin_v2_t": (("head",), (1, 1)),
    "vgg11_bn": (("classifier.0", "classifier.3", "classifier.6"), (7, 7)),
    "wide_resnet50_2": (("fc",), (1, 1)),
    "mc3_18": (("fc",), (1, 1, 1)),
    "r2plus1d_18": (("fc",), (1, 1, 1)),
    "swin3d_t": (("head",), (1, 1, 1)),
}
# x.mean([2, 3]) flattens by itself; what replaces it does not
MEANS = ("mnasnet0_5", "shufflenet_v2_x0_5")
MEASURED = (
    "convnext_tiny",
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_on_the_meta_device(name: str) -> None:
    sites, kernel = FAMILIES[name]
    model = build(name, "meta", torch.float32)
    found = find_sites(model)
    assert tuple(site.name for site in found.sites) == sites
    assert found.sites[0].kernel_size == kernel
    assert found.misses == ()
    there = rewrite(model, to="conv")
    assert [done.site.name for done in there.report.rewrites] == list(sites)
    assert list(there.module.state_dict()) == list(model.state_dict())
    graph = traced(model, "linear")
    # a norm over features stays between a flatten and an unflatten
    added = 2 if name == "maxvit_t" else 0
    assert len(there.module.graph.nodes) <= len(graph.graph.nodes) + max(added, name in MEANS)
    back = rewrite(there.module, to="linear")
    assert written(back.module) == written(graph)


@pytest.mark.parametrize("name", MEASURED)
def test_families_in_float64(name: str) -> None:
    row = examine(name)
    assert row.is_right, row


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason_that_is_true(name: str) -> None:
    model = build(name, "meta", torch.float32)
    for scope in ("head", "pooled"):
        found = find_sites(model, scope=scope)
        assert found.sites == ()
        assert {str(miss.code) for miss in found.misses} == {REFUSED[name]}


def test_there_are_as_many_models_as_the_table_says() -> None:
    assert len(model_names("classification")) >= 80
    assert set(REFUSED) <= set(model_names())
    assert set(FAMILIES) <= set(model_names())


@pytest.mark.parametrize(
    ("name", "size", "heads"),
    [
        ("googlenet", 64, ("aux1.fc1", "aux1.fc2", "aux2.fc1", "aux2.fc2", "fc")),
        ("inception_v3", 299, ("AuxLogits.fc", "fc")),
    ],
)
def test_auxiliary_heads_in_train_mode(name: str, size: int, heads: tuple[str, ...]) -> None:
    model = build(name).train()
    result = rewrite(model, to="conv")
    assert {done.site.name for done in result.report.rewrites} == set(heads)
    assert list(result.module.state_dict()) == list(model.state_dict())
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).double()
    state = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    torch.manual_seed(0)
    expected = model(images)
    model.load_state_dict(state, strict=False)
    torch.manual_seed(0)
    assert difference(tuple(expected), tuple(result.module(images))) <= 1e-12


@pytest.mark.parametrize("name", ["efficientnet_b0", "regnet_y_400mf", "mobilenet_v3_small"])
def test_squeeze_excite_in_scope_pooled(name: str) -> None:
    model = build(name, "meta", torch.float32)
    inside = {site.name for site in find_sites(model, scope="pooled").sites}
    head = {site.name for site in find_sites(model, scope="head").sites}
    assert head < inside
    assert len(inside - head) == 2 * sum(type(m).__name__ == "SqueezeExcitation" for m in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in model_names() if name not in (*MEASURED, *REFUSED)])
def test_every_model_in_float64(name: str) -> None:
    row = examine(name)
    assert row.is_right, row
