"""What stays behind a head reads each of its values in the layout that it had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxpasses import rewrite
from fxpasses.miss_codes import MissCode

READERS: dict[str, Callable[[Tensor], Any]] = {
    "as a map, and flat": lambda y: (y[:, :, None, None], y),
    "flat, and as a map": lambda y: {"flat": y, "map": y.unsqueeze(-1).unsqueeze(-1)},
    "both in one operator": lambda y: y.view(-1, 5, 1, 1) * y,
}


class Head(nn.Module):
    def __init__(self, read: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.read, self.stem, self.fc = read, nn.Conv2d(3, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Any:
        return self.read(self.fc(self.stem(x).mean((2, 3))))


@pytest.mark.parametrize("name", READERS)
def test_a_value_that_is_read_flat_and_as_a_map_stays_both(name: str) -> None:
    model, x = Head(READERS[name]), torch.randn(2, 3, 4, 4)
    there = rewrite(model, to="conv").module
    torch.testing.assert_close(there(x), model(x))  # their shapes as well
    torch.testing.assert_close(rewrite(there, to="linear").module(x), model(x))


class Reread(nn.Module):
    """A pooled value that is flat and a map again before its site."""

    def __init__(self, read: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.read, self.stem, self.fc, self.conv = (
            read,
            nn.Conv2d(3, 4, 1),
            nn.Linear(4, 5),
            nn.Conv2d(4, 5, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self, F.adaptive_avg_pool2d(self.stem(x), 1).flatten(1))


REREAD: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "flat again": (lambda m, f: m.fc(f.view(-1, 4, 1, 1).flatten(1)), 1),
    "a map": (lambda m, f: m.conv(f.view(-1, 4, 1, 1)), 1),
    "a map, scaled while flat": (lambda m, f: m.conv((f * 0.5).view(-1, 4, 1, 1)), 0),
    "both, scaled while flat": (lambda m, f: m.conv((f + 1).view(-1, 4, 1, 1)).flatten(1) * m.fc(f), 2),
}


@pytest.mark.parametrize("to", ["conv", "dense"])
@pytest.mark.parametrize("name", REREAD)
def test_a_value_that_is_flat_in_between(name: str, to: str) -> None:
    read, dense = REREAD[name]
    model, x = Reread(read).double().eval(), torch.randn(2, 3, 4, 4).double()
    there = rewrite(model, to=to)
    torch.testing.assert_close(there.module(x), model(x))
    torch.testing.assert_close(rewrite(there.module, to="linear").module(x), model(x))
    if to == "dense":
        assert len(there.report.rewrites) == dense
        assert [miss.code for miss in there.report.misses] == [MissCode.UNKNOWN_LAYOUT] * (not dense)
