"""Operators that torch defines by others: as the graph of these, which is read like any."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any
from unittest import mock

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from fxexport.private_names import TorchDispatchMode
from fxpasses.graph.quiet import quiet
from fxpasses.private_names import OpOverload, detect_fake_mode, pytree

_HALVES = (torch.float16, torch.bfloat16)
_MOVES = (torch.ops.aten.clone.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.sym_size.int)
"""What is no view and computes nothing."""
_MOST = 256
"""Operators of a definition; those that go through a sequence step by step have more."""


class _Refused(Exception):
    """A definition holds for some extents alone, or has no end."""


class _Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Refuses what calls more than so many operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._left = _MOST

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _Refused
        return func(*args, **(kwargs or {}))


@functools.cache
def _definitions() -> Mapping[Any, Any]:
    return torch.export.default_decompositions()


def composed(node: fx.Node) -> fx.Graph | None:
    """What torch makes of a recorded call, with a placeholder for each leaf of its arguments that is a node.

    None where torch does not define it by others, or does so for the extents at hand only. In half precision
    what kernels compute on the way has more digits than a definition says, if it rounds on the way.
    """
    target = node.target
    if not isinstance(target, OpOverload) or target.namespace != "aten":
        return None
    if target in _definitions():
        define = _definitions()[target]
    elif target._can_decompose():
        define = target  # a view: the table leaves it out, and tracing takes it apart
    else:
        return None
    leaves, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, fx.Node)]
    given = [leaves[place].meta.get("val") for place in places]

    def defined(*values: Any) -> Any:
        whole = list(leaves)
        for place, value in zip(places, values, strict=True):
            whole[place] = value
        args, kwargs = pytree.tree_unflatten(whole, spec)
        with _Counted():
            return define(*args, **kwargs)

    try:
        env = _extents_known_to(given)
        no_guards = mock.patch.object(env, "_check_frozen", side_effect=_Refused)
        with quiet("torch.fx"), torch.no_grad(), no_guards if env is not None else contextlib.nullcontext():
            graph = make_fx(defined)(*given).graph
    except Exception:  # noqa: BLE001 - a definition may ask for values, or for an operator that fails
        return None
    is_half = any(isinstance(value, torch.Tensor) and value.dtype in _HALVES for value in given)
    if is_half and sum(_rounds(item.target) for item in graph.nodes) > 1:
        return None
    return None if any(item.target is target for item in graph.nodes) else graph


def _extents_known_to(given: list[Any]) -> Any:
    """What decides about free extents; None where there are none.

    A call may read extents and no tensor: what fixes one of them fixes it for all that is read after it.
    """
    free = next((value for value in given if isinstance(value, torch.SymInt)), None)
    if free is not None:
        return free.node.shape_env
    mode = detect_fake_mode(given)
    return None if mode is None else mode.shape_env


def _rounds(target: Any) -> bool:
    return isinstance(target, OpOverload) and not target.is_view and target not in _MOVES
