"""``find_sites`` and ``rewrite``: the passes applied to a model, leaving the caller's as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from fxpasses import undo
from fxpasses.errors import InputError, TraceError, suggest
from fxpasses.fallback import export_module
from fxpasses.plan import WeightPlan
from fxpasses.program import OpenProgram, open_program
from fxpasses.report import Form, Miss, MissCode, RewriteReport, Scope, Sites
from fxpasses.rewrite import Edit, apply
from fxpasses.shapes import propagate
from fxpasses.sites import Analysis, analyse
from fxpasses.sizes import has_values
from fxpasses.trace import Traced, given, trace

_HEAD_LEVEL = (MissCode.NOT_POOLED, MissCode.BEFORE_POOL, MissCode.MATRIX_PRODUCT)
_WAYS = ("auto", "symbolic", "export")
Model = TypeVar("Model", GraphModule, ExportedProgram)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RewriteResult(Generic[Model]):
    """A rewritten model with the report and the weight plan.

    Attributes:
        module: the rewritten model over the storage of the original's parameters: a GraphModule for a
            module, an ExportedProgram for a program.
        report: what was rewritten, what was not and why.
        plan: the map of state dicts from the original to ``module``.
    """

    module: Model
    report: RewriteReport
    plan: WeightPlan


def find_sites(
    model: nn.Module | ExportedProgram, scope: str = "head", example_inputs: Any = None, way: str = "auto"
) -> Sites:
    """Every site of a model in either form, and every miss with its reason; edits nothing.

    Args:
        model: a module, a GraphModule, or an ExportedProgram.
        scope: ``"head"`` or ``"pooled"``.
        example_inputs: see ``rewrite``.
        way: see ``rewrite``.

    Raises:
        InputError: an argument is not of the kind that is needed.
        TraceError: the model cannot be traced.
    """
    chosen = _scope(scope)
    subject = given(model) if isinstance(model, GraphModule) else _open(model, way, example_inputs)
    records = _records(model)
    nodes = _by_name(subject.graph, records)
    analysis = _analyse(subject, chosen, example_inputs, records, nodes)
    return Sites(
        sites=tuple(match.site for match in analysis.matches), misses=analysis.misses, trace=subject.info
    )


@overload
def rewrite(
    model: ExportedProgram, to: str, scope: str = ..., example_inputs: Any = ..., way: str = ...
) -> RewriteResult[ExportedProgram]: ...


@overload
def rewrite(
    model: nn.Module, to: str, scope: str = ..., example_inputs: Any = ..., way: str = ...
) -> RewriteResult[GraphModule]: ...


def rewrite(
    model: Any, to: str, scope: str = "head", example_inputs: Any = None, way: str = "auto"
) -> RewriteResult[Any]:
    """The model with its head in the other form, over the same storage.

    The caller's model is not changed. Where nothing can be rewritten the result's graph is that of
    the model, and ``report.misses`` says why.

    >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    >>> result = rewrite(model, to="conv")
    >>> [entry.after for entry in result.report.rewrites]
    ['Conv2d(8, 3, kernel_size=(1, 1))']
    >>> x = torch.randn(2, 8, 5, 5)
    >>> torch.allclose(result.module(x), model(x))
    True

    Args:
        model: a module, a GraphModule, or an ExportedProgram; the result is of the same kind (a
            GraphModule for a module).
        to: ``"conv"`` or ``"linear"``.
        scope: ``"head"`` or ``"pooled"`` (squeeze-excite and other side branches too).
        example_inputs: a tensor or a tuple of inputs, or a function that gives them and is called only if
            they are needed: where nothing in the model says the extent of the pooled map (a fixed
            average pool) or which axes are spatial (a mean of an input), and for ``torch.export``.
        way: how a module becomes a graph: ``"symbolic"`` (``torch.fx.symbolic_trace``), ``"export"``
            (``torch.export`` with a dynamic batch), or ``"auto"``, which tries them in this order.

    Raises:
        InputError: an argument is not of the kind that is needed.
        TraceError: the model cannot be traced.
    """
    form, chosen = _form(to), _scope(scope)
    subject, records = _open(model, way, example_inputs), _records(model)
    nodes = _by_name(subject.graph, records)
    analysis = _analyse(subject, chosen, example_inputs, records, nodes)
    edit = apply(subject.graph, subject.root, analysis, form, records, nodes)
    report = RewriteReport(
        to=form,
        scope=chosen,
        rewrites=edit.rewrites,
        misses=relevant_misses(analysis.misses, form),
        trace=subject.info,
    )
    return RewriteResult(module=subject.close(edit.records), report=report, plan=edit.plan)


def rewrite_in_place(module: GraphModule, to: Form, scope: Scope, example_inputs: Any = None) -> Edit:
    """Rewrites a GraphModule itself, as the PassBase convention says; compiles where it changed."""
    records = undo.load(module)
    nodes = _by_name(module.graph, records)
    analysis = _analyse(given(module), scope, example_inputs, records, nodes)
    edit = apply(module.graph, module, analysis, to, records, nodes)
    if edit.rewrites:
        undo.store(module, edit.records)
        module.recompile()
    return edit


def relevant_misses(misses: Sequence[Miss], to: Form) -> tuple[Miss, ...]:
    """The misses that a rewrite to ``to`` has: candidates in the other form, and heads without a pool."""
    return tuple(miss for miss in misses if miss.form is not to or miss.code in _HEAD_LEVEL)


def _analyse(
    subject: Traced | OpenProgram,
    scope: Scope,
    example_inputs: Any,
    records: Sequence[undo.Record],
    nodes: Mapping[str, Node],
) -> Analysis:
    """The analysis, with shapes where example inputs are given and something depends on them."""
    graph, root = subject.graph, subject.root
    extents = undo.known_extents(records, nodes)
    analysis = analyse(graph, root, scope, extents=extents, lifted=subject.lifted)
    if not analysis.is_presumed() or subject.lifted or has_values(graph):
        return analysis
    inputs = _inputs(example_inputs)
    return (
        analysis if inputs is None else analyse(graph, root, scope, propagate(graph, root, inputs), extents)
    )


def _open(model: Any, way: str, example_inputs: Any) -> Traced | OpenProgram:
    """The model's graph, to be edited: a program's and a GraphModule's copied, a module's traced."""
    if way not in _WAYS:
        raise InputError(f"unknown way {way!r}", where="way", fix=suggest(str(way), _WAYS))
    if isinstance(model, ExportedProgram):
        return open_program(model)
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        kind = "TorchScript module" if isinstance(model, nn.Module) else type(model).__name__
        raise InputError(
            f"a {kind} cannot be traced",
            where="model",
            fix="give an nn.Module, a GraphModule or an ExportedProgram",
        )
    if isinstance(model, GraphModule) or way == "symbolic":
        return trace(model)
    if way == "export":
        return export_module(model, _inputs(example_inputs), reason="asked for")
    try:
        return trace(model)
    except TraceError as error:
        inputs = _inputs(example_inputs)
        if inputs is None:
            raise TraceError(
                error.what, where=error.where, fix="pass example_inputs, so that torch.export can be tried"
            ) from error
        return export_module(model, inputs, reason=error.what)


def _by_name(graph: Graph, records: Sequence[undo.Record]) -> dict[str, Node]:
    """The graph's nodes by name, empty where no record speaks of them."""
    return {node.name: node for node in graph.nodes} if records else {}


def _records(model: nn.Module | ExportedProgram) -> tuple[undo.Record, ...]:
    return undo.load(model.graph_module if isinstance(model, ExportedProgram) else model)


def _inputs(example_inputs: Any) -> tuple[Any, ...] | None:
    inputs = example_inputs() if callable(example_inputs) else example_inputs
    if inputs is None:
        return None
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def _form(to: str) -> Form:
    try:
        return Form(to)
    except ValueError:
        raise InputError(f"unknown form {to!r}", where="to", fix=suggest(str(to), Form)) from None


def _scope(scope: str) -> Scope:
    try:
        return Scope(scope)
    except ValueError:
        raise InputError(f"unknown scope {scope!r}", where="scope", fix=suggest(str(scope), Scope)) from None
