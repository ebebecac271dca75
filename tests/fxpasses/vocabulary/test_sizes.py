"""Which nodes hold sizes, of which value and axis, and who reads nothing of a value but its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from fxpasses.vocabulary.ops import BATCH, CHANNELS
from fxpasses.vocabulary.sizes import (
    factors_of,
    is_shape_value,
    leading_sizes,
    reads_only_batch,
    shape_owner,
    size_of,
)


def node_of(write: Callable[[Any], Any]) -> fx.Node:
    """The node of what is written of ``x``."""
    graph = fx.Graph()
    made: fx.Proxy = write(fx.Proxy(graph.placeholder("x"), fx.proxy.GraphAppendingTracer(graph)))
    return made.node


SIZES: dict[str, tuple[Callable[[Any], Any], int | None]] = {
    "size of an axis": (lambda x: x.size(1), 1),
    "size of a named axis": (lambda x: x.size(dim=-1), -1),
    "item of the shape": (lambda x: x.shape[0], 0),
    "item of all sizes": (lambda x: x.size()[2], 2),
    "item of a part of the shape": (lambda x: x.shape[1:3][1], 2),
    "item of the first sizes": (lambda x: x.shape[:2][1], 1),
    "every other size": (lambda x: x.shape[::2][1], None),
    "the whole shape": (lambda x: x.shape, None),
    "a sum of sizes": (lambda x: x.size(0) + 1, None),
    "a tensor": (lambda x: x[0], None),
}


@pytest.mark.parametrize("name", SIZES)
def test_whose_size_a_node_holds(name: str) -> None:
    write, axis = SIZES[name]
    owner = size_of(node_of(write))
    assert (owner and (owner[0].name, owner[1])) == (None if axis is None else ("x", axis))


def test_the_size_that_an_operator_gives() -> None:
    assert size_of(node_of(lambda x: torch.ops.aten.sym_size.int(x, 3))) is not None


SHAPE_VALUES: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "a size": (lambda x: x.size(0), True),
    "a shape": (lambda x: x.shape, True),
    "a part of a shape": (lambda x: x.shape[2:], True),
    "arithmetic on sizes": (lambda x: x.size(0) * x.shape[1] // 2, True),
    "the number of axes": (lambda x: x.dim(), True),
    "the type": (lambda x: x.dtype, True),
    "a tensor times a size": (lambda x: x * x.size(0), False),
    "an item of a tensor": (lambda x: x[0], False),
    "a view": (lambda x: x.flatten(1), False),
}


@pytest.mark.parametrize("name", SHAPE_VALUES)
def test_what_is_no_tensor(name: str) -> None:
    write, expected = SHAPE_VALUES[name]
    assert is_shape_value(node_of(write)) is expected


READS_ONLY_BATCH: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "its size": (lambda x: x.size(0), True),
    "its shape, for the batch": (lambda x: x.view(x.shape[0], -1), True),
    "its size by another axis": (lambda x: x.size(1), False),
    "its shape, for more": (lambda x: x.view(x.shape[0], x.shape[1]), False),
    "its numbers": (lambda x: x.relu(), False),
}


@pytest.mark.parametrize("name", READS_ONLY_BATCH)
def test_who_reads_nothing_but_the_batch(name: str) -> None:
    write, expected = READS_ONLY_BATCH[name]
    readers = [user for user in node_of(write).graph.find_nodes(op="placeholder")[0].users if user.op]
    sizes = [user for user in readers if is_shape_value(user)] or readers
    assert all(reads_only_batch(user) for user in sizes) is expected


def test_a_product_of_sizes_and_the_first_two() -> None:
    product = node_of(lambda x: x.size(0) * (x.size(1) * x.size(2)))
    assert [size_of(factor) for factor in factors_of(product)] == [
        (product.graph.find_nodes(op="placeholder")[0], axis) for axis in range(3)
    ]
    assert leading_sizes(node_of(lambda x: x.shape[:2])) == (BATCH, CHANNELS)
    assert leading_sizes(node_of(lambda x: x.shape[:3])) == ()
    assert shape_owner(node_of(lambda x: x.size())).name == "x"
    assert shape_owner(node_of(lambda x: x.size(1))) is None
