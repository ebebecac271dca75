"""Where a node says that it comes from: metadata that torch's passes keep and later ones read.

``torch.export.unflatten`` and quantisers group nodes by ``nn_module_stack``, where the nodes of one module
have to stand together; partitioners ask ``source_fn_stack`` and ``torch_fn`` which function a node was. A
rewrite keeps all three true: a site's module changes its class, a view stands in the module around.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from fxpasses.report import Form

_KEPT = ("stack_trace", "nn_module_stack", "from_node", "seq_nr")
_LEAF, _CONTAINER = "torch.nn.modules.", "torch.nn.modules.container."


def inherit(new: Node, like: Node, *, is_part: bool) -> None:
    """Gives an inserted node the origin of another one.

    ``new`` computes a part of what ``like`` does where ``is_part``, as a transposed weight; else it stands
    beside it, in the module around.
    """
    for key in _KEPT:
        if key in like.meta:
            new.meta[key] = like.meta[key]
    if is_part:
        for key in ("torch_fn", "source_fn_stack"):
            if key in like.meta:
                new.meta[key] = like.meta[key]
        return
    _leave(new)
    name = str(getattr(new.target, "__name__", new.target)).partition(".")[0]
    function = getattr(torch, name, None)
    if "torch_fn" in like.meta:
        kind = f"OpOverload.{name}" if function is None else f"builtin_function_or_method.{name}"
        new.meta["torch_fn"] = (new.name, kind)
    if "source_fn_stack" in like.meta:
        new.meta["source_fn_stack"] = [(new.name, function or new.target)]


def follow(moved: Node, before: Node) -> None:
    """Puts a node that was moved behind another one into the module around that one."""
    if "nn_module_stack" in before.meta:
        moved.meta["nn_module_stack"] = before.meta["nn_module_stack"]
        _leave(moved)


def _leave(node: Node) -> None:
    """Leaves torch's own layers, which hold no views: what follows a pool or a Linear is not in it."""
    stack = dict(node.meta.get("nn_module_stack") or {})
    while len(stack) > 1 and _is_layer(stack[next(reversed(stack))][1]):
        stack.popitem()
    if stack:
        node.meta["nn_module_stack"] = stack


def _is_layer(kind: Any) -> bool:
    name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return name.startswith(_LEAF) and not name.startswith(_CONTAINER)


def retype(site: Node, form: Form, rank: int) -> None:
    """Says of a site's node that it has the other form now: its module's class, its function."""
    meta, is_conv = site.meta, form is Form.CONV
    new = getattr(nn, f"Conv{rank}d") if is_conv else nn.Linear
    stack = dict(meta.get("nn_module_stack") or {})
    if stack:
        key = next(reversed(stack))
        path, kind = stack[key]
        if kind in _old_names(is_conv, rank):
            stack[key] = (path, f"{new.__module__}.{new.__qualname__}" if isinstance(kind, str) else new)
            meta["nn_module_stack"] = stack
    name = f"conv{rank}d" if is_conv else "linear"
    if "torch_fn" in meta:
        first, kind = meta["torch_fn"]
        meta["torch_fn"] = (first, f"{kind.rpartition('.')[0]}.{name}")
    if sources := list(meta.get("source_fn_stack") or ()):
        first, function = sources[-1]
        sources[-1] = (first, new if isinstance(function, type) else getattr(F, name))
        meta["source_fn_stack"] = sources
    if "original_aten" in meta:
        meta["original_aten"] = site.target


def _old_names(is_conv: bool, rank: int) -> tuple[Any, ...]:
    old: Any = nn.Linear if is_conv else getattr(nn, f"Conv{rank}d")
    return old, f"{old.__module__}.{old.__qualname__}"


def written(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What can be kept of a node's origin as plain data, to be given back by ``restore``."""
    data: dict[str, Any] = {}
    stack = meta.get("nn_module_stack")
    if stack and all(isinstance(part, str) for entry in stack.values() for part in entry):
        data["nn_module_stack"] = {key: tuple(entry) for key, entry in stack.items()}
    for key in ("stack_trace", "torch_fn"):
        if key in meta:
            data[key] = meta[key]
    return data


def restore(node: Node, data: dict[str, Any]) -> None:
    """Gives a node back what was written down of its origin."""
    node.meta.update(data)
