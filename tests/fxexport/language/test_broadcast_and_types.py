"""What constants do beside their value: they repeat what they meet, and their types wrap and lose digits."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from onnx.reference import ReferenceEvaluator
from torch import nn

from fxexport.language import derive, graph_of_module, graph_of_onnx

Tensor = torch.Tensor
X = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
TENTHS = "e = Constant <value_floats = [0.1, 0.2]> () f = Constant <value_float = 0.3> () k = Mul(e, f)"
STORED = "k = Constant <value_floats = [0.1, 0.2]> ()"
EACH = "r = Constant <value_ints = [2, 1]> () o = Constant <value_ints = [2, 2]> ()"
FOUR = "i = Constant <value_ints = [4, 1, 1]> ()"
BACK = (
    "s = Constant <value_ints = [-1]> () t = Constant <value_ints = [-2147483648]> () "
    "a = Constant <value_ints = [0]> () l = Slice(h, s, t, a, s) y = Add(x, l)"
)
HEADER = '<ir_version: 8, opset_import: ["" : 17, "my" : 1]>'


def model(text: str, functions: str = "") -> onnx.ModelProto:
    """A model of these nodes from x to y."""
    return parser.parse_model(f"{HEADER} g (float[n,4,3,3] x) => (float[m] y) {{ {text} }} {functions}")


ONES = "c = Constant <value = float[1,1,2,2] {1,1,1,1}> ()"
ZEROS = "c = Constant <value = float[1,1,1,1,1] {0}> ()"
TWOS = "t = Constant <value_float = 2.0> () s = Constant <value_ints = [1,1,2,2]> () c = Expand(t, s)"
ALL = "y = ReduceSum <keepdims = 0> (q)"
MEAN = "p = GlobalAveragePool(x)"
AXES = "a = Constant <value_ints = [0]> () b = Constant <value_ints = [1]> ()"
TOO_LARGE = "k = Constant <value = int32 {100000}> () q = Mul(k, k) r = Cast <to = 1> (q) y = Mul(x, r)"


def sum_of_every_second(end: int) -> str:
    """X plus the sum of every second stored cell before an end."""
    return (
        f"k = Constant <value = float[1,1,1,4] {{1, 2, 3, 4}}> () e = Constant <value_ints = [{end}]> () "
        "z = Constant <value_ints = [0]> () a = Constant <value_ints = [3]> () "
        "t = Constant <value_ints = [2]> () l = Slice(k, z, e, a, t) s = ReduceSum(l, a) y = Add(x, s)"
    )


def doubled(stored: str, *, is_each: bool) -> str:
    """X plus four cells from behind: two, each of them twice or both of them twice."""
    column = "j = Reshape(k, r)" if is_each else "j = Identity(k)"
    return f"{stored} {EACH} {FOUR} {column} g = Expand(j, o) h = Reshape(g, i) {BACK}"


ONE_MORE = "o = Constant <value_float = 1.0> () y = Add(x, o)"


def there_and_back(factor: float, inverse: float) -> str:
    """X plus a computed number that is 1 over the reals."""
    return (
        f"a = Constant <value_float = {factor}> () b = Constant <value_float = {inverse}> () "
        "c = Mul(a, a) d = Mul(c, b) e = Mul(d, b) y = Add(x, e)"
    )


WHOLE = "h = Constant <value_float = 10.0> () z = Mul(x, h) i = Cast <to = 6> (z)"

DIFFERENT = {
    "ones that repeat": (f"{MEAN} {ONES} q = Mul(p, c) {ALL}", f"{MEAN} q = Identity(p) {ALL}"),
    "a zero of more axes": (f"{ZEROS} y = Add(x, c)", "y = Identity(x)"),
    "an exponent that repeats": (
        f"{MEAN} {TWOS} q = Pow(p, c) {ALL}",
        f"{MEAN} {TWOS} q = Pow(p, t) {ALL}",
    ),
    "a bound that repeats": (
        f"{MEAN} {TWOS} q = Max(p, c) {ALL}",
        f"{MEAN} {TWOS} q = Max(p, t) {ALL}",
    ),
    "a factor with an axis before it": (
        f"f = Flatten(x) {AXES} u = Unsqueeze(f, a) q = Mul(f, u) y = ReduceSum(q, b)",
        f"f = Flatten(x) {AXES} q = Mul(f, f) y = ReduceSum(q, b)",
    ),
    "means of whole numbers": (
        f"{WHOLE} j = ReduceMean <axes = [3]> (i) q = ReduceMean <axes = [2]> (j) y = Cast <to = 1> (q)",
        f"{WHOLE} q = ReduceMean <axes = [2, 3]> (i) y = Cast <to = 1> (q)",
    ),
    "a product past the end of its type": (TOO_LARGE, "y = Identity(x)"),
    "computed cells that repeat in another order": (
        doubled(TENTHS, is_each=True),
        doubled(TENTHS, is_each=False),
    ),
    "stored cells that repeat in another order": (
        doubled(STORED, is_each=True),
        doubled(STORED, is_each=False),
    ),
    "no cells at all": (sum_of_every_second(0), sum_of_every_second(-1)),
    "a sum without digits": (
        "a = Constant <value_float = 1e8> () b = Constant <value_float = 3.0> () s = Add(a, b) n = Neg(a) "
        "k = Add(s, n) y = Mul(x, k)",
        "y = Identity(x)",
    ),
    "a product past the end of floats": (there_and_back(1e30, 1e-30), ONE_MORE),
    "a product next to nothing": (there_and_back(1e-30, 1e30), ONE_MORE),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_files_that_differ_are_not_proved(name: str) -> None:
    models = [model(text) for text in DIFFERENT[name]]
    with np.errstate(all="ignore"):
        first, second = (next(iter(ReferenceEvaluator(item).run(None, {"x": X.numpy()}))) for item in models)
    assert first.shape != second.shape or not np.allclose(first, second)
    assert not derive(*map(graph_of_onnx, models)).is_proved


def of_opset_18(text: str) -> onnx.ModelProto:
    """A model of these nodes from x to y, where reductions take their axes as operands."""
    return parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[n,4,3,3] x) => (float[m] y) {{ {text} }}'
    )


def test_a_norm_over_no_axis_drops_the_sign() -> None:
    norm = "a = Constant <value = int64[0] {}> () y = ReduceL2 <noop_with_empty_axes = 1> (x, a)"
    absolute, same, over_none = map(of_opset_18, ("y = Abs(x)", "y = Identity(x)", norm))
    found = ReferenceEvaluator(over_none).run(None, {"x": X.numpy()})[0]
    assert np.allclose(found, ReferenceEvaluator(absolute).run(None, {"x": X.numpy()})[0])
    assert not derive(*map(graph_of_onnx, (over_none, same))).is_proved


REFUSED = {
    "a range between vectors": "k = Constant <value_ints = [0, 1]> () r = Range(k, k, k)",
    "a range of too many": (
        "k = Constant <value_int = 0> () l = Constant <value_int = 1099511627776> () "
        "d = Constant <value_int = 1> () r = Range(k, l, d)"
    ),
    "too many zeros": "k = Constant <value_ints = [1099511627776]> () r = ConstantOfShape(k)",
    "fewer zeros than none": "k = Constant <value_ints = [-3]> () r = ConstantOfShape(k)",
    "minus a truth": "k = Constant <value = bool[1] {1}> () r = Neg(k)",
    "a truth less another": "k = Constant <value = bool[1] {1}> () r = Sub(k, k)",
    "integers of other extents": (
        "k = Constant <value_ints = [1, 2]> () l = Constant <value_ints = [1, 2, 3]> () r = Add(k, l)"
    ),
    "more cells than there are": (
        "k = Constant <value_ints = [1, 2]> () s = Constant <value_ints = [3]> () r = Reshape(k, s)"
    ),
    "an index that is a fraction": "k = Constant <value_floats = [nan]> () r = Gather(x, k)",
    "places without an axis": "k = Constant <value_int = 0> () r = ScatterND(x, k, x)",
    "no pieces": "r, o = Split <axis = 1, num_outputs = 0> (x)",
    "a type that is none": "r = Cast <to = -2> (x)",
    "an axis that is no number": "k = Constant <value_float = nan> () r = CumSum(x, k)",
    "repeats below nothing": "k = Constant <value_ints = [1, -1, 1, 1]> () r = Tile(x, k)",
    "repeats of another rank": "k = Constant <value_ints = [2]> () r = Tile(x, k)",
    "blocks of nothing": "r = DepthToSpace <blocksize = 0> (x)",
    "blocks that do not fit": "r = DepthToSpace <blocksize = 3> (x)",
    "cells of no blocks": "r = SpaceToDepth <blocksize = -2> (x)",
    **{
        f"scales of {scale}": (
            f"k = Constant <value_floats = [1.0, 1.0, {scale}, {scale}]> () "
            f'r = Resize <mode = "{mode}"> (x, , k)'
        )
        for scale in ("nan", "inf", "-2.0", "0.0", "1e30", "1.3")
        for mode in ("nearest", "linear")
    },
    "scales of one axis": "k = Constant <value_floats = [2.0]> () r = Resize (x, , k)",
    "sizes of nothing": "k = Constant <value_ints = [0, 0, 0, 0]> () r = Resize (x, , , k)",
    "sizes below nothing": (
        'k = Constant <value_ints = [2, 4, -3, -3]> () r = Resize <mode = "linear"> (x, , , k)'
    ),
    "more than there are": "k = Constant <value_ints = [9]> () r, o = TopK (x, k)",
    "fewer than none": "k = Constant <value_ints = [-1]> () r, o = TopK (x, k)",
    "several numbers of cells": "k = Constant <value_ints = [1, 2]> () r, o = TopK (x, k)",
    "padding that leaves nothing": "k = Constant <value_ints = [0, 0, -9, 0, 0, 0, 0, 0]> () r = Pad (x, k)",
    "mirrors that are too wide": (
        'k = Constant <value_ints = [0, 0, 99, 0, 0, 0, 0, 0]> () r = Pad <mode = "reflect"> (x, k)'
    ),
    "mirrors that cut": (
        'k = Constant <value_ints = [0, 0, -1, 0, 0, 0, 0, 0]> () r = Pad <mode = "reflect"> (x, k)'
    ),
    **{
        f"the sum {number}": f'r = Einsum <equation = "{equation}"> (x, x)'
        for number, equation in enumerate(
            ("...->", "..,..->", "....,...->...", "...a,...->...ab", "...,...->", "...")
        )
    },
    "a shape that one truth chooses": (
        "k = Constant <value = bool {1}> () s = Shape(x) t = Reshape(x, s) u = Shape(t) r = Where(k, s, u)"
    ),
    "powers of each other": ("k = Constant <value_floats = [1.5, 2.5, 3.5]> () l = Pow(k, k) r = Mul(x, l)"),
}
"""Most are refused by runtimes; the last is not."""


@pytest.mark.parametrize("name", REFUSED)
def test_nodes_that_nobody_runs_are_no_errors_of_the_reader(name: str) -> None:
    found = derive(*(graph_of_onnx(of_opset_18(f"{REFUSED[name]} y = Identity(x)")) for _ in range(2)))
    assert found.is_proved is (name != "a type that is none")


@pytest.mark.parametrize(
    ("text", "number"), [("int32 {100000}", 1410065408.0), ("uint8 {200}", 64.0), ("int64 {7}", 49.0)]
)
def test_products_of_integers_wrap_as_their_type_does(text: str, number: float) -> None:
    wrapped = f"k = Constant <value = {text}> () q = Mul(k, k) r = Cast <to = 1> (q) y = Mul(x, r)"
    plain = f"r = Constant <value_float = {number}> () y = Mul(x, r)"
    assert derive(*(graph_of_onnx(model(item)) for item in (wrapped, plain))).is_proved


def test_an_axis_that_is_counted_from_behind_is_no_other_constant() -> None:
    texts = [
        f"a = Constant <value = int64 {{{axis}}}> () y = CumSum <reverse = 1> (x, a)" for axis in (3, -1)
    ]
    found = derive(*(graph_of_onnx(model(text)) for text in texts))
    assert not found.is_proved
    assert not found.constants
    assert found.unrelated


def test_overloads_of_a_function_are_told_apart() -> None:
    files = []
    for overload in ("p", "q"):
        file = model(
            "y = my.Act(x)",
            "".join(
                f'<opset_import: ["" : 17], domain: "my"> Act (a) => (b) {{ b = {op}(a) }}'
                for op in ("Relu", "Neg")
            ),
        )
        for function, name in zip(file.functions, ("p", "q"), strict=True):
            function.overload = name
        file.graph.node[0].overload = overload
        files.append(file)
    assert not derive(*map(graph_of_onnx, files)).is_proved


class Plain(nn.Module):
    """One function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def imaginary(part: float) -> Callable[[Tensor], Tensor]:
    """A product with a complex constant."""
    return lambda x: (x * torch.complex(torch.ones(3), torch.full((3,), part))).abs()


def places(sign: float) -> Callable[[Tensor], Tensor]:
    """The places of maxima."""
    return lambda x: nn.functional.max_pool2d(sign * x, 2, return_indices=True)[1].float()


def written_through(view: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What is written to a view is seen in what it is a view of."""

    def function(x: Tensor) -> Tensor:
        whole = x + 0.5
        view(whole).mul_(2)
        return whole

    return function


def seen_through(view: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What is written to a whole is seen in a view of it."""

    def function(x: Tensor) -> Tensor:
        whole = x + 0.5
        part = view(whole)
        whole.mul_(2)
        return part + 0

    return function


def moved_on(source: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Channels copied over their neighbours."""

    def function(x: Tensor) -> Tensor:
        whole = x + 0.5
        whole[:, 1:] = source(whole[:, :-1])
        return whole

    return function


MODULES = {
    "channels that are copied over each other": (moved_on(lambda x: x), moved_on(torch.clone)),
    "cells that repeat more often, summed": (
        lambda x: x * torch.full((3,), 2.0).sum(),
        lambda x: x * torch.full((4,), 2.0).sum(),
    ),
    "imaginary parts": (imaginary(0.5), imaginary(2.0)),
    "places of other maxima": (places(1), places(-1)),
    "a norm in 16 bits whose small number is that of 32": (
        lambda x: nn.functional.rms_norm((x * 1e-3).bfloat16(), x.shape[-1:]),
        lambda x: nn.functional.rms_norm((x * 1e-3).bfloat16(), x.shape[-1:], eps=2.0**-7),
    ),
    "a product of what repeats": (
        lambda x: x[..., None].expand(-1, -1, -1, -1, 3).prod(-1),
        lambda x: x * 3,
    ),
    "a root of another degree": (lambda x: x.abs() ** 0.4, lambda x: x.abs().sqrt()),
    "bits of integers": (
        lambda x: x * torch.bitwise_and((x * 3).int(), torch.full((), 2, dtype=torch.int32)).bool(),
        lambda x: x * torch.logical_and((x * 3).int(), torch.full((), 2, dtype=torch.int32)),
    ),
    "no truth is two": (lambda x: x * ((x > 0) < 2), lambda x: x * ((x > 0) < 1)),
    "a number that halves do not hold": (
        lambda x: (x * 1e-3).half() * torch.tensor(1e5),
        lambda x: (x * 1e-3).half() * torch.tensor(2e5),
    ),
    "ones as many as samples": (
        lambda x: (x.mean(0, keepdim=True) * torch.full((x.shape[0], 1, 1, 1), 1.0)).sum(0),
        lambda x: x.mean(0, keepdim=True).sum(0),
    ),
    "a view of a sum": (written_through(lambda x: torch.einsum("bchw->bcwh", x)), lambda x: x + 0.5),
    "pieces": (written_through(lambda x: x.unsafe_chunk(2, 1)[0]), lambda x: x + 0.5),
    "a dimension that is cut anew": (
        lambda x: x.permute(0, 2, 1, 3).flatten(1).unflatten(1, (18, 2)),
        lambda x: x.permute(0, 3, 1, 2).flatten(1).unflatten(1, (18, 2)),
    ),
    "the sign of nothing": (
        lambda x: torch.atan2(torch.tensor(-0.0), x),
        lambda x: torch.atan2(torch.tensor(0.0), x),
    ),
    "pieces of what is written": (
        seen_through(lambda x: x.unsafe_split(2, 1)[0]),
        lambda x: (x + 0.5).unsafe_split(2, 1)[0] + 0,
    ),
    "a grid": (
        written_through(lambda x: torch.meshgrid(x.view(-1), indexing="ij")[0]),
        lambda x: x + 0.5,
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_differ_are_not_proved(name: str) -> None:
    modules = [Plain(function) for function in MODULES[name]]
    results = [module(X).double() for module in modules]
    assert not torch.allclose(*results)
    assert not derive(*(graph_of_module(module, (X,)) for module in modules)).is_proved


def test_what_is_written_to_what_was_not_dropped_is_written() -> None:
    functions = written_through(lambda x: nn.functional.dropout(x, training=False)), lambda x: (x + 0.5) * 2
    written, same, other = (graph_of_module(Plain(f), (X,)) for f in (*functions, lambda x: x + 0.5))
    found = derive(written, same)
    # torch 2.11 records that it is written to a copy
    assert found.is_proved or found.problem == "aten.mul_.Tensor changes a value in place that may have views"
    assert not derive(written, other).is_proved


def test_all_results_of_an_operator_are_read() -> None:
    both = [Plain(lambda x: nn.functional.max_pool2d(x, 2, return_indices=True)) for _ in range(2)]  # type: ignore[arg-type, return-value]
    found = derive(*(graph_of_module(module, (X,)) for module in both))
    assert found.is_proved
    assert len(found.outputs) == 2


def test_cells_that_repeat_are_those_that_are_written_out() -> None:
    stored = f"k = Constant <value_floats = [0.1, 0.1, 0.2, 0.2]> () {FOUR} h = Reshape(k, i) {BACK}"
    models = [model(text) for text in (doubled(STORED, is_each=True), stored)]
    assert derive(*map(graph_of_onnx, models)).is_proved


def test_a_dropout_that_is_told_by_the_input_may_be_on() -> None:
    told = "r = Constant <value_float = 0.5> () s = ReduceMax <keepdims = 0> (x) m = Cast <to = 9> (s)"
    models = [model(f"{told} y = Dropout(x, r, m)"), model("y = Identity(x)")]
    assert not derive(*map(graph_of_onnx, models)).is_proved


@pytest.mark.parametrize(("share", "is_one"), [(0.0, True), (0.5, False)])
def test_a_dropout_in_training_that_drops_nothing_is_none(share: float, is_one: bool) -> None:
    """It was called random, and so broken without a witness."""
    told = f"r = Constant <value_float = {share}> () o = Constant <value_int = 1> () m = Cast <to = 9> (o)"
    models = [model(f"{told} y = Dropout(x, r, m)"), model("y = Identity(x)")]
    assert derive(*map(graph_of_onnx, models)).is_proved is is_one


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_a_pool_with_gaps_says_itself_how_much_is_padded(pool: str) -> None:
    """ONNX Runtime counts no gaps where it pads for a result of the same extents."""
    models = []
    for padding in ('auto_pad = "SAME_UPPER"', "pads = [1, 1, 1, 1]"):
        made = model(f"y = {pool} <kernel_shape = [2, 2], dilations = [2, 2], {padding}> (x)")
        made.opset_import[0].version = 19
        models.append(made)
    assert not derive(*map(graph_of_onnx, models)).is_proved
    plain = [
        model(f"y = {pool} <kernel_shape = [2, 2], {padding}> (x)")
        for padding in ('auto_pad = "SAME_UPPER"', "pads = [0, 0, 1, 1]")
    ]
    assert derive(*map(graph_of_onnx, plain)).is_proved


@pytest.mark.parametrize(("step", "is_one"), [(1, False), (2, True), (4, True)])
def test_a_window_longer_than_the_map_by_a_step_stops_nowhere(step: int, is_one: bool) -> None:
    window = f"kernel_shape = [4, 4], strides = [{step}, {step}], ceil_mode = 1"
    models = [model(f"y = AveragePool <{window}> (x)"), model("y = GlobalAveragePool(x)")]
    assert derive(*map(graph_of_onnx, models)).is_proved is is_one


def _of_number(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return x + function(x.mean())


READ: dict[str, Callable[[Tensor], Tensor]] = {
    "blocks of one map alone": lambda x: x + nn.functional.unfold(x[0], 1).sum(),
    "a vector as a weight": lambda x: x + nn.functional.linear(x, torch.ones(3))[..., None],
    "a variance over the batch": lambda x: x - x.var(0),
    "a sum of what repeats as often as there are samples": lambda x: x + x[:1].expand_as(x).sum(0),
    "a cell of a joined batch": lambda x: torch.cat([x, x])[0],
    "a factor along what repeats": lambda x: (
        nn.functional.linear(x, torch.tensor([[1.0, 2, 3], [4, 5, 6]]))[..., None].expand(-1, -1, -1, -1, 3)
        * torch.tensor([1.0, 2, 3])
    ),
    **{
        f"a number as a vector of one, {name}": functools.partial(_of_number, function)
        for name, function in {
            "softmax": lambda x: x.softmax(0),
            "softmax's logarithm": lambda x: x.log_softmax(-1),
            "its sum": lambda x: x.cumsum(0),
            "its largest": lambda x: x.max(0).values,
            "in order": lambda x: x.sort(0).values,
            "turned": lambda x: x.transpose(0, -1),
            "squeezed": lambda x: x.squeeze(0),
            "flattened": lambda x: x.flatten(0, -1),
            "the logarithm of its exponentials' sum": lambda x: x.logsumexp(0),
            "chosen": lambda x: x.index_select(0, torch.tensor([0])),
        }.items()
    },
    "a table in bfloat16": lambda x: x * torch.linspace(0.5, 1, x.shape[-1], dtype=torch.bfloat16),
    "a spread map without batch": lambda x: nn.functional.conv_transpose2d(x[0], torch.ones(4, 2, 2, 2)),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_not_interpreted_is_read(name: str) -> None:
    x = X.expand(2, -1, -1, -1).clone()
    first, second = (
        graph_of_module(Plain(function), (x,)) for function in (READ[name], lambda x: READ[name](x) * 2)
    )
    assert derive(first, first).is_proved
    assert not derive(first, second).is_proved


def test_a_norm_that_changes_its_statistics_is_none_without_them() -> None:
    function = functools.partial(nn.functional.instance_norm, use_input_stats=True)
    kept = torch.zeros(4), torch.ones(4)
    both = (graph_of_module(Plain(f), (X,)) for f in (lambda x: function(x, *kept), function))
    assert not derive(*both).is_proved
