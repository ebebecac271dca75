"""Bounds hold for every order of summation, and are not vacuous."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.activations import ACTIVATIONS, apply_activation
from export.bounds import BF16, FP16, FP32, TF32, affine_interval, exactly, gamma, mean_interval, precision_of


def test_gamma_is_higham():
    assert gamma(1, 2.0**-24) == pytest.approx(2.0**-24, rel=1e-6)
    assert gamma(2**24, 2.0**-24) == math.inf
    assert gamma(100, 2.0**-24) < gamma(101, 2.0**-24)


def ordered_sum(x, weight, bias, order, kind):
    """The dot product in ``kind``, one rounding an operation, terms in the given order."""
    total = kind(0)
    for index in order:
        total = kind(total + kind(x[index] * weight[index]))
    return kind(total + bias)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([-30, -6, 0, 6]))
def test_the_dot_product_bound_holds_in_any_order(count, seed, exponent):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(count) * 2.0**exponent).astype(np.float32)
    weight = rng.standard_normal(count).astype(np.float32)
    bias = np.float32(rng.standard_normal())
    interval = affine_interval(exactly(x[None]), weight[None], np.array([bias]), FP32)
    for order in (np.arange(count), rng.permutation(count), np.argsort(-np.abs(x * weight))):
        found = ordered_sum(x, weight, bias, order, np.float32)
        assert abs(float(found) - interval.value[0, 0]) <= interval.error[0, 0]


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_half_precision_bound(count, seed):
    rng = np.random.default_rng(seed)
    x, weight = rng.uniform(-1, 1, (2, count)).astype(np.float16)
    interval = affine_interval(exactly(x[None]), weight[None], None, FP16)
    found = ordered_sum(x, weight, np.float16(0), np.arange(count), np.float16)
    assert abs(float(found) - interval.value[0, 0]) <= interval.error[0, 0]


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_tf32_bound(count, seed):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((2, count)).astype(np.float32)
    cut = [((a.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32) for a in (x, weight)]
    interval = affine_interval(exactly(x[None]), weight[None], None, TF32)
    found = ordered_sum(*cut, np.float32(0), np.arange(count), np.float32)
    assert abs(float(found) - interval.value[0, 0]) <= interval.error[0, 0]


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


@given(st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_the_mean_bound_holds(count, seed):
    rng = np.random.default_rng(seed)
    cells = rng.standard_normal(count).astype(np.float32)
    interval = mean_interval(exactly(cells[None, None]), FP32)
    total = np.float32(0)
    for cell in cells:
        total = np.float32(total + cell)
    for found in (np.float32(total / np.float32(count)), np.float32(total * np.float32(1 / count))):
        assert abs(float(found) - interval.value[0, 0]) <= interval.error[0, 0]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_lipschitz_constants(name):
    x = np.linspace(-12, 12, 4001)
    activation = ACTIVATIONS[name]
    slope = np.abs(np.diff(activation.function(x)) / np.diff(x)).max()
    assert slope <= activation.lipschitz + 1e-9
    interval = apply_activation(name, exactly(x.astype(np.float32)), FP32)
    assert (interval.error <= 1e-4).all()


def test_names_of_precisions():
    assert precision_of("float32") is FP32
    assert precision_of("bfloat16") is BF16
    assert precision_of("int8") is None
