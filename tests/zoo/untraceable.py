"""Models that symbolic tracing cannot trace and torch.export can, with their inputs."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree


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


class BranchesOnData(Head):
    """Both branches stay in the graph: what torch.cond decides by is computed."""

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(torch.cond(x.mean() > 0, lambda y: y * 2, lambda y: y - 1, (x,)))


class LoopsOverBatch(Head):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] < 1:
            raise ValueError("no images")
        return self.logits(x)


class AsksForType(Head):
    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x.double() if x.dtype.is_floating_point else x / 255
        return self.logits(x) + (0 if bias is None else bias)


class HoldsMuch(Head):
    """Tied heads, a buffer that is not saved, a constant, a buffer that counts the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(6, 5)
        self.second.weight = self.fc.weight
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        self.register_buffer("calls", torch.zeros(1))
        self.shift = torch.tensor(0.5, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 3:
            self.calls += 1
        features = F.adaptive_avg_pool2d(self.stem(x), 1).flatten(1) * self.scale + self.shift
        return self.fc(features) - self.second(features * features)


class Fields(NamedTuple):
    logits: Tensor
    others: dict[str, Tensor]


class GivesNamedTuple(Head):
    def forward(self, x: Tensor) -> Fields:
        return Fields(self.logits(x if x.shape[-1] > 2 else x * 2), {"mean": x.mean([2, 3])})


def image(batch: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, channels, 8, 8, dtype=torch.float64, generator=generator)


def inputs(model: nn.Module, batch: int) -> tuple[Any, ...]:
    match model:
        case BranchesOnValue():
            return image(batch), True
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


MODELS = (
    BranchesOnShape, LoopsOverRank, BranchesOnValue, TakesDict, TakesSeveral, GivesDataclass,
    BranchesOnData, LoopsOverBatch, AsksForType, HoldsMuch, GivesNamedTuple,
)  # fmt: skip


def made(kind: type[nn.Module], *, train: bool = False) -> nn.Module:
    """The model, always with the same weights."""
    torch.manual_seed(0)
    return kind().double().train(train)
