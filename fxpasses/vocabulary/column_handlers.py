"""Handlers of what makes columns of a map's patches, multiplies them, and makes them a map again."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from fxpasses.vocabulary.aten import untransposed
from fxpasses.vocabulary.handlers import OPAQUE, linear, nodes_in, product, tuple_of
from fxpasses.vocabulary.ops import MATMUL, Expand, Fold, Op, Product, Unfold


def matmul(*args: Any, **kwargs: Any) -> Op:
    """``torch.matmul`` and its like; with anything but two operands it is no product that is followed."""
    sources = tuple(nodes_in((args, kwargs)))
    return Product(sources, equation=MATMUL if len(args) == len(sources) == 2 else "")


def mm(input: Any, other: Any) -> Op:
    """``input @ weight.T`` as a Linear, and any other product of two matrices."""
    weight = untransposed(other)
    return matmul(input, other) if weight is None else linear(input, weight)


def addmm(bias: Any, input: Any, other: Any, *, beta: Any = 1, alpha: Any = 1) -> Op:
    """``bias + input @ weight.T`` as a Linear, and any other such sum."""
    weight = untransposed(other)
    is_linear = weight is not None and beta == 1 and alpha == 1
    return linear(input, weight, bias) if is_linear else product(bias, input, other)


def einsum(equation: Any, *operands: Any) -> Op:
    """``torch.einsum``, the operands one by one or as a list."""
    return Product(tuple(nodes_in(operands)), equation=equation if isinstance(equation, str) else "")


def expand(input: Node, *sizes: Any, **kwargs: Any) -> Op:
    """``expand`` and ``aten.expand``, the sizes one by one or as a list."""
    given = kwargs.get("size", sizes)
    return Expand(input, tuple(given[0]) if len(given) == 1 and not isinstance(given[0], Node) else given)


def unfold(input: Node, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Op:
    """``F.unfold`` and ``aten.im2col``."""
    kernel, dilation, padding, stride = (
        tuple_of(value, 2) for value in (kernel_size, dilation, padding, stride)
    )
    numbers = (*kernel, *dilation, *padding, *stride)
    if len(numbers) != 8 or not all(isinstance(number, int) for number in numbers):
        return OPAQUE
    return Unfold(source=input, kernel=kernel, dilation=dilation, padding=padding, stride=stride)


def fold(
    input: Node, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Op:
    """``F.fold`` and ``aten.col2im`` of columns of one position each; larger ones are sums of overlaps."""
    one = all(set(tuple_of(value, 2)) == {1} for value in (kernel_size, stride))
    is_plain = one and set(tuple_of(padding, 2)) == {0} and isinstance(output_size, (tuple, list))
    return Fold(input, tuple(output_size)) if is_plain else OPAQUE
