"""What is asked of nodes beside their typed ops.

Whether one gives shares of one, stacks several values or gives values with their places; whether it counts on
how a value lies in memory; and whether a matrix product is a Linear of more than two axes as a decomposition
writes it: view → matrix product → view. Matrix products take matrices, so ``run_decompositions()`` merges all
axes but the last before one, and splits them again behind it. Such a Linear is one op on the value before the
first view.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from fxpasses.vocabulary import aten
from fxpasses.vocabulary.ops import Affine, Op, View
from fxpasses.vocabulary.sizes import value_of
from fxpasses.vocabulary.vocabulary import Vocabulary

_SHARES = ("softmax", "_softmax", "log_softmax", "_log_softmax", "logsoftmax", "sigmoid", "logsigmoid")
_WITH_PLACES = ("max", "min", "median", "nanmedian", "mode", "topk", "sort", "kthvalue")
_STACKS = (torch.stack, torch.ops.aten.stack.default)
_VIEWS = ("view", torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


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


def needs_strides(node: Node) -> bool:
    """Whether a node views what it reads without a copy, so that it takes no operand of other strides."""
    return node.target in _VIEWS


def makes_contiguous(node: Node) -> bool:
    """Whether a node copies what it reads into the order of its axes."""
    if node.target is torch.ops.aten.clone.default:
        return node.kwargs.get("memory_format") is torch.contiguous_format
    return node.target == "contiguous" and not node.kwargs


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """The views around a matrix product.

    Attributes:
        source: what the Linear reads, of any number of axes.
        merged: the view of it that the product reads.
        split: the views that give the product its axes back.
    """

    source: Node
    merged: Node
    split: tuple[Node, ...]


def is_product(node: Node) -> bool:
    """Whether a node is a product of matrices, as an ATen graph writes it."""
    return aten.name_of(node.target) in ("addmm", "mm", "matmul")


def wrapped(node: Node, op: Affine, ops: Mapping[Node, Op]) -> Wrapped | None:
    """The views around a Linear, or None where it is written as one op, or they do something else."""
    view = ops.get(op.source)
    if not is_product(node) or not isinstance(view, View) or not node.users:
        return None
    wide, merged = value_of(view.source), value_of(op.source)
    if wide is None or merged is None or wide.ndim < 3 or merged.ndim != 2:
        return None
    if str(wide.shape[-1]) != str(merged.shape[-1]):
        return None
    leading = [str(extent) for extent in wide.shape[:-1]]
    for user in node.users:
        value = value_of(user)
        is_split = isinstance(ops.get(user), View) and value is not None
        if not is_split or value is None or [str(extent) for extent in value.shape[:-1]] != leading:
            return None
    if any(not is_product(user) for user in op.source.users):
        return None
    return Wrapped(source=view.source, merged=op.source, split=tuple(node.users))
