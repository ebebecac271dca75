"""What a proof records of a module, as the program that its file is made of: one recording serves both.

The proof's is at all sizes; here they are those of the example, as the exporter's decompositions, which run
the program once more, find them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.export import ExportedProgram

from fxexport.language.graph import NotRead
from fxexport.language.guards import NotUnderstood, Symbol, conditions
from fxexport.language.ranges import MOST
from fxexport.language.recording import ANY_MEMORY, RECORDING_S, Called, ModuleCall, are_shared
from fxexport.to_onnx.example_call import ExampleCall
from fxpasses.wall.clock import SlowError, in_budget


def shared_program(module: nn.Module, call: ExampleCall) -> ExportedProgram | None:
    """The recording that a proof of the module will use too, if its batch is any.

    None where recordings are not shared, of other calls than with one tensor, and where torch refuses.
    """
    if not are_shared() or call.kwargs or len(call.args) != 1 or not isinstance(call.args[0], torch.Tensor):
        return None
    recorded = ModuleCall(call.args)
    try:
        with in_budget(type(module).__name__, RECORDING_S, ANY_MEMORY):
            program = recorded.recorded(module, recorded.freed(batch=True, sizes=True)).program
    except (NotRead, SlowError):
        return None
    guards = getattr(program, "_guards_code", None)
    return None if guards is None or not _takes_any_batch(program, call, guards) else program


def _takes_any_batch(program: ExportedProgram, call: ExampleCall, guards: Sequence[str]) -> bool:
    """Whether its batch is free where all other extents are those of the call."""
    (item,) = _inputs(program)
    batch, *sizes = item.meta["val"].shape
    if not (isinstance(batch, torch.SymInt) and batch.node.expr.is_symbol):
        return False
    if any(
        isinstance(size, torch.SymInt) and batch.node.expr in size.node.expr.free_symbols for size in sizes
    ):
        return False
    axes: dict[tuple[str, int], Symbol] = {(item.name, 0): "batch"}
    axes |= {(item.name, axis): size for axis, size in enumerate(call.args[0].shape) if axis}
    every = {"batch": np.arange(2, MOST, dtype=np.float64)}
    try:
        asked = [found for guard in guards for found in conditions(guard, axes, {})]
    except NotUnderstood:
        return False
    return all(np.all(found.holds(every)) for found in asked)


@contextlib.contextmanager
def at_sizes(program: ExportedProgram, call: ExampleCall) -> Iterator[None]:
    """Within it a program of ``shared_program`` has the sizes of the call; the batch stays free."""
    (item,) = _inputs(program)
    known = item.meta["val"]
    with known.fake_mode:
        item.meta["val"] = known.new_empty((known.shape[0], *call.args[0].shape[1:]))
    try:
        yield
    finally:
        item.meta["val"] = known


def with_own_names(model: ir.Model) -> None:
    """Gives back to parameters the names that the module has for them."""
    for value in tuple(model.graph.initializers.values()):
        value.name = (value.name or "").removeprefix(Called.PREFIX)


def _inputs(program: ExportedProgram) -> list[torch.fx.Node]:
    """Placeholders of what the user gives."""
    names = set(program.graph_signature.user_inputs)
    return [node for node in program.graph.find_nodes(op="placeholder") if node.name in names]
