"""Sizes in a graph: which nodes hold them, of what, and what tracing knew of a tensor's shape."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch.fx import Graph, Node

from fxpasses.private_names import OpOverload
from fxpasses.vocabulary import aten
from fxpasses.vocabulary.ops import BATCH, CHANNELS

Known = TypeVar("Known")

_SHAPE_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "training")
_SHAPE_METHODS = frozenset({"size", "dim", "ndimension", "numel", "stride"})
_SCALAR_FUNCTIONS = frozenset({operator.getitem, int, float, len, getattr})
_MAX_FACTORS = 8  # more than any view has axes

_KEPT: ContextVar[dict[Node, bool] | None] = ContextVar("shape values", default=None)


@contextmanager
def kept_shape_values() -> Iterator[None]:
    """Keeps what ``is_shape_value`` finds out of arithmetic, so that a chain of sums is walked once.

    For one call of the passes: their edits never make a tensor of a size, those of a user may.
    """
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def is_shape_value(node: Node) -> bool:
    """Whether a node holds a size or a shape, or arithmetic on them, and no tensor."""
    own = _is_size_itself(node)
    if own is not None:
        return own
    known = _KEPT.get()
    return settled(node, {} if known is None else known, _settle)


def settled(
    node: Node, known: dict[Node, Known], settle: Callable[[Node, dict[Node, Known]], Node | None]
) -> Known:
    """What is known of a node, or of its operands first; without recursion, as graphs are deep.

    ``settle`` notes what it finds of a node in ``known``, or gives the operand to be asked first.
    """
    pending = [node]
    while pending:
        inner = pending[-1]
        waits = None if inner in known else settle(inner, known)
        if waits is None:
            pending.pop()
        else:
            pending.append(waits)
    return known[node]


def with_sizes(nodes: Iterable[Node]) -> list[Node]:
    """The nodes and the sizes that they use and have, in graph order."""
    pending = [*nodes]
    own = {*pending}
    while pending:
        node = pending.pop()
        found = {other for other in (*node.users, *node.all_input_nodes) if is_shape_value(other)} - own
        own |= found
        pending += found
    return sorted(own)


def _settle(node: Node, known: dict[Node, bool]) -> Node | None:
    """Notes whether arithmetic is one of sizes alone; else gives the operand to be asked first."""
    operands = node.all_input_nodes
    for source in operands:
        answer = _is_size_itself(source)
        answer = known.get(source) if answer is None else answer
        if answer is None:
            return source
        if not answer:
            known[node] = False
            return None
    known[node] = bool(operands)
    return None


def _is_size_itself(node: Node) -> bool | None:
    """Whether a node holds a size; None for arithmetic, where its operands say it."""
    if isinstance(node.target, OpOverload):
        return aten.is_size(node.target)
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    if node.op == "get_attr":
        return str(node.target).rpartition(".")[2] == "training"
    if node.op == "placeholder":  # torch.compile hands dynamic sizes in beside their tensors
        return isinstance(node.meta.get("val"), torch.SymInt)
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in _SHAPE_ATTRIBUTES
    arithmetic = node.target in _SCALAR_FUNCTIONS or getattr(node.target, "__module__", "") == "_operator"
    return None if arithmetic else False


def size_of(value: Any) -> tuple[Node, int] | None:
    """The tensor and axis whose size ``value`` holds, or None."""
    if not isinstance(value, Node):
        return None
    args: Any = value.args
    if value.op == "placeholder":
        return _batch_of(value)
    if value.op == "call_method" and value.target == "size":
        dim = args[1] if len(args) > 1 else value.kwargs.get("dim")
        return (args[0], dim) if isinstance(dim, int) and isinstance(args[0], Node) else None
    if value.op == "call_function" and aten.is_size(value.target) and len(args) == 2:
        return (args[0], args[1])
    if value.op != "call_function" or value.target is not operator.getitem:
        return None
    shape, dim = args
    start: Any = 0
    if isinstance(shape, Node) and shape.target is operator.getitem and isinstance(shape.args[1], slice):
        part: Any = shape.args[1]  # b, c = x.shape[:2]
        shape, start = shape.args[0], part.start or 0
        if part.step not in (None, 1) or not isinstance(start, int):
            return None
    owner = shape_owner(shape)
    return (owner, start + dim) if owner is not None and isinstance(dim, int) else None


def _batch_of(size: Node) -> tuple[Node, int] | None:
    """The input whose batch size another input holds, or None."""
    symbol = size.meta.get("val")
    if not isinstance(symbol, torch.SymInt):
        return None
    for node in size.graph.find_nodes(op="placeholder"):
        tensor = value_of(node)
        if tensor is not None and tensor.ndim > 1 and isinstance(tensor.shape[0], torch.SymInt):
            if tensor.shape[0].node.expr == symbol.node.expr:
                return node, 0
    return None


def factors_of(value: Node) -> list[Node]:
    """The sizes that a node multiplies; the node itself where it is no product of sizes, or of too many."""
    factors: list[Node] = []
    pending = [value]
    while pending:
        node = pending.pop()
        args = node.args if node.op == "call_function" and node.target is operator.mul else ()
        operands = [arg for arg in args if isinstance(arg, Node)]
        if len(operands) == 2:
            pending += reversed(operands)
        else:
            factors.append(node)
        if len(factors) + len(pending) > _MAX_FACTORS:
            return [value]
    return factors


def reads_only_batch(user: Node) -> bool:
    """Whether a node reads nothing of a value but its batch size, which no view changes."""
    owner = size_of(user)
    if owner is not None and owner[1] == 0:
        return True
    if not is_shape_value(user) or (user.op == "call_method" and len(user.args) > 1):
        return False
    sizes = [size_of(reader) for reader in user.users]
    return bool(sizes) and all(size is not None and size[1] == 0 for size in sizes)


def shape_owner(node: Any) -> Node | None:
    """The tensor whose whole shape a node holds, or None."""
    if not isinstance(node, Node) or not node.args or not isinstance(node.args[0], Node):
        return None
    if node.op == "call_method" and node.target == "size" and len(node.args) == 1 and not node.kwargs:
        return node.args[0]
    if node.op == "call_function" and node.target is getattr and node.args[1] == "shape":
        return node.args[0]
    return None


def leading_sizes(size: Any) -> tuple[Any, ...]:
    """``x.shape[:2]`` as the batch and the channels, else nothing."""
    is_slice = isinstance(size, Node) and size.target is operator.getitem and size.args[1] == slice(None, 2)
    return (BATCH, CHANNELS) if is_slice and shape_owner(size.args[0]) is not None else ()


def value_of(node: Node | None) -> torch.Tensor | None:
    """The fake tensor that torch.export or torch.compile left on a node, or None."""
    if node is None:
        return None
    value = node.meta.get("val", node.meta.get("example_value"))
    return value if isinstance(value, torch.Tensor) else None


def has_values(graph: Graph) -> bool:
    """Whether a graph tells the shapes of its own values, as torch.export and torch.compile write it."""
    return any(value_of(node) is not None for node in graph.find_nodes(op="placeholder"))


def is_input(node: Node | None) -> bool:
    """Whether a node is an input of its graph."""
    return node is not None and node.op == "placeholder"
