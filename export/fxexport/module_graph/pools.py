"""Which typed ops of a torch.fx graph average over exactly the spatial axes of ``[N, C, *k]``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import fx

from fxexport.terms.term import Shape
from fxpasses.vocabulary.ops import AdaptivePool, Op, Reduce, WindowPool
from fxpasses.vocabulary.sizes import shape_owner

ShapeOf: TypeAlias = Callable[[fx.Node], Shape | None]


def averages_map(op: Op, node: fx.Node, before: Shape, after: Shape, shape_of: ShapeOf) -> bool:
    """True if the result is the mean over all cells of each channel.

    ``shape_of`` tells a kernel that is written as the extent of some value.

    Shapes:
        before: (C, *k); after: (C,) or (C, 1, …), both without the batch, as ``shape_of`` gives them.
    """
    if len(before) < 2 or after[:1] != before[:1] or any(extent != 1 for extent in after[1:]):
        return False
    if isinstance(op, AdaptivePool):
        return op.average and op.rank == len(before) - 1
    if isinstance(op, WindowPool):
        kernel = op.kernel or _extent(node.kwargs.get("kernel_size", [*node.args, None, None][1]), shape_of)
        is_whole = op.plain and (op.covers or kernel == before[1:])
        return op.average and op.rank == len(before) - 1 and is_whole
    if not isinstance(op, Reduce) or not op.average:
        return False
    rank = len(before) + 1
    is_plain = not node.kwargs.get("dtype")
    return is_plain and {dim % rank for dim in op.dims} == set(range(2, rank))


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
