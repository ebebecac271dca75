"""The same model gives the same graph, names included, in every process: nothing goes by addresses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxpasses import rewrite

_MANY = 6


class Scaled(nn.Module):
    """A head, or layers on a map, with constants between that need a view in the other form."""

    def __init__(self, first: nn.Module, last: nn.Module, *axes: int) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.scales = nn.ParameterList(torch.randn(4, *axes) for _ in range(_MANY))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for scale in self.scales:
            x = x * scale
        result: Tensor = self.last(x)
        return result


def _views(module: torch.fx.GraphModule) -> list[str]:
    """What the views of constants read, by the numbers of their names."""
    found = [node for node in module.graph.nodes if node.name.startswith("reshape")]
    found.sort(key=lambda node: int(node.name.removeprefix("reshape").strip("_") or 0))
    return [str(node.args[0]) for node in found]


def test_views_of_constants_are_called_in_the_order_of_the_graph() -> None:
    wanted = [f"scales_{number}" for number in range(_MANY)]
    pooled = Scaled(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 3))
    assert _views(rewrite(pooled, to="conv").module) == wanted
    on_map = Scaled(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1), 1, 1)
    x = torch.randn(2, 3, 5, 5)
    assert _views(rewrite(on_map, to="linear", scope="all", example_inputs=x).module) == wanted


def test_constants_of_a_trace_are_held_in_the_order_of_the_graph() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.mean((2, 3))
            for number in range(_MANY):
                x = x + torch.tensor([float(number)])
            result: Tensor = self.fc(x)
            return result

    held = [name for name, _ in rewrite(Shifted(), to="conv").module.named_buffers()]
    assert held == [f"_tensor_constant{number}" for number in range(_MANY)]
