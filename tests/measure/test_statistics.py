"""Spread, intervals and tests against closed forms, scipy and statsmodels."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from bench.measure import statistics as own
from bench.measure.statistics import (
    Estimates,
    bootstrap_means,
    changes_by_draws,
    difference_tests,
    estimate,
    holm,
    mcnemar,
    nested_intervals,
    sign_flip_test,
    spread,
    tango,
    wilson,
)


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
    assert sign_flip_test(np.zeros(150)) == 1.0


def test_one_seed_is_the_exact_sign_test() -> None:
    difference_N = np.repeat([1.0, -1.0, 0.0], [25, 12, 263])
    assert sign_flip_test(difference_N) == pytest.approx(stats.binomtest(25, 37).pvalue, abs=0.006)


def test_mean_over_seeds_agrees_with_scipy_over_all_sign_flips() -> None:
    generator = np.random.default_rng(3)
    a_N, b_N = generator.integers(0, 4, 14) / 3, generator.integers(0, 3, 14) / 3
    exact = stats.permutation_test(
        (a_N, b_N), lambda a, b: a.mean() - b.mean(), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_test(a_N - b_N) == pytest.approx(exact.pvalue, abs=0.012)


def test_direction_does_not_change_p() -> None:
    a_N, b_N = np.random.default_rng(0).integers(0, 2, (2, 200))
    assert sign_flip_test(a_N - b_N) == sign_flip_test(b_N - a_N)


def test_p_counts_the_observed_assignment() -> None:
    assert sign_flip_test(np.ones(100), permutations=99) == 0.01


def _runs(only_a: int, only_b: int, videos: int) -> tuple[np.ndarray, np.ndarray]:
    """Correctness of two runs that differ on so many videos; the others are right and wrong in turn."""
    a_N = np.arange(videos) % 2
    b_N = a_N.copy()
    a_N[:only_a], b_N[:only_a] = 1, 0
    a_N[only_a : only_a + only_b], b_N[only_a : only_a + only_b] = 0, 1
    return a_N, b_N


@pytest.mark.parametrize(("only_a", "only_b"), [(25, 12), (3, 9), (1, 0), (0, 0), (40, 40)])
def test_mcnemar_agrees_with_statsmodels_and_with_sign_flips(only_a: int, only_b: int) -> None:
    a_N, b_N = _runs(only_a, only_b, 300)
    both = [[int(((a_N == x) & (b_N == y)).sum()) for y in (1, 0)] for x in (1, 0)]
    p = mcnemar(a_N - b_N)
    assert p == pytest.approx(reference_mcnemar(both, exact=True).pvalue)
    assert p == pytest.approx(sign_flip_test(a_N - b_N), abs=0.01)


def test_holm_agrees_with_statsmodels_and_leaves_what_is_no_test() -> None:
    p_K = np.random.default_rng(0).beta(0.5, 3, 12)
    assert holm(p_K) == pytest.approx(multipletests(p_K, method="holm")[1])
    assert holm([0.01, math.nan, 0.04, 0.03]) == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)
    assert holm([]).size == 0


@pytest.mark.parametrize(("right", "videos"), [(0, 16), (16, 16), (7, 20), (1, 1), (199, 200)])
def test_wilson_agrees_with_statsmodels(right: int, videos: int) -> None:
    assert wilson(right / videos, videos) == pytest.approx(proportion_confint(right, videos, method="wilson"))


def test_tango_agrees_with_published_intervals() -> None:
    """Airway hyper-responsiveness before and after transplantation: 1 and 7 of 21 (Fagerland, Lydersen, Laake 2014)."""
    low, high, p = tango(1, 7, 21)
    assert (low, high) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert p == pytest.approx(reference_mcnemar([[0, 1], [7, 0]], exact=False, correction=False).pvalue)
    assert tango(7, 1, 21)[:2] == pytest.approx((-high, -low))


@pytest.mark.parametrize(
    ("only_a", "only_b", "videos"), [(0, 0, 16), (16, 0, 16), (0, 3, 3), (4, 0, 4), (5, 2, 9), (0, 0, 1)]
)
def test_tangos_interval_has_a_width_and_agrees_with_its_p(only_a: int, only_b: int, videos: int) -> None:
    low, high, p = tango(only_a, only_b, videos)
    assert -1 <= low < high <= 1 and low <= (only_a - only_b) / videos <= high
    assert (p < 0.05) == (low > 0 or high < 0)
    if only_a == only_b == 0:
        assert high == pytest.approx(own.Z**2 / (videos + own.Z**2)) and low == pytest.approx(-high)


@pytest.mark.parametrize("videos", [1, 3, 16, 200])
def test_no_interval_is_a_point_where_all_videos_agree(videos: int) -> None:
    right, wrong = np.ones(videos), np.zeros(videos)
    found = _resampled(np.array([right, right, wrong, right, right, right]), [0, 1, 2, 3, 3, 3])
    low, high = nested_intervals(found)
    assert (low < high).all() and (low >= 0).all() and (high <= 100 + 1e-9).all()
    assert low[[0, 2, 3]] == pytest.approx([100 * wilson(1, videos)[0], 0, low[0]])
    test = difference_tests(found, [0, 0, 2, 3], [1, 2, 0, 2])
    assert (test.low < test.high).all() and (test.low >= -100).all() and (test.high <= 100).all()
    assert test.difference == pytest.approx([0, 100, -100, 100]) and test.p[0] == 1
    assert ((test.low > 0) | (test.high < 0)).tolist() == (test.p < 0.05).tolist() == [False, *3 * [videos > 3]]


def test_resampled_means_have_the_spread_of_a_mean() -> None:
    values_TN = np.random.default_rng(0).random((3, 400)) < [[0.2], [0.5], [0.9]]
    means_TB = bootstrap_means(values_TN.astype(float), 4000, seed=1)
    assert means_TB.mean(axis=1) == pytest.approx(values_TN.mean(axis=1), abs=0.002)
    assert means_TB.std(axis=1) == pytest.approx(values_TN.std(axis=1) / 20, rel=0.05)


def test_resamples_are_the_same_for_all_rows_and_whatever_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values_TN = np.random.default_rng(0).random((2, 50))
    whole = bootstrap_means(values_TN, 100, seed=1)
    assert bootstrap_means(values_TN[1:], 100, seed=1) == pytest.approx(whole[1:], abs=1e-6)
    monkeypatch.setattr(own, "CHUNK", 7 * 50)
    assert bootstrap_means(values_TN, 100, seed=1) == pytest.approx(whole, abs=1e-6)


def _only_seeds(*rows: list[float]) -> Estimates:
    """Rows whose numbers do not depend on the videos."""
    values_T, row_T = np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    draws_TB = np.tile(values_T[:, None], 1000).astype(np.float32)
    return estimate(values_T, draws_TB, row_T, len(rows), 1000)


def test_over_seeds_alone_it_is_welchs_test() -> None:
    a, b = [61.0, 64.5, 62.0, 66.0], [58.0, 60.0, 63.5]
    test = difference_tests(_only_seeds(a, b), [0], [1])
    theirs = stats.ttest_ind(a, b, equal_var=False)
    assert test.difference[0] == pytest.approx(np.mean(a) - np.mean(b)) and test.p[0] == pytest.approx(theirs.pvalue)
    assert (test.low[0], test.high[0]) == pytest.approx(tuple(theirs.confidence_interval()), abs=1e-4)


def _resampled(correct_TN: np.ndarray, row_T: list[int], draws: int = 4000) -> Estimates:
    draws_TB = bootstrap_means(100 * correct_TN, draws, seed=5)
    rows, videos = max(row_T) + 1, correct_TN.shape[1]
    return estimate(100 * correct_TN.mean(axis=1), draws_TB, np.array(row_T), rows, videos)


def test_of_one_run_each_it_is_the_paired_t_test() -> None:
    a_N, b_N = _runs(30, 14, 300)
    test = difference_tests(_resampled(np.array([a_N, b_N]), [0, 1]), [0, 1], [1, 0])
    theirs = stats.ttest_rel(a_N, b_N)
    assert test.p == pytest.approx([theirs.pvalue] * 2, rel=0.15)
    interval = [100 * bound for bound in theirs.confidence_interval()]
    assert (test.low[0], test.high[0]) == pytest.approx(interval, abs=0.2)
    assert (test.low[1], test.high[1]) == pytest.approx((-test.high[0], -test.low[0]))


def test_what_seeds_answer_differently_is_not_taken_for_their_level() -> None:
    """Against the two-way analysis of variance: (MS of seeds - MS of the rest) / (N S)."""
    generator = np.random.default_rng(2)
    chance_SN = np.clip(generator.random(600) + np.array([[-0.1], [0.0], [0.1], [0.05]]), 0, 1)
    correct_SN = (generator.random(chance_SN.shape) < chance_SN).astype(float)
    rest_SN = correct_SN - correct_SN.mean(axis=0) - correct_SN.mean(axis=1, keepdims=True) + correct_SN.mean()
    seeds, videos = correct_SN.shape
    rest = (rest_SN**2).sum() / (seeds - 1) / (videos - 1)
    between = videos * correct_SN.mean(axis=1).var(ddof=1)
    found = _resampled(correct_SN, [0] * 4)
    assert found.between_G[0] == pytest.approx(1e4 * between / videos / seeds)
    assert found.excess_G[0] == pytest.approx(1e4 * (between - rest) / videos / seeds, rel=0.05)


def test_one_seed_says_nothing_of_seeds() -> None:
    found = _resampled(np.array(_runs(30, 14, 300), float), [0, 1])
    assert list(found.between_G) == list(found.excess_G) == [0, 0]
    low, high = nested_intervals(found)
    assert (low[0], high[0]) == pytest.approx(own.percentiles(found.draws_GB[0], axis=0))


def test_the_nested_interval_of_many_seeds_is_that_of_their_mean() -> None:
    values = list(np.random.default_rng(3).normal(60, 2, 30))
    low, high = nested_intervals(_only_seeds(values))
    assert (low[0], high[0]) == pytest.approx(stats.t.interval(0.95, 29, np.mean(values), stats.sem(values)), abs=0.12)


def test_missing_trials_and_rows_without_any_are_left_out() -> None:
    values_T, row_T = np.array([60.0, math.nan, 62.0, math.nan]), np.array([0, 0, 0, 1])
    found = estimate(values_T, np.tile(values_T[:, None], 10).astype(np.float32), row_T, 2, 100)
    assert list(found.seeds_G) == [2, 0] and found.mean_G == pytest.approx([61, math.nan], nan_ok=True)


def test_equal_rows_do_not_differ_and_others_surely_may() -> None:
    found = _resampled(np.array([[1.0, 0.0] * 50, [1.0, 0.0] * 50, [0.0, 1.0] * 50]), [0, 1, 2])
    assert list(difference_tests(found, [0, 0], [1, 2]).p) == [1.0, 1.0]
    assert difference_tests(_only_seeds([70.0], [60.0]), [0], [1]).p[0] < 1e-20


# --- videos in groups -------------------------------------------------------------------------------------------------


def _grouped(groups: int, rows: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Correctness [T,N] of rows on groups of 1 to 9 videos whose difficulty and preference of a row are shared."""
    generator = np.random.default_rng(groups)
    group_N = np.repeat(np.arange(groups), generator.integers(1, 10, groups))
    shared_TN = (generator.normal(0, 1, groups) + generator.normal(0, 0.5, (rows, groups)))[:, group_N]
    return (shared_TN + generator.normal(0.5, 1, shared_TN.shape) > 0).astype(float), group_N


def _cluster_robust(value_N: np.ndarray, group_N: np.ndarray) -> float:
    """The standard error of a mean, of videos that are independent between groups alone (CR1)."""
    groups = group_N.max() + 1
    scores = np.array([(value_N - value_N.mean())[group_N == group].sum() for group in range(groups)])
    error = math.sqrt(groups / (groups - 1) * (scores**2).sum()) / len(value_N)
    clusters = {"groups": group_N, "use_correction": True}
    fit = OLS(value_N, np.ones(len(value_N))).fit(cov_type="cluster", cov_kwds=clusters)
    assert error == pytest.approx(fit.bse[0])
    return error


def test_means_of_resampled_groups_have_the_cluster_robust_error() -> None:
    correct_TN, group_N = _grouped(150)
    means_TB = bootstrap_means(correct_TN, 8000, 1, group_N)
    errors = [_cluster_robust(value_N, group_N) for value_N in correct_TN]
    assert means_TB.std(axis=1) == pytest.approx(errors, rel=0.05)
    assert means_TB.mean(axis=1) == pytest.approx(correct_TN.mean(axis=1), abs=0.002)
    assert (bootstrap_means(correct_TN, 2000, 1).std(axis=1) < 0.75 * np.array(errors)).all()  # as if independent


@pytest.mark.parametrize("groups", [8, 60])
def test_intervals_and_tests_of_one_run_each_are_cluster_robust_with_a_degree_less_than_groups(groups: int) -> None:
    correct_TN, group_N = _grouped(groups)
    draws_TB = bootstrap_means(100 * correct_TN, 8000, 3, group_N)
    found = estimate(100 * correct_TN.mean(axis=1), draws_TB, np.array([0, 1]), 2, len(group_N), groups)
    test = difference_tests(found, [0], [1])
    error = 100 * _cluster_robust(correct_TN[0] - correct_TN[1], group_N)
    assert test.high[0] - test.low[0] == pytest.approx(2 * stats.t.ppf(0.975, groups - 1) * error, rel=0.1)
    assert test.p[0] == pytest.approx(2 * stats.t.sf(abs(test.difference[0]) / error, groups - 1), rel=0.25)
    low, high = nested_intervals(found)
    width = 2 * stats.t.ppf(0.975, groups - 1) * 100 * _cluster_robust(correct_TN[0], group_N)
    assert high[0] - low[0] == pytest.approx(width, rel=0.12)


def test_what_nobody_declares_to_be_a_group_is_resampled_as_ever() -> None:
    values_TN = np.random.default_rng(0).random((2, 40))
    alone = bootstrap_means(values_TN, 500, 1, np.arange(40))
    scale = math.sqrt(40 / 39)
    mean_T1 = values_TN.mean(axis=1, keepdims=True)
    assert alone == pytest.approx(mean_T1 + scale * (bootstrap_means(values_TN, 500, 1) - mean_T1), abs=1e-6)
    found = _resampled(values_TN, [0, 1])
    assert found.groups == found.videos == 40


def test_signs_of_groups_are_flipped_together_as_in_scipy() -> None:
    correct_TN, group_N = _grouped(12)
    difference_N = correct_TN[0] - correct_TN[1]
    sum_U = np.array([difference_N[group_N == group].sum() for group in range(12)])
    exact = stats.permutation_test(
        (sum_U, np.zeros(12)), lambda a, b: (a - b).sum(), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_test(difference_N, group_N=group_N) == pytest.approx(exact.pvalue, abs=0.012)
    assert sign_flip_test(difference_N, group_N=group_N) > sign_flip_test(difference_N) + 0.02


def test_where_all_groups_agree_the_interval_is_that_of_as_many_videos_as_groups() -> None:
    group_N = np.repeat(np.arange(9), 4)
    right_TN = np.ones((2, 36))
    found = estimate(
        100 * right_TN.mean(axis=1), 100 * bootstrap_means(right_TN, 200, 0, group_N), np.array([0, 1]), 2, 36, 9
    )
    low, high = nested_intervals(found)
    assert (low[0], high[0]) == pytest.approx([100 * bound for bound in wilson(1, 9)])
    test = difference_tests(found, [0], [1])
    assert (test.low[0], test.high[0]) == pytest.approx([100 * bound for bound in tango(0, 0, 9)[:2]])


def test_a_single_group_tells_nothing_of_others() -> None:
    means_TB = bootstrap_means(np.array([[1.0, 0.0, 1.0, 1.0]]), 50, 0, np.zeros(4, int))
    low, high = nested_intervals(estimate(np.array([75.0]), 100 * means_TB, np.array([0]), 1, 4, 1))
    assert high[0] - low[0] > 70


def test_a_percentile_interval_leaves_out_its_level_however_few_the_draws() -> None:
    """Of uniform draws: the expected share below the lower end is 2.5 %."""
    draws = np.random.default_rng(0).uniform(size=(4000, 200))
    low, high = own.percentiles(draws, axis=1)
    assert low.mean() == pytest.approx(0.025, abs=0.0006) and 1 - high.mean() == pytest.approx(0.025, abs=0.0006)


def test_draws_add_the_variance_of_their_mean_with_the_tails_of_their_number() -> None:
    number_TD = np.array([[70, 74, 72, 71, 76], [60, 64, 62, 61, 66]], float)
    found = changes_by_draws(number_TD, 20_000, seed=0)
    assert found[0] == pytest.approx(found[1], abs=2e-6)  # both rows are measured on the same draws
    tails = stats.t.ppf(0.975, 4) / stats.norm.ppf(0.975)
    assert found[0].std() == pytest.approx(tails * number_TD[0].std(ddof=1) / 5**0.5, rel=0.02)
    assert not changes_by_draws(np.full((1, 5), 50.0), 10, seed=0).any()


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_groups_that_all_agree_are_no_proof(groups: int, seeds: int) -> None:
    """Each group has the same 8 of 10 and 5 of 10 right, so nothing varies over groups; t would find p = 0."""
    right_N = np.tile([1.0] * 8 + [0] * 2, groups)
    less_N = np.tile([1.0] * 5 + [0] * 5, groups)
    correct_TN = np.array([right_N] * seeds + [less_N] * seeds)
    if seeds > 1 and groups == 1:  # seeds that differ by little
        correct_TN[0, 0] = 0
    group_N = np.repeat(np.arange(groups), 10)
    draws_TB = 100 * bootstrap_means(correct_TN, 500, 0, group_N)
    row_T = np.repeat([0, 1], seeds)
    found = estimate(100 * correct_TN.mean(axis=1), draws_TB, row_T, 2, 10 * groups, groups)
    tests = difference_tests(found, [0], [1])
    assert tests.p[0] > 0.05 and tests.low[0] < 0 < tests.high[0]
    low, high = nested_intervals(found)
    assert high[0] - low[0] > 40
