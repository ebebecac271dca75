"""``len(x)`` in a model's code leaves the batch free, however the model is traced."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fxpasses import rewrite
from fxpasses.graph.counting import counting
from fxpasses.graph.export_trace import export_module
from fxpasses.graph.trace import trace

Tensor = torch.Tensor


def rows(x: Tensor) -> Tensor:
    return x.view(len(x), -1)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.sizes = [1, 2, 3]

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(rows(x.mean((2, 3)))) * len(self.sizes)
        return scores


def samples(batch: int) -> Tensor:
    return torch.randn(batch, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def test_symbolic_and_exported_graphs_take_any_batch() -> None:
    model = Counting().eval()
    graphs = [
        trace(model).close(()),
        export_module(model, (samples(2),), "").close(()),
        rewrite(copy.deepcopy(model), "conv").module,
    ]
    for batch in (1, 2, 5):
        for graph in graphs:
            assert torch.allclose(graph(samples(batch)), model(samples(batch)), atol=1e-6)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_code_is_left_as_it_was(is_stopped: bool) -> None:
    try:
        with counting(Counting()):
            assert "len" in globals()
            assert len([1, 2]) == 2
            if is_stopped:
                raise RuntimeError
    except RuntimeError:
        pass
    assert "len" not in globals()


def test_a_len_of_the_models_own_is_kept() -> None:
    space: dict[str, object] = {"nn": nn, "__name__": "elsewhere"}
    exec(
        "class Own(nn.Module):\n"
        "    def forward(self, x):\n        return x * len(x)\n"
        "def len(x):\n    return 7\n",
        space,
    )
    model = space["Own"]()  # type: ignore[operator]
    assert torch.equal(trace(model).close(())(samples(2)), 7 * samples(2))
