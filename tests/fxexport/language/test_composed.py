"""Operators without a rule are what torch itself makes of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from fxexport.language import derive, graph_of_module
from fxexport.language.aten_operators import OPERATORS
from fxexport.language.composed import composed
from fxpasses.private_names import FakeTensorMode

W, V = torch.arange(32.0).reshape(8, 4).sin(), torch.arange(8.0).cos()
Body = Callable[[Tensor], object]
SAME: dict[str, tuple[Body, Body]] = {
    "aten.tensordot.default": (lambda x: torch.tensordot(x, W, ([1], [0])), lambda x: x @ W),
    "aten.outer.default": (lambda x: x * torch.outer(V, V)[2], lambda x: x * (V[2] * V)),
    "aten.softshrink.default": (
        nn.functional.softshrink,
        lambda x: torch.where(x.abs() > 0.5, x - x.sign() * 0.5, x * 0),
    ),
    "aten.moveaxis.int": (
        lambda x: torch.moveaxis(x.reshape(2, 3, 8), 0, 2),
        lambda x: x.reshape(2, 3, 8).permute(1, 2, 0),
    ),
}
OTHER: dict[str, tuple[Body, Body]] = {
    "aten.moveaxis.int": (
        lambda x: torch.moveaxis(x.reshape(6, 4, 2), 0, 2),
        lambda x: x.reshape(6, 4, 2).permute(2, 1, 0),
    ),
    "aten.tensordot.default": (lambda x: torch.tensordot(x, W, ([1], [0])), lambda x: x @ W.flip(1)),
    "aten.softshrink.default": (nn.functional.softshrink, lambda x: nn.functional.softshrink(x, 0.25)),
    "aten.trapezoid.dx": (torch.trapezoid, lambda x: torch.trapezoid(x, dx=1.01)),
}


class Whole(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.parametrize("name", SAME)
def test_what_torch_defines_by_others_is_these(name: str) -> None:
    assert name not in OPERATORS
    first, second = (graph_of_module(Whole(body), (torch.randn(6, 8),)) for body in SAME[name])
    assert derive(first, second).is_proved


@pytest.mark.parametrize("name", OTHER)
def test_other_arguments_are_another_function(name: str) -> None:
    first, second = (graph_of_module(Whole(body), (torch.randn(6, 8),)) for body in OTHER[name])
    assert not derive(first, second).is_proved


def recorded(function: Body, *shape: int, is_free: bool) -> fx.Node:
    """One call as a recording has it, its batch free or not."""
    program = torch.export.export(
        Whole(lambda x: x + 1),
        (torch.randn(*shape),),
        dynamic_shapes=({0: torch.export.Dim.AUTO} if is_free else None,),
    )
    read = next(node for node in program.graph.nodes if node.op == "call_function")
    with program.graph.inserting_after(read):
        node = program.graph.call_function(function, (read, torch.ones(2, 2)))
    return node


def test_a_definition_that_asks_for_the_size_of_a_batch_is_no_definition() -> None:
    kron = torch.ops.aten.kron.default
    assert composed(recorded(kron, 6, 8, is_free=False)) is not None
    assert composed(recorded(kron, 6, 8, is_free=True)) is None
    assert composed(recorded(kron, 6, 8, is_free=True)) is None


def test_a_call_of_extents_alone_leaves_them_free() -> None:
    """It fixed the batch at that of the example for all that stands behind it, which proved the false."""

    def counted(x: Tensor, number: int) -> tuple[Tensor, Tensor]:
        return x[torch.arange(x.shape[0])], torch.ops.aten.rsub.Scalar(x, number)

    bodies: list[Body] = [
        lambda x: counted(x, x.shape[0]),
        lambda x: counted(x, 2),
        lambda x: (x[torch.arange(x.shape[0])], x.unflatten(1, (4, 2))),
        lambda x: (x[torch.arange(x.shape[0])], x.view(-1, 4, 2)),
    ]
    size, two, parted, viewed = (graph_of_module(Whole(body), (torch.randn(2, 8),)) for body in bodies)
    assert size.inputs[0].dims[0] is None
    assert not derive(size, two).is_proved
    assert derive(parted, viewed).is_proved


def test_a_definition_by_many_steps_is_left_alone() -> None:
    with FakeTensorMode():
        graph = fx.Graph()
        values = [torch.randn(400, 2, 3), torch.zeros(1, 2, 4), *(torch.randn(12, k) for k in (3, 4))]
        nodes = [graph.placeholder(f"v{place}") for place in range(4)]
        for node, value in zip(nodes, values, strict=True):
            node.meta["val"] = value
        x, state, *weights = nodes
        gru = torch.ops.aten.gru.input
        node = graph.call_function(gru, (x, state, weights, False, 1, 0.0, False, False, False))
        assert composed(node) is None


def test_values_of_two_recordings_have_no_definition_together() -> None:
    node = recorded(torch.ops.aten.kron.default, 6, 8, is_free=False)
    with FakeTensorMode(), node.graph.inserting_before(node):
        other = node.graph.call_function(torch.ops.aten.ones.default, ([2, 2],))
        other.meta["val"] = torch.ones(2, 2)
    node.args = (node.args[0], other)
    assert composed(node) is None


def test_what_kernels_compute_in_more_digits_has_no_definition() -> None:
    shrunk = [
        nn.functional.softshrink,
        lambda x: torch.where(x.abs() > 0.5, x - x.sign() * 0.5, x * 0),
    ]
    x = torch.randn(6, 8, dtype=torch.float16)
    assert not derive(*(graph_of_module(Whole(body), (x,)) for body in shrunk)).is_proved


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_only_moves_cells_does_so_in_any_type(dtype: torch.dtype) -> None:
    bodies = [
        lambda x: nn.functional.pixel_shuffle(x, 2),
        lambda x: x.reshape(-1, 2, 2, 2, 3, 3).permute(0, 1, 4, 2, 5, 3).reshape(-1, 2, 6, 6),
    ]
    x = torch.randn(2, 8, 3, 3, dtype=dtype)
    assert derive(*(graph_of_module(Whole(body), (x,)) for body in bodies)).is_proved
