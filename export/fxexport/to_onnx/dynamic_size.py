"""Whether one ONNX graph can stand for a model at every input size.

A graph has the operators that the model ran on the example. Where the model chooses its operators by the
size of its input (windows of attention that cover the map or do not), no one graph is the model. That is
looked for before torch.export is asked, which takes minutes over such conditions: two runs on fake tensors,
in which nothing is computed, have to call the same operators.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from fxexport.private_names import TorchDispatchMode
from fxexport.to_onnx.example_call import ExampleCall
from fxpasses.errors import SizeError, brief
from fxpasses.graph.shapes import static_extent
from fxpasses.private_names import FakeTensorMode, OpOverload, pytree
from fxpasses.vocabulary.ops import AdaptivePool
from fxpasses.vocabulary.vocabulary import Vocabulary

_FIX = "export it with dynamic_size=False"
_SMALLEST = 2
"""Torch takes an extent of 1 for a constant, so that every range begins here."""
_UNBOUNDED = 2**31
# what memory looks like is no part of the function, and is different for maps of one position
_MEMORY = frozenset(
    f"aten::{name}" for name in ("view", "_unsafe_view", "clone", "expand", "alias", "_to_copy")
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The smallest extent of an axis that torch traced a model for.

    Attributes:
        traced: its extent in the call that was traced.
        lowest: the smallest one.
    """

    axis: int
    traced: int
    lowest: int

    def below(self, axis: int, extent: int) -> int:
        """The extent of an axis of the traced call, one less than the smallest where it is this one."""
        return self.lowest - 1 if (axis, extent) == (self.axis, self.traced) else extent


def require_one_graph(module: nn.Module, call: ExampleCall) -> ExampleCall:
    """A larger call of another shape, for which the model calls the same operators: what to trace.

    On the example itself a map may have one position, which torch would take for a constant.

    Raises:
        SizeError: it does not, or it does not take such an input.
    """
    # multiples, which patches and strides divide as well
    larger = call.resized(lambda axis, extent: extent * (2 + axis % 2))
    try:
        _require_same(module, call, larger)
    except SizeError:
        raise
    except Exception as error:  # a forward is the user's code
        raise SizeError(
            f"the model takes no input of {larger.sizes()} beside {call.sizes()} ({brief(error)})",
            where=type(module).__name__,
            fix=_FIX,
        ) from error
    return larger


def require_open(program: ExportedProgram, call: ExampleCall, where: str) -> tuple[Bound, ...]:
    """Extents below which the program may not be the model; every extent behind the channels is open.

    Raises:
        SizeError: the program fixes one, bounds it from above, takes multiples of a number only, or pools
            to a grid.
    """
    _require_no_grid(program, where)
    placeholders = {node.name: node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")}
    values = [placeholders[name] for name in program.graph_signature.user_inputs if name in placeholders]
    bounds = []
    for value in values:
        is_batched = isinstance(value, torch.Tensor) and value.dim() > 2
        for axis, extent in enumerate(value.shape) if is_batched else ():
            if axis < 2 or (static_extent(value.shape[0]) not in (None, call.batch)):
                continue
            lowest, problem = _range(extent, program)
            if problem is not None:
                raise SizeError(f"axis {axis} of an input {problem}", where=where, fix=_FIX)
            if lowest > _SMALLEST:
                bounds.append(Bound(axis=axis, traced=extent.node.hint, lowest=lowest))
    return tuple(bounds)


def require_same_below(module: nn.Module, call: ExampleCall, bounds: Sequence[Bound]) -> None:
    """Returns where the model calls the same operators below the lowest extents too, or fails there.

    Such a bound mostly means that some map has one position there, which changes nothing.

    Raises:
        SizeError: it calls others.
    """
    for bound in bounds:
        smaller = call.resized(bound.below)
        try:
            _require_same(module, call, smaller)
        except SizeError:
            raise
        except Exception:  # noqa: BLE001 - the user's code: an input that it does not take needs no graph
            continue


def _require_no_grid(program: ExportedProgram, where: str) -> None:
    """Returns where no adaptive pool leaves a grid: its windows differ, and torch.onnx gets them wrong.

    Raises:
        SizeError: there is one.
    """
    vocabulary = Vocabulary(program.graph_module)
    for node in program.graph.nodes:
        op = vocabulary.classify(node)
        if isinstance(op, AdaptivePool) and not {*op.output} <= {1, None}:
            grid = "x".join(map(str, op.output))
            raise SizeError(
                f"{node.name!r} pools to a grid of {grid}, whose windows are other ones at every size",
                where=where,
                fix=_FIX,
            )


def _range(extent: int | torch.SymInt, program: ExportedProgram) -> tuple[int, str | None]:
    """The smallest extent, and what else bounds it, as a clause."""
    if static_extent(extent) is not None or isinstance(extent, int):
        return 0, f"is fixed at {extent}"
    expression = extent.node.expr
    if not expression.is_symbol:
        return 0, f"has to be of the form {expression}"
    found = program.range_constraints.get(expression)
    if found is None:
        return 0, None
    return int(found.lower), None if found.upper > _UNBOUNDED else f"may be {found.upper} at most"


def _require_same(module: nn.Module, call: ExampleCall, other: ExampleCall) -> None:
    expected, found = _operators(module, call), _operators(module, other)
    if expected != found:
        raise SizeError(
            f"the model has other operators at {other.sizes()} than at {call.sizes()}"
            f" ({_difference(expected, found)}), and a graph has them for good",
            where=type(module).__name__,
            fix=_FIX,
        )


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Notes the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, OpOverload) and func.namespace == "aten":
            self.names.extend({str(func).split(".")[1]} - _MEMORY)
        return func(*args, **(kwargs or {}))


def _operators(module: nn.Module, call: ExampleCall) -> list[str]:
    recorder = _Recorder()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.no_grad():
        given = pytree.tree_map_only(torch.Tensor, fake.from_tensor, (call.args, call.kwargs))
        with recorder:
            module(*given[0], **given[1])
    return recorder.names


def _difference(expected: Sequence[str], found: Sequence[str]) -> str:
    counts = Counter(expected), Counter(found)
    name = next(iter((counts[1] - counts[0]) + (counts[0] - counts[1])), None)
    if name is None:
        return "in another order"
    return f"{name} {counts[1][name]} times, not {counts[0][name]}"
