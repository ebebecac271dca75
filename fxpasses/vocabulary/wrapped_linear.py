"""A Linear of more than two axes as a decomposition writes it: view → matrix product → view.

Matrix products take matrices, so ``run_decompositions()`` merges all axes but the last before one, and
splits them again behind it. Such a Linear is one op on the value before the first view.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch.fx import Node

from fxpasses.vocabulary import aten
from fxpasses.vocabulary.ops import Affine, Op, View
from fxpasses.vocabulary.sizes import value_of


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
