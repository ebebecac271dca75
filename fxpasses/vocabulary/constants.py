"""Views of parameters that a graph makes: which parameter, and whether it is the view that is asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.fx import Node

from fxpasses.graph.tree import is_uninitialized
from fxpasses.vocabulary.ops import (
    Elementwise,
    Expand,
    Flatten,
    Index,
    Op,
    Permute,
    Squeeze,
    Unflatten,
    Unsqueeze,
    View,
    is_copy,
)
from fxpasses.vocabulary.sizes import size_of
from fxpasses.vocabulary.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A parameter as a graph views it.

    Attributes:
        view: the same memory as the graph views it.
        views: the nodes that view it, in graph order.
    """

    name: str
    reader: Node
    parameter: torch.Tensor
    view: torch.Tensor
    views: tuple[Node, ...] = ()


def constant_of(node: Any, vocabulary: Vocabulary) -> Constant | None:
    """The parameter that a node reads or views, or None where it computes anything."""
    views: list[tuple[Node, Op]] = []
    while isinstance(node, Node) and vocabulary.tensor_name(node) is None:
        op = vocabulary.classify(node)
        views.append((node, op))
        node = _viewed_by(op)
    name = vocabulary.tensor_name(node) if isinstance(node, Node) else None
    tensor = vocabulary.tensor(name)
    if name is None or tensor is None or is_uninitialized(tensor):
        return None
    plain = view = tensor.detach()
    for _, op in reversed(views):
        try:
            found = _viewed(view, op, vocabulary)
        except (RuntimeError, IndexError, TypeError):  # running the graph would fail alike
            return None
        if found is None:
            return None
        view = found
    nodes = tuple(node for node, _ in reversed(views))
    return Constant(name=name, reader=node, parameter=plain, view=view, views=nodes)


def is_same_view(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors of one storage hold the same numbers in the same places."""
    alike = first.shape == second.shape and first.data_ptr() == second.data_ptr()
    strides = zip(first.shape, first.stride(), second.stride(), strict=True) if alike else ()
    return alike and all(one == other or extent == 1 for extent, one, other in strides)


def _viewed_by(op: Op) -> Node | None:
    """What an op gives a view or a plain copy of, or None where it computes anything."""
    match op:
        case Flatten() | Unflatten() | View() | Squeeze() | Unsqueeze() | Permute() | Index() | Expand():
            return op.source
        case Elementwise() if is_copy(op):
            return op.sources[0]
        case _:
            return None


def _viewed(tensor: torch.Tensor, op: Op, vocabulary: Vocabulary) -> torch.Tensor | None:
    """A tensor as an op of ``_viewed_by`` views it, or None where it takes a part of it or repeats it."""
    match op:
        case View():
            return tensor.reshape(_sizes(op.sizes, vocabulary))
        case Flatten():
            return tensor.flatten(op.start, op.end)
        case Unflatten():
            return torch.unflatten(tensor, op.dim, _sizes(op.sizes, vocabulary))
        case Permute():
            return tensor.transpose(*op.dims) if op.swap else tensor.permute(op.dims)
        case Unsqueeze():
            return tensor.unsqueeze(op.dim)
        case Squeeze():
            return tensor.squeeze() if op.dims is None else tensor.squeeze(op.dims)
        case Index():
            return tensor[op.items] if all(item in (None, ..., slice(None)) for item in op.items) else None
        case Expand():  # the same for every sample
            shape = tuple(tensor.shape)
            return tensor if op.sizes[1:] in (shape, (-1,) * len(shape)) else None
        case _:  # a plain copy
            return tensor


def _sizes(sizes: tuple[Any, ...], vocabulary: Vocabulary) -> list[int]:
    """Sizes as numbers: written as such, or the sizes of parameters.

    Raises:
        TypeError: a size is neither.
    """
    return [_size(size, vocabulary) for size in sizes]


def _size(size: Any, vocabulary: Vocabulary) -> int:
    if isinstance(size, int):
        return size
    owner = size_of(size)
    read = None if owner is None else constant_of(owner[0], vocabulary)
    if owner is None or read is None:
        raise TypeError(f"{size} is no size of a parameter")
    return int(read.view.shape[owner[1]])
