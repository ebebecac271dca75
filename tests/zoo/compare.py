"""What tests compare: outputs by the signal in them, graphs node for node, weights by storage."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from fxpasses import rewrite

LINEAR_CALLS = {F.linear}
CONV_CALLS = {F.conv1d, F.conv2d, F.conv3d}


def leaves(outputs: Any) -> list[Tensor]:
    """The tensors in a model's output, of whatever structure; never none."""
    found = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    assert found, "nothing to compare"
    return found


def difference(reference: Any, candidate: Any) -> float:
    """Greatest difference over all outputs, relative to how much the reference's samples differ.

    A batch of one is measured against its greatest value instead. Structure, shapes and dtypes
    must be equal, and so must whole numbers.
    """
    assert pytree.tree_structure(reference) == pytree.tree_structure(candidate)
    worst = 0.0
    for expected, actual in zip(leaves(reference), leaves(candidate), strict=True):
        assert expected.shape == actual.shape
        assert expected.dtype == actual.dtype
        if not expected.is_floating_point():
            assert torch.equal(expected, actual)
            continue
        assert expected.isfinite().all()
        expected, actual = expected.detach(), actual.detach()
        scale = (expected - expected.mean(0)).abs().max() if len(expected) > 1 else expected.abs().max()
        gap = (expected - actual).abs().max()
        worst = max(worst, 0.0 if gap == 0 else float(gap / scale))
    return worst


def written(module: fx.GraphModule) -> list[tuple[Any, ...]]:
    """A graph, node for node, with what its module calls compute."""
    lines: list[tuple[Any, ...]] = []
    for node in module.graph.nodes:
        called = repr(module.get_submodule(node.target)) if node.op == "call_module" else ""
        lines.append((node.op, node.name, node.target, repr(node.args), repr(node.kwargs), called))
    return lines


def unnamed(module: fx.GraphModule) -> list[tuple[Any, ...]]:
    """A graph, node for node; a node is known by its place."""
    places = {node: f"%{place}" for place, node in enumerate(module.graph.nodes)}
    return [
        (node.op, str(node.target), fx.node.map_arg((node.args, node.kwargs), lambda source: places[source]))
        for node in module.graph.nodes
    ]


def traced(model: nn.Module, form: str) -> fx.GraphModule:
    """The graph of a model whose sites all have ``form``: what fxpasses traces and leaves alone."""
    result = rewrite(model, to=form)
    assert not result.report.rewrites
    return result.module


def kinds(module: fx.GraphModule) -> list[str]:
    """The ops of a graph in order, in words: class, function or method name."""
    names = []
    for node in module.graph.nodes:
        if node.op == "call_module":
            names.append(type(module.get_submodule(node.target)).__name__)
        elif node.op in ("call_function", "call_method"):
            names.append(getattr(node.target, "__name__", str(node.target)))
    return names


def affine_calls(module: fx.GraphModule) -> tuple[int, int]:
    """How many nodes are a Linear, and how many a convolution."""
    linear = conv = 0
    for node in module.graph.nodes:
        if node.op == "call_module":
            called = module.get_submodule(node.target)
            linear += isinstance(called, nn.Linear)
            conv += isinstance(called, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        elif node.op == "call_function":
            linear += node.target in LINEAR_CALLS
            conv += node.target in CONV_CALLS
    return linear, conv


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state dict, parameters as they are."""
    return module.state_dict(keep_vars=True)


def storages(module: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Where each tensor of the state dict lives, and how it is laid out."""
    return {
        name: (t.untyped_storage().data_ptr(), t.storage_offset(), tuple(t.shape), t.stride())
        for name, t in tensors(module).items()
    }


def facts(module: nn.Module) -> list[tuple[Any, ...]]:
    """Name, type, dtype, device and requires_grad of each tensor of the state dict, in order."""
    return [
        (name, isinstance(t, nn.Parameter), t.dtype, t.device, t.requires_grad)
        for name, t in tensors(module).items()
    ]
