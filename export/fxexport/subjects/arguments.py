"""What callers give ``certify``: models of every kind, and arguments of the kind that is needed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from fxpasses.api import RewriteResult, model_of
from fxpasses.errors import InputError
from fxpasses.plan import WeightPlan


def on_disk(given: Any, name: str, until: contextlib.ExitStack) -> Any:
    """A module, program or path; a model of ONNX in memory as a file that is there as long as ``until``.

    Raises:
        InputError: it is no model.
    """
    model = model_of(given)
    if isinstance(model, nn.Module | ExportedProgram | str | os.PathLike):
        return model
    library = type(model).__module__.partition(".")[0]
    if library not in ("onnx", "onnx_ir") or not hasattr(model, "graph"):
        kind = (
            f"the class {model.__name__}" if isinstance(model, type) else f"of class {type(model).__name__}"
        )
        fix = (
            "give a module, a program, an ONNX model, the path of an .onnx or .pt2 file, or what rewrite gave"
        )
        raise InputError(f"is {kind}, no model", where=name, fix=fix)
    import onnx
    import onnx_ir

    path = Path(until.enter_context(tempfile.TemporaryDirectory()), f"{name}.onnx")
    (onnx if library == "onnx" else onnx_ir).save(model, path)
    return path


def plan_of(plan: Any, reference: Any, candidate: Any) -> WeightPlan | None:
    """The plan that was given, else that of a candidate which is the result of a rewrite.

    Raises:
        InputError: it is no plan.
    """
    if plan is None and not isinstance(reference, RewriteResult):
        plan = candidate
    if isinstance(plan, RewriteResult):
        return plan.plan
    if plan is None or plan is candidate or isinstance(plan, WeightPlan):
        return plan if isinstance(plan, WeightPlan) else None
    fix = "give result.plan, or WeightPlan.from_dict of what a plan file holds"
    raise InputError(f"is of class {type(plan).__name__}, no WeightPlan", where="plan", fix=fix)


def require_names(providers: Any) -> None:
    """Returns where providers are names; else raises InputError."""
    if not isinstance(providers, Iterable) or not all(isinstance(name, str) for name in providers):
        raise InputError("are no names", where="providers", fix="name them, e.g. providers=('cpu',)")


def require_seed(seed: Any) -> None:
    """Returns where the seed is an integer; else raises InputError."""
    if not isinstance(seed, int):
        raise InputError(f"is of class {type(seed).__name__}", where="seed", fix="give an integer")
