"""The writing half of the vocabulary: typed edits in the dialect of the graph.

A graph of torch functions stays one, an ATen graph stays ATen, and a decomposed one stays decomposed
(``convolution``, ``permute`` + ``addmm``, ``view`` with sizes).
"""

from __future__ import annotations

import dataclasses
import enum
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Graph, Node

from fxpasses.graph import provenance
from fxpasses.graph.shapes import static_extent
from fxpasses.private_names import OpOverload
from fxpasses.report import Form
from fxpasses.vocabulary import aten
from fxpasses.vocabulary.ops import Affine, WeightSource
from fxpasses.weights.move import WeightMove, WeightOrder


class Dialect(enum.Enum):
    """How a graph spells its operations."""

    TORCH = enum.auto()
    ATEN = enum.auto()
    CORE = enum.auto()


def dialect_of(node: Node) -> Dialect:
    """The dialect of a site's node."""
    if not isinstance(node.target, OpOverload):
        return Dialect.TORCH
    return (
        Dialect.CORE if aten.name_of(node.target) in ("addmm", "mm", "bmm", "convolution") else Dialect.ATEN
    )


class Writer:
    """Writes views after nodes of a graph, and keeps what it wrote.

    Args:
        batch: the batch size where the program fixes it, else None.
    """

    def __init__(self, graph: Graph, dialect: Dialect, batch: int | None = None) -> None:
        self.graph = graph
        self.dialect = dialect
        self.batch = batch
        self.written: list[Node] = []

    def flatten(self, node: Node, features: int | None) -> Node:
        """``[N, C, *k]`` as ``[N, C·∏k]``."""
        if self.dialect is Dialect.TORCH:
            return self._after(node, torch.flatten, (node, 1))
        if self.dialect is Dialect.ATEN or features is None:
            return self._after(node, torch.ops.aten.flatten.using_ints, (node, 1))
        return self._view(node, (features,))

    def unflatten(self, node: Node, sizes: Sequence[int]) -> Node:
        """Axis 1 split into ``sizes``."""
        if self.dialect is Dialect.TORCH:
            return self._after(node, torch.unflatten, (node, 1, tuple(sizes)))
        if self.dialect is Dialect.ATEN:
            return self._after(node, torch.ops.aten.unflatten.int, (node, 1, list(sizes)))
        return self._view(node, sizes)

    def permute(self, node: Node, order: Sequence[int]) -> Node:
        """Axes in another order."""
        return self._after(node, self._permute_function(), (node, list(order)))

    def reshape(self, node: Node, sizes: Sequence[int]) -> Node:
        """A tensor that holds no batch in another shape."""
        function: Any = torch.reshape
        if self.dialect is not Dialect.TORCH:
            function = torch.ops.aten.view.default
        return self._after(node, function, (node, list(sizes)))

    def reshaping(self, node: Node) -> None:
        """Makes a ``view`` take operands of any strides, as ``reshape`` does."""
        if node.op == "call_method":
            node.target = "reshape"
            node.args, node.kwargs = (*node.args, *node.kwargs.values()), {}
        elif self.dialect is Dialect.CORE:
            self.copied(node)
        else:
            node.target = torch.ops.aten.reshape.default

    def windows(self, node: Node, source: Node, kernel: tuple[int, ...]) -> Node:
        """The averages of ``source`` over every window of ``kernel``, written after ``node``."""
        rank = len(kernel)
        if self.dialect is Dialect.TORCH:
            return self._after(node, getattr(F, f"avg_pool{rank}d"), (source, kernel, 1))
        function = getattr(torch.ops.aten, f"avg_pool{rank}d").default
        return self._after(node, function, (source, [*kernel], [1] * rank))

    def dilate(self, node: Node, dilation: tuple[int, ...]) -> None:
        """Spreads the kernel of a convolution that is a function."""
        if len(node.args) > 5:
            node.args = (*node.args[:5], [*dilation], *node.args[6:])
        else:
            node.kwargs = {**node.kwargs, "dilation": [*dilation]}

    def site(self, node: Node, op: Affine, move: WeightMove, to: Form) -> None:
        """Respells an affine function of a parameter in the other form; its operand stays.

        A weight that is an input of the graph, as under ``torch.compile``, is viewed where it is read.
        """
        rank = len(move.conv_shape) - 2
        provenance.retype(node, to, rank)
        if op.weight_source is WeightSource.INPUT and op.weight_node is not None:
            weight = self._viewed(node, op.weight_node, move, to)
            node.replace_input_with(op.weight_node, weight)
            op = dataclasses.replace(op, weight_node=weight)
        if self.dialect is Dialect.TORCH:  # F.linear and F.convNd share their first three parameters
            node.target = getattr(F, f"conv{rank}d") if to is Form.CONV else F.linear
            node.args = node.args[:3]
            named = ("input", "weight", "bias")
            node.kwargs = {name: node.kwargs[name] for name in named if name in node.kwargs}
            return
        operands = [op.source, op.weight_node, *([op.bias_node] if op.bias_node is not None else [])]
        if self.dialect is Dialect.ATEN:
            name = f"conv{rank}d" if to is Form.CONV else "linear"
            node.target, node.args = getattr(torch.ops.aten, name).default, tuple(operands)
        elif to is Form.CONV:
            ones, zeros = [1] * rank, [0] * rank
            node.target = torch.ops.aten.convolution.default
            node.args = (op.source, op.weight_node, op.bias_node, ones, zeros, ones, False, zeros, 1)
        else:
            self._matrix_product(node, op)
        if node.kwargs:
            node.kwargs = {}

    def _viewed(self, node: Node, weight: Node, move: WeightMove, to: Form) -> Node:
        """A weight in the other form, as views in the graph."""
        is_last = move.order is WeightOrder.CHANNELS_LAST
        rank = len(move.conv_shape) - 2
        shape = move.shape(to)
        if is_last and to is Form.CONV:
            shape = (shape[0], *shape[2:], shape[1])
        place = node.prev
        if is_last and to is Form.LINEAR:
            order = [0, *range(2, rank + 2), 1]
            weight = place = self._after(place, self._permute_function(), (weight, order), part_of=node)
        weight = place = self._after(place, self._reshape_function(), (weight, list(shape)), part_of=node)
        if is_last and to is Form.CONV:
            order = [0, rank + 1, *range(1, rank + 1)]
            weight = self._after(place, self._permute_function(), (weight, order), part_of=node)
        return weight

    def _permute_function(self) -> Callable[..., Any]:
        return torch.permute if self.dialect is Dialect.TORCH else torch.ops.aten.permute.default

    def _reshape_function(self) -> Callable[..., Any]:
        if self.dialect is Dialect.CORE:
            return torch.ops.aten.view.default
        return torch.reshape if self.dialect is Dialect.TORCH else torch.ops.aten.reshape.default

    def _matrix_product(self, node: Node, op: Affine) -> None:
        with self.graph.inserting_before(node):
            weight = self.graph.call_function(torch.ops.aten.permute.default, (op.weight_node, [1, 0]))
        self._keep(weight, node, is_part=True)
        if op.bias_node is None:
            node.target, node.args = torch.ops.aten.mm.default, (op.source, weight)
        else:
            node.target, node.args = torch.ops.aten.addmm.default, (op.bias_node, op.source, weight)

    def wrap(self, node: Node, source: Node, shape: Sequence[Any], features: int) -> None:
        """Gives a matrix product of more than two axes a matrix to read, and its result those axes back.

        It reads ``source`` now, of that ``shape``, and gives so many ``features``.
        """
        copy = self._after(source, torch.ops.aten.clone.default, (source,), part_of=node)
        copy.kwargs = {"memory_format": torch.contiguous_format}
        merged = self._after(copy, torch.ops.aten.view.default, (copy, [-1, shape[-1]]), part_of=node)
        node.replace_input_with(source, merged)
        readers, place, sizes = list(node.users), node, [-1]
        for axis, extent in enumerate(shape[1:-1], start=1):
            size: Any = static_extent(extent)
            if size is None:
                size = place = self._after(place, torch.ops.aten.sym_size.int, (source, axis), part_of=node)
            sizes.append(size)
        split = self._after(place, torch.ops.aten.view.default, (node, [*sizes, features]), part_of=node)
        for reader in readers:
            reader.replace_input_with(node, split)

    def _view(self, node: Node, sizes: Sequence[int]) -> Node:
        batch: Any = self.batch
        place = node
        if batch is None:
            batch = place = self._after(node, torch.ops.aten.sym_size.int, (node, 0))
        return self._after(place, torch.ops.aten.view.default, (node, [batch, *sizes]))

    def _after(self, node: Node, function: Any, args: tuple[Any, ...], part_of: Node | None = None) -> Node:
        write = self.graph.call_method if isinstance(function, str) else self.graph.call_function
        with self.graph.inserting_after(_end_of_inputs(node)):
            new = write(function, args)
        return self._keep(new, part_of or node, is_part=part_of is not None)

    def _keep(self, new: Node, like: Node, *, is_part: bool) -> Node:
        provenance.inherit(new, like, is_part=is_part)
        self.written.append(new)
        return new

    def copied(self, node: Node) -> Node:
        """A contiguous copy of what a view reads, where the strides allow no view, as ``reshape`` does it."""
        with self.graph.inserting_before(node):
            copy = self.graph.call_function(
                torch.ops.aten.clone.default, (node.args[0],), {"memory_format": torch.contiguous_format}
            )
        node.args = (copy, *node.args[1:])
        return self._keep(copy, node, is_part=True)


def _end_of_inputs(node: Node) -> Node:
    """The last input of a graph for one of its inputs, which have to stand together; else the node."""
    while node.op == "placeholder" and node.next.op == "placeholder":
        node = node.next
    return node


def named_functions() -> dict[str, Callable[..., Any]]:
    """The functions that an edit may write or erase, by the name under which a record keeps them."""
    return {
        **{name: getattr(torch, name) for name in _TORCH_VIEWS},
        **{name: getattr(operator, name) for name in ("getitem", "add", "sub", "mul", "floordiv")},
        "getattr": getattr,
        "linear": F.linear,
        "torch.add": torch.add,
        "operator.matmul": operator.matmul,
        **{name: getattr(F, name) for name in ("pad", "unfold", "fold")},
        **{
            f"{name}{rank}d": getattr(F, f"{name}{rank}d")
            for name in ("conv", "avg_pool", "adaptive_avg_pool")
            for rank in (1, 2, 3)
        },
    }


_TORCH_VIEWS = (
    "flatten unflatten reshape squeeze unsqueeze permute transpose swapaxes select mean sum amax amin clone "
    "matmul mm bmm einsum"
).split()
