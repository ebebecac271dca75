"""Operators of torch beside the nodes that mean the same, and beside those that almost do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper, parser
from torch import nn

from fxexport import export_onnx
from fxexport.language import derive, graph_of_module, graph_of_onnx
from tests.fxexport.language.test_broadcast_and_types import X, model

Function = Callable[[torch.Tensor], torch.Tensor]
BACKWARDS = torch.arange(3, -1, -1)
PAIRS = torch.arange(1.0, 7.0).reshape(3, 2)
STORED_PAIRS = "w = Constant <value = float[3,2] {1, 2, 3, 4, 5, 6}> ()"
TABLE = torch.tensor([3.0, 1.0, 4.0, 1.5])


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def ints(name: str, *values: int) -> str:
    """A stored vector of integers."""
    return f"{name} = Constant <value_ints = {list(values)}> ()"


def number(name: str, value: float) -> str:
    """A stored number."""
    return f"{name} = Constant <value_float = {float(value)}> ()"


def resize(attributes: str, *factors: float) -> str:
    """An interpolation by these factors."""
    scales = f"s = Constant <value_floats = {[float(factor) for factor in factors]}> ()"
    return f"{scales} y = Resize <{attributes}> (x, , s)"


def sized(attributes: str, *extents: int) -> str:
    """An interpolation to these extents."""
    return (
        f"{ints('s', *extents)} {ints('a', 0)} {ints('b', 2)} h = Shape(x) l = Slice(h, a, b) "
        f"c = Concat <axis = 0> (l, s) y = Resize <{attributes}> (x, , , c)"
    )


def padded(mode: str, *sizes: int) -> str:
    """Padding of these sizes."""
    return f'{ints("p", *sizes)} y = Pad <mode = "{mode}"> (x, p)'


def turned(*sizes: int) -> str:
    """Padding by sizes in torch's order, which an exporter turns over in the file."""
    return (
        f"{ints('p', *sizes)} {ints('w', -1, 2)} {ints('o', -1)} {ints('e', -(2**63) + 1)} {ints('z', 0)} "
        "a = Reshape (p, w) b = Slice (a, o, e, z, o) c = Transpose <perm = [1, 0]> (b) d = Reshape (c, o) "
        "y = Pad (x, d)"
    )


def written(x: torch.Tensor, places: slice) -> torch.Tensor:
    """Some channels of a value raised in place."""
    x[:, places] = x[:, places].exp()
    return x


def waves(slowest: float) -> torch.Tensor:
    """Places as sines and cosines, as transformers have them."""
    rates = slowest ** (2 * torch.div(torch.arange(4.0), 2, rounding_mode="floor") / 4)
    angles = (torch.arange(3.0)[:, None] + 1) / rates
    return torch.cat([angles[:, 0::2].sin(), angles[:, 1::2].cos()], 1).T[None, :, :, None]


def gridded(x: torch.Tensor, mode: str, ends: str = "zeros", corners: bool = False) -> torch.Tensor:
    """Cells of a map at places that its first channels name."""
    grid = x.tanh()[:, :2].permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, mode, ends, corners)


def of_earlier(x: torch.Tensor, last: int = 0, *, own: bool = False) -> torch.Tensor:
    """Cells of a map up to a diagonal, as decoders ask for them: by places that repeat over the batch."""
    places = torch.arange(3).expand(len(x), 3)
    places = places + torch.arange(len(x))[:, None] if own else places
    told = places[torch.arange(len(x))[:, None], torch.arange(3)][:, None]
    mask = torch.ones((), dtype=torch.bool) & (told[:, :, None, :] <= told[:, :, :, None] + last)
    return x * mask


def placed(x: torch.Tensor, start: int) -> torch.Tensor:
    """A map two of whose channels are written over."""
    y = x.relu()
    y[:, start : start + 2] = x[:, :2]
    return y


def with_first(x: torch.Tensor, channel: int) -> torch.Tensor:
    """A map one of whose channels is written over by the first."""
    y = x.relu()
    y[:, channel] = x[:, 0]
    return y


def of_true(x: torch.Tensor, limit: float = 0.0) -> torch.Tensor:
    """Channels at the places of a map whose first one is above a number."""
    return x.permute(0, 2, 3, 1)[x[:, 0] > limit]


def waved(turned: bool) -> torch.Tensor:
    """A table of sines, one row after the other."""
    table = (torch.arange(3.0)[:, None] + 2 * torch.arange(6.0)).sin()
    return (table.T if turned else table).flatten()


def twice_waved(x: torch.Tensor, turned: bool) -> torch.Tensor:
    """All but one of cells that stand twice along one axis, each times a number of the table."""
    return (torch.cat([x.flatten(2), x.flatten(2)], 2) * waved(turned))[:, :, 1:]


PLACED = (
    f"r = Relu(x) t = Transpose <perm = [1, 0, 2, 3]> (r) {ints('z', 0)} {ints('o', 1)} {ints('e', 2)} "
    "l = Slice(x, z, e, o) u = Transpose <perm = [1, 0, 2, 3]> (l) "
    "i = Constant <value = int64[2,1] {1, 2}> () s = ScatterND(t, i, u) "
    "y = Transpose <perm = [1, 0, 2, 3]> (s)"
)
ONE_PLACED = (
    f"r = Relu(x) {ints('z', 0)} {ints('o', 1)} l = Slice(x, z, o, o) h = Shape(l) "
    "i = Constant <value = int64[1,1,1,1] {-2}> () e = Expand(i, h) y = ScatterElements <axis = 1> (r, e, l)"
)
OF_TRUE = (
    f"{ints('z', 0)} {ints('o', 1)} l = Slice(x, z, o, o) c = Squeeze(l, o) {number('k', 0)} "
    "m = Greater(c, k) p = NonZero(m) i = Transpose(p) t = Transpose <perm = [0, 2, 3, 1]> (x) "
    "y = GatherND(t, i)"
)
WAVED = (
    f"f = Constant <value_floats = {waved(True).tolist()}> () {ints('s', 0, 4, 9)} r = Reshape(x, s) "
    f"d = Concat <axis = 2> (r, r) m = Mul(d, f) {ints('o', 1)} {ints('e', 18)} {ints('a', 2)} "
    "y = Slice(m, o, e, a)"
)
PICKED = f"k = Constant <value_floats = {TABLE[[0, 1, 2]].tolist()}> () y = Mul(x, k)"
LOWER = "k = Constant <value = float[3,3] {1, 0, 0, 1, 1, 0, 1, 1, 1}> () y = Mul(x, k)"
WHOLE = "r = Round(x) c = Cast <to = 7> (r)"
SPECIALS = (
    f"{number('o', 1)} {number('h', 5)} {number('e', -6)} {number('z', 0)} n = IsNaN(l) w = Where(n, o, l) "
    "b = Less(l, z) i = IsInf(l) c = And(b, i) v = Where(c, e, w) a = Greater(l, z) d = And(a, i) "
    "y = Where(d, h, v)"
)
WAVES = waves(100.0).flatten().tolist()
HALF = 'coordinate_transformation_mode = "half_pixel"'
CORNERS = 'coordinate_transformation_mode = "align_corners"'
LINEAR, CUBIC, NEAREST = ('mode = "linear"', 'mode = "cubic"', 'mode = "nearest"')
FLOOR = f'{NEAREST}, nearest_mode = "floor", coordinate_transformation_mode = "asymmetric"'
PLUS = f"l = Softplus(x) {number('t', 20)} g = Greater(x, t) y = Where(g, x, l)"

CHANNEL = "a = ArgMax <axis = 1, keepdims = 0> (x)"
FOUND = f"t = Constant <value = float[4] {{3, 1, 4, 1.5}}> () {CHANNEL} g = Gather(t, a)"
"""Of each place a number for the channel that is largest."""
SPREAD = torch.arange(1.0, 25.0).view(4, 1, 2, 3)
STORED = f"w = Constant <value = float[4,1,2,3] {{{', '.join(map(str, range(1, 25)))}}}> ()"
TRANSPOSED = (
    f"{STORED} b = Constant <value_floats = [1.0, 2.0]> () y = ConvTranspose <dilations = [2, 1], "
    "group = 2, kernel_shape = [2, 3], output_padding = [0, 1], pads = [1, 0, 1, 1], strides = [1, 3]> "
    "(x, w, b)"
)


FOLDED = (
    f"{ints('f', 0, 4, 9)} r = Reshape(x, f) {ints('z', 0)} {ints('e', 4)} {ints('a', 2)} "
    f"c = Slice(r, z, e, a) {ints('i', 4, 5)} {ints('k', 2, 2)} "
    "y = Col2Im <dilations = [2, 1], pads = [0, 1, 0, 1], strides = [1, 3]> (c, i, k)"
)


def spread(x: torch.Tensor) -> torch.Tensor:
    """A transposed convolution."""
    bias = torch.tensor([1.0, 2.0])
    # the last column that the file leaves out and adds again
    return F.conv_transpose2d(x, SPREAD, bias, (1, 3), (1, 0), groups=2, dilation=(2, 1))


LARGEST = "a = ArgMax <axis = 1> (x) s = Shape(a) c = ConstantOfShape <value = float[1] {9.0}> (s)"
RANKS = f"{ints('k', 2)} v, i = TopK <axis = 1> (x, k) {ints('o', 0)} {ints('p', 1)}"
CELLS = f"{RANKS} u = Slice(x, o, k, p)"
"""The places of the two largest of each channel, and the first two."""

CELLS_OF_TWO = "i = Constant <value = int64[2,3,2] {0, -1, 0, 2, 0, 0, 3, -1, 3, 2, 3, 0}> ()"
TURNED_IN = "t = Transpose <perm = [1, 2, 0, 3]> (x)"
ROWS = (
    f"s = Shape(x) {ints('o', 0)} {ints('e', 1)} b = Slice(s, o, e) n = Squeeze(b, o) "
    "j = Constant <value_int = 0> () k = Constant <value_int = 1> () "
    "m = Range(j, n, k) r = Unsqueeze(m, e)"
)
FIRST = (
    f"{ints('u', 2, 3)} {ints('v', 0, 0)} {ints('w', 1, 1)} h = Slice(x, v, w, u) l = Squeeze(h, u) "
    "f = ArgMax <axis = 1> (l)"
)
"""The number of each sample, and the channel that is the largest in its first cell."""

LAID_ANEW = (
    f"m = ReduceMean <axes = [2, 3], keepdims = 0> (x) {ints('l', -1)} f = Reshape (m, l) "
    f"s = Shape <start = 0, end = 1> (x) {ints('o', 0)} b = Squeeze (s, o) {ints('k', 4)} "
    "z = Constant <value_int = 0> () e = Constant <value_int = 1> () r = Range (z, b, e) "
    f"t = Mul (r, k) {ints('w', 1)} u = Unsqueeze (t, w) {ints('c', 0, 1, 2, 3)} i = Add (u, c) "
    "y = Gather (f, i)"
)
"""A mean of each sample and channel, as torch's exporter writes that torch lays it out in memory anew."""


def branching(first: str, second: str) -> str:
    """One of two values, by whether the largest element is above nothing."""
    kind = "float[n,4,3,3]"
    return (
        f"m = ReduceMax <keepdims = 0> (x) {number('z', 0)} g = Greater (m, z) e = Exp (x) "
        f"y = If (g) <then_branch = first () => ({kind} a) {{ {first} }}, "
        f"else_branch = second () => ({kind} b) {{ {second} }}>"
    )


TWICE = "l = Tanh (x) a = Mul (l, e)"
SAME: dict[str, tuple[Function, str]] = {
    "one value in both branches": (
        lambda x: x.tanh() * x.exp(),
        branching(TWICE, "r = Tanh (x) b = Mul (e, r)"),
    ),
    "branches in branches": (
        lambda x: x.tanh() * x.exp(),
        branching(
            "a = If (g) <then_branch = f () => (float[n,4,3,3] c) { c = Mul (e, t) }, "
            "else_branch = s () => (float[n,4,3,3] d) { d = Mul (t, e) }>",
            "b = Mul (e, t)",
        ).replace("y = If (g)", "t = Tanh (x) y = If (g)"),
    ),
    "laid out anew": (lambda x: x.mean((2, 3)), LAID_ANEW),
    "laid out channels first": (
        lambda x: x.mean((2, 3)).T,
        LAID_ANEW.replace("Unsqueeze (t, w)", "Identity (t)").replace(
            "i = Add (u, c)", "q = Unsqueeze (c, w) i = Add (u, q)"
        ),
    ),
    "log of a softmax": (lambda x: F.log_softmax(x, 1), "s = Softmax <axis = 1> (x) y = Log(s)"),
    "log of exponentials": (
        lambda x: F.log_softmax(x, 1),
        f"{ints('a', 1)} e = Exp(x) s = ReduceSum(e, a) l = Log(s) y = Sub(x, l)",
    ),
    "less the log of all": (
        lambda x: F.log_softmax(x, 1),
        "l = ReduceLogSumExp <axes = [1]> (x) y = Sub(x, l)",
    ),
    "the largest, above nothing": (
        lambda x: F.max_pool2d(F.relu(x), 2, 1, 1),
        "p = MaxPool <kernel_shape = [2, 2], pads = [1, 1, 1, 1]> (x) y = Relu(p)",
    ),
    "the largest of what is held": (
        lambda x: F.max_pool2d(x, 2).clamp(-0.5, 0.5),
        f"{number('l', -0.5)} {number('h', 0.5)} c = Clip(x, l, h) y = MaxPool <kernel_shape = [2, 2], "
        "strides = [2, 2]> (c)",
    ),
    "tanh of a sigmoid": (
        torch.tanh,
        f"{number('t', 2)} {number('o', 1)} d = Mul(x, t) s = Sigmoid(d) m = Mul(s, t) y = Sub(m, o)",
    ),
    "a sigmoid of tanh": (
        torch.sigmoid,
        f"{number('t', 2)} {number('o', 1)} d = Div(x, t) s = Tanh(d) m = Add(s, o) y = Div(m, t)",
    ),
    "summed up in another order": (
        lambda x: x + (x.exp() + x.sin()),
        "e = Exp(x) s = Sin(x) a = Add(s, x) y = Add(a, e)",
    ),
    "a difference the other way, squared": (
        lambda x: (x - x.mean(1, keepdim=True)) ** 2,
        "m = ReduceMean <axes = [1]> (x) d = Sub(m, x) y = Mul(d, d)",
    ),
    "shuffled": (
        lambda x: F.channel_shuffle(x, 2),
        f"{ints('i', 0, 2, 1, 3)} y = Gather <axis = 1> (x, i)",
    ),
    "log of a sigmoid": (F.logsigmoid, "s = Sigmoid(x) y = Log(s)"),
    "log of a sum": (
        lambda x: torch.logaddexp(x, 2 * x),
        f"{number('t', 2)} d = Mul(x, t) a = Exp(x) b = Exp(d) s = Add(a, b) y = Log(s)",
    ),
    "both extremes": (
        lambda x: torch.cat(x.aminmax(dim=1, keepdim=True), 1),
        "a = ReduceMin <axes = [1]> (x) b = ReduceMax <axes = [1]> (x) y = Concat <axis = 1> (a, b)",
    ),
    "a power of two": (torch.exp2, f"{number('t', 2)} y = Pow(t, x)"),
    "the middle of slopes": (lambda x: F.rrelu(x, 0.1, 0.3), "y = LeakyRelu <alpha = 0.2> (x)"),
    "written to the largest": (
        lambda x: x.scatter(1, x.argmax(1, keepdim=True), 9.0),
        f"{LARGEST} y = ScatterElements <axis = 1> (x, a, c)",
    ),
    "written to the two largest": (
        lambda x: x.scatter(1, x.topk(2, 1).indices, x),
        f"{CELLS} y = ScatterElements <axis = 1> (x, i, u)",
    ),
    "added to the two largest": (
        lambda x: x.scatter_add(1, x.topk(2, 1).indices, x[:, :2]),
        f'{CELLS} y = ScatterElements <axis = 1, reduction = "add"> (x, i, u)',
    ),
    "multiplied": (
        lambda x: x.scatter_reduce(1, x.topk(2, 1).indices, x[:, :2], "prod"),
        f'{CELLS} y = ScatterElements <axis = 1, reduction = "mul"> (x, i, u)',
    ),
    "cells of a table": (
        lambda x: TABLE[x.argmax(1)].unsqueeze(1),
        f"{FOUND} {ints('o', 1)} y = Unsqueeze(g, o)",
    ),
    "an embedding": (
        lambda x: F.embedding(x.argmax(1), TABLE.view(4, 1)).permute(0, 3, 1, 2),
        f"{FOUND} y = Transpose <perm = [0, 3, 1, 2]> (g)".replace("float[4]", "float[4,1]"),
    ),
    "a cell of each row": (
        lambda x: x.gather(3, x.argmax(3, keepdim=True)),
        "a = ArgMax <axis = 3> (x) y = GatherElements <axis = 3> (x, a)",
    ),
    "cells by an index of two axes": (
        lambda x: x.unflatten(1, (2, 2))[:, 0],
        f"{ints('i', 0, 1, 2, 3)} {ints('s', 2, 2)} r = Reshape (i, s) g = Gather <axis = 1> (x, r) "
        f"{ints('o', 0)} t = Gather <axis = 1> (g, o) {ints('a', 1)} y = Squeeze (t, a)",
    ),
    "cells counted from behind": (lambda x: x[:, 2:], f"{ints('i', -2, -1)} y = Gather <axis = 1> (x, i)"),
    "stored cells of two axes": (
        lambda x: x[:, [[0], [3]], [-1, 2, 0]],
        f"{TURNED_IN} {CELLS_OF_TWO} g = GatherND(t, i) y = Transpose <perm = [2, 0, 1, 3]> (g)",
    ),
    "stored cells of axes apart": (
        lambda x: x[:, [[0], [3]], :, [-1, 2, 0]],
        f"p = Transpose <perm = [1, 3, 0, 2]> (x) {CELLS_OF_TWO} y = GatherND(p, i)",
    ),
    "computed cells of two axes": (
        lambda x: x[torch.arange(x.shape[0]), x[:, :, 0, 0].argmax(1)],
        f"{ROWS} {FIRST} c = Concat <axis = 1> (r, f) y = GatherND(x, c)",
    ),
    "the first of equal integers": (
        lambda x: TABLE[(x > 0).to(torch.int32).argmax(1)].unsqueeze(1),
        f"{number('z', 0)} p = Greater(x, z) q = Cast <to = 6> (p) a = ArgMax <axis = 1, keepdims = 0> (q) "
        f"t = Constant <value = float[4] {{3, 1, 4, 1.5}}> () g = Gather(t, a) "
        f"{ints('o', 1)} y = Unsqueeze(g, o)",
    ),
    "a mask of places that repeat": (of_earlier, LOWER),
    "cells joined with none": (lambda x: torch.cat([x, x[:, 4:]], 1), "y = Identity(x)"),
    "channels that are written over": (lambda x: placed(x, 1), PLACED),
    "a channel that is written over": (lambda x: with_first(x, 2), ONE_PLACED),
    "cells where something is true": (of_true, OF_TRUE),
    "a computed table one row after the other": (lambda x: twice_waved(x, True), WAVED),
    "cells of places that are computed": (lambda x: x * TABLE[(torch.arange(3.0) * 0.5 * 2).long()], PICKED),
    "whole numbers beside what leaves them": (
        lambda x: ((x.round().long() + 0) * 1 - 0).float(),
        f"{WHOLE} y = Cast <to = 1> (c)",
    ),
    "sizes of whole numbers": (
        lambda x: (x.round().long() - 2).abs() * (torch.arange(3) - 1).abs() + 0.5,
        f"{WHOLE} t = Constant <value_int = 2> () d = Sub(c, t) a = Abs(d) {ints('k', 1, 0, 1)} "
        f"m = Mul(a, k) f = Cast <to = 1> (m) {number('h', 0.5)} y = Add(f, h)",
    ),
    "a sum so far of what is asked": (
        lambda x: (x.round() == 0).cumsum(-1).float(),
        f"{number('t', 0)} r = Round(x) e = Equal(r, t) c = Cast <to = 7> (e) "
        "a = Constant <value_int = -1> () s = CumSum(c, a) y = Cast <to = 1> (s)",
    ),
    "a range of fractions": (
        lambda x: x * torch.arange(0.1, 0.35, 0.1) + torch.arange(0.5, 3),
        "k = Constant <value_floats = [0.1, 0.2, 0.3]> () m = Mul(x, k) "
        "l = Constant <value_floats = [0.5, 1.5, 2.5]> () y = Add(m, l)",
    ),
    "a constant that repeats in two dimensions": (
        lambda x: x.repeat(1, 1, 2, 2) * PAIRS.repeat(2, 3),
        f"{ints('r', 1, 1, 2, 2)} {ints('s', 2, 3)} {STORED_PAIRS} "
        "h = Tile(x, r) k = Tile(w, s) y = Mul(h, k)",
    ),
    "repeat": (lambda x: x.repeat(1, 2, 1, 3), f"{ints('r', 1, 2, 1, 3)} y = Tile(x, r)"),
    "each cell at once": (
        lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3),
        resize(FLOOR, 1, 1, 2, 2),
    ),
    "shuffled channels": (
        lambda x: F.channel_shuffle(x, 2),
        f"{ints('s', 0, 2, 2, 3, 3)} r = Reshape(x, s) t = Transpose <perm = [0, 2, 1, 3, 4]> (r) "
        f"{ints('e', 0, 4, 3, 3)} y = Reshape(t, e)",
    ),
    "the largest one": (lambda x: x.topk(1, 1).values, "y = ReduceMax <axes = [1]> (x)"),
    "tile": (lambda x: torch.tile(x, (2, 3)), f"{ints('r', 1, 1, 2, 3)} y = Tile(x, r)"),
    "index_select": (
        lambda x: x.index_select(1, BACKWARDS),
        f"{ints('i', 3, 2, 1, 0)} y = Gather <axis = 1> (x, i)",
    ),
    "flip": (
        lambda x: x[:, BACKWARDS],
        f"{ints('s', -1)} {ints('e', -(2**31))} {ints('a', 1)} y = Slice(x, s, e, a, s)",
    ),
    "rot90": (
        lambda x: torch.rot90(x, 1, (2, 3)),
        f"{ints('s', -1)} {ints('e', -(2**31))} {ints('a', 3)} "
        "f = Slice(x, s, e, a, s) y = Transpose <perm = [0, 1, 3, 2]> (f)",
    ),
    "rot270": (
        lambda x: torch.rot90(x, 3, (2, 3)),
        f"{ints('s', -1)} {ints('e', -(2**31))} {ints('a', 2)} "
        "f = Slice(x, s, e, a, s) y = Transpose <perm = [0, 1, 3, 2]> (f)",
    ),
    "einsum": (
        lambda x: torch.einsum("...hw,...vw->...hv", x, x),
        "t = Transpose <perm = [0, 1, 3, 2]> (x) y = MatMul(x, t)",
    ),
    "a table": (
        lambda x: x + torch.linspace(-1, 1, 3),
        "w = Constant <value_floats = [-1.0, 0.0, 1.0]> () y = Add(x, w)",
    ),
    "a table that is rounded otherwise": (
        lambda x: x + torch.linspace(-1.3, 1, 3).exp(),
        "w = Constant <value_floats = [-1.3000001907, -0.15000003576, 1.0]> () e = Exp(w) y = Add(x, e)",
    ),
    "einsum of three": (
        lambda x: torch.einsum("...hw,wv,uv->...hu", x, PAIRS, PAIRS),
        f"{STORED_PAIRS} m = MatMul(x, w) t = Transpose <perm = [1, 0]> (w) y = MatMul(m, t)",
    ),
    "einsum that sums nothing": (
        lambda x: torch.einsum("bchw,h->bhcw", x, PAIRS[:, 0]),
        f"{number('r', 2)} b = Constant <value = float[3,1] {{0.5, 1.5, 2.5}}> () "
        "d = Mul(b, r) m = Mul(x, d) y = Transpose <perm = [0, 2, 1, 3]> (m)",
    ),
    "einsum's dots": (
        lambda x: torch.matmul(x, x.mT),
        'y = Einsum <equation = "...hw, ...vw -> ...hv"> (x, x)',
    ),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), 'y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)'),
    "pixel_unshuffle": (
        lambda x: F.pixel_unshuffle(x.repeat(1, 1, 2, 2), 2),
        f"{ints('r', 1, 1, 2, 2)} t = Tile(x, r) {ints('s', 0, 4, 3, 2, 3, 2)} c = Reshape(t, s) "
        f"p = Transpose <perm = [0, 1, 3, 5, 2, 4]> (c) {ints('e', 0, 16, 3, 3)} y = Reshape(p, e)",
    ),
    "space to depth": (
        lambda x: x.repeat(1, 1, 2, 2).view(-1, 4, 3, 2, 3, 2).permute(0, 3, 5, 1, 2, 4).flatten(1, 3),
        f"{ints('r', 1, 1, 2, 2)} t = Tile(x, r) y = SpaceToDepth <blocksize = 2> (t)",
    ),
    "depth first": (
        lambda x: x.view(-1, 2, 2, 1, 3, 3).permute(0, 3, 4, 1, 5, 2).reshape(-1, 1, 6, 6),
        "y = DepthToSpace <blocksize = 2> (x)",
    ),
    "nearest": (lambda x: F.interpolate(x, scale_factor=4), resize(FLOOR, 1, 1, 4, 4)),
    "nearest by size": (
        lambda x: F.interpolate(x, size=(6, 12)),
        sized(FLOOR, 6, 12),
    ),
    "nearest of halves": (
        lambda x: F.interpolate(x, scale_factor=2),
        resize(f"{NEAREST}, {HALF}", 1, 1, 2, 2),
    ),
    "linear": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        resize(f"{LINEAR}, {HALF}", 1, 1, 2, 2),
    ),
    "linear, smaller": (
        lambda x: F.interpolate(x, size=(2, 5), mode="bilinear"),
        sized(f"{LINEAR}, {HALF}", 2, 5),
    ),
    "linear to corners": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        resize(f"{LINEAR}, {CORNERS}", 1, 1, 2, 2),
    ),
    "cubic": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
        resize(f"{CUBIC}, {HALF}", 1, 1, 2, 2),
    ),
    "reflected": (lambda x: F.pad(x, (1, 2, 0, 1), "reflect"), padded("reflect", 0, 0, 0, 1, 0, 0, 1, 2)),
    "edges": (lambda x: F.pad(x, (1, 2, 0, 1), "replicate"), padded("edge", 0, 0, 0, 1, 0, 0, 1, 2)),
    "turned over": (lambda x: F.pad(x, (1, 2, 0, 1)), turned(1, 2, 0, 1, 0, 0, 0, 0)),
    "cut and padded": (lambda x: F.pad(x, (-1, 2, 0, -1)), padded("constant", 0, 0, 0, -1, 0, 0, -1, 2)),
    "even maxima": (
        lambda x: F.adaptive_max_pool2d(x, (3, 1)),
        "y = MaxPool <kernel_shape = [1, 3], strides = [1, 3]> (x)",
    ),
    "largest": (lambda x: x.topk(2, 1).values, f"{ints('k', 2)} y, i = TopK <axis = 1> (x, k)"),
    "sorted": (lambda x: x.sort(-1).values, f"{ints('k', 3)} y, i = TopK <axis = -1, largest = 0> (x, k)"),
    "cumsum": (lambda x: x.cumsum(2), "a = Constant <value_int = 2> () y = CumSum(x, a)"),
    "logsumexp": (lambda x: x.logsumexp((2, 3)), "y = ReduceLogSumExp <axes = [2, 3], keepdims = 0> (x)"),
    "norm of sizes": (lambda x: x.abs().sum(1), "y = ReduceL1 <axes = [1], keepdims = 0> (x)"),
    "squares": (lambda x: x.square().sum(1), "y = ReduceSumSquare <axes = [1], keepdims = 0> (x)"),
    "prod": (lambda x: x.prod(1), "y = ReduceProd <axes = [1], keepdims = 0> (x)"),
    "std": (
        lambda x: x.std((2, 3)),
        "m = ReduceMean <axes = [2, 3]> (x) d = Sub(x, m) q = Mul(d, d) "
        f"v = ReduceMean <axes = [2, 3], keepdims = 0> (q) {number('a', 9)} {number('b', 8)} "
        "w = Mul(v, a) u = Div(w, b) y = Sqrt(u)",
    ),
    "softplus": (F.softplus, PLUS),
    "softplus alone": (F.softplus, "y = Softplus(x)"),
    "selu": (F.selu, "y = Selu(x)"),
    "celu": (lambda x: F.celu(x, 0.5), "y = Celu <alpha = 0.5> (x)"),
    "glu": (
        lambda x: F.glu(x, 1),
        f"{ints('h', 2, 2)} a, b = Split <axis = 1> (x, h) g = Sigmoid(b) y = Mul(a, g)",
    ),
    "threshold": (
        lambda x: F.threshold(x, 0.5, -1.0),
        f"{number('t', 0.5)} {number('v', -1)} l = LessOrEqual(x, t) y = Where(l, v, x)",
    ),
    "softplus of another slope": (
        lambda x: F.softplus(x, 2.0, 1.0),
        f"{number('b', 2)} {number('t', 1)} m = Mul(x, b) s = Softplus(m) d = Div(s, b) g = Greater(m, t) "
        "y = Where(g, x, d)",
    ),
    "a number where it holds not": (
        lambda x: torch.where(x > 0.5, x, -1.0),
        f"{number('t', 0.5)} {number('v', -1)} g = Greater(x, t) y = Where(g, x, v)",
    ),
    "a number where it holds": (
        lambda x: torch.where(x > 0.5, -1.0, x),
        f"{number('t', 0.5)} {number('v', -1)} g = Greater(x, t) y = Where(g, v, x)",
    ),
    "another number": (
        lambda x: (x.round() != 1).float(),
        f"{number('t', 1)} r = Round(x) e = Equal(r, t) n = Not(e) y = Cast <to = 1> (n)",
    ),
    "one of two numbers": (
        lambda x: torch.where(x > 0.5, 2.0, 3.0),
        f"{number('t', 0.5)} {number('v', 2)} {number('w', 3)} g = Greater(x, t) y = Where(g, v, w)",
    ),
    "a variance and a mean": (
        lambda x: sum(torch.var_mean(x, (2, 3), correction=0)),
        f"{ints('a', 2, 3)} m = ReduceMean <axes = [2, 3]> (x) d = Sub(x, m) s = Mul(d, d) "
        "v = ReduceMean <axes = [2, 3], keepdims = 0> (s) n = ReduceMean <axes = [2, 3], keepdims = 0> (x) "
        "y = Add(v, n)",
    ),
    "logarithms": (
        lambda x: x.exp().add(1).log2() + x.exp().add(1).log10(),
        f"{number('o', 1)} {number('t', 0.6931472)} {number('d', 2.3025851)} e = Exp(x) a = Add(e, o) "
        "l = Log(a) p = Div(l, t) q = Div(l, d) y = Add(p, q)",
    ),
    "whole numbers towards zero": (
        lambda x: x.trunc(),
        "a = Abs(x) f = Floor(a) s = Sign(x) y = Mul(f, s)",
    ),
    "hardshrink": (
        lambda x: F.hardshrink(x, 0.5),
        f"a = Abs(x) {number('t', 0.5)} {number('v', 0)} l = LessOrEqual(a, t) y = Where(l, v, x)",
    ),
    "addcmul": (
        lambda x: torch.addcmul(x, x, x, value=0.5),
        f"{number('h', 0.5)} a = Mul(h, x) b = Mul(a, x) y = Add(x, b)",
    ),
    "addcdiv": (
        lambda x: torch.addcdiv(x, x, x.exp(), value=3),
        f"e = Exp(x) {number('h', 3)} d = Div(x, e) m = Mul(d, h) y = Add(x, m)",
    ),
    "lerp": (
        lambda x: torch.lerp(x, x.exp(), 0.25),
        f"e = Exp(x) d = Sub(e, x) {number('w', 0.25)} m = Mul(d, w) y = Add(x, m)",
    ),
    "fmod": (lambda x: x.fmod(0.7), f"{number('m', 0.7)} y = Mod <fmod = 1> (x, m)"),
    "and": (
        lambda x: x * ((x > 0) & (x < 1)).float(),
        f"{number('a', 0)} {number('b', 1)} g = Greater(x, a) l = Less(x, b) t = And(g, l) "
        "c = Cast <to = 1> (t) y = Mul(x, c)",
    ),
    "diff": (
        lambda x: x.diff(dim=3),
        f"{ints('o', 1)} {ints('t', 3)} {ints('z', 0)} {ints('b', 2)} u = Slice(x, o, t, t) "
        "l = Slice(x, z, b, t) y = Sub(u, l)",
    ),
    "places": (
        lambda x: x + torch.arange(3) * 0.1,
        "p = Constant <value_floats = [0.0, 0.1, 0.2]> () y = Add(x, p)",
    ),
    "quotients rounded down": (
        lambda x: x + torch.div(torch.arange(-2.0, 1.0), 2, rounding_mode="floor"),
        "p = Constant <value_floats = [-1.0, -1.0, 0.0]> () y = Add(x, p)",
    ),
    "waves": (
        lambda x: x + waves(100.0),
        f"p = Constant <value = float[1,4,3,1] {{{', '.join(map(repr, WAVES))}}}> () y = Add(x, p)",
    ),
    "written to a part": (
        lambda x: written(x * 1.5, slice(1, 3)),
        f"{number('f', 1.5)} m = Mul(x, f) {ints('h', 1, 2, 1)} a, b, c = Split <axis = 1> (m, h) "
        "e = Exp(b) y = Concat <axis = 1> (a, e, c)",
    ),
    "written to the first": (
        lambda x: written(x * 1.5, slice(0, 2))[:, :2] + 1,
        f"{number('f', 1.5)} m = Mul(x, f) {ints('h', 2, 2)} a, b = Split <axis = 1> (m, h) "
        f"e = Exp(a) {number('o', 1)} y = Add(e, o)",
    ),
    "a transposed convolution": (spread, TRANSPOSED),
    "an attention to what came before": (
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=1.0),
        f"{ints('s', 3, 3)} l = ConstantOfShape <value = float[1] {{-inf}}> (s) {ints('k', 1)} "
        "m = Trilu (l, k) t = Transpose <perm = [0, 1, 3, 2]> (x) p = MatMul(x, t) a = Add(p, m) "
        "w = Softmax (a) y = MatMul(w, x)",
    ),
    "a triangle": (lambda x: x.exp().tril(), "e = Exp(x) y = Trilu <upper = 0> (e)"),
    "cells far from the diagonal": (lambda x: x.exp().triu(-9), "y = Exp(x)"),
    "baddbmm": (
        lambda x: torch.baddbmm(x.flatten(0, 1), x.flatten(0, 1), x.flatten(0, 1)).view_as(x),
        "m = MatMul(x, x) y = Add(m, x)",
    ),
}

GRID = (
    "t = Tanh(x) "
    + ints("o", 1)
    + ints("z", 0)
    + ints("u", 2)
    + ("s = Slice(t, z, u, o) g = Transpose <perm = [0, 2, 3, 1]> (s) ")
)
SAME |= {
    "one limit for all cells": (
        lambda x: x.clamp(torch.zeros(3), torch.ones(3, 3)),
        "z = Constant <value_floats = [0.0, 0.0, 0.0]> () o = Constant <value_float = 1.0> () "
        "m = Max (x, z) y = Min (o, m)",
    ),
    "cells of a grid": (lambda x: gridded(x, "bilinear"), f"{GRID} y = GridSample (x, g)"),
    "the nearest of a grid": (
        lambda x: gridded(x, "nearest", "border", True),
        f'{GRID} y = GridSample <mode = "nearest", padding_mode = "border", align_corners = 1> (x, g)',
    ),
    "a grid on curves": (
        lambda x: gridded(x, "bicubic", "reflection"),
        f'{GRID} y = GridSample <mode = "bicubic", padding_mode = "reflection"> (x, g)',
    ),
    "no specials": (
        lambda x: torch.nan_to_num(x.log(), 1.0, 5.0, -6.0),
        f"l = Log(x) {SPECIALS}",
    ),
    "sinc": (
        torch.sinc,
        f"{number('p', np.pi)} {number('z', 0)} {number('o', 1)} e = Equal(x, z) a = Mul(x, p) s = Sin(a) "
        "d = Div(s, a) y = Where(e, o, d)",
    ),
    "a norm without mean": (
        lambda x: F.rms_norm(x, (3,), TABLE[:3], 0.5),
        f"{number('t', 2)} q = Pow(x, t) m = ReduceMean <axes = [-1]> (q) {number('e', 0.5)} a = Add(m, e) "
        "s = Sqrt(a) r = Reciprocal(s) n = Mul(x, r) w = Constant <value_floats = [3.0, 1.0, 4.0]> () "
        "y = Mul(n, w)",
    ),
    "bounds of each channel": (
        lambda x: torch.clamp(x, TABLE.view(4, 1, 1) - 3, TABLE.view(4, 1, 1) - 2),
        "l = Constant <value = float[4,1,1] {0, -2, 1, -1.5}> () "
        "h = Constant <value = float[4,1,1] {1, -1, 2, -0.5}> () "
        "m = Max(x, l) y = Min(m, h)",
    ),
    "a norm of sizes": (
        lambda x: torch.linalg.vector_norm(x, 1, dim=1),
        "y = ReduceL1 <axes = [1], keepdims = 0> (x)",
    ),
    "running statistics of each map": (
        lambda x: F.instance_norm(x, TABLE - 1, TABLE, use_input_stats=False),
        "o = Constant <value_floats = [1.0, 1.0, 1.0, 1.0]> () "
        "z = Constant <value_floats = [0.0, 0.0, 0.0, 0.0]> () "
        "v = Constant <value_floats = [3.0, 1.0, 4.0, 1.5]> () "
        "m = Constant <value_floats = [2.0, 0.0, 3.0, 0.5]> () "
        "y = BatchNormalization (x, o, z, m, v)",
    ),
    "halves without a number": (
        lambda x: torch.cat([x[:, 2:], x[:, :2]], 1),
        "a, b = Split <axis = 1> (x) y = Concat <axis = 1> (b, a)",
    ),
    "whole again": (
        lambda x: torch.stack(x.unbind(1), 1),
        "a, b = Split <axis = 1> (x) y = Concat <axis = 1> (a, b)",
    ),
    "all that is one cell": (
        lambda x: x.mean((2, 3), keepdim=True).squeeze(),
        "y = ReduceMean <axes = [2, 3], keepdims = 0> (x)",
    ),
}

OTHER: dict[str, tuple[Function, str]] = {
    "another value in a branch": (
        SAME["one value in both branches"][0],
        branching(TWICE, "r = Tanh (e) b = Mul (e, r)"),
    ),
    "another value in the other branch": (
        SAME["one value in both branches"][0],
        branching(TWICE.replace("Tanh", "Sin"), "r = Tanh (x) b = Mul (e, r)"),
    ),
    "a view of it in a branch": (
        SAME["one value in both branches"][0],
        branching(TWICE, "r = Tanh (x) c = Mul (e, r) b = Transpose <perm = [0, 1, 3, 2]> (c)"),
    ),
    **{
        f"laid out {what}": (SAME["laid out anew"][0], LAID_ANEW.replace(*changed))
        for what, changed in {
            "in shorter rows": (ints("k", 4), ints("k", 3)),
            "from behind": (ints("c", 0, 1, 2, 3), ints("c", -4, -3, -2, -1)),
            "the other way round": (ints("c", 0, 1, 2, 3), ints("c", 3, 2, 1, 0)),
            "as the channels alone": ("start = 0, end = 1> (x)", "start = 1, end = 2> (x)"),
            "by halves": (ints("c", 0, 1, 2, 3), ints("c", 0, 2, 1, 3)),
        }.items()
    },
    "laid out for another axis": (SAME["laid out anew"][0], SAME["laid out channels first"][1]),
    "log of another softmax": (lambda x: F.log_softmax(x, 2), SAME["log of a softmax"][1]),
    "log of other exponentials": (lambda x: F.log_softmax(2 * x, 1), SAME["log of exponentials"][1]),
    "the largest of other pads": (
        lambda x: F.max_pool2d(F.relu(x), 2, 1, (1, 0)),
        SAME["the largest, above nothing"][1],
    ),
    "held otherwise": (
        lambda x: F.max_pool2d(x, 2).clamp(-0.5, 0.4),
        SAME["the largest of what is held"][1],
    ),
    "a sigmoid of three": (torch.tanh, SAME["tanh of a sigmoid"][1].replace("Mul(x, t)", "Mul(x, o)")),
    "a sum of other signs": (lambda x: x - (x.exp() + x.sin()), SAME["summed up in another order"][1]),
    "a difference the other way": (
        lambda x: (x - x.mean(1, keepdim=True)) ** 3,
        "m = ReduceMean <axes = [1]> (x) d = Sub(m, x) e = Mul(d, d) y = Mul(e, d)",
    ),
    "shuffled back": (
        lambda x: x[:, [0, 2, 3, 1]],
        SAME["shuffled"][1],
    ),
    "log of another sigmoid": (lambda x: F.logsigmoid(-x), SAME["log of a sigmoid"][1]),
    "log of another sum": (lambda x: torch.logaddexp(x, 3 * x), SAME["log of a sum"][1]),
    "another power": (torch.exp2, f"{number('t', 3)} y = Pow(t, x)"),
    "another slope": (lambda x: F.rrelu(x, 0.1, 0.2), SAME["the middle of slopes"][1]),
    "written to the smallest": (
        lambda x: x.scatter(1, x.argmin(1, keepdim=True), 9.0),
        SAME["written to the largest"][1],
    ),
    "another number is written": (
        lambda x: x.scatter(1, x.argmax(1, keepdim=True), 8.0),
        SAME["written to the largest"][1],
    ),
    "added, not written": (SAME["added to the two largest"][0], SAME["written to the two largest"][1]),
    "added along another axis": (
        SAME["added to the two largest"][0],
        SAME["added to the two largest"][1].replace("ScatterElements <axis = 1", "ScatterElements <axis = 2"),
    ),
    "only what is added": (
        lambda x: x.scatter_reduce(1, x.topk(2, 1).indices, x[:, :2], "sum", include_self=False),
        SAME["added to the two largest"][1],
    ),
    "written where one may cover another": (
        lambda x: x.scatter(1, (x > 0).long(), x),
        f"{number('z', 0)} g = Greater(x, z) i = Cast <to = 7> (g) y = ScatterElements <axis = 1> (x, i, x)",
    ),
    "a triangle without its diagonal": (lambda x: x.exp().tril(-1), "e = Exp(x) y = Trilu <upper = 0> (e)"),
    "the other triangle": (lambda x: x.exp().triu(), "e = Exp(x) y = Trilu <upper = 0> (e)"),
    "cells of another table": (
        lambda x: 2 * TABLE[x.argmax(1)].unsqueeze(1),
        f"{FOUND} {ints('o', 1)} y = Unsqueeze(g, o)",
    ),
    "another cell of each row": (
        lambda x: x.gather(3, x.argmin(3, keepdim=True)),
        "a = ArgMax <axis = 3> (x) y = GatherElements <axis = 3> (x, a)",
    ),
    "a cell of each column": (
        lambda x: x.gather(3, x.argmax(3, keepdim=True)),
        "a = ArgMax <axis = 3> (x) y = GatherElements <axis = 2> (x, a)",
    ),
    "corners of a grid": (lambda x: gridded(x, "bilinear", "zeros", True), f"{GRID} y = GridSample (x, g)"),
    "borders of a grid": (lambda x: gridded(x, "bilinear", "border"), f"{GRID} y = GridSample (x, g)"),
    "the nearest of a grid": (lambda x: gridded(x, "nearest"), f"{GRID} y = GridSample (x, g)"),
    "other specials": (lambda x: torch.nan_to_num(x.log(), 1.0, 6.0, -5.0), SAME["no specials"][1]),
    "infinities of one sign": (
        SAME["no specials"][0],
        SAME["no specials"][1].replace("IsInf(l)", "IsInf <detect_negative = 0> (l)"),
    ),
    "another small number": (lambda x: F.rms_norm(x, (3,), TABLE[:3], 0.25), SAME["a norm without mean"][1]),
    "another limit for one cell": (
        lambda x: x.clamp(torch.tensor([0.0, 0.0, -1.0]), torch.ones(3, 3)),
        SAME["one limit for all cells"][1],
    ),
    "bounds the other way": (
        lambda x: torch.clamp(x, TABLE.view(4, 1, 1) - 2, TABLE.view(4, 1, 1) - 3),
        SAME["bounds of each channel"][1],
    ),
    "halves the other way": (lambda x: x, SAME["halves without a number"][1]),
    "cells joined with some": (lambda x: torch.cat([x, x[:, 3:]], 1), "y = Identity(x)"),
    "other channels that are written over": (lambda x: placed(x, 2), PLACED),
    "another channel that is written over": (lambda x: with_first(x, 1), ONE_PLACED),
    "cells where something else is true": (lambda x: of_true(x, 0.5), OF_TRUE),
    "cells where it is true of another": (lambda x: x.permute(0, 3, 2, 1)[x[:, 0] > 0], OF_TRUE),
    "a computed table one column after the other": (lambda x: twice_waved(x, False), WAVED),
    "cells of places that are rounded": (lambda x: x * TABLE[(torch.arange(3.0) * 0.5).long()], PICKED),
    "a mask that is wider": (lambda x: of_earlier(x, 1), LOWER),
    "a mask of places that each sample has": (lambda x: of_earlier(x, own=True), LOWER),
    "whole numbers beside one": (
        lambda x: ((x.round().long() + 1) * 1).float(),
        SAME["whole numbers beside what leaves them"][1],
    ),
    "nothing beside whole numbers": (
        lambda x: (0 - x.round().long()).float(),
        SAME["whole numbers beside what leaves them"][1],
    ),
    "a sum so far of another dimension": (
        lambda x: (x.round() == 0).cumsum(-2).float(),
        SAME["a sum so far of what is asked"][1],
    ),
    "a range of other fractions": (
        lambda x: x * torch.arange(0.1, 0.35, 0.1) + torch.arange(0.5001, 3),
        SAME["a range of fractions"][1],
    ),
    "a constant that repeats each way of the other": (
        lambda x: x.repeat(1, 1, 2, 2) * PAIRS.T.repeat(3, 2),
        SAME["a constant that repeats in two dimensions"][1],
    ),
    "repeats elsewhere": (lambda x: x.repeat(1, 2, 1, 3), f"{ints('r', 1, 2, 3, 1)} y = Tile(x, r)"),
    "each cell at once": (lambda x: x.repeat(1, 1, 2, 2), resize(FLOOR, 1, 1, 2, 2)),
    "turned the other way": (lambda x: torch.rot90(x, 3, (2, 3)), SAME["rot90"][1]),
    "depth first": (
        lambda x: F.pixel_shuffle(x.repeat(1, 2, 1, 1) * torch.arange(8.0).view(8, 1, 1), 2),
        f"{ints('r', 1, 2, 1, 1)} t = Tile(x, r) f = Constant <value = float[8,1,1] {{0,1,2,3,4,5,6,7}}> () "
        "m = Mul(t, f) y = DepthToSpace <blocksize = 2> (m)",
    ),
    "to halves by the floor": (
        lambda x: F.interpolate(x, scale_factor=2),
        resize(f'{NEAREST}, nearest_mode = "floor", {HALF}', 1, 1, 2, 2),
    ),
    "borders, not corners": (SAME["linear to corners"][0], SAME["linear"][1]),
    "corners, not borders": (SAME["linear"][0], SAME["linear to corners"][1]),
    "no halves": (
        SAME["linear"][0],
        resize(f'{LINEAR}, coordinate_transformation_mode = "asymmetric"', 1, 1, 2, 2),
    ),
    "softplus of another limit": (
        SAME["softplus of another slope"][0],
        SAME["softplus of another slope"][1].replace(number("t", 1), number("t", 2)),
    ),
    "softplus of another slope": (lambda x: F.softplus(x, 3.0, 1.0), SAME["softplus of another slope"][1]),
    "another number where it holds not": (
        lambda x: torch.where(x > 0.5, x, -2.0),
        SAME["a number where it holds not"][1],
    ),
    "just that number": (lambda x: (x.round() == 1).float(), SAME["another number"][1]),
    "the numbers turned": (lambda x: torch.where(x > 0.5, 3.0, 2.0), SAME["one of two numbers"][1]),
    "a mean and a deviation": (
        lambda x: sum(torch.std_mean(x, (2, 3), correction=0)),
        SAME["a variance and a mean"][1],
    ),
    "a logarithm of another base": (
        lambda x: x.exp().add(1).log2() + x.exp().add(1).log2(),
        SAME["logarithms"][1],
    ),
    "whole numbers below": (lambda x: x.floor(), SAME["whole numbers towards zero"][1]),
    "another curve": (SAME["cubic"][0], resize(f"{CUBIC}, {HALF}, cubic_coeff_a = -0.5", 1, 1, 2, 2)),
    "a curve without its border": (
        SAME["cubic"][0],
        resize(f"{CUBIC}, {HALF}, exclude_outside = 1", 1, 1, 2, 2),
    ),
    "a line, not a curve": (SAME["cubic"][0], SAME["linear"][1]),
    "other stored cells": (
        SAME["stored cells of two axes"][0],
        SAME["stored cells of two axes"][1].replace("3, 0}", "3, 1}"),
    ),
    "numbers of samples from one on": (
        SAME["computed cells of two axes"][0],
        SAME["computed cells of two axes"][1].replace(
            "j = Constant <value_int = 0>", "j = Constant <value_int = -1>"
        ),
    ),
    "cells of the axes the other way round": (
        SAME["computed cells of two axes"][0],
        SAME["computed cells of two axes"][1].replace("(r, f)", "(f, r)"),
    ),
    "edges": (SAME["reflected"][0], padded("edge", 0, 0, 0, 1, 0, 0, 1, 2)),
    "turned over twice": (SAME["turned over"][0], turned(0, 1, 1, 2, 0, 0, 0, 0)),
    "padding before, not behind": (SAME["edges"][0], padded("edge", 0, 0, 1, 2, 0, 0, 0, 1)),
    "the smallest": (SAME["largest"][0], f"{ints('k', 2)} y, i = TopK <axis = 1, largest = 0> (x, k)"),
    "one more": (
        lambda x: x.topk(2, 1).values.sum(1),
        f"{ints('k', 3)} v, i = TopK <axis = 1> (x, k) y = ReduceSum <keepdims = 0> (v)",
    ),
    "without the own cell": (
        SAME["cumsum"][0],
        "a = Constant <value_int = 2> () y = CumSum <exclusive = 1> (x, a)",
    ),
    "from behind": (SAME["cumsum"][0], "a = Constant <value_int = 2> () y = CumSum <reverse = 1> (x, a)"),
    "along another axis": (SAME["cumsum"][0], "a = Constant <value_int = 3> () y = CumSum(x, a)"),
    "of all cells": (lambda x: x.std((2, 3), correction=0), SAME["std"][1]),
    "a lower limit": (F.softplus, PLUS.replace("20.0", "2.0")),
    "the limit on the other side": (F.softplus, PLUS.replace("Greater", "Less")),
    "the other half": (SAME["glu"][0], SAME["glu"][1].replace("a, b =", "b, a =")),
    "a steeper celu": (lambda x: F.celu(x, 0.25), SAME["celu"][1]),
    "the limit itself": (SAME["threshold"][0], SAME["threshold"][1].replace("LessOrEqual", "Less")),
    "or": (SAME["and"][0], SAME["and"][1].replace("And", "Or")),
    "differences the other way": (SAME["diff"][0], SAME["diff"][1].replace("Sub(u, l)", "Sub(l, u)")),
    "other places": (SAME["places"][0], SAME["places"][1].replace("0.2", "0.2001")),
    "written to another part": (lambda x: written(x * 1.5, slice(2, 4)), SAME["written to a part"][1]),
    "a bound that is no number": (
        lambda x: x.clamp(min=float("nan")),
        f"{number('o', -1)} n = Sqrt(o) y = Clip(x, n)",
    ),
    "no axis, by which all are meant": (
        lambda x: x.mean(1, keepdim=True),
        "m = ReduceMean <axes = [1]> (x) a = Constant <value = int64[0] {}> () y = Squeeze(m, a)",
    ),
    "slower waves": (lambda x: x + waves(100.001), SAME["waves"][1]),
    "spread by other strides": (spread, TRANSPOSED.replace("[1, 3]", "[1, 2]")),
    "spread in one group": (
        lambda x: F.conv_transpose2d(x, SPREAD, stride=(1, 3)),
        f"{STORED} y = ConvTranspose <group = 2, strides = [1, 3]> (x, w)",
    ),
    "spread with a last column": (spread, TRANSPOSED.replace("1, 0, 1, 1", "1, 0, 1, 0")),
    "spread by another weight": (spread, TRANSPOSED.replace("24", "23")),
    "spread more closely": (
        lambda x: F.conv_transpose2d(x, SPREAD[..., :2], padding=(1, 0), dilation=(2, 1)),
        f"{STORED.replace('2,3]', '2,2]')} y = ConvTranspose <pads = [0, 0, 1, 0]> (x, w)",
    ),
    "another table": (lambda x: x + torch.linspace(-1, 1.001, 3), SAME["a table"][1]),
    "three of which one is turned": (
        lambda x: torch.einsum("...hw,wv,uv->...uh", x, PAIRS, PAIRS),
        SAME["einsum of three"][1],
    ),
    "a product along another axis": (
        lambda x: torch.einsum("bchw,w->bhcw", x, PAIRS[:, 0]),
        SAME["einsum that sums nothing"][1],
    ),
    "dots for other axes": (
        SAME["einsum's dots"][0],
        'y = Einsum <equation = "...hw, ...wv -> ...hv"> (x, x)',
    ),
}


def run(text: str) -> np.ndarray:
    """What ONNX Runtime gives."""
    return run_file(model(text))


def run_file(file: onnx.ModelProto) -> np.ndarray:
    """What it gives for a file."""
    file.graph.output[0].type.tensor_type.ClearField("shape")
    (result,) = ort.InferenceSession(file.SerializeToString()).run(None, {"x": X.numpy()})
    return np.asarray(result)


def is_proved(function: Function, text: str) -> bool:
    """Whether the function as torch.export records it is the nodes."""
    return derive(graph_of_module(Applied(function), (X,)), graph_of_onnx(model(text))).is_proved


@pytest.mark.parametrize("name", SAME)
def test_what_means_the_same_is_proved(name: str) -> None:
    function, text = SAME[name]
    np.testing.assert_allclose(run(text), function(X).numpy(), rtol=1e-5, atol=1e-6)
    assert is_proved(function, text)


KERNEL = torch.linspace(-1, 1, 2 * X.shape[1] * 9).reshape(2, X.shape[1], 3, 3)


def of_patches(x: torch.Tensor, **how: tuple[int, int]) -> torch.Tensor:
    """The convolution, of an unchanged size, as a matrix product."""
    patches = F.unfold(x, (3, 3), **how)
    return F.fold(KERNEL.flatten(1) @ patches, x.shape[2:], 1)


MODULES: dict[str, tuple[Function, Function]] = {
    "a sum over its free number of cells": (
        lambda x: x.mean((2, 3)),
        lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]),
    ),
    "rows, then columns": (
        lambda x: x.mean((2, 3)),
        lambda x: F.adaptive_avg_pool2d(x, (None, 1)).mean(2).squeeze(-1),
    ),
    "a wider type on the way": (lambda x: x.exp(), lambda x: x.double().float().exp()),
    "a convolution of patches": (
        lambda x: F.conv2d(x, KERNEL, padding=(1, 2), dilation=(1, 2)).exp(),
        lambda x: of_patches(x, padding=(1, 2), dilation=(1, 2)).exp(),
    ),
    "padding that is cut off": (lambda x: x.exp(), lambda x: F.pad(x, (1, 2))[..., 1:-2].exp()),
}
OTHER_MODULES: dict[str, tuple[Function, Function]] = {
    "rows alone": (MODULES["a sum over its free number of cells"][0], lambda x: x.sum((2, 3)) / x.shape[2]),
    "of another axis": (
        MODULES["a sum over its free number of cells"][0],
        lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[2]),
    ),
    "a largest column": (
        MODULES["rows, then columns"][0],
        lambda x: F.adaptive_avg_pool2d(x, (None, 1)).amax(2).squeeze(-1),
    ),
    "a shorter type on the way": (lambda x: x.exp(), lambda x: x.half().float().exp()),
    "a convolution of other patches": (
        lambda x: F.conv2d(x, KERNEL, padding=(2, 2), dilation=(2, 2)).exp(),
        lambda x: of_patches(x, padding=(1, 1)).exp(),
    ),
    "patches by turned weights": (
        lambda x: F.conv2d(x, KERNEL.mT, padding=1).exp(),
        lambda x: of_patches(x, padding=(1, 1)).exp(),
    ),
    "padding that is cut off elsewhere": (lambda x: x.exp(), lambda x: F.pad(x, (1, 2))[..., 2:-1].exp()),
}


def are_one(functions: tuple[Function, Function]) -> bool:
    """Whether two functions are one at every batch and size."""
    first, second = (graph_of_module(Applied(function), (X,), free_sizes=True) for function in functions)
    return derive(first, second).is_proved


@pytest.mark.parametrize("name", MODULES)
def test_what_modules_compute_alike_is_proved_at_every_size(name: str) -> None:
    torch.testing.assert_close(*(function(X) for function in MODULES[name]))
    assert are_one(MODULES[name])


@pytest.mark.parametrize("name", OTHER_MODULES)
def test_what_modules_compute_otherwise_is_not(name: str) -> None:
    assert not are_one(OTHER_MODULES[name])


MAY_NOT_MATTER: dict[str, tuple[Function, Function]] = {
    "a modulus": (lambda x: x.fmod(0.7), lambda x: x.fmod(-0.7)),
    "a slope": (lambda x: F.leaky_relu(x.abs(), 0.1), lambda x: F.leaky_relu(x.abs(), 0.2)),
    "a limit": (lambda x: (x.abs() > -1).float(), lambda x: (x.abs() > -2).float()),
    "a bound": (lambda x: x.sigmoid().clamp(-1, 1), lambda x: x.sigmoid().clamp(-2, 1)),
}


@pytest.mark.parametrize("name", MAY_NOT_MATTER)
def test_a_number_that_may_never_matter_is_no_broken_one(name: str) -> None:
    found = derive(*(graph_of_module(Applied(function), (X,)) for function in MAY_NOT_MATTER[name]))
    assert not found.is_proved
    assert found.unrelated
    assert not found.constants


@pytest.mark.parametrize("name", OTHER)
def test_what_means_something_else_is_not_proved(name: str) -> None:
    assert not is_proved(*OTHER[name])


@pytest.mark.parametrize("cells", [1, 3])
def test_a_mask_of_fewer_cells_masks_the_others(cells: int) -> None:
    mask = torch.zeros(3, cells)
    file = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 24]> g (float[n,4,3,3] x) => (float[n,4,3,3] y) '
        f"{{ {ints('s', 3, cells)} m = ConstantOfShape (s) y = Attention (x, x, x, m) }}"
    )
    attention = Applied(lambda x: F.scaled_dot_product_attention(x, x, x, mask))
    assert derive(graph_of_module(attention, (X,)), graph_of_onnx(file)).is_proved == (cells == 3)


@pytest.mark.parametrize(
    ("width", "share"), [(1, 0), (5, 0), (64, 0), (80, 0), (96, 0), (80, 1e-6), (64, 1e-6)]
)
def test_queries_and_keys_are_multiplied_with_the_root_of_a_scale(width: int, share: float) -> None:
    scale = width**-0.5
    root = np.sqrt(np.float32(scale * (1 + share)))
    text = (
        f"{number('r', float(root))} q = Mul (x, r) t = Transpose <perm = [0, 1, 3, 2]> (x) k = Mul (t, r) "
        "s = MatMul (q, k) p = Softmax (s) y = MatMul (p, x)"
    )
    attention = Applied(lambda x: F.scaled_dot_product_attention(x, x, x, scale=scale))
    found = derive(graph_of_module(attention, (X,)), graph_of_onnx(model(text)))
    assert found.is_proved is (share == 0)
    assert bool(found.constants) is (share != 0)


@pytest.mark.parametrize(("size", "curve", "expected"), [(3, -0.5, True), (3, -0.7, False), (2, -0.5, False)])
def test_a_smooth_resize_is_read_at_the_size_that_its_operand_has(
    size: int, curve: float, expected: bool
) -> None:
    body = sized(f"{CUBIC}, {HALF}, antialias = 1, cubic_coeff_a = {curve}", size, size).replace("y =", "r =")
    file = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> g (float[n,4,3,3] x) => (float[n,4,p,q] y) '
        f"{{ {body} y = Relu (r) }}"
    )
    smooth = Applied(lambda x: F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).relu())
    if expected:
        np.testing.assert_allclose(run_file(file), smooth(X).numpy(), rtol=1e-4, atol=1e-5)
    assert derive(graph_of_module(smooth, (X,)), graph_of_onnx(file)).is_proved is expected


@pytest.mark.parametrize(("end", "expected"), [(10**6, False), (10**9, True), (2**31 - 1, True)])
def test_an_end_that_exporters_leave_open_is_that_of_every_axis(end: int, expected: bool) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,4] x) => (float[m,4] y) {{ {} }}'
    cut = f"{ints('s', 0)} {ints('e', end)} c = Slice(x, s, e, s) y = Exp(c)"
    graphs = (graph_of_onnx(parser.parse_model(text.format(body))) for body in (cut, "y = Exp(x)"))
    assert derive(*graphs).is_proved is expected


@pytest.mark.parametrize(("epsilon", "expected"), [(1e-5, True), (2e-5, False)])
def test_a_norm_in_half_precision_is_computed_in_single(epsilon: float, expected: bool) -> None:
    head = "s = Constant <value_floats = [{}]> () h = Cast <to = 10> (s)"
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float16[n,4] x) => (float16[n,4] y) '
        f"{{ {head.format('1., 2., 3., 4.')} "
    )
    norm = parser.parse_model(f"{text} y = LayerNormalization <epsilon = 1e-5> (x, h) }}")
    wide = "c = Cast <to = 1> (x) o = Constant <value_floats = [1., 1., 1., 1.]> ()"
    spelled = f"n = LayerNormalization <epsilon = {epsilon}> (c, o) k = Cast <to = 10> (n) y = Mul (k, h)"
    other = parser.parse_model(f"{text} {wide} {spelled} }}")
    assert derive(graph_of_onnx(norm), graph_of_onnx(other)).is_proved is expected


@pytest.mark.parametrize(("approximate", "expected"), [("none", True), ("tanh", False)])
def test_a_gelu_in_half_precision_is_one_behind_a_view(approximate: str, expected: bool) -> None:
    text = '<ir_version: 9, opset_import: ["" : 20]> g (float16[n,4] x) => (float16[n,4] y) {{ {} }}'
    gate = f'u = Reshape(x, s) g = Gelu <approximate = "{approximate}"> (u) y = Flatten(g)'
    bodies = ("y = Gelu(x)", f"{ints('s', 0, 4, 1, 1)} {gate}")
    assert (
        derive(*(graph_of_onnx(parser.parse_model(text.format(body))) for body in bodies)).is_proved
        is expected
    )


@pytest.mark.parametrize(("scale", "zero"), [(0.5, 3), (0.25, 3), (0.5, 4)])
def test_what_is_quantised_in_half_precision_is_so_behind_a_view(scale: float, zero: int) -> None:
    text = '<ir_version: 9, opset_import: ["" : 19]> g (float16[n,4] x) => (int8[n,4] y) {{ {} }}'
    view = f"{ints('w', 0, 4, 1, 1)} u = Reshape(x, w) q = QuantizeLinear(u, s, z) y = Flatten(q)"
    graphs = []
    for body, levels in (("y = QuantizeLinear(x, s, z)", (0.5, 3)), (view, (scale, zero))):
        file = parser.parse_model(text.format(body))
        stored = (np.array(levels[0], np.float16), np.array(levels[1], np.int8))
        file.graph.initializer.extend(map(numpy_helper.from_array, stored, "sz"))
        graphs.append(graph_of_onnx(file))
    found = derive(*graphs)
    assert found.is_proved is ((scale, zero) == (0.5, 3))


def test_a_gate_that_a_runtime_folded_is_the_gate() -> None:
    gate = torch.full((4, 1, 1), -5.0)
    folded = run(f"{number('z', 0)} a = Mul(x, z) {number('g', -5)} b = Add(a, g) y = Sigmoid(b)")[0, 0, 0, 0]
    assert abs(folded - gate.sigmoid()[0]) > 16 * np.spacing(folded)
    for stored, is_same in ((folded, True), (folded * np.float32(1.001), False)):
        text = f"{number('g', stored)} y = Mul(x, g)"
        assert is_proved(lambda x: x * torch.sigmoid(gate), text) == is_same


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[4, 5]", "[4, 5]", True),
        ("[0, 1, 0, 1]", "[0, 0, 0, 2]", False),
        ("[4, 5]", "[5, 5]", False),
    ],
)
def test_patches_are_added_up_alike(old: str, new: str, expected: bool) -> None:
    def added(x: torch.Tensor) -> torch.Tensor:
        patches = x.flatten(2)[..., :4]
        return F.fold(patches, (4, 5), (2, 2), padding=(0, 1), stride=(1, 3), dilation=(2, 1))

    file = model(FOLDED.replace(old, new))
    file.opset_import[0].version = 18
    found = derive(graph_of_module(Applied(added), (X,)), graph_of_onnx(file))
    assert found.is_proved is expected
    if expected:
        file.graph.output[0].type.tensor_type.ClearField("shape")
        (result,) = ort.InferenceSession(file.SerializeToString()).run(None, {"x": X.numpy()})
        assert np.allclose(result, added(X).numpy(), atol=1e-6)


@pytest.mark.parametrize("how", [{"stride": 2}, {"padding": (2, 1), "stride": (1, 2), "dilation": (2, 1)}])
def test_blocks_are_those_of_the_file(how: dict[str, Any], tmp_path: Path) -> None:
    module = nn.Unfold(2, **how)
    file = graph_of_onnx(onnx.load(export_onnx(module, X, tmp_path / "blocks.onnx")))
    assert derive(graph_of_module(module, (X,)), file).is_proved
    other = nn.Unfold(2, **how | {"dilation": (1, 1), "stride": (2, 2), "padding": (1, 0)})
    assert not derive(graph_of_module(other, (X,)), file).is_proved


def test_a_file_of_a_fixed_batch_may_repeat_what_is_joined_to_each_sample() -> None:
    token = torch.arange(9.0).view(1, 1, 3, 3)
    module = Applied(lambda x: torch.cat([token.expand(x.shape[0], -1, -1, -1), x], 1).exp())
    for cells, expected in ((list(range(9)) * 2, True), (list(range(18)), False)):
        stored = ", ".join(map(str, cells))
        file = parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 18]> g (float[2,4,3,3] x) => (float[2,5,3,3] y) '
            f"{{ t = Constant <value = float[2,1,3,3] {{{stored}}}> () c = Concat <axis = 1> (t, x) "
            "y = Exp(c) }"
        )
        assert derive(graph_of_module(module, (X,)), graph_of_onnx(file)).is_proved == expected
