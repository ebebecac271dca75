"""The rules of the algebra, one by one: a graph before and after, as text, and that both are one function.

``x``, ``y`` are inputs, layers are printed as what they are, everything else is the function that is called.
A view moves only where the move ends in a cancellation, so each rule is shown with what makes it worth it.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxpasses import rewrite

_Layers = dict[str, nn.Module]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule at work.

    Attributes:
        name: its name in the design.
        to: the form that is asked for.
        shape: of the input.
        layers: what the function calls.
        forward: the model as its author wrote it.
        before: the model's graph.
        after: the graph in the other form.
        scope: which sites.
    """

    name: str
    to: str
    shape: tuple[int, ...]
    layers: Callable[[], _Layers]
    forward: Callable[[Any, Tensor], Tensor]
    before: str
    after: str
    scope: str = "head"


def printed(module: fx.GraphModule) -> str:
    """A graph as text, a line a node; of a layer its sizes."""
    return "\n".join(filter(None, (_line(node, module) for node in module.graph.nodes)))


def _line(node: fx.Node, module: fx.GraphModule) -> str:
    given = [_text(value) for value in node.args] + [f"{k}={_text(v)}" for k, v in node.kwargs.items()]
    if node.op == "placeholder":
        return ""
    if node.op == "output":
        return f"return {given[0]}"
    called = node.target if isinstance(node.target, str) else node.target.__name__
    if node.op == "call_module":
        called = _layer(module.get_submodule(node.target))
    return f"{node.name} = {called}({', '.join(given)})"


def _layer(layer: Any) -> str:
    """A layer's class, its weight's sizes, and the numbers of a convolution that are not the usual ones."""
    sizes = ", ".join(map(str, layer.weight.shape))
    usual = {"stride": 1, "padding": 0, "dilation": 1}
    given = {name: getattr(layer, name)[0] for name in usual if hasattr(layer, name)}
    told = [f"{name}={number}" for name, number in given.items() if number != usual[name]]
    return f"{type(layer).__name__}[{'; '.join([sizes, *told])}]"


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_text, value))}]"
    return str(value)


def model_of(rule: Rule) -> nn.Module:
    torch.manual_seed(0)
    kind = type("Model", (nn.Module,), {"forward": rule.forward})
    model = kind()
    for name, layer in rule.layers().items():
        model.add_module(name, layer)
    return model.eval().double()


def _pooled(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 2)


RULES = (
    Rule(
        name="site to conv",
        to="conv",
        shape=(2, 4, 6, 6),
        layers=lambda: {"fc": nn.Linear(16, 3)},
        forward=lambda self, x: self.fc(_pooled(x).flatten(1)),
        before="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            flatten = flatten(adaptive_avg_pool2d, 1)
            fc = Linear[3, 16](flatten)
            return fc
        """,
        after="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            fc = Conv2d[3, 4, 2, 2](adaptive_avg_pool2d)
            flatten = flatten(fc, 1)
            return flatten
        """,
    ),
    Rule(
        name="site to linear",
        to="linear",
        shape=(2, 4, 6, 6),
        layers=lambda: {"conv": nn.Conv2d(4, 3, 2)},
        forward=lambda self, x: self.conv(_pooled(x)).flatten(1),
        before="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            conv = Conv2d[3, 4, 2, 2](adaptive_avg_pool2d)
            flatten = flatten(conv, 1)
            return flatten
        """,
        after="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            flatten = flatten(adaptive_avg_pool2d, 1)
            conv = Linear[3, 16](flatten)
            return conv
        """,
    ),
    Rule(
        name="cancel flatten of unflatten",
        to="conv",
        shape=(2, 4, 6, 6),
        layers=lambda: {"a": nn.Linear(16, 5), "b": nn.Linear(5, 3)},
        forward=lambda self, x: self.b(self.a(_pooled(x).flatten(1))),
        before="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            flatten = flatten(adaptive_avg_pool2d, 1)
            a = Linear[5, 16](flatten)
            b = Linear[3, 5](a)
            return b
        """,
        after="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            a = Conv2d[5, 4, 2, 2](adaptive_avg_pool2d)
            b = Conv2d[3, 5, 1, 1](a)
            flatten = flatten(b, 1)
            return flatten
        """,
    ),
    Rule(
        name="cancel unflatten of flatten",
        to="linear",
        shape=(2, 4, 6, 6),
        layers=lambda: {"a": nn.Conv2d(4, 5, 2), "b": nn.Conv2d(5, 3, 1)},
        forward=lambda self, x: self.b(self.a(_pooled(x))).flatten(1),
        before="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            a = Conv2d[5, 4, 2, 2](adaptive_avg_pool2d)
            b = Conv2d[3, 5, 1, 1](a)
            flatten = flatten(b, 1)
            return flatten
        """,
        after="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            flatten = flatten(adaptive_avg_pool2d, 1)
            a = Linear[5, 16](flatten)
            b = Linear[3, 5](a)
            return b
        """,
    ),
    Rule(
        name="cross elementwise",
        to="conv",
        shape=(2, 4, 6, 6),
        layers=lambda: {"fc": nn.Linear(16, 3)},
        forward=lambda self, x: self.fc(F.dropout(F.hardswish(_pooled(x).flatten(1)), training=False)),
        before="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            flatten = flatten(adaptive_avg_pool2d, 1)
            hardswish = hardswish(flatten, inplace=False)
            dropout = dropout(hardswish, p=0.5, training=False, inplace=False)
            fc = Linear[3, 16](dropout)
            return fc
        """,
        after="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            hardswish = hardswish(adaptive_avg_pool2d, inplace=False)
            dropout = dropout(hardswish, p=0.5, training=False, inplace=False)
            fc = Conv2d[3, 4, 2, 2](dropout)
            flatten = flatten(fc, 1)
            return flatten
        """,
    ),
    Rule(
        name="cross nothing where nothing cancels",
        to="linear",
        shape=(2, 4, 6, 6),
        layers=lambda: {"conv": nn.Conv2d(4, 3, 2)},
        forward=lambda self, x: F.relu(self.conv(F.relu(_pooled(x)))),
        before="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            relu = relu(adaptive_avg_pool2d, inplace=False)
            conv = Conv2d[3, 4, 2, 2](relu)
            relu_1 = relu(conv, inplace=False)
            return relu_1
        """,
        after="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            relu = relu(adaptive_avg_pool2d, inplace=False)
            flatten = flatten(relu, 1)
            conv = Linear[3, 16](flatten)
            unflatten = unflatten(conv, 1, [3, 1, 1])
            relu_1 = relu(unflatten, inplace=False)
            return relu_1
        """,
    ),
    Rule(
        name="cross batch norm",
        to="conv",
        shape=(2, 4, 6, 6),
        layers=lambda: {"bn": nn.BatchNorm1d(4), "fc": nn.Linear(4, 3)},
        forward=lambda self, x: self.fc(self.bn(F.adaptive_avg_pool2d(x, 1).flatten(1))),
        before="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 1)
            flatten = flatten(adaptive_avg_pool2d, 1)
            bn = BatchNorm1d[4](flatten)
            fc = Linear[3, 4](bn)
            return fc
        """,
        after="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 1)
            bn = BatchNorm2d[4](adaptive_avg_pool2d)
            fc = Conv2d[3, 4, 1, 1](bn)
            flatten = flatten(fc, 1)
            return flatten
        """,
    ),
    Rule(
        name="mean",
        to="conv",
        shape=(2, 4, 6, 6),
        layers=lambda: {"fc": nn.Linear(4, 3)},
        forward=lambda self, x: self.fc(x.mean((2, 3))),
        before="""
            mean = mean(x, [2, 3])
            fc = Linear[3, 4](mean)
            return fc
        """,
        after="""
            mean = mean(x, [2, 3], keepdim=True)
            fc = Conv2d[3, 4, 1, 1](mean)
            flatten = flatten(fc, 1)
            return flatten
        """,
    ),
    Rule(
        name="pool to dense",
        to="dense",
        shape=(2, 4, 6, 6),
        layers=lambda: {"fc": nn.Linear(4, 3)},
        forward=lambda self, x: self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)),
        before="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 1)
            flatten = flatten(adaptive_avg_pool2d, 1)
            fc = Linear[3, 4](flatten)
            return fc
        """,
        after="""
            fc = Conv2d[3, 4, 1, 1](x)
            adaptive_avg_pool2d = adaptive_avg_pool2d(fc, 1)
            flatten = flatten(adaptive_avg_pool2d, 1)
            return flatten
        """,
    ),
    Rule(
        name="windows",
        to="fcn",
        shape=(2, 4, 6, 6),
        layers=lambda: {"fc": nn.Linear(16, 3)},
        forward=lambda self, x: self.fc(_pooled(x).flatten(1)),
        before="""
            adaptive_avg_pool2d = adaptive_avg_pool2d(x, 2)
            flatten = flatten(adaptive_avg_pool2d, 1)
            fc = Linear[3, 16](flatten)
            return fc
        """,
        after="""
            avg_pool2d = avg_pool2d(x, [3, 3], 1)
            fc = Conv2d[3, 4, 2, 2; dilation=3](avg_pool2d)
            return fc
        """,
    ),
    Rule(
        name="pointwise",
        to="conv",
        scope="all",
        shape=(2, 4, 6, 6),
        layers=lambda: {"a": nn.Linear(4, 5), "b": nn.Linear(5, 4)},
        forward=lambda self, x: self.b(F.relu(self.a(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2),
        before="""
            permute = permute(x, 0, 2, 3, 1)
            a = Linear[5, 4](permute)
            relu = relu(a, inplace=False)
            b = Linear[4, 5](relu)
            permute_1 = permute(b, 0, 3, 1, 2)
            return permute_1
        """,
        after="""
            a = Conv2d[5, 4, 1, 1](x)
            relu = relu(a, inplace=False)
            b = Conv2d[4, 5, 1, 1](relu)
            return b
        """,
    ),
    Rule(
        name="pointwise back",
        to="linear",
        scope="all",
        shape=(2, 6, 6, 4),
        layers=lambda: {"a": nn.Conv2d(4, 5, 1)},
        forward=lambda self, x: F.relu(self.a(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1),
        before="""
            permute = permute(x, 0, 3, 1, 2)
            a = Conv2d[5, 4, 1, 1](permute)
            relu = relu(a, inplace=False)
            permute_1 = permute(relu, 0, 2, 3, 1)
            return permute_1
        """,
        after="""
            a = Linear[5, 4](x)
            relu = relu(a, inplace=False)
            return relu
        """,
    ),
    Rule(
        name="im2col",
        to="unfold",
        scope="all",
        shape=(2, 4, 6, 6),
        layers=lambda: {"conv": nn.Conv2d(4, 3, 3, stride=2, padding=1)},
        forward=lambda self, x: self.conv(x),
        before="""
            conv = Conv2d[3, 4, 3, 3; stride=2; padding=1](x)
            return conv
        """,
        after="""
            size = size(x, -2)
            add = add(size, 1)
            floordiv = floordiv(add, 2)
            size_1 = size(x, -1)
            add_1 = add(size_1, 1)
            floordiv_1 = floordiv(add_1, 2)
            unfold = unfold(x, [3, 3], [1, 1], [1, 1], [2, 2])
            transpose = transpose(unfold, -2, -1)
            conv = Linear[3, 36](transpose)
            transpose_1 = transpose(conv, -2, -1)
            contiguous = contiguous(transpose_1)
            unflatten = unflatten(contiguous, -1, [floordiv, floordiv_1])
            return unflatten
        """,
    ),
    Rule(
        name="im2col back",
        to="conv",
        scope="unfolded",
        shape=(2, 4, 6, 6),
        layers=lambda: {"fc": nn.Linear(36, 3)},
        forward=lambda self, x: self.fc(F.unfold(x, 3).transpose(1, 2)).transpose(1, 2).unflatten(2, (4, 4)),
        before="""
            unfold = unfold(x, 3, dilation=1, padding=0, stride=1)
            transpose = transpose(unfold, 1, 2)
            fc = Linear[3, 36](transpose)
            transpose_1 = transpose(fc, 1, 2)
            unflatten = unflatten(transpose_1, 2, [4, 4])
            return unflatten
        """,
        after="""
            fc = Conv2d[3, 4, 3, 3](x)
            return fc
        """,
    ),
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_does_this_and_nothing_else(rule: Rule) -> None:
    model = model_of(rule)
    x = torch.randn(rule.shape, dtype=torch.float64)
    assert printed(fx.symbolic_trace(model)) == textwrap.dedent(rule.before).strip()
    made = rewrite(model, to=rule.to, scope=rule.scope, example_inputs=(x,)).module
    assert printed(made) == textwrap.dedent(rule.after).strip()
    expected, actual = model(x), made(x)
    assert torch.allclose(expected.flatten(1), actual.flatten(1), rtol=1e-12, atol=1e-12)
