"""The ``val`` of an ATen graph's nodes, the fake tensor that ``torch.export`` left there, over an edit.

Running an operator on fake tensors costs a third of a millisecond where the batch is symbolic, more than
the edit itself. Nearly all that a rewrite changes is the rank of a value that it knows already, so that
axes of extent 1 are added to or taken from the old ``val``; only what is left is run.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.fx import Node, map_arg

from fxpasses.private_names import (
    FakeTensor,
    detect_fake_mode,
    enable_python_dispatcher,
    in_kernel_invocation_manager,
    pytree,
)
from fxpasses.vocabulary.ops import Affine, Elementwise, Op, Reduce

_aten = torch.ops.aten


def refresh(node: Node, classify: Callable[[Node], Op]) -> bool:
    """Gives a node the ``val`` that it now computes, where its operands have one.

    Returns:
        Whether the ``val`` is another one than before.
    """
    operands = [source.meta.get("val") for source in node.all_input_nodes]
    if _is_kept(node) or not operands or any(value is None for value in operands):
        return False
    old = node.meta.get("val")
    new = _viewed(node, operands[0])
    if new is None:
        new = _of_rank(old, _rank(classify(node), operands))
    if new is None:
        new = _computed(node, operands)
    if new is old:
        return False
    put(node, new)
    return True


def recompute(nodes: Iterable[Node]) -> None:
    """Runs nodes on the ``val`` of their operands, and what reads them as far as sizes are others now."""
    queued = set(nodes)
    pending = [*queued]
    heapq.heapify(pending)
    while pending:
        node = heapq.heappop(pending)
        if _is_changed(node):
            for user in node.users.keys() - queued:
                queued.add(user)
                heapq.heappush(pending, user)


def compute(nodes: Iterable[Node]) -> None:
    """Runs nodes on the ``val`` of their operands, and nothing that reads them: its sizes are as before."""
    with enable_python_dispatcher():  # the kernels of pad and im2col make symbolic sizes numbers
        for node in sorted(nodes):
            _is_changed(node)


def _is_kept(node: Node) -> bool:
    """Whether a node keeps its ``val``: no function, or one of another dialect that nothing here can run."""
    return node.op != "call_function" or bool(getattr(node.target, "is_foreign", False))


def _is_changed(node: Node) -> bool:
    """Gives a node the ``val`` that it now computes; whether its sizes are others than before."""
    operands = [source.meta.get("val") for source in node.all_input_nodes]
    if _is_kept(node) or not operands:
        return False
    if any(value is None for value in operands):  # nor is it known what it computes now
        return node.meta.pop("val", None) is not None
    before = node.meta.get("val")
    try:
        put(node, _computed(node, operands))
    except RuntimeError:  # of open sizes that torch cannot show to fit each other, as some of a file's
        return node.meta.pop("val", None) is not None
    return _sizes(before) != _sizes(node.meta["val"])


def _sizes(value: Any) -> list[str]:
    """The sizes of a value as text: to compare symbolic ones would add guards."""
    return [
        str(tuple(leaf.shape)) if isinstance(leaf, torch.Tensor) else "" for leaf in pytree.tree_leaves(value)
    ]


def refresh_weight(node: Node, convert: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Gives the node that reads a weight the ``val`` of its new shape."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        if type(value) is FakeTensor and all(isinstance(extent, int) for extent in value.shape):
            put(node, _rewrapped(value, convert))
        else:
            with _pretending([value]):
                put(node, convert(value))


def put(node: Node, value: Any) -> None:
    """Gives a node its new ``val``."""
    node.meta["val"] = value
    node.meta.pop("tensor_meta", None)


def _rank(op: Op, operands: Sequence[Any]) -> int | None:
    """How many axes the result of ``op`` has, where it is its operand with axes of extent 1 or without."""
    tensors = [value for value in operands if isinstance(value, torch.Tensor)]
    ranks = [value.ndim for value in tensors]
    if isinstance(op, Affine):
        return max(ranks, default=None)
    if isinstance(op, Elementwise):
        is_point = all(_are_ones(value.shape[2:]) for value in tensors)
        return max(ranks, default=None) if is_point else None
    if isinstance(op, Reduce) and len(ranks) == 1:
        rank = ranks[0]
        if sorted(dim % rank for dim in op.dims) == list(range(2, rank)):
            return rank if op.keepdim else 2
    return None


def _of_rank(value: Any, rank: int | None) -> torch.Tensor | None:
    """The value with axes of extent 1 added or taken at its end, or None where that is not ``rank`` axes."""
    if rank is None or type(value) is not FakeTensor or min(rank, value.ndim) != 2:
        return None
    if value.ndim == rank:
        return value
    if not _are_ones(value.shape[2:]):
        return None
    return _rewrapped(value, lambda tensor: _padded(tensor, rank))


def _padded(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    while tensor.ndim < rank:
        tensor = tensor.unsqueeze(-1)
    while tensor.ndim > rank:
        tensor = tensor.squeeze(-1)
    return tensor


def _viewed(node: Node, value: Any) -> Any:
    """The ``val`` of a view that only adds or takes axes of extent 1, of a permutation or a size."""
    target = node.target
    args: tuple[Any, ...] = node.args
    if target is _aten.sym_size.int:
        return value.shape[args[1]]
    if type(value) is not FakeTensor:
        return None
    if target is _aten.permute.default:
        order = args[1]
        if not all(isinstance(extent, int) for extent in value.shape):
            return None  # its kernel would make the symbolic sizes numbers
        return _rewrapped(value, lambda tensor: tensor.permute(order))
    sizes: Any = None
    if target is _aten.view.default or target is _aten.reshape.default:
        batch, *sizes = args[1]
        if value.ndim < 2 or not _is_size(batch, value.shape[0]):
            return None
    elif target is _aten.flatten.using_ints and args[1:] == (1,) and value.ndim > 2:
        sizes = value.shape[1:2]
    elif target is _aten.unflatten.int and args[1] == 1 and value.ndim == 2:
        sizes = args[2]
    if not sizes or not isinstance(sizes[0], int) or sizes[0] != value.shape[1]:
        return None
    return _of_rank(value, len(sizes) + 1) if _are_ones(sizes[1:]) else None


def _is_size(size: Any, extent: int | torch.SymInt) -> bool:
    """Whether two sizes are the same number or symbol; adds no guard."""
    size = size.meta.get("val") if isinstance(size, Node) else size
    if isinstance(size, torch.SymInt) and isinstance(extent, torch.SymInt):
        return size is extent or bool(size.node.expr == extent.node.expr)
    return type(size) is type(extent) is int and size == extent


def _are_ones(extents: Sequence[Any]) -> bool:
    return all(isinstance(extent, int) and extent == 1 for extent in extents)


def _rewrapped(value: FakeTensor, change: Callable[[torch.Tensor], torch.Tensor]) -> FakeTensor:
    """A view of a fake tensor, made without its dispatch.

    Source: ``torch._subclasses.fake_tensor``, as fake tensors run a kernel on the meta tensors below them.
    """
    with torch.no_grad(), in_kernel_invocation_manager(value.fake_mode):
        changed = change(value)
    return FakeTensor(value.fake_mode, changed, value.fake_device)


def _computed(node: Node, operands: Sequence[Any]) -> Any:
    args, kwargs = map_arg((node.args, node.kwargs), lambda source: source.meta["val"])
    with _pretending(operands):
        return node.target(*args, **kwargs)  # type: ignore[operator]  # a function's target


@contextmanager
def _pretending(values: Sequence[Any]) -> Iterator[None]:
    """Runs operators on fake tensors, and adds no guard on their sizes to the program they come from."""
    mode = detect_fake_mode(values)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if mode is not None:
            stack.enter_context(mode)
            if mode.shape_env is not None:
                stack.enter_context(mode.shape_env.suppress_guards())
        yield
