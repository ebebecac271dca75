"""Modules and programs as graphs: a module is what ``torch.export`` records of it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from fxexport.language.aten import MustFunctionalise, dtype_name, loses_writes, read_program
from fxexport.language.graph import Dims, Graph, GraphInput, NotRead
from fxexport.language.guards import NotUnderstood
from fxexport.language.memory import Memory, refusal, require_constant, require_inside, require_same
from fxexport.language.ranges import granted
from fxexport.language.recording import Called, ModuleCall, Recording, Start, inside
from fxexport.language.term import Terms, Value
from fxpasses.graph.held import Held
from fxpasses.graph.quiet import quiet

SCOPE = (
    "a module is what torch.export records of one call; what a call reads from outside of its arguments, "
    "parameters and buffers is taken as it was then"
)


def graph_of_module(
    module: nn.Module,
    args: Sequence[torch.Tensor],
    *,
    free_sizes: bool = False,
    memory: Memory | None = None,
) -> Graph:
    """The module as ``torch.export`` records it, called as ``module(*args)``.

    Args:
        module: what is recorded; the modes of its parts are left as they are.
        args: what it takes.
        free_sizes: whether the axes behind the channels are free too; else the batch alone is, if it can be.
        memory: what it held before it was run; None where it was not.

    Raises:
        NotRead: export refuses, or a run changes what the next one gives.
    """
    call = ModuleCall(tuple(args))

    def recorded(*, is_free: bool) -> Graph:
        whole = call.doubled() if is_free else call
        known = memory or Memory(found=Held(module))
        return _remembered(module, whole, whole.freed(batch=is_free, sizes=free_sizes), known)

    if free_sizes:
        return recorded(is_free=True)
    try:
        return recorded(is_free=True)
    except NotRead:
        if memory is not None and memory.found.changes():  # by a run of another batch, maybe
            raise
        return recorded(is_free=False)


def _remembered(module: nn.Module, call: ModuleCall, dims: Sequence[Dims], memory: Memory) -> Graph:
    """The module as it is in every run, at the extents of a call's tensors; those that are None are free."""

    def at(wanted: Sequence[Dims]) -> Graph:
        return _remembered(module, call.at(wanted), wanted, memory)

    now = call.recorded(module, dims)
    for run in memory.runs:
        name = now.calls.difference(run) if _takes(run.extents, dims) else None
        if name is not None:
            raise NotRead(f"a run calls other functions than what torch.export records ({name})")
    graph = _recorded(module, now.program, call, dims, at)
    left, filled = now.changes, memory.found.changes()
    require_inside(memory.later, left)
    if left:
        try:
            unread, other = _from(Start(unread=left), module, call, dims)
        except NotRead as error:
            raise refusal(left[0]) from error
        require_inside(unread.changes, left)
        require_same(other, graph, left[0])
    filled = [change for change in filled if change not in inside(filled, left)]
    if filled:
        first, other = _from(Start(held=memory.found, gives=filled), module, call, dims)
        made = [change for change in first.changes if change not in inside(first.changes, left)]
        require_constant(first.program, made, filled)
        require_same(other, graph, filled[0])
    return graph


def _takes(extents: Sequence[Sequence[int]], dims: Sequence[Dims]) -> bool:
    """Whether inputs of these extents are within what is recorded."""
    return all(
        own is None or own == extent
        for found, wanted in zip(extents, dims, strict=True)
        for extent, own in zip(found, wanted, strict=True)
    )


def _from(start: Start, module: nn.Module, call: ModuleCall, dims: Sequence[Dims]) -> tuple[Recording, Graph]:
    found = call.recorded_from(start, module, dims)

    def at(wanted: Sequence[Dims]) -> Graph:
        return _from(start, module, call.at(wanted), wanted)[1]

    return found, _recorded(module, found.program, call, dims, at)


def _recorded(
    module: nn.Module,
    program: ExportedProgram,
    call: ModuleCall,
    dims: Sequence[Dims],
    at: Callable[[Sequence[Dims]], Graph],
) -> Graph:
    """What was recorded at the extents of a call's tensors; those that are None in ``dims`` are free."""
    graph = _graph_of_program(program)
    names = _names(module, len(call.tensors))
    shapes = [tuple(item.shape) for item in call.tensors]
    guards = getattr(program, "_guards_code", None)
    if guards is None and any(None in item.dims for item in graph.inputs):
        raise NotRead("torch does not say what it took for granted about sizes")
    try:
        found = granted(guards or (), graph.inputs, shapes, dims, names)
    except NotUnderstood as error:
        raise NotRead(str(error)) from error
    inputs = [
        dataclasses.replace(item, name=names.get(item.name, item.name)) for item in found.ranged(graph.inputs)
    ]
    return dataclasses.replace(
        graph,
        inputs=tuple(inputs),
        conditions=tuple(item.text for item in found.conditions),
        outside=found.outside,
        fixed=found.fixed,
        takes=found.takes,
        at=at,
    )


def _names(module: nn.Module, count: int) -> dict[str, str]:
    """What the module calls its positional arguments, by their names in the recording."""
    try:
        known = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return {}
    positional = [item.name for item in known if item.kind is item.POSITIONAL_OR_KEYWORD]
    return {f"args_{place}": name for place, name in enumerate(positional[:count])}


def _graph_of_program(program: ExportedProgram) -> Graph:
    tensors = _user_tensors(program)

    @functools.cache  # a graph is read once for each file beside it
    def pure() -> ExportedProgram:
        with quiet("torch.fx", "torch.export"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found: ExportedProgram = program.run_decompositions({})
            except RuntimeError as error:  # a constant that is written to, say
                raise NotRead(f"torch does not write it without changes in place ({error})") from error
            return found

    def read(terms: Terms, inputs: Sequence[Value]) -> list[Value]:
        try:
            return read_program(terms, program, inputs, Called.PREFIX)
        except MustFunctionalise as error:
            if loses_writes(program.graph):
                raise NotRead(f"{error} changes a value in place that may have views") from error
        try:
            return read_program(terms, pure(), inputs, Called.PREFIX)
        except MustFunctionalise as error:
            raise NotRead(f"{error} changes a value in place that has views") from error

    return Graph(
        inputs=tuple(_graph_input(program, name, tensor) for name, tensor in tensors),
        outputs=tuple(f"output {number}" for number in range(_output_count(program))),
        scope=(SCOPE,),
        read=read,
    )


def _user_tensors(program: ExportedProgram) -> list[tuple[str, torch.Tensor]]:
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    own = [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    return [(spec.arg.name, nodes[spec.arg.name].meta["val"]) for spec in own]


def _output_count(program: ExportedProgram) -> int:
    (left,) = (node for node in program.graph.nodes if node.op == "output")
    return sum(isinstance(item, torch.fx.Node) for item in left.args[0])


def _graph_input(program: ExportedProgram, name: str, tensor: torch.Tensor) -> GraphInput:
    same: list[str | None] = []
    least: list[int] = []
    most: list[int | None] = []
    for extent in tensor.shape:
        expression = None if isinstance(extent, int) else extent.node.expr
        if expression is None or expression.is_number:
            same.append(None)
            least.append(int(extent))
            most.append(int(extent))
            continue
        if not expression.is_symbol:
            raise NotRead(f"the extents of {name} depend on each other")
        found = program.range_constraints.get(expression)
        lower, upper = (getattr(found, end, None) for end in ("lower", "upper"))
        same.append(str(expression))
        least.append(_finite(lower) or 0)
        most.append(_finite(upper))
    return GraphInput(
        name=name,
        dtype=dtype_name(tensor.dtype),
        dims=tuple(None if key else low for key, low in zip(same, least, strict=True)),
        least=tuple(least),
        most=tuple(most),
        same=tuple(same),
    )


def _finite(bound: Any) -> int | None:
    try:
        number = int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return number if number < 2**40 else None
