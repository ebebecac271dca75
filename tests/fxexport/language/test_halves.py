"""A number beside elements of 16 bits: PyTorch multiplies with 32 bits of it, a file holds 16 of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn

from fxexport import Verdict, certify, export_onnx
from fxexport.language import derive, graph_of_module

Function = Callable[..., torch.Tensor]


class Attention(nn.Module):
    """As in ultralytics' models, which are saved in half precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 16, 3, 2), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.conv(x).relu().flatten(2)
        shares = ((q.transpose(1, 2) @ q) * 32**-0.5).softmax(-1)
        return self.fc((q @ shares).mean(2))


def test_a_number_that_half_precision_does_not_hold_is_its_rounding_and_no_other(tmp_path: Path) -> None:
    model = Attention().half().eval()
    images = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0)).half()
    file = export_onnx(model, images, tmp_path / "half.onnx")
    found = certify(model, file, images)
    assert found.verdict is Verdict.PROVED, found.reason
    stored = onnx.load(file)
    (scale,) = (t for t in stored.graph.initializer if not t.dims and t.data_type == onnx.TensorProto.FLOAT16)
    value = numpy_helper.to_array(scale)
    scale.CopyFrom(numpy_helper.from_array(np.nextafter(value, np.float16(1)), scale.name))
    onnx.save(stored, file)
    assert certify(model, file, images).verdict is Verdict.BROKEN


class Scaled(nn.Module):
    """Elements times a number, or held above one."""

    def __init__(self, factor: float | torch.Tensor, *, is_bound: bool = False) -> None:
        super().__init__()
        self.factor, self.is_bound = factor, is_bound

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=self.factor) if self.is_bound else x * self.factor


@pytest.mark.parametrize(("factor", "other"), [(1e-9, 0.0), (1e6, float("inf")), (1e-7, 1.2e-7)])
def test_a_number_that_vanishes_or_has_no_end_in_half_precision_is_itself(
    factor: float, other: float
) -> None:
    x = torch.tensor([[3e4, 2e-3]]).repeat(2, 1).half()
    models = Scaled(factor), Scaled(torch.tensor(other, dtype=torch.float16))
    assert not torch.equal(*(model(x) for model in models))
    assert not derive(*(graph_of_module(model, (x,)) for model in models)).is_proved
    bounds = (Scaled(item, is_bound=True) for item in (1e-12, 0.0))  # which is held by its elements' type
    assert derive(*(graph_of_module(model, (x,)) for model in bounds)).is_proved


FACTORS = [(0.25, 4.0, True), (4.0, 0.25, False), (2.0**-10, 2.0**10, True), (2.0**10, 2.0**-10, False)]


@pytest.mark.parametrize(("first", "second", "is_one"), FACTORS)
def test_a_factor_that_is_taken_back_may_have_left_half_precision(
    first: float, second: float, is_one: bool
) -> None:
    """1000·x / 1000 has no end where x is 66."""
    x = torch.ones(2, 4).half()
    numbers = [torch.tensor(number, dtype=torch.float16) for number in (first, second)]
    whole = Scaled((numbers[0].double() * numbers[1].double()).half())
    both = nn.Sequential(*map(Scaled, numbers))
    assert derive(*(graph_of_module(model, (x,)) for model in (both, whole))).is_proved is is_one


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.function(x, y)


def proved(first: Function, second: Function, dtype: torch.dtype = torch.float16) -> bool:
    """Whether the two are derived to be one function."""
    x, y = torch.ones(2, 4, dtype=dtype), torch.ones(2, 4, dtype=dtype)
    return derive(*(graph_of_module(Applied(function), (x, y)) for function in (first, second))).is_proved


def normed(x: torch.Tensor) -> torch.Tensor:
    """A layer norm as its definition says."""
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()


def signs(x: torch.Tensor) -> torch.Tensor:
    """What averages to nothing."""
    return torch.stack([x, -x], 1)


def four(x: torch.Tensor) -> torch.Tensor:
    """Each output the sum of all inputs."""
    return F.linear(x, ONES.to(x))


THOUSANDTH = torch.tensor(0.001)
ONES, SHARES, LOWER = torch.ones(4, 4), torch.tensor([0.5, 0.25, 0.5, 0.25]), torch.full((4,), -1e4)
SHARED, EYE = ONES * SHARES[:, None], torch.ones(2, 2, 3) / 2
NORM = torch.zeros(4), torch.full((4,), 0.25), torch.full((4,), 2.0), torch.full((4,), -6e4)
ORDERS: dict[str, tuple[Function, Function, float]] = {
    "product-order": (lambda x, y: (x * 0.125) * y, lambda x, y: (x * y) * 0.125, 300.0),
    "three factors": (lambda x, y: (x * y) * y.exp(), lambda x, y: x * (y * y.exp()), -300.0),
    "power-of-product": (lambda x, y: 1 / (x * y), lambda x, y: (1 / x) * (1 / y), 300.0),
    "square": (lambda x, y: (x * 0.125) ** 2, lambda x, y: (x**2) * 0.015625, 300.0),
    "quotient": (lambda x, y: x / y, lambda x, y: x * (1 / y), 1e-6),
    "factor of a quotient": (lambda x, y: THOUSANDTH / y, lambda x, y: (1 / y) * 0.001, 1e-5),
    "factor-out-of-sum": (lambda x, y: (x * 0.125 + 1) * y, lambda x, y: (x + 8) * y * 0.125, 300.0),
    "scale-of-bilinear": (lambda x, y: (x * 0.125) @ y.mT, lambda x, y: (x @ y.mT) * 0.125, 150.0),
    "affine-of-affine": (lambda x, y: (x + 6e4) * 0.001, lambda x, y: x * 0.001 + 60, 1e4),
    "euclidean-norm": (
        lambda x, y: torch.linalg.vector_norm(x, dim=1),
        lambda x, y: (x * x).sum(1).sqrt(),
        300.0,
    ),
    "average-of-affine": (lambda x, y: (signs(x) * 8).mean(1), lambda x, y: signs(x).mean(1) * 8, 3e4),
    "average-of-site": (lambda x, y: four(signs(x)).mean(1), lambda x, y: four(signs(x).mean(1)), 3e4),
    "scale-of-affine-site": (
        lambda x, y: four(x) * SHARES.to(x),
        lambda x, y: F.linear(x, SHARED.to(x)),
        3e4,
    ),
    "reduction-of-reduction": (lambda x, y: signs(x).sum(2).sum(1), lambda x, y: signs(x).sum((1, 2)), 3e4),
    "variance": (
        lambda x, y: torch.cat([x, -x], 1).var(1),
        lambda x, y: torch.cat([x, -x], 1).var(1, correction=0) * 8 / 7,
        200.0,
    ),
    "gelu": (lambda x, y: F.gelu(x), lambda x, y: x * (1 + torch.erf(x * 0.5**0.5)) * 0.5, 4e4),
    "attention": (
        lambda x, y: F.scaled_dot_product_attention(x[None], x[None], x[None]),
        lambda x, y: ((x[None] @ x[None].mT) * 0.5).softmax(-1) @ x[None],
        300.0,
    ),
    "log-sigmoid": (lambda x, y: x.sigmoid().log(), lambda x, y: F.logsigmoid(x), -20.0),
    "softplus": (lambda x, y: (x.exp() + 1).log(), lambda x, y: F.softplus(x), 12.0),
    "softmax-of-shifted-keys": (
        lambda x, y: (x[:, :, None] @ (y[:, None] + 2)).softmax(2),
        lambda x, y: (x[:, :, None] @ y[:, None]).softmax(2),
        255.0,
    ),
    "a bias": (
        lambda x, y: F.linear(x, ONES.to(x), LOWER.to(x)),
        lambda x, y: F.linear(x, ONES.to(x)) + LOWER.to(x),
        1.7e4,
    ),
    "a bias of a convolution": (
        lambda x, y: F.conv1d(x[None], EYE.to(x), LOWER[:2].to(x), padding=1),
        lambda x, y: F.conv1d(x[None], EYE.to(x), padding=1) + LOWER[:2, None].to(x),
        2.2e4,
    ),
    "addmm": (
        lambda x, y: torch.addmm(LOWER.to(x), x, ONES.to(x)),
        lambda x, y: x @ ONES.to(x) + LOWER.to(x),
        1.7e4,
    ),
    "batch-norm": (
        lambda x, y: F.batch_norm(x, *(item.to(x) for item in NORM), eps=0.75),
        lambda x, y: x * 2 - 6e4,
        4e4,
    ),
    "addcmul": (lambda x, y: torch.addcmul(x, x, x, value=-1), lambda x, y: x - x * x, 256.0),
    "sinc": (
        lambda x, y: torch.sinc(x),
        lambda x, y: torch.where(x == 0, torch.ones_like(x), (x * math.pi).sin() / (x * math.pi)),
        4e4,
    ),
    "a norm without mean": (
        lambda x, y: F.rms_norm(x, (4,), eps=1e-5),
        lambda x, y: x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt(),
        300.0,
    ),
    "lerp": (lambda x, y: torch.lerp(x, -x, 0.5), lambda x, y: x + (-x - x) * 0.5, 4e4),
}


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_that_leaves_half_precision_is_another_function(name: str) -> None:
    first, second, size = ORDERS[name]
    x = torch.full((2, 4), size).half()
    ends = [function(x, x).float() for function in (first, second)]
    assert not torch.allclose(*ends, rtol=0.1)
    assert not proved(first, second)
    assert proved(first, second, torch.float32)


HUGE: dict[str, tuple[Function, Function]] = {
    "product-order": (lambda x, y: (x * 1e30) * y.sigmoid(), lambda x, y: (x * y.sigmoid()) * 1e30),
    "a tiny factor": (lambda x, y: (x * 1e-30) * y.exp(), lambda x, y: (x * y.exp()) * 1e-30),
    "two factors": (lambda x, y: (x * 1e9) * (y * 1e9), lambda x, y: (x * y) * 1e18),
    "power-of-product": (lambda x, y: (x * 1e5) ** 4, lambda x, y: x**4 * 1e20),
    "high powers": (lambda x, y: (x * y) ** 8, lambda x, y: x**8 * y**8),  # none of 1e5 and 1e-5
    "a high power of a multiple": (lambda x, y: (x * 0.125) ** 8, lambda x, y: x**8 * 2.0**-24),
    "sums of shifts": (lambda x, y: (x + 1000) * 2 - 2000, lambda x, y: x * 2),
    "scale-of-bilinear": (lambda x, y: (x * 1e30) @ y.mT, lambda x, y: (x @ y.mT) * 1e30),
    "average-of-affine": (lambda x, y: (x * 1e30).mean(1), lambda x, y: x.mean(1) * 1e30),
    "average of a sum": (lambda x, y: (x + 1e30).mean(1), lambda x, y: x.mean(1) + 1e30),
    "clamp-of-affine": (  # 6 and 8 where x is 30,000,004
        lambda x, y: (x * 2 - 6e7).clamp(0, 6),
        lambda x, y: x.clamp(3e7, 3e7 + 4) * 2 - 6e7,
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_no_huge_factor_changes_places(name: str) -> None:
    assert not proved(*HUGE[name], torch.float32)


def below(x: torch.Tensor) -> torch.Tensor:
    """What is no more than zero in each row."""
    return x - x.amax(1, keepdim=True)


SOFT: dict[str, tuple[Function, Function]] = {
    "softmax": (
        lambda x, y: x.softmax(1),
        lambda x, y: below(x).exp() / below(x).exp().sum(1, keepdim=True),
    ),
    "log-softmax": (
        lambda x, y: x.log_softmax(1),
        lambda x, y: below(x) - below(x).exp().sum(1, keepdim=True).log(),
    ),
    "log-sum-exp": (lambda x, y: x.logsumexp(1), lambda x, y: x.amax(1) + below(x).exp().sum(1).log()),
}


@pytest.mark.parametrize("name", SOFT)
def test_half_precision_has_no_sum_of_more_cells_than_its_largest_number(name: str) -> None:
    """Written out it has no end; libraries that compute it in 32 bits have one."""
    few, many = (torch.zeros(2, count, dtype=torch.float16) for count in (4, 70_000))
    for x, is_proved in ((few, True), (many, False)):
        found = derive(*(graph_of_module(Applied(function), (x, x)) for function in SOFT[name]))
        assert found.is_proved is is_proved
    ends = [function(many, many) for function in SOFT["softmax"]]
    assert not torch.allclose(*ends)


def test_a_multiple_is_rounded_before_it_is_added_or_with_it() -> None:
    """As torch has it, by how many elements there are."""
    sums: list[Function] = [lambda x, y: torch.add(x, y, alpha=-2), lambda x, y: x + y * -2]
    assert not proved(*sums)
    assert proved(*sums, torch.float32)


def test_a_factor_that_shrinks_is_average_s_own_in_half_precision() -> None:
    assert proved(lambda x, y: (x * 0.5 + 1).mean(1), lambda x, y: x.mean(1) * 0.5 + 1)
    assert not proved(lambda x, y: (x + 32).mean(1), lambda x, y: x.mean(1) + 32)


def test_a_factor_that_grows_is_a_site_s_own_in_half_precision() -> None:
    shares, whole = SHARES * 8, SHARED * 8
    assert proved(lambda x, y: four(x) * shares.to(x), lambda x, y: F.linear(x, whole.to(x)))


@pytest.mark.parametrize(("change", "is_told"), [(0.0, False), (0.25, True)])
def test_a_factor_in_a_site_s_weights_is_no_other_number(change: float, is_told: bool) -> None:
    """As exporters fold norms; half precision need not hold what the site gives without it."""
    whole = SHARED.half()
    whole[1, 2] += change
    x = torch.ones(2, 4).half()
    functions: list[Function] = [lambda x, y: four(x) * SHARES.to(x), lambda x, y: F.linear(x, whole)]
    found = derive(*(graph_of_module(Applied(function), (x, x)) for function in functions))
    assert not found.is_proved
    assert (not found.unrelated) is is_told


def test_a_function_of_half_precision_alone_runs_in_it() -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).half() * 4e4
    first, second = (lambda x: x * 2 * 0.5), (lambda x: x * 1.0)
    models = [Applied(lambda x, y, f=f: f(x)).eval() for f in (first, second)]
    assert certify(*models, (x, x)).verdict is not Verdict.PROVED


def test_squares_of_a_norm_are_not_those_of_half_precision() -> None:
    x = torch.tensor([[-3e4, 3e4, 1e4, 0.0]]).half()
    norm = nn.LayerNorm(4, elementwise_affine=False)
    assert not torch.allclose(norm(x), normed(x), rtol=0.1)
    assert not proved(lambda x, y: norm(x), lambda x, y: normed(x))
    assert proved(lambda x, y: norm(x), lambda x, y: normed(x), torch.float32)
    variances: list[Function] = [
        lambda x, y: x.var(1, correction=0),
        lambda x, y: (x - x.mean(1, keepdim=True)).pow(2).mean(1),
    ]
    assert not proved(*variances)
    assert proved(*variances, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_compared_is_held_by_the_elements_type(dtype: torch.dtype) -> None:
    number = torch.tensor(0.9, dtype=dtype)  # 0.8999 or 0.8984
    others = [torch.nextafter(number, torch.tensor(end, dtype=dtype)) for end in (0.0, 1.0)]
    assert not (number > 0.9)
    assert proved(lambda x, y: x > 0.9, lambda x, y: x > number, dtype)
    assert not any(proved(lambda x, y: x > 0.9, lambda x, y, c=c: x > c, dtype) for c in others)


def test_a_threshold_is_compared_in_32_bits() -> None:
    two, limit = torch.tensor(2.0).half(), torch.tensor(0.3).half()  # is more
    cut = lambda x, y: nn.functional.threshold(x, 0.3, 2.0)  # noqa: E731
    chosen = lambda x, y: torch.where(x <= limit, two, x)  # noqa: E731
    assert cut(limit, limit) != chosen(limit, limit)
    assert not proved(cut, chosen)
    two, limit = two.float(), torch.tensor(0.3)
    assert proved(cut, chosen, torch.float32)
