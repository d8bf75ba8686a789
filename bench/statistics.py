"""Spread over seeds and paired tests over videos. N videos; accuracies in percent, differences in points."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
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


def paired_permutation_test(
    correct_a_N: ArrayLike, correct_b_N: ArrayLike, permutations: int = 20_000, seed: int = 0
) -> tuple[float, float]:
    """Two-sided sign-flip test of equal accuracy on the same videos: (a minus b in points, p).

    Inputs are each video's correctness in [0,1], averaged over seeds, in the same order. p counts the observed
    assignment among the permutations (Phipson & Smyth 2010), so it is never zero. Raises ValueError on unequal or
    empty inputs.
    """
    a_N, b_N = np.asarray(correct_a_N, dtype=float), np.asarray(correct_b_N, dtype=float)
    if a_N.shape != b_N.shape or a_N.ndim != 1 or not a_N.size:
        raise ValueError(f"a paired test needs two equally long lists of videos, got {a_N.shape} and {b_N.shape}")
    difference_N = a_N - b_N
    observed = difference_N.sum()
    flipped = _flipped_sums(np.abs(difference_N), permutations, np.random.default_rng(seed))
    extreme = np.count_nonzero(np.abs(flipped) >= abs(observed) - TIE)
    return float(100 * observed / a_N.size), float((extreme + 1) / (permutations + 1))


def _flipped_sums(sizes_N: Floats, permutations: int, generator: np.random.Generator) -> Floats:
    # Means over S seeds differ by multiples of 1/S, so the N differences take few sizes. Flipping the signs of k
    # equal sizes is one binomial draw: 20,000 permutations of 20,000 videos cost S draws each, not 20,000.
    sums = np.zeros(permutations)
    for size, count in zip(*np.unique(sizes_N.round(12), return_counts=True), strict=True):
        if size > 0:
            sums += size * (2 * generator.binomial(count, 0.5, permutations) - count)
    return sums
