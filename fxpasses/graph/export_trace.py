"""Modules that symbolic tracing cannot trace, as graphs by way of ``torch.export``."""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node

from fxpasses.errors import InputError, TraceError, first_line
from fxpasses.graph.arguments import packed
from fxpasses.graph.quiet import quiet_export
from fxpasses.graph.shapes import static_extent
from fxpasses.graph.trace import Traced, trace
from fxpasses.graph.tracing import calls_apart, tracing
from fxpasses.private_names import pytree
from fxpasses.report import TraceInfo
from fxpasses.wall.clock import SlowError
from fxpasses.wall.marks import walled_for


def export_module(model: nn.Module, example_inputs: Sequence[Any] | None, reason: str) -> Traced:
    """The model as an ATen graph with a dynamic batch, over a tree of its own.

    Tensors of ``example_inputs`` have the batch as their first axis; the module's mode is part of the graph.

    Raises:
        InputError: no example inputs.
        TraceError: ``torch.export`` fails as well.
    """
    program, info = export_program(model, example_inputs, reason)
    try:
        module = program.module()
    except SyntaxError as error:
        raise TraceError(
            f"torch.export writes names of its modules as source text, which they are not ({error.msg})",
            where=type(model).__name__,
            fix="give them names that are no words of Python's own",
        ) from error
    assert isinstance(module, GraphModule)
    return dataclasses.replace(trace(module), info=info, class_name=type(model).__name__)


def export_program(
    model: nn.Module, example_inputs: Sequence[Any] | None, reason: str
) -> tuple[ExportedProgram, TraceInfo]:
    """The model as a program with a dynamic batch where it takes one, and how that went.

    Raises:
        InputError: no example inputs.
        TraceError: ``torch.export`` fails as well.
    """
    if example_inputs is None:
        raise InputError(
            "torch.export needs example inputs", where="example_inputs", fix="pass a tuple of example inputs"
        )
    inputs = tuple(example_inputs)
    try:
        program, is_dynamic = _exported(model, inputs)
    except TraceError as error:
        if "pytree" not in error.what and "unhashable" not in error.what:  # torch 2.11 says the latter
            raise
        _register_dataclasses(model, inputs)
        program, is_dynamic = _exported(model, inputs)
    signature = program.module_call_graph[0].signature
    signature.out_spec = _of_dicts(signature.out_spec)
    notes = () if is_dynamic else ("torch.export fixed the batch size: the graph does not take others",)
    mode = "train" if model.training else "eval"
    return program, TraceInfo(method="export", mode=mode, reason=reason, notes=notes)


def _of_dicts(spec: pytree.TreeSpec) -> pytree.TreeSpec:
    """The structure with a plain dict for each dict of a class of the model's own, as a graph returns it.

    Whoever loads the program would need that class.
    """
    children = [_of_dicts(child) for child in spec.children()]
    is_dict = isinstance(spec.type, type) and issubclass(spec.type, dict) and type(spec.context) is list
    is_own = is_dict and spec.type is not collections.OrderedDict
    return spec if spec.is_leaf() else pytree.TreeSpec(dict if is_own else spec.type, spec.context, children)


def _at_least_two(tensor: torch.Tensor) -> torch.Tensor:
    """A batch of one as a batch of two: torch.export takes an extent of 1 for a constant."""
    return torch.cat([tensor, tensor]) if tensor.ndim and tensor.shape[0] == 1 else tensor


def _exported(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[ExportedProgram, bool]:
    """The program, with a dynamic batch where the model takes one, else with its own, and whether it does."""
    error: Exception | None = None
    fixed: ExportedProgram | None = None
    wide = pytree.tree_map_only(torch.Tensor, _at_least_two, inputs)
    for batch, given in ((Dim("batch", min=1), wide), (Dim.AUTO, wide), (None, inputs)):
        # as tensors of its own: torch marks the axes on the tensor, and where it fails the marks stay
        given = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, given)
        try:
            with walled_for(model), quiet_export(), tracing(model), calls_apart(model):
                program = torch.export.export(model, given, dynamic_shapes=_dynamic(model, given, batch))
                if any(map(_is_batched, program.graph.nodes)):
                    program = program.run_decompositions({})
        except SlowError:
            raise
        except Exception as failure:  # noqa: BLE001 (export raises whatever the model or its tracer raises)
            error = error or failure
            if "data-dependent" in str(failure):
                break  # no batch size makes it static
            continue
        if _takes_any_batch(program):
            return program, True
        fixed = program
        if _shapes(given) == _shapes(inputs):
            break
    if fixed is not None:
        return fixed, False
    raise TraceError(
        f"neither torch.fx nor torch.export can trace it ({first_line(error)})",
        where=type(model).__name__,
        fix="trace the part that can be traced, or give a GraphModule or an ExportedProgram",
    ) from error


def _is_batched(node: Node) -> bool:
    """Whether it begins or ends what ``torch.vmap`` does, in which no value is what it is outside."""
    return str(getattr(node.target, "__module__", "")).startswith("torch._functorch")


def _takes_any_batch(program: ExportedProgram) -> bool:
    """Whether the first axis of every tensor input is symbolic."""
    names = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in names]
    first = [value.shape[0] for value in values if isinstance(value, torch.Tensor) and value.ndim]
    return all(static_extent(extent) is None for extent in first)


def _shapes(inputs: tuple[Any, ...]) -> list[torch.Size]:
    return [leaf.shape for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]


def _register_dataclasses(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Lets torch.export see through the dataclasses that a model takes and gives."""
    with torch.no_grad():
        outputs = copy.deepcopy(model)(*copy.deepcopy(inputs))
    pending: list[Any] = [inputs, outputs]
    while pending:
        value = pending.pop()
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            pending.extend(getattr(value, field.name) for field in dataclasses.fields(value))
            if pytree.tree_is_leaf(value):
                torch.export.register_dataclass(type(value))
        elif isinstance(value, (tuple, list)):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.values())


def _dynamic(model: nn.Module, inputs: tuple[Any, ...], batch: Any) -> Any:
    """Dynamic shapes for ``inputs``: ``batch`` for the first axis of every tensor."""
    if batch is None:
        return None

    def shape(value: Any) -> Any:
        return {0: batch} if isinstance(value, torch.Tensor) and value.ndim else None

    return packed(model.forward, [pytree.tree_map(shape, value) for value in inputs])
