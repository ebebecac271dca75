"""``find_sites`` and ``rewrite``: the passes applied to a model, leaving the caller's as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule

from fxpasses import undo
from fxpasses.errors import InputError, suggest
from fxpasses.plan import WeightPlan
from fxpasses.report import Form, Miss, MissCode, RewriteReport, Scope, Sites
from fxpasses.rewrite import Edit, apply
from fxpasses.shapes import propagate
from fxpasses.sites import Analysis, analyse
from fxpasses.trace import given, trace

_HEAD_LEVEL = (MissCode.NOT_POOLED, MissCode.BEFORE_POOL)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RewriteResult:
    """A rewritten model with the report and the weight plan.

    Attributes:
        module: the rewritten model, a GraphModule over the storage of the original's parameters.
        report: what was rewritten, what was not and why.
        plan: the map of state dicts from the original to ``module``.
    """

    module: GraphModule
    report: RewriteReport
    plan: WeightPlan


def find_sites(model: nn.Module, scope: str = "head", example_inputs: Any = None) -> Sites:
    """Every site of a model in either form, and every miss with its reason; edits nothing.

    Args:
        model: a module that ``torch.fx`` can trace, or a GraphModule.
        scope: ``"head"`` or ``"pooled"``.
        example_inputs: a tensor or a tuple of inputs, or a function that gives them and is called only if
            they are needed: where nothing in the model says the extent of the pooled map (a fixed
            average pool) or which axes are spatial (a mean of an input).

    Raises:
        InputError: an argument is not of the kind that is needed.
        TraceError: the model cannot be traced.
    """
    chosen = _scope(scope)
    traced = given(model) if isinstance(model, GraphModule) else trace(_module(model))
    analysis = analyse_with_inputs(traced.graph, traced.root, chosen, example_inputs, undo.load(model))
    return Sites(
        sites=tuple(match.site for match in analysis.matches), misses=analysis.misses, trace=traced.info
    )


def rewrite(model: nn.Module, to: str, scope: str = "head", example_inputs: Any = None) -> RewriteResult:
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
        model: a module that ``torch.fx`` can trace, or a GraphModule.
        to: ``"conv"`` or ``"linear"``.
        scope: ``"head"`` or ``"pooled"`` (squeeze-excite and other side branches too).
        example_inputs: a tensor or a tuple of inputs, or a function that gives them and is called only if
            they are needed: where nothing in the model says the extent of the pooled map (a fixed
            average pool) or which axes are spatial (a mean of an input).

    Raises:
        InputError: an argument is not of the kind that is needed.
        TraceError: the model cannot be traced.
    """
    form, chosen = _form(to), _scope(scope)
    traced = trace(_module(model))
    records = undo.load(model)
    analysis = analyse_with_inputs(traced.graph, traced.root, chosen, example_inputs, records)
    edit = apply(traced.graph, traced.root, analysis, form, records)
    module = traced.to_module()
    undo.store(module, edit.records)
    report = RewriteReport(
        to=form,
        scope=chosen,
        rewrites=edit.rewrites,
        misses=relevant_misses(analysis.misses, form),
        trace=traced.info,
    )
    return RewriteResult(module=module, report=report, plan=edit.plan)


def rewrite_in_place(module: GraphModule, to: Form, scope: Scope, example_inputs: Any = None) -> Edit:
    """Rewrites a GraphModule itself, as the PassBase convention says; compiles where it changed."""
    records = undo.load(module)
    analysis = analyse_with_inputs(module.graph, module, scope, example_inputs, records)
    edit = apply(module.graph, module, analysis, to, records)
    if edit.rewrites:
        undo.store(module, edit.records)
        module.recompile()
    return edit


def analyse_with_inputs(
    graph: Graph, root: nn.Module, scope: Scope, example_inputs: Any, records: Sequence[undo.Record]
) -> Analysis:
    """The analysis, with shapes where example inputs are given and something depends on them."""
    extents = undo.known_extents(records, {node.name: node for node in graph.nodes}) if records else {}
    analysis = analyse(graph, root, scope, extents=extents)
    if not analysis.is_presumed():
        return analysis
    inputs = example_inputs() if callable(example_inputs) else example_inputs
    if inputs is None:
        return analysis
    return analyse(graph, root, scope, propagate(graph, root, _inputs(inputs)), extents)


def relevant_misses(misses: Sequence[Miss], to: Form) -> tuple[Miss, ...]:
    """The misses that a rewrite to ``to`` has: candidates in the other form, and heads without a pool."""
    return tuple(miss for miss in misses if miss.form is not to or miss.code in _HEAD_LEVEL)


def _inputs(example_inputs: Any) -> tuple[Any, ...]:
    return tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)


def _module(model: Any) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, torch.export.ExportedProgram):
        raise InputError(
            "an ExportedProgram is not supported yet",
            where="model",
            fix="give the nn.Module that it came from",
        )
    raise InputError(
        f"a {type(model).__name__} is no model", where="model", fix="give an nn.Module or a GraphModule"
    )


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
