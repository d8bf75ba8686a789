"""A small cell of the simulated coverage; the whole table is in docs/statistics.md."""

from __future__ import annotations

import numpy as np
import pytest

from bench.measure.statistics import TAILS, bootstrap_means, difference_tests, estimate, nested_intervals
from tools import coverage as simulated
from tools.coverage import COLUMNS, GROUPED, Sharing, coverage


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.0), (10, 1.0)])
def test_intervals_cover_what_they_say(seeds: int, spread: float) -> None:
    found = coverage(seeds, 100, spread, repetitions=250)
    assert list(found) == list(COLUMNS)
    assert all(91.5 < value <= 100 for value in found.values())
    assert found["videos"] < 98 and found["nested"] < 98.5


def test_plain_percentiles_of_three_seeds_are_too_narrow() -> None:
    found = coverage(3, 500, 6.0, repetitions=250)
    assert found["plain"] < 88 and found["nested"] > 91 and found["difference"] > 91


@pytest.mark.parametrize("sizes", [(5,), (1, 1, 2, 3, 18)])
def test_groups_are_covered_where_videos_alone_are_not(sizes: tuple[int, ...]) -> None:
    found = coverage(3, 500, 1.0, 500, Sharing(sizes, 0.5, 0.5))
    assert list(found) == list(GROUPED)
    assert found["videos"] > 89 and all(92 < found[name] < 99 for name in ("nested", "difference"))
    assert found["alone nested"] < 90 and found["alone difference"] < 94


def test_groups_that_share_nothing_are_resampled_without_loss() -> None:
    found = coverage(5, 500, 1.0, 250, Sharing((5,), 0.0, 0.0))
    assert found["nested"] == pytest.approx(found["alone nested"], abs=3) and found["nested"] > 91.5


def test_what_groups_share_is_the_correlation_of_their_videos() -> None:
    own_GN = np.random.default_rng(0).standard_normal((200, 100)).astype(np.float32)
    shared_GN = simulated._shared(own_GN, np.arange(100) // 5, 0.3, np.random.default_rng(1))
    assert np.corrcoef(shared_GN[:, 0::5].ravel(), shared_GN[:, 4::5].ravel())[0, 1] == pytest.approx(0.3, abs=0.05)
    assert shared_GN.std() == pytest.approx(1, abs=0.02)
    assert np.corrcoef(shared_GN[:, 4:-1:5].ravel(), shared_GN[:, 5::5].ravel())[0, 1] == pytest.approx(0, abs=0.05)


def test_a_harmonic_mean_is_covered_as_well() -> None:
    """Of two protocols with 300 and 150 videos, as each trial's own in every resample."""
    inside: dict[str, list[np.ndarray]] = {"videos": [], "nested": [], "difference": []}
    rows, seeds = 2 * simulated.BLOCK, 5
    for block in range(3):
        numbers, draws, given, truths = [], [], [], []
        for videos in (300, 150):
            generator = np.random.default_rng([block, videos])
            correct_TN, given_G, truth = simulated._answers(seeds, videos, 2.0, generator)
            numbers.append(correct_TN.mean(axis=1, dtype=float))
            draws.append(bootstrap_means(correct_TN, 400, seed=block + videos))
            given.append(given_G)
            truths.append(truth)
        row_T = np.repeat(np.arange(rows), seeds)
        found = estimate(_harmonic(*numbers), _harmonic(*draws), row_T, rows, 150)
        low, high = np.quantile(found.draws_GB, TAILS, axis=1)
        inside["videos"].append((low <= _harmonic(*given)) & (_harmonic(*given) <= high))
        low, high = nested_intervals(found, block)
        inside["nested"].append((low <= truths[0]) & (truths[0] <= high))  # both protocols are equally hard
        inside["difference"].append(difference_tests(found, range(0, rows, 2), range(1, rows, 2)).p > 0.05)
    assert all(0.905 < np.concatenate(own).mean() < 0.995 for own in inside.values())


def _harmonic(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return 2 / (1 / first + 1 / second)


@pytest.mark.parametrize("drawn", simulated.HALVES)
def test_other_draws_of_classes_are_covered(drawn: simulated.Drawn) -> None:
    found = simulated.coverage_of_classes(drawn, 3, 5.0, 200)
    assert list(found) == list(simulated.BY_CLASSES)
    assert all(found[name][0] > 92 for name in ("nested", "difference"))
    assert found["alone nested"][0] < 92 and found["alone difference"][0] < 90


def test_what_other_seeds_choose_is_unbiased_and_covered() -> None:
    found = simulated.selection(4, 3, repetitions=300)
    assert list(found) == list(simulated.CHOICES)
    assert abs(found["chosen"][0]) < 0.2 < found["together"][0] < found["oracle"][0]
    assert 92 < found["coverage"][0] < 98.5


@pytest.mark.parametrize(
    ("seeds", "videos", "spread", "difference", "sharing"),
    [(3, 300, 2.0, 6.0, simulated.APART), (5, 500, 1.0, 5.0, Sharing((5,), 0.3, 0.5))],
)
def test_power_is_what_is_promised(seeds: int, videos: int, spread: float, difference: float, sharing: Sharing) -> None:
    found = simulated.powers(seeds, videos, spread, difference, sharing, repetitions=600)
    assert 40 < found["promised"] < 90
    assert found["simulated"] == pytest.approx(found["promised"], abs=5)  # 2.5 standard errors


def test_true_variances_add_up_to_those_of_an_answer() -> None:
    """Two equally good rows that share nothing but the difficulty of independent videos."""
    found = simulated.true_variances(1.0, 0.0, simulated.ALONE)
    assert found.seeds == pytest.approx((1.0, 1.0), rel=0.01)
    assert found.videos == pytest.approx(0, abs=10)
    apart = simulated.true_variances(1.0, 0.0, simulated.APART)
    assert apart.videos + sum(apart.both) == pytest.approx(sum(found.both), rel=0.02)
