"""torchvision's own models in scope ``all``, both ways: a few here, one of each family in the slow run."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, fx, nn

from bench.zoo import build, calibrate, difference, inputs
from fxpasses import rewrite
from fxpasses.graph.trace import trace
from zoo.compare import affine_calls, tensors, unnamed, written

# form: sites, permutes before and after; every other candidate has its reason below
TO_CONV = {
    "convnext_tiny": (37, 46, 44),
    "vit_b_16": (25, 1, 25),
    "swin_t": (28, 2, 32),
}
TO_LINEAR = {"mobilenet_v2": (34, 0, 68), "squeezenet1_1": (17, 0, 26), "resnet50": (33, 0, 65)}
MISSES = {
    "vit_b_16": {"OPAQUE_CALL": 12},
    "swin_t": {"OPAQUE_CALL": 24},
    "resnet50": {"STRIDE": 3},
}
FAMILIES = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "mvit_v1_b", "mvit_v2_s",
    "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16", "wide_resnet50_2", "mc3_18", "r3d_18",
    "r2plus1d_18", "s3d", "swin3d_t",
)  # fmt: skip


def permutes(graph: fx.Graph) -> int:
    calls = [node for node in graph.nodes if node.op in ("call_function", "call_method")]
    names = [getattr(node.target, "__name__", str(node.target)) for node in calls]
    return sum(name in ("permute", "transpose") for name in names)


def logits(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


@pytest.mark.parametrize(
    ("name", "to"), [*((name, "conv") for name in TO_CONV), *((name, "linear") for name in TO_LINEAR)]
)
def test_sites_and_permutes_on_the_meta_device(name: str, to: str) -> None:
    model = build(name, "meta", torch.float32)
    x = inputs(name, 2).to("meta", torch.float32)
    there = rewrite(model, to=to, scope="all", example_inputs=x)
    graph = trace(model)
    sites, before, after = (TO_CONV if to == "conv" else TO_LINEAR)[name]
    assert len(there.report.rewrites) == sites
    assert (permutes(graph.graph), permutes(there.module.graph)) == (before, after)
    assert Counter(str(miss.code) for miss in there.report.misses) == MISSES.get(name, {})
    if to == "conv":  # every Linear is gone, and the way back is the graph as it was
        assert affine_calls(there.module)[0] == 0
        back = rewrite(there.module, to="linear", scope="all", example_inputs=x)
        assert written(back.module) == written(graph.close())


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families_both_ways(name: str) -> None:
    model = with_signal(build(name), name)
    x, other = inputs(name, 2), inputs(name, 3, seed=1)
    with torch.no_grad():
        expected = logits(model(other))
        # a family may amplify rounding: what one unit in the last place of the input does to its output
        sensitivity = difference(expected, logits(model(other * (1 + 2**-52))))
        tolerance = max(1e-12, 10 * sensitivity)
        for to, back_to in (("conv", "linear"), ("linear", "conv")):
            there = rewrite(model, to=to, scope="all", example_inputs=x)
            assert difference(expected, logits(there.module(other))) <= tolerance
            assert there.report.copied_bytes == 0
            assert [*there.module.state_dict()] == [*model.state_dict()]
            places = [tensor.data_ptr() for tensor in tensors(model).values()]
            assert [tensor.data_ptr() for tensor in tensors(there.module).values()] == places
            back = rewrite(there.module, to=back_to, scope="all", example_inputs=x)
            assert difference(expected, logits(back.module(other))) <= tolerance
            once = rewrite(model, to=back_to, scope="all", example_inputs=x)
            assert unnamed(back.module) == unnamed(once.module)


@torch.no_grad()
def with_signal(model: nn.Module, name: str) -> nn.Module:
    """Weights under which samples differ: no zeros where a model starts with zeros, norms of real values."""
    for parameter in model.parameters():
        if parameter.numel() and float(parameter.abs().max()) < 1e-5:
            parameter.uniform_(-0.5, 0.5)
    calibrate(model, inputs(name, 2))
    return model
