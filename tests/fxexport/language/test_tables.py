"""Tables that are looked up and masks that are written in parts, as windowed attention computes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from fxexport.language import derive, graph_of_module, graph_of_onnx
from tests.fxexport.language.test_broadcast_and_types import X, model
from tests.fxexport.language.test_derive import Net, derived

Tensor = torch.Tensor
Middle = Callable[[Tensor], Tensor]
TABLE, PLACES = torch.arange(6.0).square() / 7, torch.tensor([[5, 0], [0, 3]])
RAISED = torch.tensor(np.exp(np.minimum(TABLE[:4].numpy(), 2.0)))
BELOW = TABLE[:4] - 3
CELLS = TABLE[PLACES.view(-1)]
SIDE, OTHER = torch.linspace(-1, 1, 12).view(4, 3), torch.linspace(0, 2, 18).view(3, 6)


def looked_up(places: Tensor) -> Middle:
    """A bias of a table's cells."""
    return lambda x: x + TABLE[places.reshape(-1)].view(4, 1, 1)


def masked(last: int, filled: float = -100.0) -> Middle:
    """A mask between the regions of a map."""

    def function(x: Tensor) -> Tensor:
        regions = x.new_zeros(6)
        regions[2:4] = 1
        regions[last:].fill_(2)
        apart = regions.view(6, 1) - regions.view(1, 6)
        return x + apart.masked_fill(apart != 0, filled).masked_fill(apart == 0, 0.0)

    return function


def filled_in(last: int) -> Middle:
    """The same mask, from regions that are stored."""
    regions = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    regions[last:] = 2
    mask = torch.where(regions.view(6, 1) == regions, 0.0, -100.0)
    return lambda x: x + mask


def scaled_by(product: Callable[[], Tensor]) -> Middle:
    """A factor that nobody evaluates."""
    return lambda x: x * torch.sigmoid(product()).view(4, 6, 1)


def normal(power: int) -> Middle:
    """Each sample over its norm."""
    return lambda x: nn.functional.normalize(x, p=power)


def crossing(x: Tensor) -> Tensor:
    """A sum of a map and of the same map in another order, as one row each."""
    return (x.flatten(1) + x.transpose(1, 2).flatten(1)).view_as(x)


KERNEL = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(1))


def standardised(kernel: Tensor) -> Tensor:
    """Weights of mean 0 and deviation 1 for each output, as NFNets and BiT have them."""
    rows = kernel.reshape(1, len(kernel), -1)
    return nn.functional.batch_norm(rows, None, None, training=True, momentum=0.0).reshape_as(kernel)


STANDARDISED = standardised(KERNEL)


def convolved(kernel: Callable[[], Tensor]) -> Middle:
    """A convolution with weights that a function gives."""
    return lambda x: nn.functional.conv2d(x, kernel(), padding=1)


TWICE = torch.tensor(np.exp(np.array([0.3, 0.7, 0.3, 0.7], np.float32)))


def raised_twice(x: Tensor) -> Tensor:
    """A table that is computed and then repeated, as those of rotary positions are."""
    return x * torch.tensor([0.3, 0.7]).exp().repeat(2).view(4, 1, 1)


def raised_each_twice(x: Tensor) -> Tensor:
    """The same, each cell at once."""
    return x * torch.tensor([0.3, 0.7]).exp().repeat_interleave(2).view(4, 1, 1)


def attending(count: int) -> Middle:
    """Attention to the first columns alone, as transformers masks them: for each of the batch."""

    def attended(x: Tensor) -> Tensor:
        mask = (torch.arange(x.shape[3]) < count).expand(x.shape[0], 1, x.shape[2], -1)
        return nn.functional.scaled_dot_product_attention(x, x, x, mask)

    return attended


def attending_by_numbers(count: int) -> Middle:
    """The same with numbers to be added."""
    mask = torch.zeros(6, 6).index_fill(1, torch.arange(count, 6), -torch.inf)
    return lambda x: nn.functional.scaled_dot_product_attention(x, x, x, mask)


SAME = {
    "standardised weights": (convolved(lambda: standardised(KERNEL)), convolved(lambda: STANDARDISED)),
    "a table": (looked_up(PLACES), lambda x: x + CELLS.view(4, 1, 1)),
    "cells in another order": (
        lambda x: x[:, [2, 0, 3, 1]],
        lambda x: x.transpose(1, 2)[:, :, [2, 0, 3, 1]].transpose(1, 2),
    ),
    "axes by their other name": (lambda x: x.swapaxes(-2, 3), lambda x: x.transpose(2, 3)),
    "a mask": (masked(4), filled_in(4)),
    "a table that is repeated": (raised_twice, lambda x: x * TWICE.view(4, 1, 1)),
    "a table whose cells are repeated": (raised_each_twice, lambda x: x * TWICE[[0, 0, 1, 1]].view(4, 1, 1)),
    "a mask for each of a batch": (attending(2), attending_by_numbers(2)),
    "a mask of what is computed": (
        lambda x: x.masked_fill(x > 0, 2.0),
        lambda x: torch.where(x > 0, torch.full_like(x, 2.0), x),
    ),
    "a product of constants": (
        scaled_by(lambda: SIDE @ OTHER),
        scaled_by(lambda: nn.functional.linear(SIDE, OTHER.T.contiguous())),
    ),
    "a norm": (normal(2), lambda x: x / (x * x).sum(1, keepdim=True).sqrt().clamp_min(1e-12)),
    "views that cut across each other": (crossing, crossing),
    "a held exponential": (
        lambda x: x * torch.clamp(TABLE[:4].view(4, 1, 1), max=2.0).exp(),
        lambda x: x * RAISED.view(4, 1, 1),
    ),
}
DIFFERENT = {
    "standardised weights": (
        convolved(lambda: standardised(KERNEL)),
        convolved(lambda: STANDARDISED * 1.0001),
    ),
    "weights standardised otherwise": (
        convolved(lambda: standardised(KERNEL)),
        convolved(lambda: standardised(KERNEL.transpose(0, 1))),
    ),
    "a table": (looked_up(PLACES), looked_up(PLACES.flip(0))),
    "cells in another order": (lambda x: x[:, [3, 0, 1, 2]], lambda x: x[:, [3, 1, 0, 2]]),
    "a mask": (masked(4), masked(5)),
    "a mask for each of a batch": (attending(2), attending(3)),
    "a table that is repeated": (raised_twice, raised_each_twice),
    "a number in the mask": (masked(4), masked(4, -101.0)),
    "a mask of what is computed": (lambda x: x.masked_fill(x > 0, 2.0), lambda x: x.masked_fill(x > 0, 3.0)),
    "a quotient that is rounded otherwise": (
        lambda x: x + BELOW.div(2, rounding_mode="trunc").view(4, 1, 1),
        lambda x: x + BELOW.div(2, rounding_mode="floor").view(4, 1, 1),
    ),
    "a product of constants": (scaled_by(lambda: SIDE @ OTHER), scaled_by(lambda: SIDE @ (OTHER + 1e-6))),
    "another product of the same": (
        scaled_by(lambda: SIDE @ OTHER),
        scaled_by(lambda: SIDE.flip(0) @ OTHER),
    ),
    "a norm": (normal(2), normal(1)),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_is_proved(name: str) -> None:
    found = derived(*SAME[name])
    assert (found.is_proved, found.unrelated, found.constants) == (True, (), ())


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_not_proved(name: str) -> None:
    assert not derived(*DIFFERENT[name]).is_proved


INDEX = "i = Constant <value = int64[2,1] {3, 0}> ()"
UPDATE = "z = Constant <value = float[4,1,1] {0,0,0,0}> () u = Constant <value = float[2,1,1] {5, 7}> ()"
FILES = {
    "GatherND": (f"{INDEX} t = Transpose <perm = [1,0,2,3]> (x) y = GatherND(t, i)",
                 "j = Constant <value = int64[2] {3, 0}> () g = Gather <axis = 1> (x, j) "
                 "y = Transpose <perm = [1,0,2,3]> (g)"),
    "ScatterND": (f"{INDEX} {UPDATE} s = ScatterND(z, i, u) y = Add(x, s)",
                  "s = Constant <value = float[4,1,1] {7,0,0,5}> () y = Add(x, s)"),
    "Einsum": (
        "w = Constant <value = float[2,3] {1, 2, 3, 4, 5, 6}> () "
        'y = Einsum <equation = "nchw, kw -> nchk"> (x, w)',
        "v = Constant <value = float[3,2] {1, 4, 2, 5, 3, 6}> () y = MatMul(x, v)",
    ),
    "ReduceL2": ("y = ReduceL2 <axes = [2, 3]> (x)",
                 "s = Mul(x, x) a = Constant <value_ints = [2, 3]> () r = ReduceSum(s, a) y = Sqrt(r)"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_operators_of_files_mean_the_same(name: str) -> None:
    models = [model(text) for text in FILES[name]]
    first, second = (ReferenceEvaluator(item).run(None, {"x": X.numpy()})[0] for item in models)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert derive(*map(graph_of_onnx, models)).is_proved


@pytest.mark.parametrize("index", ["int64[2,1] {3, 3}", "int64[2,1] {3, -1}", "int64[2,1] {3, 4}"])
def test_a_cell_that_is_written_twice_or_is_none_is_not_read(index: str) -> None:
    text = f"i = Constant <value = {index}> () {UPDATE} s = ScatterND(z, i, u) y = Add(x, s)"
    plain = "s = Constant <value = float[4,1,1] {0,0,0,7}> () y = Add(x, s)"
    assert not derive(graph_of_onnx(model(text)), graph_of_onnx(model(plain))).is_proved


def test_a_range_and_a_fill_have_limits() -> None:
    """A hundred bytes that ask for eight terabytes are no reason to make them."""
    numbers = " ".join(
        f"{name} = Constant <value_int = {n}> ()" for name, n in (("b", 0), ("e", 2**40), ("d", 1))
    )
    fill = "e = Constant <value_ints = [1099511627776]> () r = ConstantOfShape(e)"
    for made in (f"{numbers} r = Range(b, e, d)", fill):
        text = f"{made} s = ReduceMax <keepdims = 0> (r) c = Cast <to = 1> (s) y = Add(x, c)"
        assert derive(graph_of_onnx(model(text)), graph_of_onnx(model(text))).is_proved


def test_a_type_that_onnx_has_not_is_not_read() -> None:
    text = "c = Cast <to = 1000000> (x) y = Cast <to = 1> (c)"
    assert not derive(graph_of_onnx(model(text)), graph_of_onnx(model(text))).is_proved


FREE: dict[str, Middle] = {
    "glu": lambda x: nn.functional.glu(x, 2),
    "roll": lambda x: x.roll(1, 2),
    "diff": lambda x: x.diff(dim=3),
    "half": lambda x: x[:, :, : x.shape[2] // 2],
    "rest": lambda x: x[:, :, : 3 + x.shape[2] % 3],
}


@pytest.mark.parametrize("name", FREE)
def test_cells_of_a_free_extent_are_not_counted(name: str) -> None:
    """They are compared by what asks for them: no number stands for the extent."""
    images = torch.randn(2, 3, 12, 12)
    first, second = (
        graph_of_module(Net(FREE[other]).eval(), (images,), free_sizes=True) for other in (name, "roll")
    )
    assert first.inputs[0].dims[2] is None
    assert derive(first, second).is_proved is (name == "roll")


CASTS = {"NaN": "nan", "infinity": "inf", "the end of the type": "3e9"}


@pytest.mark.parametrize("name", CASTS)
def test_a_cast_past_the_end_of_a_type_is_what_each_runtime_makes_of_it(name: str) -> None:
    number = np.float32(CASTS[name])
    with np.errstate(invalid="ignore"):
        stored = int(number.astype(np.int32))
    files = []
    for made in ("c = Cast <to = 6> (n)", f"c = Constant <value = int32 {{{stored}}}> ()"):
        files.append(model(f"{made} f = Cast <to = 1> (c) y = Add (x, f)"))
        files[-1].graph.initializer.append(numpy_helper.from_array(np.asarray(number), "n"))
    assert not derive(*map(graph_of_onnx, files)).is_proved
