"""Models that give several values of one operator, and outputs whose axes depend on the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxexport import certify
from fxpasses import rewrite
from fxpasses.errors import CheckError


class Net(nn.Module):
    def __init__(self, give: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.give = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), give

    def forward(self, x: Tensor) -> Any:
        return self.give(self.fc(self.conv(x).relu().mean((2, 3))))


X = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize(
    "give",
    [
        lambda y: y.max(1),
        lambda y: y.softmax(1).topk(3),
        lambda y: {"sorted": y.sort(1), "y": y},
        lambda y: y.split([2, 3], 1),
        lambda y: (y.median(1)[0], y.chunk(2, 1)),
        lambda y: (torch.softmax(input=y, dim=1), y),  # every argument by its name
    ],
    ids=["max", "topk", "sort", "split", "median and chunk", "named"],
)
def test_operators_with_several_results_are_outputs(give: Callable[[Tensor], Any]) -> None:
    model = Net(give).eval()
    made = rewrite(model, to="conv")
    found = certify(model, made.module, inputs=(X,), plan=made.plan)
    assert str(found.verdict) not in ("broken",)
    other = made.module.fc.weight.detach().clone()
    other[0] += 0.5
    made.module.fc.weight = nn.Parameter(other)
    assert str(certify(model, made.module, inputs=(X,), plan=made.plan).verdict) == "broken"


@pytest.mark.parametrize(
    "kernel", [lambda x: x.size(3), lambda x: x.size()[2:], lambda x: (x.shape[2], x.shape[3])], ids="abc"
)
def test_a_pool_may_take_its_kernel_from_the_map(kernel: Callable[[Tensor], Any]) -> None:
    class Sized(Net):
        def forward(self, x: Tensor) -> Any:
            x = self.conv(x)
            return self.fc(nn.functional.avg_pool2d(x, kernel(x)).flatten(1))

    model = Sized(lambda y: y).eval()
    made = rewrite(model, to="conv", example_inputs=(X,))
    assert [entry.site.name for entry in made.report.rewrites] == ["fc"]
    assert str(certify(model, made.module, inputs=(X,), plan=made.plan).verdict) in ("proved", "agrees")


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_an_ensemble_is_stacked_along_any_axis(dim: int) -> None:
    model = Net(lambda y: torch.stack([y, y.flip(1)], dim).mean(dim)).eval()
    made = rewrite(model, to="conv")
    assert str(certify(model, made.module, inputs=(X,), plan=made.plan).verdict) in ("proved", "agrees")


def test_axes_that_depend_on_the_batch_are_told() -> None:
    model = Net(lambda y: y.squeeze()).eval()
    made = rewrite(model, to="conv")
    with pytest.raises(CheckError, match="its axes depend on the batch; keep the batch axis"):
        certify(model, made.module, inputs=(torch.cat([X, X[:1]]),), plan=made.plan)


@pytest.mark.parametrize("scale", [lambda y: y * 30.0, lambda y: (y - 2) / 0.5], ids=["behind", "twice"])
def test_scales_move_with_the_average(scale: Callable[[Tensor], Any]) -> None:
    model = Net(scale).eval()
    made = rewrite(model, to="dense", outputs=("logits", "map"))
    found = certify(model, made.module, inputs=(X,), plan=made.plan)
    assert {str(layer.layer): str(layer.status) for layer in found.layers} | {"rounding": ""} == {
        "weights": "proved", "wiring": "proved", "backbone": "proved", "rounding": "", "decision": "held",
    }  # fmt: skip
    other = Net(lambda y: scale(y) + 1).eval()
    assert str(certify(other, made.module, inputs=(X,), plan=made.plan).verdict) == "broken"
