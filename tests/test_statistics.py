"""Spread and the paired test against closed forms and scipy."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from bench.statistics import paired_permutation_test, spread


def test_spread_is_the_sample_standard_deviation() -> None:
    values = [61.2, 60.1, 63.4]
    assert spread(values) == pytest.approx((statistics.mean(values), statistics.stdev(values), 3))


def test_spread_of_one_value_has_no_deviation() -> None:
    mean, std, n = spread([61.2])
    assert (mean, n) == (61.2, 1)
    assert math.isnan(std)


def test_spread_does_not_count_missing_seeds() -> None:
    assert spread([60.0, math.nan, 62.0]) == pytest.approx((61.0, math.sqrt(2), 2))
    assert spread([math.nan]).n == 0 and math.isnan(spread([math.nan]).mean)


def test_identical_rows_do_not_differ() -> None:
    correct_N = np.tile([1.0, 0.0, 1 / 3], 50)
    assert paired_permutation_test(correct_N, correct_N) == (0.0, 1.0)


def test_one_seed_is_the_exact_sign_test() -> None:
    a_N, b_N = np.zeros(300), np.zeros(300)
    a_N[:25], b_N[25:37] = 1, 1
    difference, p = paired_permutation_test(a_N, b_N)
    assert difference == pytest.approx(100 * 13 / 300)
    assert p == pytest.approx(stats.binomtest(25, 37).pvalue, abs=0.006)


def test_mean_over_seeds_agrees_with_scipy_over_all_sign_flips() -> None:
    generator = np.random.default_rng(3)
    a_N, b_N = generator.integers(0, 4, 14) / 3, generator.integers(0, 3, 14) / 3
    exact = stats.permutation_test(
        (a_N, b_N), lambda a, b: a.mean() - b.mean(), permutation_type="samples", n_resamples=np.inf
    )
    difference, p = paired_permutation_test(a_N, b_N)
    assert difference == pytest.approx(100 * exact.statistic)
    assert p == pytest.approx(exact.pvalue, abs=0.012)


def test_direction_changes_the_sign_but_not_p() -> None:
    a_N, b_N = np.random.default_rng(0).integers(0, 2, (2, 200))
    (forth, p), (back, q) = paired_permutation_test(a_N, b_N), paired_permutation_test(b_N, a_N)
    assert (forth, p) == (-back, q)


def test_p_counts_the_observed_assignment() -> None:
    assert paired_permutation_test(np.ones(100), np.zeros(100), permutations=99) == (100.0, 0.01)


@pytest.mark.parametrize(("a", "b"), [([1, 0], [1]), ([], [])])
def test_unequal_or_empty_lists_are_refused(a: list[int], b: list[int]) -> None:
    with pytest.raises(ValueError, match="two equally long lists"):
        paired_permutation_test(a, b)
