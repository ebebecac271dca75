"""Checkpoints as training loops write them, of a small model with a head."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fxpasses import Form, WeightMove, WeightOrder, WeightPlan, rewrite

MOVE = WeightMove(name="fc.weight", linear_shape=(5, 8), conv_shape=(5, 8, 1, 1))
PLAN = WeightPlan(to=Form.CONV, moves=(MOVE,))
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-3),
    "asgd": lambda p: torch.optim.ASGD(p, lr=1e-2),
}


class Net(nn.Module):
    """A backbone with buffers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.bn(self.conv(x)).relu()), 1))


class Training:
    """A model, what trains it, and its average, as torchvision's training loop has them."""

    def __init__(self, model: nn.Module, optimizer: str) -> None:
        self.model = model
        self.optimizer = OPTIMIZERS[optimizer](model.parameters())
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=4, gamma=0.5)
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.step = 0

    def run(self, steps: int) -> list[float]:
        """The losses of so many steps; the same number gives the same batch."""
        losses = []
        for _ in range(steps):
            generator = torch.Generator().manual_seed(self.step)
            inputs = torch.randn(6, 3, 6, 6, generator=generator, dtype=torch.float64)
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(inputs), torch.arange(6) % 5)
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.average.update_parameters(self.model)
            self.step += 1
            losses.append(loss.item())
        return losses

    def checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.scheduler.state_dict(),
            "epoch": self.step,
            "args": argparse.Namespace(lr=0.05, model="net", milestones=[1, 2]),
            "model_ema": self.average.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def resume(self, checkpoint: dict[str, Any]) -> Training:
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scheduler.load_state_dict(checkpoint["lr_scheduler"])
        self.average.load_state_dict(checkpoint["model_ema"])
        self.step = checkpoint["epoch"]
        return self


def build(form: str) -> nn.Module:
    """The model in training mode and float64, with its head in ``form``."""
    torch.manual_seed(0)
    model = Net().double().train()
    return rewrite(model, to="conv").module if form == "conv" else model


def load(path: str | Path, **options: Any) -> Any:
    """What ``torch.load`` gives that runs nothing of the file."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True, **options)


def save(content: Any, path: str | Path) -> Path:
    """A file in the zip format that does not hold its own name."""
    with Path(path).open("wb") as file:
        torch.save(content, file)
    return Path(path)


def save_plan(plan: WeightPlan = PLAN, path: str | Path = "plan.json") -> str:
    """The plan's file."""
    Path(path).write_text(json.dumps(plan.to_dict()))
    return str(path)


def grid_plan(order: WeightOrder) -> WeightPlan:
    """The plan of a head on a 2×3 grid, whose elements may need another order."""
    move = WeightMove(name="fc.weight", linear_shape=(5, 24), conv_shape=(5, 4, 2, 3), order=order)
    return WeightPlan(to=Form.CONV, moves=(move,))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a checkpoint that is no container, by where it is."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}")
        yield f"{path}.keys", [*value]
        yield f"{path}.class", type(value)
        yield f"{path}._metadata", getattr(value, "_metadata", None)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}/{index}")
    else:
        yield path, value


def same(one: Any, other: Any) -> bool:
    """Whether two leaves are the same, tensors bit for bit with their strides."""
    if not isinstance(one, Tensor):
        return type(one) is type(other) and one == other
    parts = [(t.dtype, t.device, t.shape, t.stride(), t.requires_grad, type(t)) for t in (one, other)]
    return parts[0] == parts[1] and torch.equal(
        one.detach().contiguous().view(-1).view(torch.uint8) if one.dim() else one,
        other.detach().contiguous().view(-1).view(torch.uint8) if other.dim() else other,
    )
