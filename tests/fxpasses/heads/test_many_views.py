"""Views of one object, folded into the batch for the backbone and unfolded behind the pool."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fxpasses import rewrite
from fxpasses.report import MissCode

VIEWS, CHANNELS = 3, 4


class ManyViews(nn.Module):
    def __init__(self, unfold: Callable[[Tensor, int, int], Tensor], features: int = CHANNELS) -> None:
        super().__init__()
        self.unfold = unfold
        self.stem, self.fc = nn.Conv2d(3, CHANNELS, 1), nn.Linear(features, 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.stem(x.flatten(0, 1)).mean((2, 3))
        return self.fc(self.unfold(pooled, x.size(0), x.size(1)))


UNFOLDED: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "sizes": lambda f, batch, views: f.view(batch, views, CHANNELS).max(1)[0],
    "rest": lambda f, batch, views: f.view(batch, views, -1).mean(1),
    "own size": lambda f, batch, views: f.view(batch, views, f.size(-1)).amax(1),
    "number of views": lambda f, batch, views: f.view(-1, VIEWS, CHANNELS).sum(1),
    "both": lambda f, batch, views: f.view(batch, VIEWS, CHANNELS).mean(1),
    "unflatten": lambda f, batch, views: f.unflatten(0, (batch, views)).amax(1),
}


@pytest.mark.parametrize("name", UNFOLDED)
def test_a_head_behind_all_views_becomes_a_convolution(name: str) -> None:
    model = ManyViews(UNFOLDED[name])
    result = rewrite(model, to="conv", example_inputs=torch.randn(2, VIEWS, 3, 5, 5))
    assert len(result.report.rewrites) == 1
    x = torch.randn(4, VIEWS, 3, 5, 5)
    torch.testing.assert_close(result.module(x), model(x))


def test_all_views_side_by_side() -> None:
    model = ManyViews(lambda f, batch, views: f.view(batch, views, CHANNELS).flatten(1), VIEWS * CHANNELS)
    x = torch.randn(2, VIEWS, 3, 5, 5)
    result = rewrite(model, to="conv", example_inputs=x)
    assert len(result.report.rewrites) == 1
    torch.testing.assert_close(result.module(x), model(x))


def test_a_view_that_is_not_the_maps_is_no_part_of_it() -> None:
    model = ManyViews(lambda f, batch, views: f.view(batch, -1), VIEWS * CHANNELS)
    x = torch.randn(2, VIEWS, 3, 5, 5)
    result = rewrite(model, to="conv", example_inputs=x)
    (miss,) = result.report.misses
    assert (miss.code, "cannot be followed back to the pool" in miss.reason) == (
        MissCode.UNKNOWN_LAYOUT,
        True,
    )
    torch.testing.assert_close(result.module(x), model(x))
