"""One op in every spelling that torch has for it is read as one typed op, whatever its arguments."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from fxpasses.report import Form
from fxpasses.vocabulary.ops import (
    MATMUL,
    AdaptivePool,
    Affine,
    Concat,
    Elementwise,
    Expand,
    FeatureNorm,
    Flatten,
    Fold,
    Index,
    Op,
    Permute,
    Plain,
    Product,
    Reduce,
    Role,
    Squeeze,
    Unflatten,
    Unfold,
    Unsqueeze,
    View,
    WindowPool,
)
from fxpasses.vocabulary.vocabulary import Vocabulary

aten = torch.ops.aten


class Spelling:
    """A graph with one value ``x``, to write one op into in many ways."""

    def __init__(self) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.x = self.graph.placeholder("x")
        self.nodes: list[fx.Node] = []

    def function(self, target: Any, *args: Any, **kwargs: Any) -> None:
        self.nodes.append(self.graph.call_function(target, args, kwargs))

    def method(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.nodes.append(self.graph.call_method(name, (self.x, *args), kwargs))

    def module(self, module: nn.Module, name: str = "") -> None:
        name = name or f"m{len(self.nodes)}"
        self.root.add_module(name, module)
        self.nodes.append(self.graph.call_module(name, (self.x,)))

    def read(self, name: str) -> fx.Node:
        return self.graph.get_attr(name)

    def ops(self) -> list[Op]:
        vocabulary = Vocabulary(self.root)
        return [vocabulary.classify(node) for node in self.nodes]


dims = st.integers(-3, 3)
extents = st.integers(1, 9)
ranks = st.integers(1, 3)


def pairs(values: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(values, values)


def flatten(s: Spelling, draw: Callable[..., Any]) -> Op:
    start, end = draw(dims), draw(dims)
    s.function(torch.flatten, s.x, start, end)
    s.function(torch.flatten, s.x, end_dim=end, start_dim=start)
    s.method("flatten", start, end)
    s.module(nn.Flatten(start, end))
    s.function(aten.flatten.using_ints, s.x, start, end)
    return Flatten(s.x, start, end)


def unflatten(s: Spelling, draw: Callable[..., Any]) -> Op:
    dim, sizes = draw(dims), draw(pairs(extents))
    s.function(torch.unflatten, s.x, dim, sizes)
    s.method("unflatten", dim, sizes)
    s.module(nn.Unflatten(dim, sizes))
    s.function(aten.unflatten.int, s.x, dim, [*sizes])
    return Unflatten(s.x, dim, sizes)


def view(s: Spelling, draw: Callable[..., Any]) -> Op:
    sizes = draw(st.lists(st.one_of(extents, st.just(-1)), min_size=1, max_size=4))
    s.function(torch.reshape, s.x, sizes)
    for name in ("view", "reshape"):
        s.method(name, *sizes)
        s.method(name, (*sizes,))
    for target in (aten.view.default, aten.reshape.default, aten._unsafe_view.default):
        s.function(target, s.x, sizes)
    return View(s.x, (*sizes,))


def squeeze(s: Spelling, draw: Callable[..., Any]) -> Op:
    over = draw(pairs(dims))
    s.function(torch.squeeze, s.x, over)
    s.method("squeeze", over)
    s.function(aten.squeeze.dims, s.x, [*over])
    return Squeeze(s.x, over)


def squeeze_everything(s: Spelling, draw: Callable[..., Any]) -> Op:
    s.function(torch.squeeze, s.x)
    s.method("squeeze")
    s.function(aten.squeeze.default, s.x)
    return Squeeze(s.x, None)


def unsqueeze(s: Spelling, draw: Callable[..., Any]) -> Op:
    dim = draw(dims)
    s.function(torch.unsqueeze, s.x, dim)
    s.method("unsqueeze", dim)
    s.function(aten.unsqueeze.default, s.x, dim)
    return Unsqueeze(s.x, dim)


def permute(s: Spelling, draw: Callable[..., Any]) -> Op:
    order = draw(st.permutations(range(4)))
    s.function(torch.permute, s.x, order)
    s.method("permute", *order)
    s.method("permute", order)
    s.function(aten.permute.default, s.x, order)
    return Permute(s.x, (*order,), swap=False)


def transpose(s: Spelling, draw: Callable[..., Any]) -> Op:
    first, second = draw(pairs(dims))
    s.function(torch.transpose, s.x, first, second)
    s.function(torch.swapaxes, s.x, first, second)
    s.method("transpose", first, second)
    s.method("swapaxes", first, second)
    s.function(aten.transpose.int, s.x, first, second)
    return Permute(s.x, (first, second), swap=True)


def matrix_transpose(s: Spelling, draw: Callable[..., Any]) -> Op:
    s.method("t")
    s.function(aten.t.default, s.x)
    return Permute(s.x, (1, 0), swap=False)


def select(s: Spelling, draw: Callable[..., Any]) -> Op:
    index = draw(dims)
    s.function(operator.getitem, s.x, (slice(None), index))
    s.function(torch.select, s.x, 1, index)
    s.method("select", 1, index)
    s.function(aten.select.int, s.x, 1, index)
    return Index(s.x, (slice(None), index))


def concat(s: Spelling, draw: Callable[..., Any]) -> Op:
    dim = draw(dims)
    for target in (torch.cat, torch.concat, aten.cat.default):
        s.function(target, [s.x, s.x], dim)
    s.function(torch.cat, (s.x, s.x), axis=dim)
    return Concat((s.x, s.x), dim)


def expand(s: Spelling, draw: Callable[..., Any]) -> Op:
    sizes = draw(pairs(extents))
    s.method("expand", *sizes)
    s.method("expand", sizes)
    s.function(aten.expand.default, s.x, [*sizes])
    return Expand(s.x, sizes)


def unfold(s: Spelling, draw: Callable[..., Any]) -> Op:
    kernel, dilation, padding, stride = numbers = [draw(pairs(extents)) for _ in range(4)]
    s.function(F.unfold, s.x, *numbers)
    s.module(nn.Unfold(*numbers))
    s.function(aten.im2col.default, s.x, *([*number] for number in numbers))
    return Unfold(source=s.x, kernel=kernel, dilation=dilation, padding=padding, stride=stride)


def fold(s: Spelling, draw: Callable[..., Any]) -> Op:
    sizes = draw(pairs(extents))
    s.function(F.fold, s.x, sizes, 1)
    s.module(nn.Fold(sizes, 1))
    s.function(aten.col2im.default, s.x, [*sizes], [1, 1], [1, 1], [0, 0], [1, 1])
    return Fold(s.x, sizes)


def adaptive_pool(s: Spelling, draw: Callable[..., Any]) -> Op:
    rank = draw(ranks)
    average = draw(st.booleans())
    kind = "avg" if average else "max"
    output = tuple(draw(extents) for _ in range(rank))
    s.function(getattr(F, f"adaptive_{kind}_pool{rank}d"), s.x, output)
    s.module(getattr(nn, f"Adaptive{kind.title()}Pool{rank}d")(output))
    s.function(getattr(aten, f"adaptive_{kind}_pool{rank}d").default, s.x, [*output])
    if average and rank > 1:
        s.function(getattr(aten, f"_adaptive_avg_pool{rank}d").default, s.x, [*output])
    return AdaptivePool(s.x, rank, output, average)


def window_pool(s: Spelling, draw: Callable[..., Any]) -> Op:
    rank = draw(ranks)
    average = draw(st.booleans())
    padding = draw(st.integers(0, 1))
    kind = "avg" if average else "max"
    kernel = tuple(draw(extents) for _ in range(rank))
    s.function(getattr(F, f"{kind}_pool{rank}d"), s.x, kernel, 1, padding)
    s.module(getattr(nn, f"{kind.title()}Pool{rank}d")(kernel, 1, padding))
    target = getattr(aten, f"{kind}_pool{rank}d").default
    s.function(target, s.x, [*kernel], [1] * rank, [padding] * rank)
    return WindowPool(s.x, rank, False, average, kernel, padding == 0)


def reduce(s: Spelling, draw: Callable[..., Any]) -> Op:
    over, keepdim = draw(pairs(dims)), draw(st.booleans())
    name = draw(st.sampled_from(("mean", "sum", "amax", "amin")))
    s.function(getattr(torch, name), s.x, over, keepdim)
    s.function(getattr(torch, name), s.x, dim=over, keepdim=keepdim)
    s.method(name, over, keepdim)
    packet = getattr(aten, name)
    target = {"mean": "dim", "sum": "dim_IntList"}.get(name, "default")
    s.function(getattr(packet, target), s.x, [*over], keepdim)
    return Reduce(s.x, over, keepdim, name == "mean")


def activation(s: Spelling, draw: Callable[..., Any]) -> Op:
    names = {"ReLU": "relu", "SiLU": "silu", "Hardswish": "hardswish", "Sigmoid": "sigmoid", "Tanh": "tanh"}
    kind = draw(st.sampled_from([*names]))
    name = names[kind]
    s.function(getattr(F, name), s.x)
    s.module(getattr(nn, kind)())
    s.function(getattr(aten, name).default, s.x)
    if hasattr(torch.Tensor, name):
        s.method(name)
    return Elementwise((s.x,))


def activation_in_place(s: Spelling, draw: Callable[..., Any]) -> Op:
    s.function(F.relu, s.x, inplace=True)
    s.function(torch.relu_, s.x)
    s.method("relu_")
    s.module(nn.ReLU(inplace=True))
    s.function(aten.relu_.default, s.x)
    return Elementwise((s.x,), inplace=True)


def sum_of_two(s: Spelling, draw: Callable[..., Any]) -> Op:
    for target in (torch.add, operator.add, aten.add.Tensor):
        s.function(target, s.x, s.x)
    s.method("add", s.x)
    return Elementwise((s.x, s.x), role=Role.SUM, plain=Plain.SUM)


def sum_in_place(s: Spelling, draw: Callable[..., Any]) -> Op:
    s.function(operator.iadd, s.x, s.x)
    s.method("add_", s.x)
    s.function(aten.add_.Tensor, s.x, s.x)
    return Elementwise((s.x, s.x), inplace=True, role=Role.SUM, plain=Plain.SUM)


def weighted_sum(s: Spelling, draw: Callable[..., Any]) -> Op:
    number = draw(st.integers(2, 9))
    s.function(torch.add, s.x, s.x, alpha=number)
    s.method("add", s.x, alpha=number)
    s.function(aten.add.Tensor, s.x, s.x, alpha=number)
    return Elementwise((s.x, s.x), role=Role.SUM)


def product_of_two(s: Spelling, draw: Callable[..., Any]) -> Op:
    for target in (torch.mul, torch.multiply, operator.mul, aten.mul.Tensor):
        s.function(target, s.x, s.x)
    s.method("mul", s.x)
    return Elementwise((s.x, s.x), role=Role.PRODUCT)


def quotient(s: Spelling, draw: Callable[..., Any]) -> Op:
    number = draw(extents)
    for target in (torch.div, torch.true_divide, operator.truediv, aten.div.Tensor):
        s.function(target, s.x, number)
    s.method("div", number)
    return Elementwise((s.x,), role=Role.QUOTIENT)


def copy(s: Spelling, draw: Callable[..., Any]) -> Op:
    s.function(torch.clone, s.x)
    s.method("clone")
    s.function(aten.clone.default, s.x, memory_format=torch.contiguous_format)
    return Elementwise((s.x,), role=Role.LINEAR, plain=Plain.COPY)


def same(s: Spelling, draw: Callable[..., Any]) -> Op:
    s.module(nn.Identity())
    s.method("contiguous")
    s.function(aten.contiguous.default, s.x)
    return Elementwise((s.x,), role=Role.LINEAR, plain=Plain.SAME)


def dropout(s: Spelling, draw: Callable[..., Any]) -> Op:
    p, trains = draw(st.sampled_from((0.0, 0.5))), draw(st.booleans())
    s.function(F.dropout, s.x, p, trains)
    s.function(torch.dropout, s.x, p, trains)
    s.module(nn.Dropout(p).train(trains))
    s.function(aten.dropout.default, s.x, p, trains)
    return Elementwise((s.x,), role=Role.DROPOUT, trains=trains and p != 0)


def channel_dropout(s: Spelling, draw: Callable[..., Any]) -> Op:
    trains = draw(st.booleans())
    s.function(F.dropout2d, s.x, 0.5, trains)
    s.module(nn.Dropout2d(0.5).train(trains))
    s.function(aten.feature_dropout.default, s.x, 0.5, trains)
    return FeatureNorm(s.x, role=Role.DROPOUT, trains=trains)


def softmax(s: Spelling, draw: Callable[..., Any]) -> Op:
    dim, log = draw(dims), draw(st.sampled_from(("", "log_")))
    for owner in (torch, F):
        s.function(getattr(owner, f"{log}softmax"), s.x, dim)
    s.method(f"{log}softmax", dim)
    s.module(nn.LogSoftmax(dim) if log else nn.Softmax(dim))
    s.function(getattr(aten, f"{log}softmax").int, s.x, dim)
    s.function(getattr(aten, f"_{log}softmax").default, s.x, dim, False)
    return Elementwise((s.x,), channels=True) if dim == 1 else FeatureNorm(s.x, is_last=dim == -1)


def layer_norm(s: Spelling, draw: Callable[..., Any]) -> Op:
    shape = draw(st.lists(extents, min_size=1, max_size=2))
    s.function(F.layer_norm, s.x, (*shape,))
    s.module(nn.LayerNorm(shape))
    s.function(aten.layer_norm.default, s.x, shape)
    s.function(aten.native_layer_norm.default, s.x, shape, None, None, 1e-5)
    return FeatureNorm(s.x, is_last=len(shape) == 1)


def batch_norm(s: Spelling, draw: Callable[..., Any]) -> Op:
    trains = draw(st.booleans())
    s.module(nn.BatchNorm2d(3).train(trains), "bn")
    mean, var, weight, bias = (
        s.read(f"bn.{name}") for name in ("running_mean", "running_var", "weight", "bias")
    )
    s.function(F.batch_norm, s.x, mean, var, weight, bias, trains)
    s.function(aten.batch_norm.default, s.x, weight, bias, mean, var, trains, 0.1, 1e-5, True)
    s.function(aten.native_batch_norm.default, s.x, weight, bias, mean, var, trains, 0.1, 1e-5)
    if not trains:
        named = aten._native_batch_norm_legit_no_training.default
        s.function(named, s.x, weight, bias, mean, var, 0.1, 1e-5)
    return Elementwise((s.x,), channels=True, role=Role.BATCH_NORM, trains=trains)


def group_norm(s: Spelling, draw: Callable[..., Any]) -> Op:
    s.function(F.group_norm, s.x, 2)
    s.module(nn.GroupNorm(2, 4))
    s.function(aten.group_norm.default, s.x, 2)
    return Elementwise((s.x,), channels=True, mixes=True)


def matrix_product(s: Spelling, draw: Callable[..., Any]) -> Op:
    for target in (torch.matmul, operator.matmul, torch.mm, torch.bmm):
        s.function(target, s.x, s.x)
    for name in ("matmul", "mm", "bmm"):
        s.method(name, s.x)
        s.function(getattr(aten, name).default, s.x, s.x)
    return Product((s.x, s.x), MATMUL)


def einsum(s: Spelling, draw: Callable[..., Any]) -> Op:
    s.function(torch.einsum, "nk,ok->no", s.x, s.x)
    s.function(aten.einsum.default, "nk,ok->no", [s.x, s.x])
    return Product((s.x, s.x), "nk,ok->no")


def linear(s: Spelling, draw: Callable[..., Any]) -> Op:
    bias = draw(st.booleans())
    s.module(nn.Linear(3, 2, bias=bias), "fc")
    weight = s.read("fc.weight")
    turned = s.graph.call_function(aten.permute.default, (weight, [1, 0]))
    rest = (s.read("fc.bias"),) if bias else ()
    s.function(F.linear, s.x, weight, *rest)
    s.function(aten.linear.default, s.x, weight, *rest)
    for target in (aten.t.default, aten.numpy_T.default):
        turned = s.graph.call_function(target, (weight,))
        s.function(*((aten.addmm.default, *rest) if bias else (aten.mm.default,)), s.x, turned)
    return Affine(source=s.x, form=Form.LINEAR, rank=0, weight="fc.weight", bias="fc.bias" if bias else None)


def convolution(s: Spelling, draw: Callable[..., Any]) -> Op:
    rank, groups = draw(ranks), draw(st.integers(1, 2))
    kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(rank)) for _ in range(3))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(rank))
    kind = getattr(nn, f"Conv{rank}d")
    s.module(kind(4, 2, kernel, stride, padding, dilation, groups), "conv")
    reads = s.read("conv.weight"), s.read("conv.bias")
    s.function(getattr(F, f"conv{rank}d"), s.x, *reads, stride, padding, dilation, groups)
    numbers = [*stride], [*padding], [*dilation]
    s.function(getattr(aten, f"conv{rank}d").default, s.x, *reads, *numbers, groups)
    s.function(aten.convolution.default, s.x, *reads, *numbers, False, [0] * rank, groups)
    return Affine(
        source=s.x, form=Form.CONV, rank=rank, weight="conv.weight", bias="conv.bias", stride=stride,
        padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip


SPELLINGS: tuple[Callable[[Spelling, Callable[..., Any]], Op], ...] = (
    flatten, unflatten, view, squeeze, squeeze_everything, unsqueeze, permute, transpose,
    matrix_transpose, select, concat, expand, unfold, fold, adaptive_pool, window_pool, reduce,
    activation, activation_in_place, sum_of_two, sum_in_place, weighted_sum, product_of_two,
    quotient, copy, same, dropout, channel_dropout, softmax, layer_norm, batch_norm, group_norm,
    matrix_product, einsum, linear, convolution,
)  # fmt: skip


def _bare(op: Op, x: fx.Node) -> Op:
    """An op without what only one dialect says: the module, and the nodes that read parameters."""
    if isinstance(op, Affine):
        return dataclasses.replace(op, module=None, weight_node=None, bias_node=None)
    if isinstance(op, Elementwise):
        values = tuple(source for source in op.sources if source is x)
        return dataclasses.replace(op, sources=values, module_rank=None)
    return op


@pytest.mark.parametrize("write", SPELLINGS, ids=lambda write: write.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_every_spelling_is_read_as_the_same_op(
    write: Callable[[Spelling, Callable[..., Any]], Op], data: st.DataObject
) -> None:
    spelling = Spelling()
    expected = write(spelling, data.draw)
    assert len(spelling.nodes) > 1
    for node, op in zip(spelling.nodes, spelling.ops(), strict=True):
        assert _bare(op, spelling.x) == expected, node.format_node()
