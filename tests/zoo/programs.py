"""Graphs of ``torch.export`` for tests, each exported once, and what must hold of a rewritten one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from fxpasses import find_sites
from zoo import build
from zoo.compare import tensors
from zoo.entry import Entry

DIALECTS = ("training", "core")
EXPORT_BATCH = 4
# what a dialect writes an affine function as
LINEARS = {"training": {"linear"}, "core": {"addmm", "mm"}}
CONVS = {"training": {"conv1d", "conv2d", "conv3d"}, "core": {"convolution"}}
# what run_decompositions() takes apart, so that it must not come back
COMPOSITE = {"linear", "conv1d", "conv2d", "conv3d", "flatten", "unflatten", "reshape", "adaptive_avg_pool1d"}


def is_fixed(entry: Entry) -> bool:
    """Whether the model takes one batch size alone."""
    return len(entry.batches) == 1


def batch_of(entry: Entry) -> int:
    """The batch size to export with; 0 and 1 would be taken for constants."""
    return entry.batches[0] if is_fixed(entry) else EXPORT_BATCH


@functools.cache
def exported(entry: Entry, dialect: str, *, static: bool = False) -> tuple[nn.Module, fx.GraphModule]:
    """A model of the zoo and its exported graph; tests must not change either."""
    model = build(entry)
    return model, export(model, entry.inputs(batch_of(entry)), dialect, static=static or is_fixed(entry))


def export(
    model: nn.Module, inputs: Sequence[Tensor], dialect: str, *, static: bool = False
) -> fx.GraphModule:
    """The graph of a model in an ATen dialect, with a dynamic batch unless ``static``."""
    batch = None if static else tuple({0: Dim("batch", min=1, max=4096)} for _ in inputs)
    program = torch.export.export(model, tuple(inputs), dynamic_shapes=batch)
    if dialect == "core":
        program = program.run_decompositions()
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    return module


def operators(module: fx.GraphModule) -> list[str]:
    """Names of the ATen operators of a graph, in order."""
    return [
        node.target._schema.name.removeprefix("aten::")
        for node in module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    ]


def foreign(module: fx.GraphModule) -> set[str]:
    """Nodes that no ATen graph has: calls of modules, methods and torch functions."""
    return {
        node.name
        for node in module.graph.nodes
        if node.op in ("call_module", "call_method")
        or (node.op == "call_function" and type(node.target).__module__ == "builtins" and _is_torch(node))
        or (node.op == "call_function" and type(node.target).__name__ == "function")
    } - {"_guards_fn"}


def _is_torch(node: fx.Node) -> bool:
    return getattr(node.target, "__module__", "") not in ("_operator", "math")


def weights_of(module: nn.Module, scope: str, inputs: Any = None) -> dict[str, int]:
    """The weights of a model's sites, their places in memory by name: no dialect changes either."""
    names = tensors(module)
    found = find_sites(module, scope=scope, example_inputs=inputs)
    return {site.weight: names[site.weight].data_ptr() for site in found.sites}


class _ShapeCheck(fx.Interpreter):
    """Runs a graph and compares what its nodes give with their ``val``."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.wrong: list[str] = []

    def run_node(self, n: fx.Node) -> Any:
        """One node."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            said = n.meta.get("val")
            shape = tuple(said.shape) if isinstance(said, Tensor) else ()
            alike = len(shape) == result.ndim and isinstance(said, Tensor) and said.dtype == result.dtype
            known = all(
                not isinstance(size, int) or size == extent
                for size, extent in zip(shape, result.shape, strict=False)
            )
            if not alike or not known:
                self.wrong.append(f"{n.name}: {shape} is {tuple(result.shape)}")
        return result


def false_shapes(module: fx.GraphModule, inputs: Sequence[Tensor]) -> list[str]:
    """The nodes whose ``val`` is not what they compute."""
    check = _ShapeCheck(module)
    check.run(*inputs)
    return check.wrong
