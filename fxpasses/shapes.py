"""Shapes of every value of a graph, from example inputs, on fake tensors: nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Interpreter, Node

from fxpasses.errors import InputError


class _Recorder(Interpreter):
    def __init__(self, root: nn.Module, graph: Graph) -> None:
        super().__init__(root, garbage_collect_values=True, graph=graph)
        self.shapes: dict[Node, tuple[int, ...]] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = tuple(int(extent) for extent in value.shape)
        return value


def propagate(graph: Graph, root: nn.Module, example_inputs: Sequence[Any]) -> dict[Node, tuple[int, ...]]:
    """The shape of every tensor of ``graph`` for ``example_inputs``.

    Raises:
        InputError: the example inputs do not run through the model.
    """
    recorder = _Recorder(root, graph)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode, torch.no_grad():
            fake = [
                mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
                for value in example_inputs
            ]
            recorder.run(*fake)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"the example inputs do not run through the model ({lines[0]})",
            where="example_inputs",
            fix="give inputs of the shapes that the model takes",
        ) from error
    return recorder.shapes
