"""Spread over seeds; intervals and tests over videos, and over videos and seeds (docs/statistics.md).

Videos that come in groups, such as clips of one film, are not independent: groups take the place of videos then.
Accuracies in percent, differences in points. Legend: N videos, U groups of videos, B resamples of the videos, T trials,
G rows, each the mean over its own trials, which differ in their seed, P pairs of rows, S seeds of a row, K tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Groups = NDArray[np.intp]  # the number of each video's group, from 0
DRAWS = 2000  # resamples of the videos
TAILS = (0.025, 0.975)
Z = float(stats.norm.ppf(TAILS[1]))
ENOUGH = 10  # seeds from which on a plain percentile interval over seeds and videos holds its level
CHUNK = 4_000_000  # counts of resampled videos that are in memory at once
FLAT = 1e-4  # points; a narrower interval or deviation is none: no video and no seed differs from the others
TIE = 1e-6  # sums of thirds that are equal on paper differ by rounding, at most 1e-12 a video


class Spread(NamedTuple):
    """Mean, sample standard deviation (ddof 1, nan below two values) and number of values."""

    mean: float
    std: float
    n: int


def spread(values: ArrayLike) -> Spread:
    """Spread of `values` over seeds, in their unit; nan stands for a seed without a result and is not counted."""
    present = np.asarray(values, dtype=float)
    present = present[~np.isnan(present)]
    mean = float(present.mean()) if present.size else float("nan")
    std = float(present.std(ddof=1)) if present.size > 1 else float("nan")
    return Spread(mean, std, present.size)


def sign_flip_test(
    difference_N: Floats, permutations: int = 20_000, seed: int = 0, group_N: Groups | None = None
) -> float:
    """p of equal accuracy on the same videos, two-sided, by flipping signs of each video's difference, or each group's.

    Differences of correctness in [0,1], averaged over seeds. With one seed each, where they are -1, 0 or 1, this is
    McNemar's exact test but for the error of drawing permutations. p counts the observed assignment among the
    permutations (Phipson & Smyth 2010), so it is never zero.
    """
    # Means over S seeds differ by multiples of 1/S, so the N differences take few sizes. Flipping the signs of k
    # equal sizes is one binomial draw: 20,000 permutations of 20,000 videos cost S draws each, not 20,000.
    if group_N is not None:
        difference_N = np.bincount(group_N, difference_N).astype(float)
    generator, flipped = np.random.default_rng(seed), np.zeros(permutations)
    for size, count in zip(*np.unique(np.abs(difference_N).round(12), return_counts=True), strict=True):
        if size > 0:
            flipped += size * (2 * generator.binomial(count, 0.5, permutations) - count)
    extreme = np.count_nonzero(np.abs(flipped) >= abs(difference_N.sum()) - TIE)
    return float((extreme + 1) / (permutations + 1))


def mcnemar(difference_N: Floats) -> float:
    """p of McNemar's exact test (1947) of equal accuracy of one run each, binomial in the videos that differ."""
    only_a, only_b = int((difference_N > 0).sum()), int((difference_N < 0).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def wilson(rate: ArrayLike, videos: ArrayLike) -> tuple[Floats, Floats]:
    """95 % score interval (Wilson 1927) of a share in [0,1] of so many videos. It has a width also at 0 and at 1."""
    rate, weight = np.asarray(rate, dtype=float), Z**2 / np.maximum(np.asarray(videos, dtype=float), 1)
    margin = np.sqrt(weight * (rate * (1 - rate) + weight / 4))
    return (rate + weight / 2 - margin) / (1 + weight), (rate + weight / 2 + margin) / (1 + weight)


def tango(only_a: float, only_b: float, videos: int) -> tuple[float, float, float]:
    """95 % score interval (low, high) and p of a difference of two shares of the same videos (Tango 1998).

    `only_a`, `only_b`: videos that one of both alone answers right. It has a width also where that is none or all; p is
    of the same test, McNemar's without correction, so that both agree.
    """
    difference = (only_a - only_b) / videos

    def score(delta: float) -> float:
        b = (2 - difference) * delta * videos - only_a - only_b
        share_b = (np.sqrt(max(b * b + 8 * videos * only_b * delta * (1 - delta), 0)) - b) / (4 * videos)
        return float((difference - delta) * np.sqrt(videos / max(2 * share_b + delta * (1 - delta), 1e-12)))

    def bound(sign: int) -> float:
        return float(optimize.brentq(lambda delta: score(delta) - sign * Z, -sign, difference))

    low, high = (bound(sign) if sign * difference > -1 else difference for sign in (1, -1))
    apart = only_a + only_b
    return low, high, float(stats.chi2.sf((only_a - only_b) ** 2 / apart, 1)) if apart else 1.0


def resamples(videos: int, draws: int, seed: int) -> Iterator[Singles]:
    """How often each video is in `draws` samples with replacement, [b, N] in chunks of b; the sum of a sample is N."""
    generator, chunk = np.random.default_rng(seed), max(1, CHUNK // videos)
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        picks = generator.integers(0, videos, (rows, videos)) + videos * np.arange(rows)[:, None]
        yield np.bincount(picks.ravel(), minlength=rows * videos).reshape(rows, videos).astype(np.float32)


def bootstrap_means(values_TN: NDArray[np.floating], draws: int, seed: int, group_N: Groups | None = None) -> Singles:
    """Means [T, B] over resampled videos, or groups; equal `seed` and N mean equal videos, so rows can be subtracted.

    Sums of whole numbers are exact, and others have double precision, so the order in which a processor adds them does
    not show.
    """
    if group_N is not None:
        return _means_of_groups(values_TN, draws, seed, group_N)
    videos = values_TN.shape[1]
    whole = np.array_equal(values_TN, np.rint(values_TN)) and np.abs(values_TN).max(initial=0) * videos < 1 << 24
    values_TN = values_TN.astype(np.float32 if whole else np.float64)
    sums = [(values_TN @ counts_bN.T).astype(np.float32) for counts_bN in resamples(videos, draws, seed)]
    return np.concatenate(sums, axis=1) / np.float32(videos)


def _means_of_groups(values_TN: NDArray[np.floating], draws: int, seed: int, group_N: Groups) -> Singles:
    """Means [T, B] of the videos of resampled groups, with the variance U / (U - 1) of a cluster-robust error (CR1)."""
    size_U = np.bincount(group_N).astype(float)
    sum_TU = np.array([np.bincount(group_N, value_N) for value_N in values_TN])
    means = [sum_TU @ counts_bU.T / (counts_bU @ size_U) for counts_bU in resamples(len(size_U), draws, seed)]
    mean_T1 = sum_TU.sum(axis=1, keepdims=True) / size_U.sum()
    scale = np.sqrt(len(size_U) / max(len(size_U) - 1, 1))
    return np.asarray(mean_T1 + scale * (np.concatenate(means, axis=1) - mean_T1), np.float32)


def percentiles(draws: NDArray[np.floating], axis: int) -> tuple[Floats, Floats]:
    """Ends of a 95 % percentile interval; B resamples leave out 2.5 % on each side on average (Weibull's positions)."""
    low, high = np.quantile(draws, TAILS, axis=axis, method="weibull")
    return low, high


def changes_by_draws(numbers_TD: Floats, resamples: int, seed: int) -> Singles:
    """What resampling D draws of classes adds to means over them in percent, [T,B].

    All trials see the same resampled draws. Deviations are scaled to the variance and the tails of D - 1 degrees of
    freedom (Hesterberg 2015). Draws also differ because their videos do, which stays in: the variance is too large by
    what videos that two draws do not share contribute, and never too small.
    """
    draws = numbers_TD.shape[1]
    deviation_TD = numbers_TD - numbers_TD.mean(axis=1, keepdims=True)
    picked_BD = np.random.default_rng(seed).multinomial(draws, [1 / draws] * draws, size=resamples) / draws
    stretch = float(np.sqrt(draws / (draws - 1)) * tails(draws))
    changes_TB = stretch * deviation_TD @ picked_BD.T
    return np.asarray(changes_TB.round(6), np.float32)  # whatever the order of its sums


@dataclass(frozen=True)
class Estimates:
    """Numbers of G rows, each the mean over its seeds, and what is known of their error.

    `values_T`, `row_T`: the number of each trial and its row; a trial without one is left out. `draws_GB`: the rows'
    numbers under B resamples of the videos, the same for all rows and all seeds. `between_G`: s²/S, the variance of a
    mean over S seeds by their spread; `within_G`: what of it resampling the videos explains; `excess_G`: what it does
    not, seeds' own part. All are 0 with one seed, where nothing is known of it. `videos`: of the smallest set that the
    numbers come from, and its `groups`, as many as videos where each is one of its own.
    """

    values_T: Floats
    row_T: NDArray[np.intp]
    mean_G: Floats
    seeds_G: NDArray[np.intp]
    draws_GB: Singles
    between_G: Floats
    within_G: Floats
    excess_G: Floats
    videos: int
    groups: int


def estimate(
    values_T: Floats, draws_TB: Singles, row_T: NDArray[np.intp], rows: int, videos: int, groups: int = 0
) -> Estimates:
    """The `Estimates` of `rows` from the numbers of trials and their numbers under resamples of the videos.

    Works for whatever is computed of each resample, such as a harmonic mean. Values are nan where a result is missing.
    Without `groups`, each video is one of its own.

    Two seeds answer a video differently, so their numbers differ even if all seeds are equally good. How much is in
    the resamples: their mean variance within a seed less their mean covariance of two seeds.
    """
    present = ~np.isnan(values_T)
    values_T, draws_TB, row_T = values_T[present], draws_TB[present], row_T[present]
    seeds_G = np.bincount(row_T, minlength=rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        average_GT = (row_T == np.arange(rows)[:, None]) / seeds_G[:, None]
    average_GT[seeds_G == 0] = np.nan
    mean_G, draws_GB = average_GT @ values_T, (average_GT @ draws_TB).astype(np.float32)
    several_G = np.where(seeds_G > 1, 1 / np.maximum(seeds_G - 1, 1), 0.0)
    between_G = several_G * (average_GT @ np.square(values_T - mean_G[row_T]))
    within_G = several_G * (average_GT @ draws_TB.var(axis=1, ddof=1) - draws_GB.var(axis=1, ddof=1))
    within_G = np.maximum(within_G, 0)
    excess_G = np.clip(between_G - within_G, 0, None)
    return Estimates(
        values_T, row_T, mean_G, seeds_G, draws_GB, between_G, within_G, excess_G, videos, groups or videos
    )


def nested_intervals(estimates: Estimates, seed: int = 0) -> tuple[Floats, Floats]:
    """95 % intervals (low [G], high [G]) over videos and seeds: percentiles where both are resampled.

    All seeds see the same resampled videos. The resampled seeds' deviations from the row's mean are scaled so that
    they have the variance of `excess_G`, and that of S - 1 degrees of freedom in the tails (Hesterberg 2015: a
    bootstrap of few values is too narrow); groups of videos have tails likewise. With one seed, the videos are all that
    varies. Where nothing varies, since every seed is right on every video or on none, the interval is Wilson's.
    """
    generator, seeds_G, draws_GB = np.random.default_rng(seed), estimates.seeds_G, estimates.draws_GB.copy()
    if estimates.groups < estimates.videos:
        draws_GB += (tails(estimates.groups) - 1) * (draws_GB - estimates.mean_G[:, None])
    for seeds in np.unique(seeds_G[seeds_G > 1]):
        rows = np.flatnonzero(seeds_G == seeds)
        picked_BS = generator.multinomial(seeds, [1 / seeds] * int(seeds), size=draws_GB.shape[1]) / seeds
        values_GS = np.array([estimates.values_T[estimates.row_T == row] for row in rows])
        deviations_GB = (values_GS - estimates.mean_G[rows, None]) @ picked_BS.T
        between, excess = estimates.between_G[rows], estimates.excess_G[rows]
        shrink = np.sqrt(np.divide(excess, between, out=np.zeros(len(rows)), where=between > 0))
        stretch = np.sqrt(seeds / (seeds - 1)) * stats.t.ppf(TAILS[1], seeds - 1) / Z
        draws_GB[rows] += (shrink * stretch)[:, None] * deviations_GB
    low, high = percentiles(draws_GB, axis=1)
    low, high = np.where(low < -FLAT, 0, low), np.where(high > 100 + FLAT, 100, high)
    flat_G, score_2G = high - low < FLAT, 100 * np.array(wilson(estimates.mean_G / 100, estimates.groups))
    flat_G |= estimates.groups == 1  # nothing is known of other groups
    return np.where(flat_G, np.fmin(score_2G[0], low), low), np.where(flat_G, np.fmax(score_2G[1], high), high)


def tails(values: ArrayLike) -> Floats:
    """How much wider an interval of so many values is than a Gaussian's: by Student's t with one degree less."""
    return np.asarray(stats.t.ppf(TAILS[1], np.maximum(np.asarray(values) - 1, 1)) / Z)


class Tests(NamedTuple):
    """Differences of pairs of rows in points, their 95 % intervals, and p of no difference, [P] each."""

    difference: Floats
    low: Floats
    high: Floats
    p: Floats


def difference_tests(estimates: Estimates, first_P: ArrayLike, second_P: ArrayLike) -> Tests:
    """Welch's t test over videos and seeds of row `first_P` minus row `second_P`, places in `estimates`.

    The variance is that of the difference under resampled videos plus both rows' own variance over seeds; degrees of
    freedom after Satterthwaite (1946). A row with one seed adds none: the test then speaks of that run alone.
    """
    first_P, second_P = np.asarray(first_P, dtype=int), np.asarray(second_P, dtype=int)
    difference_P = estimates.mean_G[first_P] - estimates.mean_G[second_P]
    over_videos_P = (estimates.draws_GB[first_P] - estimates.draws_GB[second_P]).var(axis=1, ddof=1, dtype=np.float64)
    variance_P, doubt_P = over_videos_P.copy(), np.square(over_videos_P) / max(estimates.groups - 1, 1)
    for side_P in (first_P, second_P):
        variance_P += estimates.excess_G[side_P]
        doubt_P += np.square(estimates.between_G[side_P]) / np.maximum(estimates.seeds_G[side_P] - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom_P = np.where(doubt_P > 0, np.square(variance_P) / doubt_P, np.inf)
        p_P = 2 * stats.t.sf(np.abs(difference_P) / np.sqrt(variance_P), np.maximum(freedom_P, 1))
    p_P = np.where(difference_P == 0, 1.0, p_P)
    margin_P = stats.t.ppf(TAILS[1], np.maximum(freedom_P, 1)) * np.sqrt(variance_P)
    low_P, high_P = (np.clip(difference_P + sign * margin_P, -100, 100) for sign in (-1, 1))
    for pair in np.flatnonzero((variance_P < FLAT**2) | (estimates.groups == 1)):  # t knows no variance of videos
        share, groups = round(difference_P[pair] / 100, 9), max(estimates.groups, 1)
        low, high, p = tango(max(share, 0) * groups, max(-share, 0) * groups, groups)
        low_P[pair], high_P[pair] = min(100 * low, low_P[pair]), max(100 * high, high_P[pair])
        p_P[pair] = max(p, p_P[pair])
    return Tests(difference_P, low_P, high_P, p_P)


def holm(p_K: ArrayLike) -> Floats:
    """p-values corrected for the number of tests (Holm 1979); nan is no test and stays nan."""
    given_K = np.asarray(p_K, dtype=float)
    tests = np.flatnonzero(~np.isnan(given_K))
    order = tests[np.argsort(given_K[tests], kind="stable")]
    steps = given_K[order] * np.arange(len(order), 0, -1)
    corrected_K = np.full(given_K.shape, np.nan)
    corrected_K[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected_K
