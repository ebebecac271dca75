"""Intervals, p-values and detectable effects, against SciPy and against counting all permutations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fxhead.study.settings import POWER, RESAMPLES, Rules
from fxhead.study.statistics import compare, least_p_value, smallest_effect

# of 899 images; there are ties among the permutations
FIRST = (864, 858, 872, 868, 862)
SECOND = (871, 867, 873, 875, 863)
RULES = Rules(alpha=0.05, margin_pp=1.0)


def difference(second: np.ndarray, first: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(second, axis=axis) - np.mean(first, axis=axis)


def every_difference(first: tuple[int, ...], second: tuple[int, ...], *, paired: bool) -> list[float]:
    """The difference of the means under each permutation."""
    if paired:
        gaps = np.subtract(second, first)
        return [float(np.mean(gaps * signs)) for signs in itertools.product((1, -1), repeat=len(gaps))]
    both, found = np.array(first + second), []
    for chosen in itertools.combinations(range(len(both)), len(second)):
        mask = np.isin(np.arange(len(both)), chosen)
        found.append(float(both[mask].mean() - both[~mask].mean()))
    return found


@pytest.mark.parametrize("paired", [False, True])
def test_few_values_are_permuted_in_every_way(paired: bool) -> None:
    differences = np.array(every_difference(FIRST, SECOND, paired=paired))
    observed = np.mean(SECOND) - np.mean(FIRST)
    # both tails, each doubled, as SciPy defines two-sided
    tails = (differences >= observed - 1e-12).mean(), (differences <= observed + 1e-12).mean()
    found = compare(FIRST, SECOND, paired=paired, rules=RULES, seed=0)
    assert found.p_value == pytest.approx(min(1.0, 2 * min(tails)))
    assert found.difference == pytest.approx(observed)


@pytest.mark.parametrize("paired", [False, True])
def test_interval_and_p_value_are_scipys(paired: bool) -> None:
    random = np.random.default_rng(5)
    first, second = (random.normal(mean, 30, 40).round().astype(int) for mean in (860, 872))
    found = compare(first, second, paired=paired, rules=RULES, seed=7)
    interval = stats.bootstrap(
        (second - first,) if paired else (second, first),
        np.mean if paired else difference,
        confidence_level=0.95,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(7),
    ).confidence_interval
    assert found.interval == (interval.low, interval.high)
    expected = stats.permutation_test(
        (second, first),
        difference,
        permutation_type="samples" if paired else "independent",
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(7),
    )
    assert found.p_value == expected.pvalue
    # on normal values the t-test is right too: a sum that is the wrong way round would not agree
    t_test = (stats.ttest_rel if paired else stats.ttest_ind)(second, first)
    assert found.p_value == pytest.approx(t_test.pvalue, abs=0.02)
    low, high = t_test.confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high), abs=2)


@pytest.mark.parametrize("paired", [False, True])
def test_the_smallest_effect_is_found_with_the_power_that_is_said(paired: bool) -> None:
    """The exact power of the t-test comes from the noncentral t distribution."""
    random = np.random.default_rng(1)
    first, second = random.normal(96, 1, 25), random.normal(96, 1, 25)
    effect = smallest_effect(first, second, paired=paired, alpha=0.01)
    assert effect is not None
    if paired:
        freedom, error = 24, float(np.std(second - first, ddof=1) / 5)
    else:
        pooled = (np.var(first, ddof=1) + np.var(second, ddof=1)) / 2
        freedom, error = 48, float(np.sqrt(pooled * 2 / 25))
    critical = stats.t.ppf(0.995, freedom)
    power = stats.nct.sf(critical, freedom, effect / error)
    assert power == pytest.approx(POWER, abs=0.01)


@pytest.mark.parametrize("paired", [False, True])
def test_where_no_permutation_is_rare_enough_nothing_could_be_shown(paired: bool) -> None:
    few, enough = (3, 4) if not paired else (5, 6)  # 2 / C(6, 3) = 0.1, 2 / C(8, 4) = 0.03; 2 / 2⁵, 2 / 2⁶
    values = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])
    assert smallest_effect(values[:few], values[:few] ** 2, paired=paired, alpha=0.05) is None
    assert smallest_effect(values[:enough], values[:enough] ** 2, paired=paired, alpha=0.05) is not None


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_least_p_value_is_that_of_the_most_extreme_order(size: int, paired: bool) -> None:
    first, second = tuple(range(size)), tuple(10**i * 100 for i in range(size))
    found = compare(first, second, paired=paired, rules=RULES, seed=0)
    assert found.p_value == pytest.approx(least_p_value(size, size, paired=paired))


@pytest.mark.parametrize("paired", [False, True])
def test_equal_runs_differ_by_nothing_without_a_warning(paired: bool) -> None:
    found = compare([867] * 9, [867] * 9, paired=paired, rules=RULES, seed=0)
    assert (found.difference, found.interval, found.p_value, found.smallest_effect) == (0, (0, 0), 1, 0)


@given(
    st.lists(st.integers(0, 40), min_size=2, max_size=12),
    st.lists(st.integers(0, 40), min_size=2, max_size=12),
    st.booleans(),
)
def test_any_accuracies_give_numbers(first: list[int], second: list[int], paired: bool) -> None:
    if paired:
        size = min(len(first), len(second))
        first, second = first[:size], second[:size]
    found = compare(first, second, paired=paired, rules=RULES, seed=0)
    low, high = found.interval
    assert np.isfinite([low, high, found.p_value]).all()
    assert low <= found.difference + 1e-9
    assert high >= found.difference - 1e-9
    assert 0 < found.p_value <= 1


def test_evidence_in_another_unit() -> None:
    found = compare(FIRST, SECOND, paired=False, rules=RULES, seed=0)
    half = found.times(0.5)
    assert found.smallest_effect is not None
    assert (half.difference, half.p_value) == (found.difference / 2, found.p_value)
    assert half.interval == (found.interval[0] / 2, found.interval[1] / 2)
    assert half.smallest_effect == found.smallest_effect / 2
    assert compare((1, 2), (3, 4), paired=False, rules=RULES, seed=0).times(0.5).smallest_effect is None
