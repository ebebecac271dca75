"""A model → its graph in both forms, by torch.fx or by torch.export, and what is written of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from fxpasses import RewriteResult, rewrite
from fxpasses.errors import InputError, TraceError
from fxpasses.graph.export_trace import export_program
from fxpasses.graph.shapes import static_extent
from fxpasses.graph.trace import trace
from fxpasses.report import Form, Scope


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Graphs:
    """A model before and after the rewrite.

    Attributes:
        original: the model: the module, or the program that it was exported to.
        result: what the rewrite gave.
        written: the rewritten model as it is saved.
    """

    original: nn.Module | ExportedProgram
    result: RewriteResult[Any]
    written: GraphModule | ExportedProgram

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the program takes, if it is one and fixes the batch."""
        if not isinstance(self.original, ExportedProgram):
            return None
        names = self.original.graph_signature.user_inputs
        values = [node.meta.get("val") for node in self.original.graph.nodes if node.name in names]
        first = next((v for v in values if isinstance(v, torch.Tensor) and v.ndim), None)
        return None if first is None else static_extent(first.shape[0])


def take_graph(
    model: nn.Module | ExportedProgram,
    *,
    to: Form,
    scope: Scope,
    way: str,
    examples: Any,
    as_program: bool | None,
    outputs: Sequence[str] = ("logits",),
) -> Graphs:
    """The model's graph in both forms.

    Args:
        model: a module, or a program, which is its own graph.
        to: the form to rewrite to.
        scope: which sites.
        way: ``symbolic``, ``export``, or ``auto``: a module that is to be written as a program is exported,
            another one only where symbolic tracing fails.
        examples: example inputs, or a function that gives them or None.
        as_program: whether to write an exported program or a pickle; None writes a program if it is one.
        outputs: what the rewritten model gives; see ``fxpasses.rewrite``.

    Raises:
        TraceError: the model cannot be traced that way.
        InputError: the model is a program, which cannot be traced symbolically; or example inputs are
            needed and not known.
    """
    if isinstance(model, ExportedProgram):
        if way == "symbolic":
            raise InputError(
                "a program is traced already", where="--trace symbolic", fix="leave the option out"
            )
        result = rewrite(model, to=to, scope=scope, example_inputs=examples, outputs=outputs)
        return Graphs(original=model, result=result, written=_program(result.module, as_program))
    reason = "asked for" if way == "export" else "the output is an exported program"
    if way == "symbolic" or (way == "auto" and not as_program):
        try:
            traced = rewrite(
                model, to=to, scope=scope, example_inputs=examples, way="symbolic", outputs=outputs
            )
        except TraceError as error:
            if way == "symbolic":
                raise
            reason = error.what
        else:
            module: GraphModule = traced.module
            written = export_program(module, _given(examples), reason)[0] if as_program else module
            return Graphs(original=model, result=traced, written=written)
    program, info = export_program(model, _given(examples), reason)
    result = rewrite(program, to=to, scope=scope, example_inputs=examples, outputs=outputs)
    result = dataclasses.replace(result, report=dataclasses.replace(result.report, trace=info))
    return Graphs(original=program, result=result, written=_program(result.module, as_program))


def _given(examples: Any) -> Any:
    return examples() if callable(examples) else examples


def _program(program: ExportedProgram, as_program: bool | None) -> GraphModule | ExportedProgram:
    return _pickled(program) if as_program is False else program


def _pickled(program: ExportedProgram) -> GraphModule:
    """The program as a GraphModule that pickle can write: without torch's guards, which it cannot."""
    module = program.module(check_guards=False)
    for name, hooks in module.__dict__.items():
        if name.startswith(("_forward_hooks", "_forward_pre_hooks")):
            hooks.clear()
    return dataclasses.replace(trace(module), extras={}).close()
