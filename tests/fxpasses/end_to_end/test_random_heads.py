"""Hypothesis: whatever head is put together, the rewrite is the same function and comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fxpasses import find_sites, rewrite
from zoo.compare import difference, storages, written
from zoo.entry import CHANNELS, Chain, _calibrate

TOLERANCE = 1e-12
quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ELEMENTWISE: dict[str, Callable[[], Any]] = {
    "relu": nn.ReLU,
    "relu_in_place": lambda: nn.ReLU(inplace=True),
    "dropout": nn.Dropout,
    "identity": nn.Identity,
    "hardswish": nn.Hardswish,
    "gelu": lambda: F.gelu,
    "sigmoid_method": lambda: lambda x: x.sigmoid(),
    "affine": lambda: lambda x: x * 0.5 + 1.0,
    "square": lambda: lambda x: x**2,
    "negative": lambda: torch.neg,
}
FLATTENINGS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x.flatten(1),
    lambda x: torch.flatten(x, 1),
    lambda x: x.view(x.size(0), -1),
    lambda x: x.reshape(x.shape[0], -1),
)
POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SHAPES = ((3, 7), (3, 5, 4), (3, 2, 4, 3))


@st.composite
def heads(draw: st.DrawFn, form: str) -> tuple[nn.Module, int, int]:
    """A model with a random head in one form, the rank of its maps, and how many sites it has."""
    rank = draw(st.integers(1, 3))
    kernel = tuple(draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)))
    steps: dict[str, Any] = {"pool": POOLS[rank - 1](kernel)}
    size, sites, flat = CHANNELS, 0, False

    def bridge(key: str) -> None:
        for index, name in enumerate(draw(st.lists(st.sampled_from(sorted(ELEMENTWISE)), max_size=2))):
            steps[f"{key}_{index}_{name}"] = ELEMENTWISE[name]()

    bridge("before")
    if form == "linear":
        steps["flat"] = draw(st.sampled_from(FLATTENINGS))
        size, flat = size * torch.Size(kernel).numel(), True
        bridge("after_view")
    for index in range(draw(st.integers(1, 3))):
        out, bias = draw(st.integers(1, 6)), draw(st.booleans())
        if flat:
            steps[f"fc{index}"] = nn.Linear(size, out, bias=bias)
        else:
            steps[f"fc{index}"] = CONVOLUTIONS[rank - 1](size, out, kernel if index == 0 else 1, bias=bias)
        size, sites = out, sites + 1
        if draw(st.booleans()):
            steps[f"bn{index}"] = (nn.BatchNorm1d if flat else NORMS[rank - 1])(size)
        bridge(f"bridge{index}")
    if not flat:
        steps["flat"] = draw(st.sampled_from(FLATTENINGS))
        bridge("last")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 5)))
        model = Chain(rank, **steps)
        for module in model.modules():
            _calibrate(module)
    return model.double().eval(), rank, sites


def inputs(rank: int, batch: int) -> Tensor:
    return torch.randn(batch, *SHAPES[rank - 1], generator=torch.Generator().manual_seed(batch)).double()


def check(head: tuple[nn.Module, int, int], form: str, other: str) -> None:
    model, rank, sites = head
    found = find_sites(model)
    assert len(found.sites) == sites
    assert found.misses == ()
    there = rewrite(model, to=other)
    assert len(there.report.rewrites) == sites
    for batch in (1, 2, 5):
        x = inputs(rank, batch)
        expected, actual = model(x), there.module(x)
        assert expected.shape == actual.shape
        scale = expected.abs().max().clamp(min=1.0)
        assert (expected - actual).abs().max() <= TOLERANCE * scale
    back = rewrite(there.module, to=form)
    assert written(back.module) == written(fx.symbolic_trace(model))
    assert storages(back.module) == storages(model)
    assert difference(model(inputs(rank, 2)), back.module(inputs(rank, 2))) == 0


@quickly
@given(head=heads("linear"))
def test_linear_heads(head: tuple[nn.Module, int, int]) -> None:
    check(head, "linear", "conv")


@quickly
@given(head=heads("conv"))
def test_conv_heads(head: tuple[nn.Module, int, int]) -> None:
    check(head, "conv", "linear")
