"""What is a site and what is missed, where that hangs on the values around it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxpasses import MissCode, find_sites, rewrite


class WrittenBehind(nn.Module):
    """An in-place op on the flat form of a pooled map, which is an output as well."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.between = between
        self.fc = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = F.adaptive_avg_pool2d(x, 2)
        flat = torch.flatten(self.between(pooled), 1)
        return self.fc(F.relu_(flat)), pooled


@pytest.mark.parametrize("between", [nn.Identity(), nn.Dropout()], ids=["identity", "dropout"])
def test_an_op_that_may_share_memory_does_not_hide_who_reads_it(between: nn.Module) -> None:
    found = find_sites(WrittenBehind(between).eval(), example_inputs=(torch.randn(1, 4, 4, 4),))
    assert [miss.code for miss in found.misses] == [MissCode.IN_PLACE_ALIAS]


class Copy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def test_a_copy_has_memory_of_its_own() -> None:
    model = WrittenBehind(Copy()).eval()
    x = torch.randn(1, 4, 4, 4).to(memory_format=torch.channels_last)
    made = rewrite(model, to="conv", example_inputs=(x,)).module
    for before, after in zip(model(x), made(x), strict=True):
        assert torch.allclose(before, after, atol=1e-5)
