"""Told apart beside the typed ops: shares of one, stacks of several values, and values with places."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Node

from fxpasses.vocabulary import aten
from fxpasses.vocabulary.vocabulary import Vocabulary

_SHARES = ("softmax", "_softmax", "log_softmax", "_log_softmax", "logsoftmax", "sigmoid", "logsigmoid")
_WITH_PLACES = ("max", "min", "median", "nanmedian", "mode", "topk", "sort", "kthvalue")
_STACKS = (torch.stack, torch.ops.aten.stack.default)


def is_share(node: Node, vocabulary: Vocabulary) -> bool:
    """Whether a node makes probabilities of scores, or their logarithms."""
    if len(node.all_input_nodes) != 1:
        return False
    if node.op == "call_module":
        name = type(vocabulary.module(str(node.target))).__name__
    else:
        name = _name(node)
    return name.lower() in _SHARES


def stacked_by(node: Node) -> tuple[Node, ...]:
    """The values that a node stacks along an axis behind the batch; none where it does something else."""
    args: Any = (*node.args, *node.kwargs.values())
    if node.target not in _STACKS or len(args) < 2 or args[1] not in (1, -1, 2):
        return ()
    return tuple(args[0]) if isinstance(args[0], tuple | list) else ()


def with_places(node: Node) -> Node | None:
    """The op that gives extreme or sorted values together with their places, of which a node is one."""
    args: Any = node.args
    if node.target in (getattr, operator.getitem) and isinstance(args[0], Node):
        node = args[0]
    return node if _name(node) in _WITH_PLACES and len(node.args) + len(node.kwargs) > 1 else None


def _name(node: Node) -> str:
    """What a function, a method or an ATen operator is called."""
    return aten.name_of(node.target) or str(getattr(node.target, "__name__", node.target))
