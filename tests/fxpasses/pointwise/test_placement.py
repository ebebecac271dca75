"""As few permutes as there can be: the cut against every labelling, and random graphs both ways."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fxpasses import rewrite
from fxpasses.graph.trace import trace
from fxpasses.pointwise.frames import UNIT, between, reached
from fxpasses.pointwise.placement import Cut
from zoo.compare import difference, storages, written


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, dict[int, int], list[tuple[int, list[int], int]]]:
    """Points, which side some prefer and how much, and what values charge their readers."""
    count = draw(st.integers(1, 6))
    point = st.integers(0, count - 1)
    sides = draw(st.dictionaries(point, st.tuples(st.booleans(), st.integers(1, 9)), max_size=count))
    charge = st.tuples(point, st.lists(point, min_size=1, max_size=3), st.integers(1, 9))
    return count, sides, draw(st.lists(charge, max_size=8))


def cost(labels: tuple[bool, ...], sides: dict[int, Any], charges: list[tuple[int, list[int], int]]) -> int:
    total = sum(amount for point, (side, amount) in sides.items() if labels[point] is not side)
    return total + sum(
        amount for value, readers, amount in charges if any(labels[r] is not labels[value] for r in readers)
    )


@given(problems())
def test_a_cut_costs_no_more_than_any_labelling(problem: Any) -> None:
    count, sides, charges = problem
    cut = Cut()
    points = [cut.point() for _ in range(count)]
    for point, (is_second, amount) in sides.items():
        cut.prefer(points[point], int(is_second), amount)
    for value, readers, amount in charges:
        cut.charge(points[value], [points[reader] for reader in readers], amount)
    first = cut.first_side()
    found = tuple(point not in first for point in points)
    best = min(cost(labels, sides, charges) for labels in itertools.product((False, True), repeat=count))
    assert cost(found, sides, charges) == best


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_a_permute_between_two_orders(held: list[int], wanted: list[int]) -> None:
    x = torch.randn(2, 3, 4, 5)
    turned = x.permute(held).permute(between(tuple(held), tuple(wanted)))
    assert torch.equal(turned, x.permute(wanted))


def test_constants_keep_their_broadcasting() -> None:
    assert reached((6,), (0, 2, 3, 1), (0, 1, 2, 3)) == (6, 1, 1)
    assert reached((1, 6, 1, 1), (0, 1, 2, 3), (0, 2, 3, 1)) == (6,)
    assert reached((6,), (0, 1), (0, 1, UNIT, UNIT)) == (6, 1, 1)
    assert reached((6, 1, 1), (0, 1, UNIT, UNIT), (0, 1)) == (6,)


class Random(nn.Module):
    """Steps drawn by Hypothesis, each on one or two of the values before it."""

    def __init__(self, steps: list[tuple[str, int, int]], rank: int) -> None:
        super().__init__()
        self.steps, self.rank, self.width = steps, rank, 4
        self.linears = nn.ModuleList([nn.Linear(4, 4) for _ in steps])
        convolution = (nn.Conv1d, nn.Conv2d)[rank - 3]
        self.convolutions = nn.ModuleList([convolution(4, 4, 1) for _ in steps])
        self.scale = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of whatever nobody read, so that every step counts."""
        values, unread = [x], {0}
        for index, (kind, first, second) in enumerate(self.steps):
            chosen = {first % len(values), second % len(values)} if kind == "add" else {first % len(values)}
            operands = [values[place] for place in sorted(chosen)]
            values.append(self.step(kind, index, second, operands))
            unread = (unread - chosen) | {len(values) - 1}
        return torch.stack([values[place] for place in sorted(unread)])

    def step(self, kind: str, index: int, number: int, operands: list[Tensor]) -> Tensor:
        """One step."""
        x = operands[0]
        match kind:
            case "linear":
                return self.linears[index](x)
            case "conv":
                return self.convolutions[index](x)
            case "permute":
                order = [*torch.randperm(self.rank - 1, generator=torch.Generator().manual_seed(number))]
                return x.permute(0, *(int(axis) + 1 for axis in order))
            case "norm":
                return F.layer_norm(x, (4,))
            case "softmax":
                return F.softmax(x, 1)
            case "scale":
                return x * self.scale
            case "add":
                return x + operands[-1]
        return F.relu(x)


_KINDS = ("linear", "conv", "permute", "permute", "relu", "add", "norm", "softmax", "scale")
_STEPS = st.lists(
    st.tuples(st.sampled_from(_KINDS), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9
)


def permutes(graph: Any) -> int:
    return sum("permute" in str(node.target) for node in graph.nodes)


@settings(max_examples=25)
@example([("linear", 0, 0), ("permute", 0, 0), ("conv", 0, 0), ("add", 2, 1)], 4, "linear")  # a third order
@given(_STEPS, st.sampled_from([3, 4]), st.sampled_from(["linear", "conv"]))
def test_random_graphs_both_ways(steps: list[tuple[str, int, int]], rank: int, to: str) -> None:
    model = Random(steps, rank).double()
    x = torch.randn(2, *(4,) * (rank - 1), dtype=torch.float64)
    expected = model(x)
    there = rewrite(model, to=to, scope="all", example_inputs=x)
    assert torch.allclose(there.module(x), expected, rtol=0, atol=1e-9)
    assert storages(there.module).keys() == storages(model).keys()
    before, after = permutes(trace(model).graph), permutes(there.module.graph)
    assert after <= before + 2 * len(there.report.rewrites)
    other = "conv" if to == "linear" else "linear"
    back = rewrite(there.module, to=other, scope="all", example_inputs=x).module
    assert difference(expected, back(x)) <= 1e-9
    once = rewrite(model, to=other, scope="all", example_inputs=x)
    if not once.report.rewrites:  # every site had the one form, so that back is the graph as it was
        assert written(back) == written(once.module)
