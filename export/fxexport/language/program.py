"""Modules and programs as graphs: a module is what ``torch.export`` records of it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from fxexport.language.aten import MustFunctionalise, dtype_name, read_program
from fxexport.language.graph import Dims, Graph, GraphInput, NotRead
from fxexport.language.term import Terms, Value
from fxpasses.graph.quiet import quiet

SCOPE = (
    "a module is what torch.export records of one call; what a call reads from outside of its arguments, "
    "parameters and buffers is taken as it was then"
)


def graph_of_module(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    free_sizes: bool = False,
) -> Graph:
    """The module as ``torch.export`` records it, called as ``module(*args, **kwargs)``.

    Args:
        module: what is recorded; the modes of its parts are left as they are.
        args: tensors, or what else the module takes.
        kwargs: further arguments by name.
        free_sizes: whether the axes behind the channels are free too, where the module permits it; None
            fixes the batch too.

    Raises:
        NotRead: export refuses.
    """
    program = _exported(module, tuple(args), dict(kwargs or {}), free_sizes=free_sizes)
    graph = graph_of_program(program, prefix=_Called.PREFIX)
    names = _names(module, len(args))
    inputs = [dataclasses.replace(item, name=names.get(item.name, item.name)) for item in graph.inputs]

    def fixed(dims: Sequence[Dims]) -> Graph:
        resized, named = _at(args, kwargs or {}, dims)
        program = _exported(module, resized, named, free_sizes=None)
        return graph_of_program(program, prefix=_Called.PREFIX)

    return dataclasses.replace(graph, inputs=tuple(inputs), at=fixed)


def _names(module: nn.Module, count: int) -> dict[str, str]:
    """What the module calls its positional arguments, by their names in the recording."""
    try:
        known = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return {}
    positional = [item.name for item in known if item.kind is item.POSITIONAL_OR_KEYWORD]
    return {f"args_{place}": name for place, name in enumerate(positional[:count])}


def graph_of_program(program: ExportedProgram, *, prefix: str = "") -> Graph:
    """The program as a graph; ``prefix`` is left out of the names of its parameters.

    Raises:
        NotRead: it holds what is no tensor operator.
    """
    tensors = _user_tensors(program)

    def read(terms: Terms, inputs: Sequence[Value]) -> list[Value]:
        try:
            return read_program(terms, program, inputs, prefix)
        except MustFunctionalise:
            with quiet("torch.fx", "torch.export"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pure = program.run_decompositions({})
        try:
            return read_program(terms, pure, inputs, prefix)
        except MustFunctionalise as error:
            raise NotRead(f"{error} changes a value in place that has views") from error

    return Graph(
        dialect="module",
        inputs=tuple(_graph_input(program, name, tensor) for name, tensor in tensors),
        outputs=tuple(f"output {number}" for number in range(_output_count(program))),
        scope=(SCOPE,),
        read=read,
    )


def _exported(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, free_sizes: bool | None
) -> ExportedProgram:
    whole = _Called(module)
    attempts: dict[bool | None, None] = dict.fromkeys((free_sizes, None))
    if free_sizes:
        attempts = {True: None, False: None, None: None}
    reason = ""
    for attempt in attempts:
        call_args, call_kwargs = (args, kwargs) if attempt is None else _doubled(args, kwargs)
        shapes = None if attempt is None else _shapes(call_args, call_kwargs, free_sizes=attempt)
        try:
            with (
                quiet("torch.export", "torch.fx", "torch._subclasses"),
                warnings.catch_warnings(),
                torch.no_grad(),
            ):
                warnings.simplefilter("ignore")
                found = torch.export.export(
                    whole, call_args, call_kwargs, dynamic_shapes=shapes, strict=False
                )
            if attempt is None or _holds_at_every_size(found):
                return found
            reason = "the module takes another way at other sizes"
        except Exception as error:  # noqa: BLE001 - whatever the module's own code raises
            lines = str(error).strip().splitlines() or [""]
            reason = f"torch.export refuses the module ({type(error).__name__}: {lines[0]})"
    raise NotRead(reason)


_BOUND = re.compile(r"(\d+ <=? )?L(\[[^]]+\])+\.size\(\)\[\d+\]( <=? \d+| >=? \d+| == \d+)?")
"""A condition on one extent that the program's own ranges and fixed extents tell."""


def _holds_at_every_size(program: ExportedProgram) -> bool:
    """Whether all that the recording took for granted about free extents is their ranges."""
    guards = getattr(program, "_guards_code", None)
    if guards is None:
        return False
    extents: list[Any] = [extent for _, tensor in _user_tensors(program) for extent in tensor.shape]
    free = [extent.node.expr for extent in extents if isinstance(extent, torch.SymInt)]
    is_plain = all(expression.is_symbol or expression.is_number for expression in free)
    return is_plain and all(_BOUND.fullmatch(guard) for guard in guards)


class _Called(nn.Module):
    """A module as it is called: with its hooks, its own ``__call__``, and the code that its graph became.

    What ``torch.export`` is given it takes apart: it runs the graph of a ``GraphModule`` instead of its code,
    and passes over what stands around ``forward``. What is called inside of it runs as it is.
    """

    PREFIX = "inner."

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = inner.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def _doubled(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with a batch of one doubled: an extent of 1 would be fixed."""
    first = next((item for item in (*args, *kwargs.values()) if _has_batch(item)), None)
    if first is None or first.shape[0] != 1:
        return args, kwargs

    def twice(item: Any) -> Any:
        return torch.cat([item, item]) if _has_batch(item) and item.shape[0] == 1 else item

    return tuple(map(twice, args)), {name: twice(item) for name, item in kwargs.items()}


def _has_batch(item: Any) -> bool:
    return isinstance(item, torch.Tensor) and item.dim() > 0


def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any], *, free_sizes: bool) -> Any:
    auto = torch.export.Dim.AUTO
    first = next((item for item in (*args, *kwargs.values()) if _has_batch(item)), None)

    def axes(item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return None
        free: dict[int, Any] = {}
        if item.dim() and first is not None and item.shape[0] == first.shape[0]:
            free[0] = auto
        if free_sizes:
            free.update({dim: auto for dim in range(2, item.dim())})
        return free

    shapes: dict[str, Any] = {"args": tuple(axes(item) for item in args)}
    if kwargs:
        shapes["kwargs"] = {name: axes(item) for name, item in kwargs.items()}
    return shapes


def _at(
    args: Sequence[Any], kwargs: Mapping[str, Any], dims: Sequence[Dims]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with tensors of these extents."""
    left = iter(dims)

    def resized(item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return item
        extents = [
            own if wanted is None else wanted for own, wanted in zip(item.shape, next(left), strict=True)
        ]
        for dim, extent in enumerate(extents):
            index = torch.arange(extent, device=item.device) % max(1, item.shape[dim])
            item = item.index_select(dim, index)
        return item

    return tuple(resized(item) for item in args), {name: resized(item) for name, item in kwargs.items()}


def _user_tensors(program: ExportedProgram) -> list[tuple[str, torch.Tensor]]:
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found = []
    for spec in program.graph_signature.input_specs:
        value = nodes[spec.arg.name].meta.get("val")
        if spec.kind is InputKind.USER_INPUT and isinstance(value, torch.Tensor):
            found.append((spec.arg.name, value))
        elif spec.kind is InputKind.USER_INPUT and not isinstance(
            value, int | float | bool | str | type(None)
        ):
            raise NotRead(f"an input of type {type(value).__name__}")
    return found


def _output_count(program: ExportedProgram) -> int:
    (left,) = (node for node in program.graph.nodes if node.op == "output")
    return sum(isinstance(item, torch.fx.Node) for item in left.args[0])


def _graph_input(program: ExportedProgram, name: str, tensor: torch.Tensor) -> GraphInput:
    dims: list[int | None] = []
    least: list[int] = []
    most: list[int | None] = []
    same: list[str | None] = []
    for extent in tensor.shape:
        expression = None if isinstance(extent, int) else extent.node.expr
        if expression is None or expression.is_number:
            dims.append(int(extent))
            least.append(int(extent))
            most.append(int(extent))
            same.append(None)
            continue
        if not expression.is_symbol:
            raise NotRead(f"the extents of {name} depend on each other")
        found = program.range_constraints.get(expression)
        lower, upper = (getattr(found, end, None) for end in ("lower", "upper"))
        dims.append(None)
        least.append(_finite(lower) or 0)
        most.append(_finite(upper))
        same.append(str(expression))
    return GraphInput(
        name=name,
        dtype=dtype_name(tensor.dtype),
        dims=tuple(dims),
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
