"""Which torch.fx nodes are functions of whole samples that have a bound: joins, maxima, softmax."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from fxexport.module_graph.signature import operator_name
from fxexport.terms.term import CONCAT, MAXIMUM, SOFTMAX, Shape
from fxpasses.vocabulary.ops import AdaptivePool, Concat, Op, Reduce


def joint_function(
    node: fx.Node, op: Op, module: nn.Module | None, before: Sequence[Shape | None], after: Shape | None
) -> str | None:
    """``CONCAT``, ``MAXIMUM`` or ``SOFTMAX`` where the node is that, or None.

    Shapes:
        before: of each value that it reads, and after: of its result, without the batch.
    """
    if after is None or not before or any(shape is None for shape in before):
        return None
    shapes = [shape for shape in before if shape is not None]
    if isinstance(op, Concat):
        is_channels = all(is_one_cell(shape) for shape in shapes) and op.dim in (1, -len(after))
        return CONCAT if is_channels and len({len(shape) for shape in shapes}) == 1 else None
    if len(shapes) != 1:
        return None
    if _is_maximum(node, op, module, shapes[0], after):
        return MAXIMUM
    return SOFTMAX if _is_softmax(node, module, shapes[0]) else None


def is_one_cell(shape: Shape) -> bool:
    """True for ``(C,)`` and ``(C, 1, …)``."""
    return bool(shape) and all(extent == 1 for extent in shape[1:])


def _is_maximum(node: fx.Node, op: Op, module: nn.Module | None, before: Shape, after: Shape) -> bool:
    """Cases: ``amax`` over exactly the spatial axes, an adaptive maximum pool to one cell."""
    if len(before) < 2 or after[:1] != before[:1] or not is_one_cell(after):
        return False
    if isinstance(op, AdaptivePool):
        return not op.average and op.rank == len(before) - 1
    rank = len(before) + 1
    if not isinstance(op, Reduce) or operator_name(node, module) != "amax":
        return False
    return {dim % rank for dim in op.dims} == set(range(2, rank))


def _is_softmax(node: fx.Node, module: nn.Module | None, shape: Shape) -> bool:
    if operator_name(node, module) not in ("softmax", "_softmax") or not is_one_cell(shape):
        return False
    if node.kwargs.get("dtype") is not None or any(arg not in (None, False) for arg in node.args[2:]):
        return False
    given = node.kwargs.get("dim", next(iter(node.args[1:]), None))  # even the input may be named
    dim = module.dim if isinstance(module, nn.Softmax) else given
    return isinstance(dim, int) and dim in (1, -len(shape))
