"""Modules that hold something else after a run: whether they are one function for all that.

A module's first run may fill what the others read, and any run may leave what none reads (a map of attention
to be looked at). Such a module is one function where

1. what later runs leave is never read: recorded with ``Unread`` in its places, it is the same graph;
2. what the first run fills is constant: recorded as it was found, with what it then holds for outputs, no
   input and no size leads to these;
3. the first run is as the others are: the graphs of both are derived from each other, and take the same
   sizes.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from fxexport.language.aten import loses_writes
from fxexport.language.calls import Calls
from fxexport.language.compare import derive
from fxexport.language.graph import Graph, NotRead
from fxexport.language.recording import inside, kept_tensors
from fxpasses.graph.held import Change, Held, is_equal
from fxpasses.graph.quiet import quiet
from fxpasses.private_names import pytree


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is known of a module's memory before it is recorded.

    Attributes:
        found: what it held before it was ever run.
        later: what runs after the first were seen to change.
        runs: what runs call: a recording of something else is none of them.
    """

    found: Held
    later: Sequence[Change] = ()
    runs: Sequence[Calls] = ()


def refusal(change: Change) -> NotRead:
    """That a run changes what the module holds there."""
    return NotRead(f"a run changes {change.name}, which no graph shows")


def require_inside(changes: Sequence[Change], others: Sequence[Change]) -> None:
    """Refuses a change that is in another place than all others.

    Raises:
        NotRead: because of it.
    """
    known = inside(changes, others)
    for change in changes:
        if change not in known:
            raise refusal(change)


def require_same(first: Graph, later: Graph, change: Change) -> None:
    """Refuses where two recordings of a module are not one function, at the same sizes.

    Raises:
        NotRead: because of the change.
    """
    count = len(later.outputs)
    is_same = (
        first.inputs == later.inputs
        and first.conditions == later.conditions
        and first.outside == later.outside
        and first.fixed == later.fixed
        and len(first.outputs) >= count
    )
    if not is_same or not derive(first, later, outputs=[(i, i) for i in range(count)]).is_proved:
        raise refusal(change)


def require_constant(program: ExportedProgram, made: Sequence[Change], filled: Sequence[Change]) -> None:
    """Refuses where a program's last outputs depend on its inputs, or are not as a run filled them in.

    Args:
        program: a recording that gives the tensors in changed places behind its outputs.
        made: these changes.
        filled: what a run filled in there.

    Raises:
        NotRead: because of a change.
    """
    for change, other in zip_longest(made, filled):
        if not (change and other and change.place == other.place and _is_alike(change.value, other.value)):
            raise refusal(change or other)
    count = len(kept_tensors(made))
    if count and (loses_writes(program.graph) or _reads_inputs(program, count)):
        raise refusal(made[0])


def _is_alike(made: Any, filled: Any) -> bool:
    """Whether they are the same plain data, and tensors of the same types and shapes in the same places."""
    (first, spec), (second, other) = pytree.tree_flatten(made), pytree.tree_flatten(filled)
    return spec == other and all(map(_is_alike_leaf, first, second))


def _is_alike_leaf(made: Any, filled: Any) -> bool:
    if not (isinstance(made, torch.Tensor) and isinstance(filled, torch.Tensor)):
        return is_equal(made, filled)
    is_fixed = all(type(extent) is int for extent in made.shape)
    return is_fixed and made.dtype == filled.dtype and tuple(made.shape) == tuple(filled.shape)


def _reads_inputs(program: ExportedProgram, count: int) -> bool:
    """Whether one of the last outputs depends on an input, or on a size of one."""
    with quiet("torch.fx", "torch.export"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pure = program.run_decompositions({})  # where no write is hidden in a view
    inputs = {spec.arg.name for spec in pure.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT}
    (output,) = pure.graph.find_nodes(op="output")
    pending, seen = [*output.args[0][-count:]], set()
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            pending += node.all_input_nodes
    return any(node.name in inputs for node in seen)
