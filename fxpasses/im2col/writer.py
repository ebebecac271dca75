"""The writing half of the vocabulary for im2col: pads, unfolds, and what makes columns a map again."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Graph, Node

from fxpasses.engine.fake_values import compute
from fxpasses.graph import provenance
from fxpasses.graph.shapes import static_extent
from fxpasses.im2col.patches import Patches
from fxpasses.vocabulary.ops import Affine, WeightSource
from fxpasses.vocabulary.sizes import value_of
from fxpasses.vocabulary.writer import Dialect, Writer
from fxpasses.weights.move import WeightMove

_aten = torch.ops.aten


class ColumnWriter(Writer):
    """Writes one convolution as a product of its patches, or the product as a convolution.

    Args:
        site: the node that convolves or multiplies; what is written stands next to it.
    """

    def __init__(self, graph: Graph, dialect: Dialect, site: Node) -> None:
        super().__init__(graph, dialect)
        self.site_node = site
        self.place = site.prev

    def multiply(self, op: Affine, move: WeightMove, source: Node, patches: Patches) -> Node:
        """The site as a product with the columns of a map; gives the map ``[N, O, H, W]`` of its result."""
        if patches.needs_pad:
            source, patches = self._padded(source, patches), patches.of_padded()
        counts = [self._count(source, axis, patches) for axis in (0, 1)]
        batch = self._extent(source, 0) if self.dialect is Dialect.CORE else None
        numbers = (patches.kernel, patches.dilation, patches.padding, patches.stride)
        if self.dialect is Dialect.TORCH:
            columns = self._next(F.unfold, (source, *numbers))
        else:
            columns = self._next(_aten.im2col.default, (source, *([*pair] for pair in numbers)))
        if self.dialect is Dialect.CORE:
            return self._matrix_product_of(op, move, columns, [batch, *counts])
        return self._linear_of(op, move, columns, counts)

    def convolve(self, op: Affine, move: WeightMove, source: Node, patches: Patches) -> None:
        """The site as a convolution of the map that was unfolded."""
        node = self.site_node
        if node.op == "call_module":
            node.args, node.kwargs = (source,), {}
            return
        node.op = "call_function"  # it may have been a method
        weight = self._weight(op, move.conv_shape)
        numbers = (patches.stride, patches.padding, patches.dilation)
        lists = [[*pair] for pair in numbers]
        if self.dialect is Dialect.TORCH:
            node.target, node.args = F.conv2d, (source, weight, op.bias_node, *numbers)
        elif self.dialect is Dialect.ATEN:
            node.target, node.args = _aten.conv2d.default, (source, weight, op.bias_node, *lists)
        else:
            node.target = _aten.convolution.default
            node.args = (source, weight, op.bias_node, *lists, False, [0, 0], 1)
        node.kwargs = {}

    # --- parts

    def _linear_of(self, op: Affine, move: WeightMove, columns: Node, counts: list[Any]) -> Node:
        node, is_torch = self.site_node, self.dialect is Dialect.TORCH
        transpose = torch.transpose if is_torch else _aten.transpose.int
        turned = self._next(transpose, (columns, -2, -1))
        if node.op == "call_module":
            node.args = (turned,)
        else:
            weight = self._weight(op, move.linear_shape)
            node.target = F.linear if is_torch else _aten.linear.default
            node.args = (turned, weight, *([op.bias_node] if op.bias_node is not None else []))
        node.kwargs = {}
        self.place = node
        rows = self._next(transpose, (node, -2, -1))
        # a convolution's result is contiguous, and a view of it may count on that
        rows = self._next("contiguous" if is_torch else _aten.contiguous.default, (rows,))
        return self._next(torch.unflatten if is_torch else _aten.unflatten.int, (rows, -1, counts))

    def _matrix_product_of(self, op: Affine, move: WeightMove, columns: Node, sizes: list[Any]) -> Node:
        """What decomposition leaves has no Linear of three axes: a product for each sample."""
        node = self.site_node
        weight = self._weight(op, move.linear_shape)
        batch, *counts = sizes
        rows, _ = move.linear_shape
        expanded = self._next(_aten.expand.default, (weight, [batch, *move.linear_shape]), is_part=True)
        node.target, node.args, node.kwargs = _aten.bmm.default, (expanded, columns), {}
        result = self.place = node
        if op.bias_node is not None:
            bias = self._next(_aten.view.default, (op.bias_node, [rows, 1]), is_part=True)
            result = self._next(_aten.add.Tensor, (node, bias), is_part=True)
        return self._next(_aten.view.default, (result, [batch, rows, *counts]))

    def _weight(self, op: Affine, shape: tuple[int, ...]) -> Node | None:
        """The weight as a function reads it; one that is an input of the graph is viewed there."""
        weight = op.weight_node
        if op.weight_source is not WeightSource.INPUT or weight is None:
            return weight
        return self._next(self._reshape_function(), (weight, [*shape]), is_part=True)

    def _padded(self, source: Node, patches: Patches) -> Node:
        pads = [extent for pair in reversed(patches.pads) for extent in pair]
        if self.dialect is Dialect.TORCH:
            mode = "constant" if patches.mode == "zeros" else patches.mode
            return self._next(F.pad, (source, pads, mode))
        padded = self._next(_aten.pad.default, (source, pads))  # ATen's convolutions pad zeros
        compute([padded])
        return padded

    def _count(self, source: Node, axis: int, patches: Patches) -> Any:
        """The number of patches along an axis: a number where the program fixes it, else computed."""
        shift, step = patches.shift(axis), patches.stride[axis]
        size = self._extent(source, axis - 2)
        if isinstance(size, int):
            return (size + shift) // step
        if shift:
            size = self._next(operator.add, (size, shift))
        return size if step == 1 else self._next(operator.floordiv, (size, step))

    def _extent(self, source: Node, dim: int) -> Any:
        value = value_of(source)
        known = None if value is None else static_extent(value.shape[dim])
        if known is not None:
            return known
        if self.dialect is Dialect.TORCH:
            return self._next("size", (source, dim))
        return self._next(_aten.sym_size.int, (source, dim if value is None else dim % value.ndim))

    def _next(
        self, function: Callable[..., Any] | str, args: tuple[Any, ...], *, is_part: bool = False
    ) -> Node:
        """A node after the last one that was written; a part of the site, or beside it."""
        self.place = self._after(self.place, function, args, part_of=self.site_node)
        if not is_part:
            provenance.inherit(self.place, self.site_node, is_part=False)
        return self.place
