"""What is written in a dialect is read back as what was to be written: ``classify(write(op)) == op``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from fxpasses.engine.undo import Snapshot, Spec
from fxpasses.report import Form
from fxpasses.vocabulary.ops import Affine, Flatten, Op, Permute, Unflatten, View, WindowPool
from fxpasses.vocabulary.sizes import reads_only_batch
from fxpasses.vocabulary.vocabulary import Vocabulary
from fxpasses.vocabulary.writer import Dialect, Writer, dialect_of
from fxpasses.weights.move import WeightMove, WeightOrder

aten = torch.ops.aten
extents = st.integers(1, 5)
kernels = st.lists(extents, min_size=1, max_size=3).map(tuple)
dialects = st.sampled_from([*Dialect])


class Page:
    """A graph with one value and a layer of parameters, to write on."""

    def __init__(self, dialect: Dialect, batch: int | None = None) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.x = self.graph.placeholder("x")
        self.writer = Writer(self.graph, dialect, batch)
        self.vocabulary = Vocabulary(self.root)

    def read(self, node: fx.Node) -> Op:
        return self.vocabulary.classify(node)

    def site(self, op: Affine) -> tuple[fx.Node, Affine]:
        """A node of an affine op in the page's dialect, and the op with the nodes that read its weights."""
        owner = nn.Module()
        owner.weight = nn.Parameter(torch.zeros(2, 2))
        owner.bias = nn.Parameter(torch.zeros(2))
        self.root.add_module("fc", owner)
        weight, bias = (self.graph.get_attr(f"fc.{name}") for name in ("weight", "bias"))
        op = dataclasses.replace(op, source=self.x, weight_node=weight, bias_node=bias if op.bias else None)
        operands = [self.x, weight, *([bias] if op.bias else [])]
        return self.graph.call_function(F.linear, tuple(operands)), op


def _sizes(page: Page, *sizes: int) -> tuple[Any, ...]:
    """Sizes of a view in core ATen: the batch, where it is no number, as a node that holds it."""
    batch = page.writer.batch
    if batch is None:
        batch = next(node for node in page.writer.written if node.target is aten.sym_size.int)
        assert reads_only_batch(batch)
    return (batch, *sizes)


batches = st.one_of(st.none(), extents)


@given(dialect=dialects, batch=batches, features=extents)
def test_flatten(dialect: Dialect, batch: int | None, features: int) -> None:
    page = Page(dialect, batch)
    op = page.read(page.writer.flatten(page.x, features))
    is_view = dialect is Dialect.CORE
    assert op == (View(page.x, _sizes(page, features)) if is_view else Flatten(page.x, 1, -1))


@given(dialect=dialects, batch=batches, sizes=kernels)
def test_unflatten(dialect: Dialect, batch: int | None, sizes: tuple[int, ...]) -> None:
    page = Page(dialect, batch)
    op = page.read(page.writer.unflatten(page.x, sizes))
    is_view = dialect is Dialect.CORE
    assert op == (View(page.x, _sizes(page, *sizes)) if is_view else Unflatten(page.x, 1, sizes))


@given(dialect=dialects, order=st.permutations(range(4)))
def test_permute(dialect: Dialect, order: list[int]) -> None:
    page = Page(dialect)
    assert page.read(page.writer.permute(page.x, order)) == Permute(page.x, tuple(order), swap=False)


@given(dialect=dialects, sizes=kernels)
def test_reshape(dialect: Dialect, sizes: tuple[int, ...]) -> None:
    page = Page(dialect)
    assert page.read(page.writer.reshape(page.x, sizes)) == View(page.x, sizes)


@given(dialect=dialects, kernel=kernels)
def test_windows(dialect: Dialect, kernel: tuple[int, ...]) -> None:
    page = Page(dialect)
    op = page.read(page.writer.windows(page.x, page.x, kernel))
    assert op == WindowPool(page.x, len(kernel), covers=False, average=True, kernel=kernel, plain=True)


@given(dialect=dialects, sizes=kernels, is_method=st.booleans())
def test_a_view_that_may_copy_is_the_same_view(
    dialect: Dialect, sizes: tuple[int, ...], is_method: bool
) -> None:
    page = Page(dialect)
    if is_method:
        view = page.graph.call_method("view", (page.x, *sizes))
    else:
        view = page.graph.call_function(aten.view.default, (page.x, [*sizes]))
    page.writer.reshaping(view)
    op = page.read(view)
    assert isinstance(op, View)
    assert op.sizes == sizes
    assert op.source in (page.x, *page.writer.written)


@st.composite
def moves(draw: st.DrawFn) -> WeightMove:
    kernel = draw(kernels)
    out, channels = draw(extents), draw(extents)
    shape = (out, channels * math.prod(kernel))
    order = draw(st.sampled_from([*WeightOrder]))
    return WeightMove(name="fc.weight", linear_shape=shape, conv_shape=(out, channels, *kernel), order=order)


def _affine(to: Form, move: WeightMove, bias: bool) -> Affine:
    rank = len(move.conv_shape) - 2 if to is Form.CONV else 0
    ones, zeros = (1,) * rank, (0,) * rank
    return Affine(
        source=fx.Graph().placeholder("x"), form=to, rank=rank, weight="fc.weight",
        bias="fc.bias" if bias else None, stride=ones, padding=zeros, dilation=ones,
    )  # fmt: skip


@settings(max_examples=60)
@given(dialect=dialects, to=st.sampled_from([Form.LINEAR, Form.CONV]), move=moves(), bias=st.booleans())
def test_site(dialect: Dialect, to: Form, move: WeightMove, bias: bool) -> None:
    page = Page(dialect)
    node, op = page.site(_affine(to, move, bias))
    page.writer.site(node, op, move, to)
    assert page.read(node) == op
    assert dialect_of(node) is dialect


@given(dialect=dialects, kernel=kernels, rate=extents)
def test_dilate(dialect: Dialect, kernel: tuple[int, ...], rate: int) -> None:
    page = Page(dialect)
    move = WeightMove(name="fc.weight", linear_shape=(2, math.prod(kernel)), conv_shape=(2, 1, *kernel))
    node, op = page.site(_affine(Form.CONV, move, bias=True))
    page.writer.site(node, op, move, Form.CONV)
    page.writer.dilate(node, (rate,) * len(kernel))
    assert page.read(node) == dataclasses.replace(op, dilation=(rate,) * len(kernel))


def _written(dialect: Dialect) -> Iterator[fx.Node]:
    """One node of everything that a writer can write."""
    page = Page(dialect)
    writer = page.writer
    writer.flatten(page.x, 3)
    writer.unflatten(page.x, (3, 1))
    writer.permute(page.x, (0, 1))
    writer.reshape(page.x, (3,))
    for rank in (1, 2, 3):
        writer.windows(page.x, page.x, (2,) * rank)
        for to in (Form.LINEAR, Form.CONV):
            move = WeightMove(name="fc.weight", linear_shape=(2, 3), conv_shape=(2, 3, *(1,) * rank))
            node, op = page.site(_affine(to, move, bias=True))
            writer.site(node, op, move, to)
            yield node
    writer.copied(page.graph.call_function(aten.view.default, (page.x, [3])))
    yield from writer.written


@pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.name)
def test_what_is_written_can_be_written_down(dialect: Dialect) -> None:
    """An edit is taken back from its record alone, so a record names every function that an edit writes."""
    for node in _written(dialect):
        spec = Spec.of(Snapshot.of(node))
        if node.kwargs.get("memory_format") is None:  # a copy's memory format is kept as inputs alone
            assert spec.is_whole, node.format_node()
