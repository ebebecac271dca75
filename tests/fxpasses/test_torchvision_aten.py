"""torchvision families as ``torch.export`` writes them, in both ATen dialects."""

from __future__ import annotations

import pytest
import torch

from bench.zoo import build, calibrate, inputs
from fxpasses import rewrite
from zoo.compare import difference, written
from zoo.programs import DIALECTS, export

# family: sites
FAMILIES = {
    "mobilenet_v3_small": ("classifier.0", "classifier.3"),
    "resnet18": ("fc",),
    "shufflenet_v2_x0_5": ("fc",),
}
SLOW_FAMILIES = {
    "alexnet": ("classifier.1", "classifier.4", "classifier.6"),
    "convnext_tiny": ("classifier.2",),
    "densenet121": ("classifier",),
    "efficientnet_b0": ("classifier.1",),
    "googlenet": ("fc",),
    "mnasnet0_5": ("classifier.1",),
    "mobilenet_v2": ("classifier.1",),
    "regnet_y_400mf": ("fc",),
    "resnext50_32x4d": ("fc",),
    "swin_t": ("head",),
    "vgg11_bn": ("classifier.0", "classifier.3", "classifier.6"),
    "wide_resnet50_2": ("fc",),
}
_ALL = [(name, sites, ()) for name, sites in FAMILIES.items()]
_ALL += [(name, sites, (pytest.mark.slow,)) for name, sites in SLOW_FAMILIES.items()]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("name", "sites"), [pytest.param(name, sites, marks=marks, id=name) for name, sites, marks in _ALL]
)
def test_a_family_in_aten(name: str, sites: tuple[str, ...], dialect: str) -> None:
    model, images = build(name), inputs(name)
    calibrate(model, images)
    graph = export(model, (inputs(name, 4),), dialect)
    there = rewrite(graph, to="conv")
    assert tuple(done.site.name for done in there.report.rewrites) == sites
    with torch.no_grad():
        assert difference(model(images), there.module(images)) <= 1e-12
    assert written(rewrite(there.module, to="linear").module) == written(graph)
