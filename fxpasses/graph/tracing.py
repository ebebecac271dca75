"""The code of a model while it runs over what stands for tensors."""

from __future__ import annotations

import builtins
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.fx import Proxy

_MOST = 1000
"""Longer containers are data, and are not looked into."""

_REGISTRIES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_Container: TypeAlias = dict[Any, Any] | list[Any] | set[Any] | deque[Any]
_Content: TypeAlias = dict[Any, Any] | list[Any]


@contextmanager
def tracing(model: nn.Module) -> Iterator[None]:
    """Within it the code of ``model`` may be traced: it counts rows in the graph, and keeps nothing.

    A cache that ``forward`` fills, or a list that it appends to, would hold what stands for tensors there,
    and hand it to the next run, or to the next trace. What it registers, a module or a parameter, stays.
    """
    held = [*_held(model)]
    try:
        with _counting(model):
            yield
    finally:
        for container, content, owner in held:
            registered = {} if owner is None else {**owner._parameters, **owner._buffers, **owner._modules}
            before = (
                {name: value for name, value in content.items() if name not in registered}
                if isinstance(content, dict)
                else content
            )
            if _identities(container) != _identities(before):
                container.clear()
                container.extend(before) if isinstance(container, list | deque) else container.update(before)


def _held(model: nn.Module) -> Iterator[tuple[_Container, _Content, nn.Module | None]]:
    """Whatever the modules hold something in, by name or in containers within each other.

    With what it is; and for the names of a module, that module.
    """
    pending: list[object] = [*model.modules()]
    seen: set[int] = set()
    for value in pending:  # grows while it is read
        owner = value if isinstance(value, nn.Module) else None
        found = value if owner is None else vars(owner)
        if not isinstance(found, dict | list | set | deque | tuple):
            continue
        if len(found) > _MOST or id(found) in seen:
            continue
        seen.add(id(found))
        if not isinstance(found, dict):
            pending += found
        else:
            pending += (part for name, part in found.items() if owner is None or name not in _REGISTRIES)
        if not isinstance(found, tuple):
            yield found, dict(found) if isinstance(found, dict) else [*found], owner


def _identities(content: Iterable[object]) -> list[int]:
    """What it holds; whether two proxies are equal would be a question to the graph."""
    return [*map(id, chain.from_iterable(content.items()) if isinstance(content, dict) else content)]


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
