"""Shapes of every value of a graph, from example inputs, on fake tensors: nothing is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.fx import Graph, Interpreter, Node

from fxpasses.errors import InputError, first_line
from fxpasses.graph.tree import attribute
from fxpasses.private_names import FakeTensorMode

Shape: TypeAlias = tuple[int | None, ...]
Shapes: TypeAlias = Mapping[Node, Shape]


class Runner(Interpreter):
    """Runs a graph node by node as its code does, which passes lists that a function may write to."""

    def fetch_args_kwargs_from_env(self, n: Node) -> tuple[Any, Any]:
        """The arguments of a node."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return _mutable(tuple(args)), _mutable(dict(kwargs))


class Recorder(Runner):
    """Runs a graph and keeps the shape of every tensor; a value is dropped after its last reader."""

    def __init__(self, root: nn.Module, graph: Graph) -> None:
        super().__init__(root, garbage_collect_values=True, graph=graph)
        self.shapes: dict[Node, tuple[int, ...]] = {}

    def run_node(self, n: Node) -> Any:
        """One node."""
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = tuple(int(extent) for extent in value.shape)
        return value


def _mutable(value: Any) -> Any:
    if isinstance(value, list):
        return [_mutable(item) for item in value]
    if type(value) is tuple:
        return tuple(_mutable(item) for item in value)
    return {key: _mutable(item) for key, item in value.items()} if isinstance(value, dict) else value


def propagate(graph: Graph, root: nn.Module, example_inputs: Sequence[Any]) -> dict[Node, tuple[int, ...]]:
    """The shape of every tensor of ``graph`` for ``example_inputs``.

    Raises:
        InputError: the example inputs do not run through the model.
    """
    recorder = Recorder(root, graph)
    run_on_fakes(recorder, graph, root, {}, example_inputs)
    return recorder.shapes


def run_on_fakes(
    recorder: Recorder,
    graph: Graph,
    root: nn.Module,
    lifted: Mapping[str, str],
    example_inputs: Sequence[Any],
) -> None:
    """Runs a graph on tensors that have sizes and no data.

    ``lifted`` names the parameters that are inputs of the graph, by placeholder name.

    Raises:
        InputError: the example inputs do not run through the model.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # what a norm in training counts its batches with is no fake, and is counted up
    counts = [(item, item.clone()) for item in root.buffers() if not (item.ndim or item.is_floating_point())]
    try:
        with mode, torch.no_grad():
            fakes = [
                mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
                for value in example_inputs
            ]
            for position, node in enumerate(graph.find_nodes(op="placeholder")):
                if node.name in lifted:
                    fakes.insert(position, attribute(root, lifted[node.name]))
            recorder.run(*fakes)  # inputs that are left out have defaults
    except Exception as error:
        raise InputError(
            f"the example inputs do not run through the model ({first_line(error)})",
            where="example_inputs",
            fix="give inputs of the shapes that the model takes",
        ) from error
    finally:
        for item, count in counts:
            item.copy_(count)


def static_extent(extent: int | torch.SymInt) -> int | None:
    """An extent that the program fixes, also where torch.export found out late; None for a symbolic one."""
    return extent if isinstance(extent, int) else extent.node.maybe_as_int()
