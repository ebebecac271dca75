"""Exact probes: right kernels pass in any summation order, wrong ones are caught."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import export.wiring
from export.terms import Affine
from export.wiring import probe_site, seeded


def site(out: int = 7, count: int = 24, scale: float = 1.0) -> Affine:
    rng = np.random.default_rng(0)
    return Affine(
        weight=(rng.standard_normal((out, count)) * scale).astype(np.float32),
        bias=rng.standard_normal(out).astype(np.float32),
        weight_name="fc.weight",
        bias_name="fc.bias",
        kernel_size=(),
        operand=(count,),
        reads="x",
        columns=None,
    )


def kernel(affine: Affine, order=None, transform=lambda w: w):
    """A kernel that sums in the given order, one rounding an operation."""

    def run(features, weight):
        own = transform(affine.weight if weight is None else weight)
        bias = affine.bias if weight is None else np.zeros_like(affine.bias)
        total = np.zeros((len(features), len(own)), np.float32)
        for column in range(own.shape[1]) if order is None else order:
            total = total + features[:, column, None] * own[:, column]
        return total + bias

    return run


@pytest.fixture(params=["one_hot", "integers"])
def mode(request, monkeypatch):
    if request.param == "integers":
        monkeypatch.setattr(export.wiring, "_EXHAUSTIVE_LIMIT", 0)
    return request.param


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e20])
def test_right_kernels_pass_in_any_order(mode, scale):
    affine = site(scale=scale)
    for order in (None, range(23, -1, -1), np.random.default_rng(1).permutation(24)):
        result = probe_site(affine, kernel(affine, order), seeded(0))
        assert result.failure is None
        assert result.gap is None
        assert result.probes >= 25


def swap_columns(weight):
    swapped = weight.copy()
    swapped[:, [3, 4]] = weight[:, [4, 3]]
    return swapped


WRONG = {
    "reversed": lambda w: w[:, ::-1],
    "swapped": swap_columns,
    "rows": lambda w: w[::-1],
    "scaled": lambda w: w * np.float32(1.01),
    "negative": lambda w: -w,
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernels_are_caught(mode, name):
    affine = site()
    result = probe_site(affine, kernel(affine, transform=WRONG[name]), seeded(0))
    assert result.failure is not None
    assert result.failure.name == "fc.weight"


def test_one_ulp_is_caught_under_a_large_bias():
    affine = dataclasses.replace(site(), bias=np.full(7, 1e6, np.float32))
    off = affine.weight.copy()
    off[2, 5] = np.nextafter(off[2, 5], np.float32(np.inf))
    result = probe_site(affine, kernel(affine, transform=lambda w: off), seeded(0))
    assert result.failure is not None


def test_a_dropped_bias_is_caught():
    affine = site()
    bare = dataclasses.replace(affine, bias=np.zeros(7, np.float32))
    assert probe_site(affine, kernel(bare), seeded(0)).failure is not None


def test_what_cannot_be_probed_says_so():
    infinite = site()
    infinite.weight[1, 2] = np.inf
    assert "NaN or infinity" in str(probe_site(infinite, kernel(infinite), seeded(0)).gap)
    half = dataclasses.replace(site(), weight=site().weight.astype(np.float16))
    assert "float16" in str(probe_site(half, kernel(half), seeded(0)).gap)
