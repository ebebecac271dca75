"""The code of a model while it runs over what stands for tensors."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.fx import Proxy

from fxpasses.graph.held import Held


@contextmanager
def tracing(model: nn.Module) -> Iterator[None]:
    """Within it the code of ``model`` may be traced: it counts rows in the graph, and keeps nothing.

    A cache that ``forward`` fills, or a list that it appends to, would hold what stands for tensors there,
    and hand it to the next run, or to the next trace. What it registers, a module or a parameter, stays.
    """
    held = Held(model)
    try:
        with _counting(model):
            yield
    finally:
        held.put_back()


@contextmanager
def calls_apart(model: nn.Module) -> Iterator[None]:
    """Within it each call of ``model`` leaves it as it was: torch.export calls several times.

    It refuses a model that keeps tensors, and a second call would read what the first has kept.
    """
    own, forward = vars(model).get("forward"), model.forward

    @functools.wraps(forward)
    def apart(*args: Any, **kwargs: Any) -> Any:
        held = Held(model)
        try:
            return forward(*args, **kwargs)
        finally:
            held.put_back()

    vars(model)["forward"] = apart
    try:
        yield
    finally:
        del vars(model)["forward"]
        if own is not None:
            vars(model)["forward"] = own


@contextmanager
def _counting(model: nn.Module) -> Iterator[None]:
    """Within it ``len(x)`` of a traced tensor is ``x.size(0)`` in the code of ``model``.

    Python makes a number of whatever ``__len__`` gives, so that neither tracer could keep the batch free.
    """
    spaces = [space for space in _spaces(model).values() if "len" not in space]
    try:
        for space in spaces:
            space["len"] = _len
        yield
    finally:
        for space in spaces:
            space.pop("len", None)


def _len(value: Any) -> Any:
    is_free = isinstance(value, torch.Tensor) and value.ndim and isinstance(value.shape[0], torch.SymInt)
    return value.size(0) if is_free or isinstance(value, Proxy) else builtins.len(value)


def _spaces(model: nn.Module) -> dict[int, dict[str, Any]]:
    """The globals of the model's classes, and of the functions that they import, by identity."""
    classes = {base for module in model.modules() for base in type(module).__mro__}
    found: dict[int, dict[str, Any]] = {}
    for own in (value for base in classes for value in vars(base).values() if _is_own(value)):
        space = own.__globals__
        if id(space) not in found:
            found[id(space)] = space
            others = (value.__globals__ for value in space.values() if _is_own(value))
            found.update((id(other), other) for other in others)
    return found


def _is_own(value: object) -> bool:
    """Whether it is a function of somebody other than torch or Python."""
    module = value.__module__ if isinstance(value, FunctionType) else None
    return module is not None and not f"{module}.".startswith(("torch.", "builtins.", "typing."))
