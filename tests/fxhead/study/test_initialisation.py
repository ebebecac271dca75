"""What the layers draw, against SciPy's tests and against layers that draw otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fxhead.study.initialisation import LayerShapes, compare_initialisation, fills_bound, shapes_under_study

SMALL = LayerShapes(channels=24, classes=10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changed(LayerShapes):
    """A convolution whose weights are changed, though it was filled as ever."""

    change: Callable[[torch.Tensor], object]

    def conv(self) -> nn.Conv2d:
        layer = nn.Conv2d(self.channels, self.classes, kernel_size=self.kernel)
        with torch.no_grad():
            self.change(layer.weight)
        return layer


def shrink(weight: torch.Tensor) -> None:
    """The same shape of distribution, 3 % narrower."""
    weight.mul_(0.97)


def bend(weight: torch.Tensor) -> None:
    """The same bound, but values nearer to it."""
    weight.copy_(weight.sign() * (weight.abs() * 24**0.5) ** 0.8 / 24**0.5)


def exceed(weight: torch.Tensor) -> None:
    """One value of 240 past the bound, which no test of distributions sees."""
    weight[0, 0] = 1.01 / 24**0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Later(LayerShapes):
    """A convolution that is filled alike, but after something else was drawn."""

    def conv(self) -> nn.Conv2d:
        torch.rand(1)
        return nn.Conv2d(self.channels, self.classes, kernel_size=self.kernel)


def test_the_two_layers_are_filled_alike() -> None:
    pairs = (SMALL, LayerShapes(channels=8, classes=10, kernel=3))
    records = compare_initialisation(pairs, seed=0, alpha=0.01)
    assert [record.parameter for record in records] == ["weight", "bias"] * 2
    for record in records:
        assert record.same
        assert record.identical_seeds == record.seeds >= 10
    assert records[2].linear == "Linear(72, 10)"
    assert records[2].conv == "Conv2d(8, 10, 3×3)"


def test_the_head_that_is_trained_is_among_them() -> None:
    assert shapes_under_study(7)[0] == LayerShapes(channels=64, classes=7)


@pytest.mark.parametrize(
    ("change", "fills_bound", "p_is_small"),
    [(shrink, False, True), (bend, True, True), (exceed, False, False)],
)
def test_weights_that_are_drawn_otherwise_are_seen(
    change: Callable[[torch.Tensor], object], fills_bound: bool, p_is_small: bool
) -> None:
    shapes = Changed(channels=24, classes=10, change=change)
    weight, bias = compare_initialisation((shapes,), seed=0, alpha=0.01)
    assert not weight.same
    assert weight.fills_bound is fills_bound
    assert (weight.ks_p_value < 0.005) is p_is_small
    assert weight.identical_seeds == 0
    assert bias.same


def test_one_seed_gives_the_same_bits_only_where_nothing_was_drawn_before() -> None:
    for record in compare_initialisation((Later(channels=24, classes=10),), seed=0, alpha=0.01):
        assert record.same
        assert record.identical_seeds == 0


def test_the_two_samples_are_tested_as_scipy_does() -> None:
    weight, _ = compare_initialisation((SMALL,), seed=3, alpha=0.01)
    samples = []
    for offset, make in enumerate((SMALL.linear, SMALL.conv)):
        values = []
        for seed in range(600 + offset, 600 + 200, 2):  # seeds of studies with seed 3: 2 · 100 · 3 on
            torch.manual_seed(seed)
            values.append(make().weight.detach().flatten().double().numpy())
        samples.append(np.concatenate(values))
    assert weight.draws == len(samples[0])
    expected = stats.ks_2samp(*samples)
    assert (weight.ks_statistic, weight.ks_p_value) == (expected.statistic, expected.pvalue)


@pytest.mark.parametrize(
    ("scale", "bound", "fills"),
    [(1.0, 0.5, True), (1.001, 0.5, False), (0.99, 0.5, False), (1.0, None, False)],
)
def test_uniform_values_fill_their_bound(scale: float, bound: float | None, fills: bool) -> None:
    values = np.random.default_rng(0).uniform(-0.5, 0.5, 100_000) * scale
    assert fills_bound(values, bound) is fills
