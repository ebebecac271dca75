"""``find_sites`` and ``rewrite``: the passes applied to a model, leaving the caller's as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, overload

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from fxpasses.change import Change, carry_out
from fxpasses.engine import undo
from fxpasses.errors import InputError, TraceError, suggest
from fxpasses.graph.export_trace import export_module
from fxpasses.graph.program import OpenProgram, open_program
from fxpasses.graph.state import require_kept_state
from fxpasses.graph.trace import Traced, given, trace
from fxpasses.heads.score_heads import find_score_heads, name_of_site
from fxpasses.plan import WeightPlan
from fxpasses.report import Form, Memory, Miss, OutputHead, RewriteReport, Scope, Site, Sites
from fxpasses.survey import Survey
from fxpasses.vocabulary.sizes import kept_shape_values
from fxpasses.vocabulary.vocabulary import Vocabulary
from fxpasses.wall.marks import is_unvouched, mark_unvouched, walled_for

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


def model_of(given: Any) -> Any:
    """The model of a result of ``rewrite``; anything else as it is."""
    return given.module if isinstance(given, RewriteResult) else given


@kept_shape_values()
def find_sites(
    model: nn.Module | ExportedProgram,
    scope: str = "head",
    example_inputs: Any = None,
    way: str = "auto",
    to: str | None = None,
) -> Sites:
    """Every site of a model in any form, and every miss with its reason; edits nothing.

    Args:
        model: a module, a GraphModule, or an ExportedProgram.
        scope: see ``rewrite``.
        example_inputs: see ``rewrite``.
        way: see ``rewrite``.
        to: a form; then the sites are those that have it or can get it, and the misses say why the
            others cannot. None: those that can be ``"linear"`` and ``"conv"``.

    Raises:
        InputError: an argument is not of the kind that is needed.
        TraceError: the model cannot be traced.
    """
    form = None if to is None else form_named(to)
    chosen = scope_named(scope, form)
    with walled_for(model):
        subject = given(model) if isinstance(model, GraphModule) else _open(model, way, example_inputs)
        return sites_of(Survey(subject, chosen, lambda: _inputs(example_inputs)), form, _records(model))


def sites_of(survey: Survey, form: Form | None, records: Sequence[undo.Record] = ()) -> Sites:
    """Every site of an opened graph, and every miss; see ``find_sites``."""
    chosen = survey.scope
    sites: tuple[Site, ...] = ()
    misses: tuple[Miss, ...] = ()
    memory: Memory | None = None
    if form in (Form.CONV, Form.UNFOLD) or chosen is Scope.UNFOLDED:
        found = survey.unfolding(Form.CONV if form is Form.CONV else None)
        unfolded = sorted((*found.convolutions, *found.products), key=lambda entry: entry.match.node)
        sites, misses = tuple(entry.match.site for entry in unfolded), found.misses
        memory = survey.memory(unfolded) if form is Form.UNFOLD else None
    if form is not Form.UNFOLD and chosen is not Scope.UNFOLDED:
        matches, others = survey.candidates(survey.look(records), form)
        sites, misses = (*sites, *(match.site for match in matches)), (*misses, *others)
    heads = _heads(survey, {*(site.node for site in sites), *(miss.node for miss in misses)})
    return Sites(sites=sites, misses=misses, trace=survey.subject.info, memory=memory, heads=heads)


def _heads(survey: Survey, nodes: set[str]) -> tuple[OutputHead, ...]:
    """The outputs that come from these nodes, which are sites or could have been."""
    subject = survey.subject
    spec = subject.program.call_spec.out_spec if isinstance(subject, OpenProgram) else None
    vocabulary = Vocabulary(subject.root, subject.lifted)
    return tuple(
        OutputHead(name=head.name, sites=tuple(name_of_site(site, vocabulary) for site in head.sites))
        for head in find_score_heads(subject.graph, vocabulary, nodes, spec)
    )


@overload
def rewrite(
    model: ExportedProgram,
    to: str,
    scope: str = ...,
    example_inputs: Any = ...,
    way: str = ...,
    outputs: Sequence[str] = ...,
) -> RewriteResult[ExportedProgram]: ...


@overload
def rewrite(
    model: nn.Module,
    to: str,
    scope: str = ...,
    example_inputs: Any = ...,
    way: str = ...,
    outputs: Sequence[str] = ...,
) -> RewriteResult[GraphModule]: ...


@kept_shape_values()
def rewrite(
    model: Any,
    to: str,
    scope: str = "head",
    example_inputs: Any = None,
    way: str = "auto",
    outputs: Sequence[str] = ("logits",),
) -> RewriteResult[Any]:
    """The model with its head in another form, over the same storage.

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
        model: a module, a GraphModule, an ExportedProgram, or the result of another rewrite; the result is of
            the same kind (a GraphModule for a module).
        to: ``"conv"``, ``"linear"``, ``"dense"`` (the convolution before the pool: the same function, by
            way of a map of scores), ``"fcn"`` (at the native size the same logits, on a larger input a
            map of those of every window) or ``"unfold"`` (every ``Conv2d`` as a product with its patches).
        scope: ``"head"``, ``"pooled"`` (squeeze-excite and other side branches too), ``"all"`` (also every
            Linear and 1×1 convolution on whole maps, tokens and vectors that no pool feeds), or
            ``"unfolded"``. To ``"unfold"`` takes all convolutions whatever the scope, and to ``"conv"`` takes
            unfolded ones back as well as the sites in scope; in ``"unfolded"`` these alone.
        example_inputs: a tensor or a tuple of inputs, or a function that gives them and is called only if
            they are needed: where nothing in the model says the extent of the pooled map (a fixed
            average pool), which axes are spatial (a mean of an input) or, in scope ``"all"``, how many a
            value has; and for ``torch.export``.
        way: how a module becomes a graph: ``"symbolic"`` (``torch.fx.symbolic_trace``), ``"export"``
            (``torch.export`` with a dynamic batch), or ``"auto"``, which tries them in this order.
        outputs: ``("logits",)``, or with ``to="dense"`` ``("logits", "map")``: the result becomes the pair of
            what the model gives and the map ``[N, K, *positions]`` whose mean the logits are (of a model that
            gives a softmax of them, what that reads; the report says so); a dict gets the map as ``"map"``.
            Of several heads the maps come as a tuple. Rewriting to another form takes the map away again.

    Raises:
        InputError: an argument is not of the kind that is needed, or the model's state dict has keys that
            only its own class or hooks give.
        TraceError: the model cannot be traced.
    """
    model = model_of(model)
    form, with_map = form_named(to), _with_map(outputs, to)
    chosen = scope_named(scope, form)
    with walled_for(model):
        subject, records = _open(model, way, example_inputs), _records(model)
        survey = Survey(subject, chosen, lambda: _inputs(example_inputs))
        change = carry_out(survey, form, records, with_map=with_map)
        report = report_of(change, survey, form)
        result: RewriteResult[Any] = RewriteResult(module=subject.close(), report=report, plan=change.plan)
        require_kept_state(model, result.module)
    undo.store(_graph_module(result.module), change.records)
    if is_unvouched(model):
        mark_unvouched(result.module)
    return result


def report_of(change: Change, survey: Survey, to: Form) -> RewriteReport:
    """What was done to an opened graph."""
    info = survey.subject.info
    return RewriteReport(
        to=to,
        scope=survey.scope,
        rewrites=change.rewrites,
        misses=change.misses,
        trace=dataclasses.replace(info, notes=(*info.notes, *change.notes)),
        native_size=change.native_size,
        memory=change.memory,
    )


@kept_shape_values()
def rewrite_in_place(
    module: GraphModule,
    to: Form,
    scope: str,
    example_inputs: Any = None,
    outputs: Sequence[str] = ("logits",),
) -> bool:
    """Rewrites a GraphModule itself, as the PassBase convention says; whether anything changed."""
    with_map = _with_map(outputs, to)
    survey = Survey(given(module), scope_named(scope, to), lambda: _inputs(example_inputs))
    change = carry_out(survey, to, undo.load(module), with_map=with_map)
    if change.rewrites:
        undo.store(module, change.records)
        module.recompile()
    return bool(change.rewrites)


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
        return trace(model, lambda: _inputs(example_inputs))
    if way == "export":
        return export_module(model, _inputs(example_inputs), reason="asked for")
    try:
        return trace(model, lambda: _inputs(example_inputs))
    except TraceError as error:
        inputs = _inputs(example_inputs)
        if inputs is None:
            raise TraceError(
                error.what,
                where=error.where,
                fix="pass example_inputs (--input-shape), so that torch.export can be tried",
            ) from error
        return export_module(model, inputs, reason=error.what)


def _graph_module(model: Any) -> Any:
    """The module that a graph lies in and has its records."""
    return model.graph_module if isinstance(model, ExportedProgram) else model


def _records(model: nn.Module | ExportedProgram) -> tuple[undo.Record, ...]:
    return undo.load(_graph_module(model))


def _inputs(example_inputs: Any) -> tuple[Any, ...] | None:
    inputs = example_inputs() if callable(example_inputs) else example_inputs
    if inputs is None:
        return None
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def form_named(to: str) -> Form:
    """The form of this name.

    Raises:
        InputError: there is none.
    """
    try:
        return Form(to)
    except ValueError:
        raise InputError(f"unknown form {to!r}", where="to", fix=suggest(str(to), Form)) from None


def scope_named(scope: str, to: Form | None) -> Scope:
    """The scope of this name, for a rewrite to a form.

    Raises:
        InputError: there is none, or it does not go with the form.
    """
    try:
        chosen = Scope(scope)
    except ValueError:
        raise InputError(f"unknown scope {scope!r}", where="scope", fix=suggest(str(scope), Scope)) from None
    if chosen is Scope.ALL and to in (Form.DENSE, Form.FCN):
        raise InputError(
            f"the form {to} is one of heads, and scope 'all' holds more than heads",
            where="scope",
            fix="use scope 'head', or to='conv' or to='linear'",
        )
    if chosen is Scope.UNFOLDED and to not in (None, Form.CONV, Form.UNFOLD):
        raise InputError(
            f"no convolution of the scope {chosen} can be {to}",
            where="scope",
            fix="use to='conv' or 'unfold'",
        )
    return chosen


def _with_map(outputs: Sequence[str], to: str) -> bool:
    if tuple(outputs) == ("logits",):
        return False
    if tuple(outputs) != ("logits", "map"):
        raise InputError(
            f"unknown outputs {outputs!r}", where="outputs", fix="use ('logits',) or ('logits', 'map')"
        )
    if to != Form.DENSE:
        raise InputError(f"the form {to!s} has no map", where="outputs", fix="use to='dense'")
    return True
