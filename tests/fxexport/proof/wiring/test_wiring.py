"""Exact probes: right kernels pass in any summation order and type, wrong ones are caught."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fxexport.proof.wiring.probe_site
from fxexport.numerics.bounds import FP32, TF32
from fxexport.proof.wiring.integers import integer_plan, random_integers, sparse_features
from fxexport.proof.wiring.probe_site import probe_site, scales, seeded, smallest_normal
from fxexport.terms.term import SiteWeights

KINDS = {"fp64": np.float64, "fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def site(out: int = 7, count: int = 24, scale: float = 1.0, kind=np.float32, seed: int = 0) -> SiteWeights:
    rng = np.random.default_rng(seed)
    return SiteWeights(
        weight=(rng.standard_normal((out, count)) * scale).astype(kind),
        bias=rng.standard_normal(out).astype(kind),
        weight_name="fc.weight",
        bias_name="fc.bias",
        kernel_size=(),
        operand=(count,),
        reads="x",
        columns=None,
    )


def kernel(affine: SiteWeights, order=None, transform=lambda w: w, sums=None, read=lambda x: x):
    """A kernel that sums in the given order, one rounding an operation, in the type or in ``sums``."""
    kind = affine.weight.dtype
    wide = kind if sums is None else np.dtype(sums)

    def run(features, weight, has_bias):
        own = read(transform(affine.weight if weight is None else weight)).astype(wide)
        is_biased = has_bias and weight is None and affine.bias is not None
        total = np.zeros((len(features), len(own)), wide)
        with np.errstate(over="ignore"):
            for column in range(own.shape[1]) if order is None else order:
                product = (read(features)[:, column, None].astype(wide) * own[:, column]).astype(wide)
                total = (total + product).astype(wide)
            if is_biased:
                total = (total + affine.bias.astype(wide)).astype(wide)
            return total.astype(kind)

    return run


@pytest.fixture(params=["one_hot", "integers"])
def mode(request, monkeypatch):
    if request.param == "integers":
        monkeypatch.setattr(fxexport.proof.wiring.probe_site, "_EXHAUSTIVE_LIMIT", 0)
        monkeypatch.setattr(fxexport.proof.wiring.probe_site, "_SAMPLED", 2)
    return request.param


def is_proved(result) -> bool:
    return result.failure is None and result.gap is None and result.held is None


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e20])
def test_right_kernels_pass_in_any_order(mode, scale):
    affine = site(scale=scale)
    for order in (None, range(23, -1, -1), np.random.default_rng(1).permutation(24)):
        result = probe_site(affine, kernel(affine, order), seeded(0))
        assert is_proved(result)
        assert result.probes >= 25
        assert (result.note is None) == (mode == "one_hot")


@pytest.mark.parametrize("sums", [None, np.float32, np.float64], ids=["own", "fp32", "fp64"])
@pytest.mark.parametrize("scale", [1e-7, 1e-2, 100.0])
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_with_sums_in_any_wider_one(mode, kind, scale, sums):
    if kind == "fp64" and sums is np.float32:
        pytest.skip("sums are never in a narrower type")
    affine = site(scale=scale, kind=KINDS[kind])
    for order in (None, np.random.default_rng(1).permutation(24)):
        result = probe_site(affine, kernel(affine, order, sums=sums), seeded(0))
        assert is_proved(result) or (kind == "fp16" and "subnormal" in str(result.held)), result


@settings(max_examples=30)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**32 - 1), st.booleans())
def test_weights_of_every_size_at_once(kind, seed, is_wide):
    rng = np.random.default_rng(seed)
    limits = np.finfo(np.float32 if kind == "bf16" else KINDS[kind])
    exponents = rng.integers(limits.minexp + 1, limits.maxexp - 2, (5, 9))
    weight = np.ldexp(rng.uniform(1, 2, (5, 9)), exponents).astype(KINDS[kind])
    weight[rng.random((5, 9)) < 0.2] = -0.0
    affine = dataclasses.replace(site(5, 9, kind=KINDS[kind]), weight=weight)
    order = rng.permutation(9)
    run = kernel(affine, order, sums=np.float64 if is_wide else None)
    assert is_proved(probe_site(affine, run, seeded(0)))
    off = weight.copy()
    row, column = rng.integers(5), rng.integers(9)
    off[row, column] = np.nextafter(np.float64(weight[row, column]), np.inf)  # nothing, in a narrower type
    bits = off.view(f"u{off.dtype.itemsize}")
    bits[row, column] = weight.view(bits.dtype)[row, column] ^ 1
    is_hidden = weight[row, column] == 0  # a subnormal number, which hardware may take as zero
    result = probe_site(affine, kernel(affine, order, transform=lambda w: off), seeded(0))
    assert is_hidden or result.failure is not None


def test_scales_show_every_weight_as_a_normal_number():
    weight = np.array([[1e-45, 1e-38, 1.0, 3e38]], np.float32)
    found = scales(weight)
    assert len(found) > 1
    with np.errstate(over="ignore"):
        products = np.abs(weight.astype(np.float64)[..., None] * np.array(found))
    is_shown = (products >= smallest_normal(weight.dtype)) & (products < np.finfo(np.float32).max)
    assert is_shown.any(axis=-1).all()
    assert all(np.float32(scale) == scale for scale in found)
    assert scales(np.zeros((2, 2), np.float16)) == (2.0**14,)


def flushing(array):
    return np.where(np.abs(array) < smallest_normal(array.dtype), array.dtype.type(0), array)


def test_hardware_that_flushes_subnormals_is_told_apart():
    affine = site(scale=1e-20)
    assert is_proved(probe_site(affine, kernel(affine, read=flushing), seeded(0)))
    affine.weight[3, 5] = 1e-41
    assert is_proved(probe_site(affine, kernel(affine), seeded(0)))
    result = probe_site(affine, kernel(affine, read=flushing), seeded(0))
    assert result.failure is None
    assert "subnormal weights are taken as zero" in result.held


def swap_columns(weight):
    swapped = weight.copy()
    swapped[:, [3, 4]] = weight[:, [4, 3]]
    return swapped


def swap_two(weight):
    swapped = weight.copy()
    swapped[2, 3], swapped[2, 4] = weight[2, 4], weight[2, 3]
    return swapped


WRONG = {
    "reversed": lambda w: w[:, ::-1],
    "swapped": swap_columns,
    "two": swap_two,
    "rows": lambda w: w[::-1],
    "scaled": lambda w: (w * w.dtype.type(1.0625)).astype(w.dtype),
    "negative": lambda w: -w,
}


@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernels_are_caught(mode, name, kind):
    if kind != "fp32" and name == "scaled" and mode == "integers":
        pytest.skip("small integers times 1.0625 are themselves, rounded")
    affine = site(kind=KINDS[kind])
    result = probe_site(affine, kernel(affine, transform=WRONG[name]), seeded(0))
    assert result.failure is not None
    assert result.failure.name == "fc.weight"
    assert result.failure.expected != result.failure.found


def test_one_ulp_is_caught_under_a_large_bias():
    affine = dataclasses.replace(site(), bias=np.full(7, 1e6, np.float32))
    off = affine.weight.copy()
    off[2, 5] = np.nextafter(off[2, 5], np.float32(np.inf))
    result = probe_site(affine, kernel(affine, transform=lambda w: off), seeded(0), (FP32, TF32)[:1])
    assert result.failure is not None


def test_a_small_weight_behind_a_zero_is_caught_under_a_bias():
    affine = site()
    affine.weight[1, 1] = 0.0
    off = affine.weight.copy()
    off[1, 1] = 1e-30
    assert probe_site(affine, kernel(affine, transform=lambda w: off), seeded(0)).failure is not None


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_a_bias_dropped_or_added_twice_is_caught(mode, factor):
    affine = site()
    wrong = dataclasses.replace(affine, bias=affine.bias * np.float32(factor))
    assert probe_site(affine, kernel(wrong), seeded(0)).failure is not None


def test_a_bias_that_only_zero_features_get_is_caught():
    affine = site()
    right = kernel(affine)

    def run(features, weight, has_bias):
        return right(features, weight, has_bias and not features.any())

    assert probe_site(affine, run, seeded(0)).failure is not None


def tf32(array):
    if array.dtype != np.float32:
        return array
    bits = np.ascontiguousarray(array).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def test_shortened_operands_hold_where_tf32_is_claimed(mode):
    affine = site()
    run = kernel(affine, read=tf32)
    assert probe_site(affine, run, seeded(0), (FP32,)).failure is not None
    result = probe_site(affine, run, seeded(0), (FP32, TF32))
    assert result.failure is None
    assert "within tf32 rounding" in result.held
    for name in ("reversed", "swapped", "two", "rows", "negative"):
        wrong = kernel(affine, transform=WRONG[name], read=tf32)
        assert probe_site(affine, wrong, seeded(0), (FP32, TF32)).failure is not None


def test_rounding_of_the_whole_kernel_is_no_evidence():
    affine = dataclasses.replace(site(), kernel_size=(2, 2), operand=(6, 2, 2))
    right = kernel(affine)

    def winograd(features, weight, has_bias):
        found = right(features, weight, has_bias)
        size = np.abs(affine.weight).max(axis=1) * np.abs(features).max(axis=1, keepdims=True)
        return (found + size * np.float32(2.0**-23)).astype(np.float32)

    assert "Winograd or FFT" in probe_site(affine, winograd, seeded(0)).gap
    flat = dataclasses.replace(affine, kernel_size=(1, 1))
    assert probe_site(flat, winograd, seeded(0)).failure is not None


def test_what_cannot_be_probed_says_so():
    for value in (np.inf, -np.inf, np.nan):
        bad = site()
        bad.weight[1, 2] = value
        assert "NaN or infinity" in str(probe_site(bad, kernel(bad), seeded(0)).gap)
    whole = dataclasses.replace(site(), weight=site().weight.astype(np.int32))
    assert "int32" in str(probe_site(whole, kernel(whole), seeded(0)).gap)


@pytest.mark.parametrize(("kind", "digits"), [("float32", 24), ("float16", 11), ("bfloat16", 8)])
@pytest.mark.parametrize("count", [1, 24, 4096, 25088])
def test_integer_plans_stay_exact_and_rarely_miss(kind, digits, count):
    plan = integer_plan(7, count, kind)
    assert plan.amplitude * plan.block <= 2**digits
    assert plan.amplitude <= 2**10
    assert plan.sets * plan.rounds * -(-count // plan.block) <= 4096
    assert plan.miss < {"float32": 1e-8, "float16": 1e-8, "bfloat16": 1e-3}[kind]
    assert plan.miss >= (1 / (2 * plan.amplitude + 1)) ** plan.sets


def test_integers_cover_every_feature_and_differ_from_set_to_set():
    plan = dataclasses.replace(integer_plan(7, 24, "bfloat16"), block=7)
    rng = seeded(0)
    sets = [given.copy() for given in random_integers((7, 24), np.dtype(np.float32), plan, rng)]
    assert len(sets) == plan.sets
    assert not np.array_equal(sets[0], sets[1])
    assert all(np.abs(given).max() <= plan.amplitude for given in sets)
    covered = []
    for features, support in sparse_features(24, np.dtype(np.float32), plan, rng):
        outside = np.setdiff1d(np.arange(24), np.arange(24)[support])
        assert not features[:, outside].any()
        covered.extend(np.arange(24)[support])
    assert covered == list(range(24))
