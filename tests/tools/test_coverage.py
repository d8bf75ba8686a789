"""A small cell of the simulated coverage; the whole table is in docs/statistics.md."""

from __future__ import annotations

import numpy as np
import pytest

from bench.measure.statistics import TAILS, bootstrap_means, difference_tests, estimate, nested_intervals
from tools import coverage as simulated
from tools.coverage import COLUMNS, coverage


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.0), (10, 1.0)])
def test_intervals_cover_what_they_say(seeds: int, spread: float) -> None:
    found = coverage(seeds, 100, spread, repetitions=250)
    assert list(found) == list(COLUMNS)
    assert all(91.5 < value <= 100 for value in found.values())
    assert found["videos"] < 98 and found["nested"] < 98.5


def test_plain_percentiles_of_three_seeds_are_too_narrow() -> None:
    found = coverage(3, 500, 6.0, repetitions=250)
    assert found["plain"] < 88 and found["nested"] > 91 and found["difference"] > 91


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
