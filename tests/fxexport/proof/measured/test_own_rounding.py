"""What is a hundred-thousandth off in another spelling is told from rounding, and nothing else is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fxexport import Certificate, Verdict, certify, export_onnx

Function = Callable[[torch.Tensor], torch.Tensor]
OFF, HALF = 1e-5, 12582912.0
"""The second, once it is added, leaves no fraction in single precision."""


class Net(nn.Module):
    """A convolution, a function of its map, and a head."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.function(self.conv(x)).mean((2, 3)))


def samples(rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def certified(first: Function, second: Function, rows: int = 4) -> Certificate:
    """The two functions in one net."""
    return certify(Net(first).eval(), Net(second).eval(), samples(rows))


DAMAGES: dict[str, Function] = {
    "a ReLU": lambda x: x + OFF * x.relu(),
    "a hyperbolic tangent": lambda x: x + OFF * x.tanh(),
    "the other samples": lambda x: x + OFF * x.mean(0, keepdim=True),
    "steps": lambda x: (x / 3e-5).round() * 3e-5,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_little_of_another_function_is_another_function(name: str) -> None:
    found = certified(lambda x: x, DAMAGES[name])
    assert found.verdict is Verdict.BROKEN
    witness = found.witness
    assert witness is not None
    assert witness.expected is not None
    assert witness.found is not None
    assert witness.bound is not None
    assert not witness.is_wide
    assert abs(witness.expected - witness.found) > witness.bound


ALIKE: dict[str, tuple[Function, Function]] = {
    "cells in another order": (lambda x: x, lambda x: x.flip(3)),
    "other names": (nn.functional.elu, nn.functional.celu),
    "what float64 does not round": (torch.round, lambda x: (x + HALF) - HALF),
    "squares that cancel": (
        lambda x: x.var((2, 3), keepdim=True, correction=0) + x,
        lambda x: x.square().mean((2, 3), keepdim=True) - x.mean((2, 3), keepdim=True) ** 2 + x,
    ),
    "squares that cancel, and are large": (
        lambda x: x.var((2, 3), keepdim=True, correction=0) + x,
        lambda x: (x + 30).square().mean((2, 3), keepdim=True) - (x + 30).mean((2, 3), keepdim=True) ** 2 + x,
    ),
    "steps that large values leave out": (nn.functional.relu6, lambda x: x.relu() - (x - 6).relu()),
    "numbers rounded once more": (lambda x: x.exp2(), lambda x: (x * 0.6931472).exp()),
}


@pytest.mark.parametrize("name", ALIKE)
def test_rounding_is_not(name: str) -> None:
    found = certified(*ALIKE[name])
    assert found.verdict is Verdict.AGREES
    assert "no identity relates" in found.reason


@pytest.mark.parametrize("in_files", [False, True])
def test_what_large_inputs_round_away_is_rounding_and_what_they_alone_reach_is_not(
    tmp_path: Path, *, in_files: bool
) -> None:
    def verdict(first: Function, second: Function) -> Verdict:
        if not in_files:
            return certified(first, second).verdict
        paths = [tmp_path / "first.onnx", tmp_path / "second.onnx"]
        for function, path in zip((first, second), paths, strict=True):
            export_onnx(Net(function).eval(), (samples(),), path)
        return certify(*paths, samples()).verdict

    assert verdict(*ALIKE["steps that large values leave out"]) is Verdict.AGREES
    assert verdict(lambda x: x, lambda x: x.clamp(-1e25, 1e25)) is Verdict.BROKEN
    # the largest of equal ones is one for certain, where a limit alone makes them equal
    assert verdict(lambda x: x.softmax(1), lambda x: x.clamp(-1e30, 1e30).softmax(1)) is Verdict.BROKEN


def test_what_is_computed_otherwise_at_some_batch_is_told_by_the_outputs() -> None:
    """At one of the batches that every certificate runs, where no graph shows it."""
    damaged: Function = lambda x: x * 2 if x.shape[0] > 4 else x  # noqa: E731
    assert certified(lambda x: x, damaged, rows=7).verdict is Verdict.BROKEN
    assert certified(damaged, lambda x: x, rows=7).verdict is Verdict.BROKEN
    found = certified(damaged, damaged, rows=7)
    assert found.verdict is Verdict.AGREES
    assert "no graph shows" in found.reason


def test_numbers_of_code_may_have_been_rounded_as_well() -> None:
    mean, variance = torch.ones(8), torch.full((8,), 2.0)
    found = certified(
        lambda x: nn.functional.batch_norm(x, mean, variance), lambda x: (x - 1) / math.sqrt(2 + 1e-5)
    )
    assert found.verdict is Verdict.AGREES
    other = certified(lambda x: x / 3, lambda x: x / 3.00001)
    assert other.verdict is Verdict.BROKEN


def test_without_float64_it_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the tests above are about what is evaluated in it."""
    from fxexport.proof import evidence
    from fxexport.proof.measured.search import Found

    monkeypatch.setattr(evidence, "seen_beyond_rounding", lambda *_: Found())
    assert certified(lambda x: x, DAMAGES["a ReLU"]).verdict is Verdict.AGREES
