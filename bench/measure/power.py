"""Which true difference of two rows the test over videos and seeds finds, and how often (docs/statistics.md).

`bench.measure.statistics.difference_tests` estimates its variance from few seeds, and cuts what seeds add off at zero:
so its power is not that of a t test of known degrees of freedom, but the mean of it over what may be estimated.
Differences in points. Legend: N groups of videos, as many as videos where each is one of its own, S seeds of a row, Q
nodes of an integral.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, ndtr, stdtrit

Floats = NDArray[np.float64]
LEVEL, POWER = 0.05, 0.8
MOST_SEEDS = 10_000
NODES = {"videos": 8, "seeds": 12}  # of Gauss and Legendre, over the quantiles of each estimated variance
Pair = tuple[float, float]  # of row a and row b


@dataclass(frozen=True)
class Variances:
    """What varies in the difference of two rows, in points squared; 0 of a row that involves no chance.

    `videos`: σ²_v, of a group's difference, whatever the seeds. `seeds`: σ²_s, of each row's seeds on all videos.
    `both`: σ²_w, of what a seed of each row does to a single group.
    """

    videos: float
    seeds: Pair
    both: Pair

    def over_videos(self, groups: float, seeds: Pair) -> float:
        """Variance of the difference over other groups, given these seeds."""
        return (self.videos + self.both[0] / seeds[0] + self.both[1] / seeds[1]) / groups


def measured(a_SN: Floats, b_SN: Floats) -> Variances:
    """Estimates without bias, but not below 0, from what each group adds to each seed's accuracy, their mean over N.

    Both rows answer the same groups; a row of one seed counts as one without chance.
    """
    rows = [np.asarray(own_SN, dtype=float) for own_SN in (a_SN, b_SN)]
    difference_N = rows[0].mean(axis=0) - rows[1].mean(axis=0)
    both = [_both(own_SN) for own_SN in rows]
    noise = sum(own / len(own_SN) for own, own_SN in zip(both, rows, strict=True))
    seeds = [
        max(0.0, float(own_SN.mean(axis=1).var(ddof=1)) - own / own_SN.shape[1]) if len(own_SN) > 1 else 0.0
        for own, own_SN in zip(both, rows, strict=True)
    ]
    videos = max(0.0, float(difference_N.var(ddof=1)) - noise)
    return Variances(videos, (seeds[0], seeds[1]), (both[0], both[1]))


def _both(own_SN: Floats) -> float:
    seeds, groups = own_SN.shape
    if seeds < 2:
        return 0.0
    left_SN = own_SN - own_SN.mean(axis=1, keepdims=True) - own_SN.mean(axis=0) + own_SN.mean()
    return float(np.square(left_SN).sum() / ((seeds - 1) * (groups - 1)))


def power(difference: float, variances: Variances, groups: float, seeds: Pair, level: float = LEVEL) -> float:
    """The probability that Welch's test over videos and seeds, two-sided, calls a true difference significant.

    `seeds` of each row may be infinitely many.
    """
    error, critical_Q, weight_Q = _critical(variances, groups, seeds, level)
    return _found(difference, error, critical_Q, weight_Q)


def smallest(variances: Variances, groups: float, seeds: Pair, level: float = LEVEL) -> float:
    """The smallest true difference that is found with a power of 80 %; infinite if it would be above 100 points."""
    error, critical_Q, weight_Q = _critical(variances, groups, seeds, level)
    low, high = 0.0, 100.0
    if _found(high, error, critical_Q, weight_Q) < POWER:
        return inf
    while high - low > 1e-4:
        middle = (low + high) / 2
        found = _found(middle, error, critical_Q, weight_Q) >= POWER
        low, high = (low, middle) if found else (middle, high)
    return high


def needed_seeds(difference: float, variances: Variances, groups: float, level: float = LEVEL) -> int | None:
    """The fewest seeds of each row, two or more, that find a difference with a power of 80 %.

    None if no number does, because the videos alone vary too much, or none up to 10,000.
    """

    def enough(seeds: int) -> bool:
        return power(difference, variances, groups, (seeds, seeds), level) >= POWER

    if power(difference, variances, groups, (inf, inf), level) < POWER:
        return None
    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@lru_cache(maxsize=256)
def _critical(variances: Variances, groups: float, seeds: Pair, level: float) -> tuple[float, Floats, Floats]:
    """Standard error of the difference; what it has to exceed to be significant, [Q], and how likely that is, [Q].

    What the test estimates of Gaussian effects: V as χ² with N - 1 degrees of freedom, each row's s²/S as χ² with
    S - 1, of which it takes off σ²_w/(N S).
    """
    videos = variances.over_videos(groups, seeds)
    noise = [own / (groups * count) for own, count in zip(variances.both, seeds, strict=True)]
    between = [own / count + less for own, count, less in zip(variances.seeds, seeds, noise, strict=True)]
    error = sqrt(videos + sum(own / count for own, count in zip(variances.seeds, seeds, strict=True)))
    nodes = [_estimated(videos, groups - 1, NODES["videos"])]
    nodes += [_estimated(own, count - 1, NODES["seeds"]) for own, count in zip(between, seeds, strict=True)]
    videos_Q, *between_SQ = (grid.ravel() for grid in np.meshgrid(*(values for values, _ in nodes), indexing="ij"))
    weight_Q = np.prod([grid.ravel() for grid in np.meshgrid(*(own for _, own in nodes), indexing="ij")], axis=0)
    variance_Q, doubt_Q = videos_Q.copy(), np.square(videos_Q) / max(groups - 1, 1)
    for own_Q, less, count in zip(between_SQ, noise, seeds, strict=True):
        variance_Q += np.maximum(own_Q - less, 0)
        doubt_Q += np.square(own_Q) / max(count - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom_Q = np.where(doubt_Q > 0, np.square(variance_Q) / doubt_Q, 1e9)
    critical_Q = stdtrit(np.maximum(freedom_Q, 1), 1 - level / 2) * np.sqrt(variance_Q)
    return error, critical_Q, weight_Q


def _estimated(variance: float, freedom: float, nodes: int) -> tuple[Floats, Floats]:
    """Values that the estimate of a variance takes, and their weights; it is known where nothing varies."""
    if not variance or not isfinite(freedom) or freedom < 1:
        return np.array([variance if freedom >= 1 else 0.0]), np.ones(1)
    at, weight = np.polynomial.legendre.leggauss(nodes)
    return variance * 2 / freedom * gammaincinv(freedom / 2, (at + 1) / 2), weight / 2


def _found(difference: float, error: float, critical_Q: Floats, weight_Q: Floats) -> float:
    if not error:
        return float(difference > 0)
    beyond_Q = ndtr((difference - critical_Q) / error) + ndtr((-difference - critical_Q) / error)
    return float(weight_Q @ beyond_Q)
