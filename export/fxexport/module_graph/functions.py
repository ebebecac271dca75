"""Which torch.fx nodes are functions of whole samples that have a bound: averages, maxima, joins, softmax."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import fx, nn

from fxexport.module_graph.naming import operator_name
from fxexport.terms.term import CONCAT, MAXIMUM, SOFTMAX, Shape
from fxpasses.vocabulary.ops import POOLS, AdaptivePool, Concat, Op, Reduce, WindowPool
from fxpasses.vocabulary.sizes import shape_owner

ShapeOf: TypeAlias = Callable[[fx.Node], Shape | None]


def averages_map(op: Op, node: fx.Node, before: Shape, after: Shape, shape_of: ShapeOf) -> bool:
    """True if the result is the mean over all cells of each channel.

    ``shape_of`` tells a kernel that is written as the extent of some value.

    Shapes:
        before: (C, *k); after: (C,) or (C, 1, …), both without the batch, as ``shape_of`` gives them.
    """
    if not isinstance(op, POOLS) or not op.average or not _takes_map(op, before, after):
        return False
    if isinstance(op, WindowPool):
        kernel = op.kernel or _extent(node.kwargs.get("kernel_size", [*node.args, None, None][1]), shape_of)
        return op.plain and (op.covers or kernel == before[1:])
    return not node.kwargs.get("dtype")


def _takes_map(op: AdaptivePool | WindowPool | Reduce, before: Shape, after: Shape) -> bool:
    """Whether it makes one cell of each channel's map: windows of its rank, or exactly the spatial axes."""
    if len(before) < 2 or after[:1] != before[:1] or not is_one_cell(after):
        return False
    rank = len(before) + 1
    if not isinstance(op, Reduce):
        return op.rank == rank - 2
    return {dim % rank for dim in op.dims} == set(range(2, rank))


def _extent(kernel: Any, shape_of: ShapeOf) -> Shape | None:
    """``(h, w)`` for ``value.shape[2:]`` and for ``value.size()[2:]``."""
    is_slice = isinstance(kernel, fx.Node) and kernel.target is operator.getitem
    owner = shape_owner(kernel.args[0]) if is_slice and kernel.args[1] == slice(2, None) else None
    shape = None if owner is None else shape_of(owner)
    return None if shape is None else shape[1:]


def is_of_one_cell(op: WindowPool) -> bool:
    """Whether its windows are single cells, which it gives as they are."""
    return op.average and op.plain and op.kernel is not None and set(op.kernel) == {1}


def takes_all(first: Reduce, second: Reduce, rank: int) -> bool:
    """Whether two reductions in a row are together one of all axes behind the channels, each once."""
    taken = {dim % rank for dim in first.dims}
    left = [axis for axis in range(rank) if first.keepdim or axis not in taken]
    return taken | {left[dim % len(left)] for dim in second.dims} == set(range(2, rank))


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
    if isinstance(op, Reduce):
        is_one = operator_name(node, module) == "amax"
    else:
        is_one = isinstance(op, AdaptivePool) and not op.average
    return is_one and isinstance(op, AdaptivePool | Reduce) and _takes_map(op, before, after)


def _is_softmax(node: fx.Node, module: nn.Module | None, shape: Shape) -> bool:
    if operator_name(node, module) not in ("softmax", "_softmax") or not is_one_cell(shape):
        return False
    if node.kwargs.get("dtype") is not None or any(arg not in (None, False) for arg in node.args[2:]):
        return False
    given = node.kwargs.get("dim", next(iter(node.args[1:]), None))  # even the input may be named
    dim = module.dim if isinstance(module, nn.Softmax) else given
    return isinstance(dim, int) and dim in (1, -len(shape))
