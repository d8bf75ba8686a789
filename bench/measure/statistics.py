"""Spread over seeds; intervals and tests over videos, and over videos and seeds (docs/statistics.md).

Accuracies are in percent, differences in points. Legend: N videos, B resamples of the videos, T trials, G rows (means
over trials that differ in their seed), P pairs of rows, S seeds of a row, K tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
DRAWS = 2000  # resamples of the videos
TAILS = (0.025, 0.975)
ENOUGH = 10  # smallest number of seeds with which a plain percentile interval over seeds and videos keeps its level
CHUNK = 4_000_000  # largest number of weights of resampled videos in memory
TIE = 1e-6  # tolerance for equal sums: rounding makes them differ by at most 1e-12 per video


class Spread(NamedTuple):
    """Mean, sample standard deviation (ddof 1, nan for fewer than two values) and number of values."""

    mean: float
    std: float
    n: int


def spread(values: ArrayLike) -> Spread:
    """Spread of `values` over seeds, in their unit; nan, a seed without a result, is not counted."""
    present = np.asarray(values, dtype=float)
    present = present[~np.isnan(present)]
    mean = float(present.mean()) if present.size else float("nan")
    std = float(present.std(ddof=1)) if present.size > 1 else float("nan")
    return Spread(mean, std, present.size)


def paired_permutation_test(
    correct_a_N: ArrayLike, correct_b_N: ArrayLike, permutations: int = 20_000, seed: int = 0
) -> tuple[float, float]:
    """Two-sided sign-flip test of equal accuracy on the same videos: (a minus b in points, p).

    Inputs are the correctness in [0,1] of each video, averaged over seeds, in the same order. With one seed it is 0 or
    1, and this is McNemar's exact test, except for random permutations. p counts the observed assignment as one of the
    permutations (Phipson & Smyth 2010), so it is never zero. Raises ValueError for unequal or empty inputs.
    """
    difference_N = _paired(correct_a_N, correct_b_N)
    observed = difference_N.sum()
    flipped = _flipped_sums(np.abs(difference_N), permutations, np.random.default_rng(seed))
    extreme = np.count_nonzero(np.abs(flipped) >= abs(observed) - TIE)
    return float(100 * observed / difference_N.size), float((extreme + 1) / (permutations + 1))


def _flipped_sums(sizes_N: Floats, permutations: int, generator: np.random.Generator) -> Floats:
    # Means over S seeds differ by multiples of 1/S, so the N differences have few sizes. Flipping the signs of k equal
    # sizes is one binomial draw: 20,000 permutations of 20,000 videos take S draws each, not 20,000.
    sums = np.zeros(permutations)
    for size, count in zip(*np.unique(sizes_N.round(12), return_counts=True), strict=True):
        if size > 0:
            sums += size * (2 * generator.binomial(count, 0.5, permutations) - count)
    return sums


def mcnemar(correct_a_N: ArrayLike, correct_b_N: ArrayLike) -> tuple[float, float]:
    """McNemar's exact test of equal accuracy of two runs on the same videos: (a minus b in points, p).

    Binomial test of the videos that only one of the runs gets right (McNemar 1947). Raises ValueError for unequal or
    empty inputs.
    """
    difference_N = _paired(correct_a_N, correct_b_N)
    only_a, only_b = int((difference_N > 0).sum()), int((difference_N < 0).sum())
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return 100 * (only_a - only_b) / difference_N.size, float(p)


def paired_interval(
    correct_a_N: ArrayLike, correct_b_N: ArrayLike, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a minus b in points over videos, for the given seeds: percentiles of the paired bootstrap."""
    difference_N = _paired(correct_a_N, correct_b_N)
    low, high = np.quantile(bootstrap_means(100 * difference_N[None], draws, seed)[0], TAILS)
    return float(low), float(high)


def _paired(correct_a_N: ArrayLike, correct_b_N: ArrayLike) -> Floats:
    a_N, b_N = np.asarray(correct_a_N, dtype=float), np.asarray(correct_b_N, dtype=float)
    if a_N.shape != b_N.shape or a_N.ndim != 1 or not a_N.size:
        raise ValueError(f"a paired test needs two lists of equal length, got {a_N.shape} and {b_N.shape}")
    difference_N: Floats = a_N - b_N
    return difference_N


def resamples(videos: int, draws: int, seed: int) -> Iterator[Singles]:
    """Weights [b, N] of the videos in `draws` samples with replacement, in chunks of b; a sample sums to 1."""
    generator, chunk = np.random.default_rng(seed), max(1, CHUNK // videos)
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        picks = generator.integers(0, videos, (rows, videos)) + videos * np.arange(rows)[:, None]
        counts = np.bincount(picks.ravel(), minlength=rows * videos).reshape(rows, videos)
        yield (counts / videos).astype(np.float32)


def bootstrap_means(values_TN: NDArray[np.floating], draws: int, seed: int) -> Singles:
    """Means [T, B] over resampled videos; with the same `seed` and N the same videos, so rows can be subtracted."""
    values_TN = values_TN.astype(np.float32)
    return np.concatenate([values_TN @ weights.T for weights in resamples(values_TN.shape[1], draws, seed)], axis=1)


@dataclass(frozen=True)
class Estimates:
    """Numbers of G rows, means over their seeds, with the variances that intervals and tests need.

    `values_T`, `row_T`: number and row of each trial; trials without a number are left out. `draws_GB`: numbers of the
    rows under B resamples of the videos, the same for all rows and seeds. `between_G`: s²/S, the variance of a mean
    over S seeds by their spread; `excess_G`: the part of it that resampling the videos does not explain, which is due
    to the seeds. Both are 0 for one seed, where they are unknown. `videos`: size of the smallest set behind the
    numbers.
    """

    values_T: Floats
    row_T: NDArray[np.intp]
    mean_G: Floats
    seeds_G: NDArray[np.intp]
    draws_GB: Singles
    between_G: Floats
    excess_G: Floats
    videos: int


def estimate(values_T: Floats, draws_TB: Singles, row_T: NDArray[np.intp], rows: int, videos: int) -> Estimates:
    """`Estimates` of `rows` from the numbers of trials and their numbers under resamples of the videos.

    Works for any number computed from a resample, such as a harmonic mean. Values are nan for missing results.

    Two seeds answer a video differently, so their numbers differ even if all seeds are equally good. The resamples show
    by how much: mean variance within a seed minus mean covariance of two seeds.
    """
    present = ~np.isnan(values_T)
    values_T, draws_TB, row_T = values_T[present], draws_TB[present], row_T[present]
    seeds_G = np.bincount(row_T, minlength=rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        average_GT = (row_T == np.arange(rows)[:, None]) / seeds_G[:, None]
    average_GT[seeds_G == 0] = np.nan
    mean_G, draws_GB = average_GT @ values_T, average_GT.astype(np.float32) @ draws_TB
    several_G = np.where(seeds_G > 1, 1 / np.maximum(seeds_G - 1, 1), 0.0)
    between_G = several_G * (average_GT @ np.square(values_T - mean_G[row_T]))
    within_G = several_G * (average_GT @ draws_TB.var(axis=1, ddof=1) - draws_GB.var(axis=1, ddof=1))
    excess_G = np.clip(between_G - np.maximum(within_G, 0), 0, None)
    return Estimates(values_T, row_T, mean_G, seeds_G, draws_GB, between_G, excess_G, videos)


def nested_intervals(estimates: Estimates, seed: int = 0) -> tuple[Floats, Floats]:
    """95 % intervals (low [G], high [G]) over videos and seeds: percentiles with both resampled.

    All seeds have the same resampled videos. The deviations of the resampled seeds from the row's mean are scaled to
    the variance `excess_G`, and to the tails of S - 1 degrees of freedom (Hesterberg 2015: a bootstrap of few values is
    too narrow). With one seed, only the videos vary.
    """
    generator, seeds_G, draws_GB = np.random.default_rng(seed), estimates.seeds_G, estimates.draws_GB.copy()
    for seeds in np.unique(seeds_G[seeds_G > 1]):
        rows = np.flatnonzero(seeds_G == seeds)
        picked_BS = generator.multinomial(seeds, [1 / seeds] * int(seeds), size=draws_GB.shape[1]) / seeds
        values_GS = np.array([estimates.values_T[estimates.row_T == row] for row in rows])
        deviations_GB = (values_GS - estimates.mean_G[rows, None]) @ picked_BS.T
        between, excess = estimates.between_G[rows], estimates.excess_G[rows]
        shrink = np.sqrt(np.divide(excess, between, out=np.zeros(len(rows)), where=between > 0))
        stretch = np.sqrt(seeds / (seeds - 1)) * stats.t.ppf(TAILS[1], seeds - 1) / stats.norm.ppf(TAILS[1])
        draws_GB[rows] += (shrink * stretch)[:, None] * deviations_GB
    low, high = np.quantile(draws_GB, TAILS, axis=1)
    return low, high


class Tests(NamedTuple):
    """Differences of pairs of rows in points, their 95 % intervals, and p for no difference, [P] each."""

    difference: Floats
    low: Floats
    high: Floats
    p: Floats


def difference_tests(estimates: Estimates, first_P: ArrayLike, second_P: ArrayLike) -> Tests:
    """Welch's t test over videos and seeds of rows `first_P` minus rows `second_P`, given by their index.

    The variance is that of the difference under resampled videos plus the variances of both rows over seeds; degrees of
    freedom after Satterthwaite (1946). A row with one seed adds none: the test is then about this run alone.
    """
    first_P, second_P = np.asarray(first_P, dtype=int), np.asarray(second_P, dtype=int)
    difference_P = estimates.mean_G[first_P] - estimates.mean_G[second_P]
    over_videos_P = (estimates.draws_GB[first_P] - estimates.draws_GB[second_P]).var(axis=1, ddof=1, dtype=np.float64)
    variance_P, doubt_P = over_videos_P.copy(), np.square(over_videos_P) / max(estimates.videos - 1, 1)
    for side_P in (first_P, second_P):
        variance_P += estimates.excess_G[side_P]
        doubt_P += np.square(estimates.between_G[side_P]) / np.maximum(estimates.seeds_G[side_P] - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom_P = np.where(doubt_P > 0, np.square(variance_P) / doubt_P, np.inf)
        p_P = 2 * stats.t.sf(np.abs(difference_P) / np.sqrt(variance_P), np.maximum(freedom_P, 1))
    p_P = np.where(difference_P == 0, 1.0, p_P)
    margin_P = stats.t.ppf(TAILS[1], np.maximum(freedom_P, 1)) * np.sqrt(variance_P)
    return Tests(difference_P, difference_P - margin_P, difference_P + margin_P, p_P)


def holm(p_K: ArrayLike) -> Floats:
    """p-values corrected for the number of tests (Holm 1979); nan, no test, stays nan."""
    given_K = np.asarray(p_K, dtype=float)
    tests = np.flatnonzero(~np.isnan(given_K))
    order = tests[np.argsort(given_K[tests], kind="stable")]
    steps = given_K[order] * np.arange(len(order), 0, -1)
    corrected_K = np.full(given_K.shape, np.nan)
    corrected_K[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected_K
