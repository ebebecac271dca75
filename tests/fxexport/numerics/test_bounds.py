"""Bounds hold for every order of summation, in every precision, and are not vacuous."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxexport.numerics.activations import (
    ACTIVATIONS,
    apply_activation,
    dequantized_interval,
    quantized_interval,
    softmax_interval,
)
from fxexport.numerics.bounds import (
    BF16,
    BF16_SUMS,
    FP16,
    FP16_SUMS,
    FP32,
    FP64,
    TF32,
    Interval,
    affine_interval,
    exactly,
    growth,
    looser,
    mean_interval,
    precision_of,
    scaled_interval,
    spread_error,
    spread_map,
    spread_scaled,
)
from fxexport.terms.term import Scaling

SEEDS = st.integers(0, 2**32 - 1)
HALF = {"fp16": (np.float16, FP16, FP16_SUMS), "bf16": (ml_dtypes.bfloat16, BF16, BF16_SUMS)}


def test_growth_is_below_gamma_and_finite_where_gamma_is_not():
    for count in (1, 100, 2**20):
        unit = 2.0**-24
        gamma = count * unit / (1 - count * unit)
        assert gamma * 0.9 < growth(count, unit) <= gamma * (1 + 1e-6)
    assert growth(2048, 2.0**-11) == pytest.approx(math.e - 1, rel=1e-2)
    assert growth(10**6, 2.0**-8) == math.inf


def head(seed: int, count: int, kind, exponent: int = 0, *, cancels: bool = False):
    """A random sample, a row of weights and a bias; with ``cancels`` the exact result is near zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(count) * 2.0 ** (exponent * rng.random(count))
    weight = rng.standard_normal(count) * 2.0 ** (-exponent * rng.random(count))
    if cancels:
        half = count // 2
        x[half : 2 * half], weight[half : 2 * half] = x[:half], -weight[:half]
    bias = rng.standard_normal(1)
    return x.astype(kind), weight.astype(kind), bias.astype(kind)


def pairwise(terms, kind):
    """The sum of an array over a random-shaped tree of depth log n, in ``kind``."""
    while len(terms) > 1:
        if len(terms) % 2:
            terms = np.append(terms, kind(0))
        terms = (terms[::2] + terms[1::2]).astype(kind)
    return terms[0]


def recursive(terms, kind):
    total = kind(0)
    for term in terms:
        total = kind(total + term)
    return total


def chunked(terms, kind, size):
    return recursive([recursive(terms[i : i + size], kind) for i in range(0, len(terms), size)], kind)


def results(x, weight, bias, kind, seed):
    """The dot product plus bias in ``kind``, one rounding an operation, in many orders."""
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        products = (x.astype(kind) * weight.astype(kind)).astype(kind)
        for order in (np.arange(len(x)), rng.permutation(len(x)), np.argsort(-np.abs(products))):
            for total in (
                recursive(products[order], kind),
                pairwise(products[order], kind),
                chunked(products[order], kind, 7),
            ):
                yield kind(total + kind(bias[0]))
        yield recursive(np.append(bias.astype(kind), products), kind)


def assert_within(found, interval):
    assert abs(float(found) - interval.value[0, 0]) <= interval.error[0, 0]


@given(st.integers(1, 60), SEEDS, st.sampled_from([0, 20, 60, 120]), st.booleans())
def test_the_dot_product_bound_holds_in_any_order(count, seed, exponent, cancels):
    x, weight, bias = head(seed, count, np.float32, exponent, cancels=cancels)
    interval = affine_interval(exactly(x[None]), weight[None], bias, FP32)
    for found in results(x, weight, bias, np.float32, seed):
        assert_within(found, interval)


@given(st.integers(1, 60), SEEDS, st.integers(-149, -110))
def test_the_bound_holds_with_subnormals_kept_or_flushed(count, seed, exponent):
    x, weight, _ = head(seed, count, np.float32)
    x = np.ldexp(x, exponent // 2).astype(np.float32)
    weight = np.ldexp(weight, exponent - exponent // 2).astype(np.float32)
    interval = affine_interval(exactly(x[None]), weight[None], None, FP32)

    def flush(value):
        return np.where(np.abs(value) < 2.0**-126, np.float32(0), value)

    kept, flushed = np.float32(0), np.float32(0)
    for a, b in zip(x, weight, strict=True):
        kept = np.float32(kept + a * b)
        flushed = flush(np.float32(flushed + flush(flush(a) * flush(b))))
    assert_within(kept, interval)
    assert_within(flushed, interval)


@given(SEEDS, st.sampled_from([2.0**-140, 2.0**-127]))
def test_large_weights_times_flushed_features_stay_within(seed, size):
    rng = np.random.default_rng(seed)
    x = (rng.uniform(0.5, 1, 8) * size).astype(np.float32)
    weight = (rng.standard_normal(8) * 2.0**100).astype(np.float32)
    interval = affine_interval(exactly(x[None]), weight[None], None, FP32)
    assert_within(0.0, interval)  # what hardware gives that takes subnormal operands as zero


@pytest.mark.parametrize("name", HALF)
@given(st.integers(1, 60), SEEDS, st.sampled_from([0, 4]), st.booleans())
def test_half_precision_bounds(name, count, seed, exponent, cancels):
    kind, tight, loose = HALF[name]
    x, weight, bias = head(seed, count, kind, exponent, cancels=cancels)
    interval = affine_interval(exactly(x[None]), weight[None], bias, tight)
    for found in results(x, weight, bias, np.float32, seed):
        assert_within(kind(found), interval)  # sums in fp32, one store
    without = affine_interval(exactly(x[None]), weight[None], None, tight)
    wide = (x.astype(np.float64) @ weight.astype(np.float64)).astype(kind)
    assert_within(wide, without)
    assert_within(kind(wide + bias[0]), interval)  # a bias added by an operator of its own
    interval = affine_interval(exactly(x[None]), weight[None], bias, loose)
    for found in results(x, weight, bias, kind, seed):
        assert_within(found, interval)


@given(SEEDS)
def test_long_sums_in_half_precision_have_a_finite_bound_that_holds(seed):
    x, weight, bias = head(seed, 3000, np.float16)
    interval = affine_interval(exactly(x[None]), weight[None], bias, FP16_SUMS)
    assert np.isfinite(interval.error).all()
    assert_within(np.float16(recursive(x * weight, np.float16) + bias[0]), interval)


def shortened(array, *, rounds: bool):
    """fp32 with 10 bits of fraction, as TF32 reads it: rounded, or cut off."""
    bits = array.view(np.uint32) + (np.uint32(0x1000) if rounds else np.uint32(0))
    return (bits & np.uint32(0xFFFFE000)).view(np.float32)


def aligned_sum(products, step):
    """What tensor cores add: ``step`` products and the sum so far, cut off below 2⁻²³ of the largest."""
    total = 0.0
    for start in range(0, len(products), step):
        terms = np.append(products[start : start + step].astype(np.float64), total)
        grid = 2.0 ** (np.frexp(np.abs(terms).max())[1] - 24)
        total = float((np.trunc(terms / grid) * grid).sum()) if grid > 0 else 0.0
    return total


@given(st.integers(1, 80), SEEDS, st.booleans(), st.booleans())
def test_tf32_bound(count, seed, rounds, cancels):
    x, weight, bias = head(seed, count, np.float32, cancels=cancels)
    interval = affine_interval(exactly(x[None]), weight[None], bias, TF32)
    short = [shortened(array, rounds=rounds) for array in (x, weight)]
    for found in results(*short, bias, np.float32, seed):
        assert_within(found, interval)
    products = short[0].astype(np.float64) * short[1].astype(np.float64)
    for step in (1, 4, 8):
        assert_within(np.float32(np.float32(aligned_sum(products, step)) + bias[0]), interval)


def test_the_bound_is_scale_aware():
    weight = np.ones((1, 100), np.float32)
    small = affine_interval(exactly(np.full((1, 100), 1e-14)), weight, None, FP32)
    assert small.error[0, 0] < 1e-16
    tight = affine_interval(exactly(np.ones((1, 100))), weight, None, FP32)
    assert tight.error[0, 0] / tight.value[0, 0] < 110 * 2.0**-24


def test_errors_of_the_features_are_carried():
    features = exactly(np.ones((1, 4)))
    features.error[:] = 0.5
    interval = affine_interval(features, np.full((1, 4), 2.0, np.float32), None, FP32)
    assert interval.error[0, 0] >= 4.0


def test_weights_in_float64_are_not_changed():
    weight = np.array([[-1.0, 2.0]])
    affine_interval(exactly(np.ones((1, 2))), weight, None, FP64)
    assert weight.tolist() == [[-1.0, 2.0]]


@given(st.integers(1, 50), SEEDS, st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]))
def test_the_mean_bound_holds(count, seed, kind):
    rng = np.random.default_rng(seed)
    cells = rng.standard_normal(count).astype(kind)
    precision = precision_of(np.dtype(kind).name)
    interval = mean_interval(exactly(cells[None, None]), precision)
    total = recursive(cells.astype(np.float32), np.float32)
    assert_within(kind(total / np.float32(count)), interval)
    assert_within(kind(total * np.float32(1 / count)), interval)
    assert_within(kind(kind(total) / kind(count)), interval)
    assert_within(kind(kind(total) * kind(1 / count)), interval)


@given(SEEDS, st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]))
def test_a_scale_and_shift_lie_within_behind_the_mean_and_before_it(seed, kind):
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((2, 3)) * 8
    factor, shift = (row.astype(kind) for row in numbers)
    scaling = Scaling(factor=numbers[0], shift=numbers[1])
    precision = precision_of(np.dtype(kind).name)
    cells = rng.standard_normal((1, 3, 16)).astype(kind)
    scaled = cells * factor[:, None] + shift[:, None]
    observed = exactly(cells)
    bound = scaled_interval(observed, scaling, precision)
    assert (np.abs(scaled.astype(np.float64) - bound.value) <= bound.error).all()
    behind = scaled_interval(mean_interval(observed, precision), scaling, precision)
    first = cells.astype(np.float32).mean(-1).astype(kind) * factor + shift
    spread = spread_scaled(spread_map(observed), scaling, precision)
    before = Interval(value=behind.value, error=spread_error(spread, precision))
    then = scaled.astype(np.float32).mean(-1).astype(kind)
    for found, due in ((first, behind), (then, before)):
        assert (np.abs(found.astype(np.float64) - due.value) <= due.error).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_lipschitz_constants(name):
    x = np.linspace(-12, 12, 4001)
    activation = ACTIVATIONS[name]
    slope = np.abs(np.diff(activation.function(x)) / np.diff(x)).max()
    assert slope <= activation.lipschitz + 1e-9
    interval = apply_activation(name, exactly(x.astype(np.float32)), FP32)
    assert (interval.error <= 1e-4).all()


TORCH = {
    "relu": torch.relu,
    "relu6": torch.nn.functional.relu6,
    "hardsigmoid": torch.nn.functional.hardsigmoid,
    "hardswish": torch.nn.functional.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
}
KINDS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_pytorch_lie_within(name, kind):
    x = torch.cat([torch.linspace(-20, 20, 4001), torch.randn(1000) * 1e-6]).to(KINDS[kind])
    found = TORCH[name](x).double().numpy()
    interval = apply_activation(name, exactly(x.double().numpy()), precision_of(kind))
    assert (np.abs(found - interval.value) <= interval.error).all()


@given(st.sampled_from(sorted(ACTIVATIONS)), SEEDS, st.sampled_from([1e-6, 1e-2, 1.0]))
def test_an_activation_carries_an_error(name, seed, size):
    rng = np.random.default_rng(seed)
    x, error = rng.standard_normal(50) * 4, rng.random(50) * size
    interval = apply_activation(name, Interval(value=x, error=error), FP32)
    for moved in (x + error, x - error, x + rng.uniform(-1, 1, 50) * error):
        found = ACTIVATIONS[name].function(moved)
        slack = 1e-14 * (1 + np.abs(x))  # of the test's own arithmetic
        assert (np.abs(found - interval.value) <= interval.error + slack).all()


@given(st.integers(1, 40), SEEDS, st.sampled_from([0.0, 1e-6, 1e-2, 1.0]), st.sampled_from([1.0, 30.0]))
def test_softmax_lies_within(count, seed, size, spread):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, count)) * spread
    error = rng.random((3, count)) * size
    interval = softmax_interval(Interval(value=x, error=error), FP32)
    for moved in (x, x + error, x + rng.choice([-1, 1], x.shape) * error):
        found = torch.softmax(torch.from_numpy(moved.astype(np.float32)), 1).double().numpy()
        slack = np.abs(moved.astype(np.float32) - moved).max()  # of the cast, which is no part of it
        near = softmax_interval(Interval(value=x, error=error + slack), FP32)
        assert (np.abs(found - near.value) <= near.error).all()
    if size == 0.0 and spread == 1.0:
        assert (interval.error <= 1e-4).all()


def test_names_of_precisions():
    assert precision_of("float32") is FP32
    assert precision_of("bfloat16") is BF16
    assert precision_of("int8") is None
    assert looser(FP32) is TF32
    assert looser(FP16) is FP16_SUMS
    assert looser(TF32) is None


@given(SEEDS, st.sampled_from([np.uint8, np.int8, np.int16]))
def test_steps_lie_within_their_bounds(seed: int, kind) -> None:
    """Whatever the argument is within its own: on places between two steps, and past the ends, too."""
    rng = np.random.default_rng(seed)
    scale, zero = np.float32(rng.choice([0.1, 0.25, rng.random() + 0.01])), kind(rng.integers(0, 100))
    exact = rng.integers(-300, 300, 64) / 2 * np.float64(scale)
    error = np.abs(exact) * rng.choice([0.0, 2.0**-22, 2.0**-8])
    x = (exact + error * rng.uniform(-1, 1, 64)).astype(np.float32)
    error += np.abs(exact) * 2.0**-24  # of x itself
    ends = np.iinfo(kind)
    steps = np.clip(np.rint(x / scale) + np.float32(zero), ends.min, ends.max).astype(kind)
    found = quantized_interval(Interval(value=exact, error=error), np.float64(scale), zero, FP32)
    assert (np.abs(steps.astype(np.float64) - found.value) <= found.error).all()
    assert found.error.max() <= max(1.0, 3 * error.max() / scale + 1)
    reals = (steps.astype(np.float32) - np.float32(zero)) * scale
    wide = dequantized_interval(found, np.float64(scale), zero, FP32)
    assert (np.abs(reals - wide.value) <= wide.error).all()


def test_a_step_that_no_rounding_reaches_is_known() -> None:
    found = quantized_interval(exactly(np.array([0.26, 0.25])), np.float64(0.1), np.uint8(3), FP32)
    assert found.value.tolist() == [6.0, 5.0]
    assert found.error.tolist() == [0.0, 1.0]  # 2.5 lies between two
