"""Modules that symbolic tracing cannot trace are rewritten by way of torch.export, and the report says so."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxpasses import InputError, TraceError, find_sites, rewrite

TOLERANCE = 1e-12


class Head(nn.Module):
    """A stem, a pooled Linear, and a module that no forward calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 5)
        self.unused = nn.Linear(2, 2)

    def logits(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.stem(x), 1).flatten(1))


class BranchesOnShape(Head):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 16:
            x = F.avg_pool2d(x, 2)
        return self.logits(x)


class LoopsOverRank(Head):
    def forward(self, x: Tensor) -> Tensor:
        for axis in range(x.dim()):
            x = x + axis
        return self.logits(x)


class BranchesOnValue(Head):
    def forward(self, x: Tensor, is_grey: bool) -> Tensor:
        if is_grey:
            x = x.mean(1, keepdim=True).expand_as(x)
        return self.logits(x)


class TakesAnyNumber(Head):
    def forward(self, *images: Tensor) -> Tensor:
        total = images[0]
        for image in images[1:]:
            total = total + image
        return self.logits(total)


class TakesDict(Head):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"{name}_logits": self.logits(value) for name, value in batch.items()}


class TakesSeveral(Head):
    def forward(self, x: Tensor, scales: list[Tensor]) -> tuple[Tensor, Tensor]:
        for scale in scales:
            x = x * scale
        return self.logits(x), x.mean([2, 3])


@dataclasses.dataclass
class Output:
    logits: Tensor
    features: Tensor


class GivesDataclass(Head):
    def forward(self, x: Tensor) -> Output:
        features = self.stem(x) if x.shape[1] == 3 else x
        pooled = features.mean([2, 3])
        return Output(self.fc(pooled), pooled)


def image(batch: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, channels, 8, 8, dtype=torch.float64, generator=generator)


def inputs(model: nn.Module, batch: int) -> tuple[Any, ...]:
    match model:
        case BranchesOnValue():
            return image(batch), True
        case TakesAnyNumber():
            return image(batch), image(batch) * 2, image(batch) - 1
        case TakesDict():
            return ({"left": image(batch), "right": image(batch) + 1},)
        case TakesSeveral():
            return image(batch), [image(batch, 1), image(batch, 3)]
        case _:
            return (image(batch),)


def leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Output):
        return [value.logits, value.features]
    return pytree.tree_leaves(value)


MODELS = [
    BranchesOnShape, LoopsOverRank, BranchesOnValue, TakesAnyNumber, TakesDict, TakesSeveral, GivesDataclass,
]  # fmt: skip
every_model = pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double().eval()


@every_model
@pytest.mark.parametrize("example_batch", [1, 2])
def test_rewritten_by_way_of_export(kind: type[nn.Module], example_batch: int) -> None:
    model = made(kind)
    result = rewrite(model, to="conv", example_inputs=inputs(model, example_batch))
    assert result.report.trace.method == "export"
    assert "symbolically" in (result.report.trace.reason or "")
    assert result.report.trace.notes == ()
    assert {entry.site.name for entry in result.report.rewrites} == {"fc"}
    for batch in (1, 2, 5):
        given = inputs(model, batch)
        for expected, found in zip(leaves(model(*given)), leaves(result.module(*given)), strict=True):
            assert (expected - found).abs().max() <= TOLERANCE * expected.abs().max()


@every_model
def test_names_storage_and_the_way_back(kind: type[nn.Module]) -> None:
    model = made(kind)
    there = rewrite(model, to="conv", example_inputs=inputs(model, 2))
    assert list(there.module.state_dict()) == list(model.state_dict())
    assert there.module.get_parameter("fc.weight").data_ptr() == model.fc.weight.data_ptr()
    assert tuple(there.module.get_parameter("fc.weight").shape) == (5, 6, 1, 1)
    there.module.load_state_dict(there.plan.apply(model.state_dict()))
    back = rewrite(there.module, to="linear").module
    given = inputs(model, 5)
    for expected, found in zip(leaves(model(*given)), leaves(back(*given)), strict=True):
        assert torch.equal(expected, found)


def test_without_example_inputs_the_error_says_so() -> None:
    with pytest.raises(TraceError, match="example_inputs"):
        rewrite(made(BranchesOnShape), to="conv")


def test_export_without_example_inputs_is_refused() -> None:
    with pytest.raises(InputError, match="example inputs"):
        rewrite(made(BranchesOnShape), to="conv", way="export")


def test_symbolic_alone_does_not_fall_back() -> None:
    model = made(BranchesOnShape)
    with pytest.raises(TraceError, match="symbolically"):
        rewrite(model, to="conv", way="symbolic", example_inputs=inputs(model, 2))


def test_an_unknown_way_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'export'"):
        rewrite(made(BranchesOnShape), to="conv", way="exprot")


def test_export_can_be_asked_for() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)).double().eval()
    found = find_sites(model, example_inputs=image(2), way="export")
    assert found.trace.method == "export"
    assert found.trace.reason == "asked for"
    assert [site.name for site in found.sites] == ["2"]


def test_a_model_that_fixes_its_batch_says_so() -> None:
    class Fixed(Head):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[0] == 2
            return self.logits(x)

    model = made(Fixed)
    result = rewrite(model, to="conv", example_inputs=image(2))
    assert "batch" in result.report.trace.notes[0]
    assert (result.module(image(2)) - model(image(2))).abs().max() <= TOLERANCE


def test_control_flow_on_data_is_an_error_with_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    class OnData(Head):
        def forward(self, x: Tensor) -> Tensor:
            return self.logits(x + 1 if x.sum() > 0 else x)

    with pytest.raises(TraceError, match="data-dependent"):
        rewrite(made(OnData), to="conv", example_inputs=image(2))
    assert capfd.readouterr() == ("", "")
