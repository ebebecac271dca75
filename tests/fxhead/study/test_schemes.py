"""How the installed torch fills its layers, read from what it calls."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from fxhead.study.initialisation import is_same_scheme, read_schemes


class Normal(nn.Linear):
    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        nn.init.uniform_(self.bias, -2.0, 2.0)


class Twice(nn.Linear):
    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.kaiming_uniform_(self.weight, a=0.0)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (lambda: nn.Linear(512, 10), 512),
        (lambda: nn.Conv2d(512, 10, kernel_size=1), 512),
        (lambda: nn.Conv2d(16, 10, kernel_size=7), 16 * 49),
    ],
    ids=["linear", "conv", "conv7"],
)
def test_both_layers_are_filled_as_the_forum_says(layer: object, fan_in: int) -> None:
    schemes = read_schemes(layer)
    assert schemes["weight"].name == "Kaiming uniform, a = √5"
    assert schemes["bias"].name == "uniform in ±1/√fan_in"
    for scheme in schemes.values():
        assert scheme.bound == pytest.approx(1 / math.sqrt(fan_in), rel=1e-12)


def test_a_scheme_says_where_torch_has_it() -> None:
    name, _, line = read_schemes(lambda: nn.Linear(2, 2))["weight"].source.rpartition(":")
    path = Path(torch.__file__).parents[1] / name
    assert path.read_text().splitlines()[int(line) - 1].strip().startswith("def reset_parameters")
    assert path.samefile(inspect.getfile(nn.Linear))


def test_another_scheme_has_another_name_and_is_not_the_same() -> None:
    default, normal = read_schemes(lambda: nn.Linear(4, 2)), read_schemes(lambda: Normal(4, 2))
    assert normal["weight"].name == "torch.nn.init.normal_"
    assert normal["weight"].bound is None
    assert normal["bias"].name == "uniform in ±2"
    for parameter in ("weight", "bias"):
        assert is_same_scheme(default[parameter], default[parameter])
        assert not is_same_scheme(default[parameter], normal[parameter])


def test_the_last_initialiser_counts() -> None:
    scheme = read_schemes(lambda: Twice(6, 2))["weight"]
    assert scheme.name == "Kaiming uniform, a = 0"
    assert scheme.bound == pytest.approx(1.0)  # √2 · √(3 / 6)
