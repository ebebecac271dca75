"""Models written as one function of their modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.entry import CHANNELS, CLASSES, Entry, Stem, seeded


class Model(nn.Module):
    """A stem and modules by name; ``call`` says what the model does with them."""

    def __init__(self, call: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.stem = Stem()
        self.call = call
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Any:
        """Whatever ``call`` returns."""
        return self.call(self, x)


class TwoInputModel(Model):
    """The same with two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        """Whatever ``call`` returns."""
        return self.call(self, x, y)


def model(
    name: str,
    call: Callable[..., Any],
    modules: Callable[[], dict[str, nn.Module]],
    kind: type[Model] = Model,
    **facts: Any,
) -> Entry:
    """An entry whose model is written as one function of its modules."""
    return Entry(name=name, make=seeded(lambda: kind(call, **modules())), **facts)


def pooled(x: Tensor) -> Tensor:
    """``[N, C]``, through a pool and a flatten of their own nodes."""
    return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)


def linear(inside: int = CHANNELS, outside: int = CLASSES) -> nn.Linear:
    """A linear head."""
    return nn.Linear(inside, outside)


def conv(inside: int = CHANNELS, outside: int = CLASSES) -> nn.Conv2d:
    """A convolution head."""
    return nn.Conv2d(inside, outside, 1)
