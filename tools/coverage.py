"""Coverage of the intervals of bench/measure/statistics.py by simulation: `python -m tools.coverage`.

docs/statistics.md shows the result. Two equally good rows answer the same N videos with S seeds each. A seed is right
on a video if difficulty of the video + effect of the seed + noise of both > 0, all Gaussian: the probit model of
crossed random effects, in which the accuracies of given seeds and of all seeds are known exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from bench.core.seeds import seed_for
from bench.measure.statistics import TAILS, bootstrap_means, difference_tests, estimate, nested_intervals

SEEDS, VIDEOS, SPREADS = (3, 5, 10), (100, 500, 2000), (0.0, 1.0, 3.0)  # spread: s.d. over seeds in points
ACCURACY = 0.7
# Share of the difficulty in the variance of difficulty and noise. With it two seeds do not share a third of the
# variance of an answer, which is typical of trainings on the embedded world (a sixth to a half).
DIFFICULTY = 0.83
DRAWS = 500
BLOCK = 50  # pairs of rows with the same resamples
COLUMNS = {
    "videos": "videos, given the seeds",
    "plain": "plain percentile, seeds and videos",
    "nested": "nested, as reported",
    "difference": "difference of two rows, t",
}


def coverage(seeds: int, videos: int, spread: float, repetitions: int = 2000) -> dict[str, float]:
    """Percent of the 95 % intervals of `COLUMNS` that cover the truth, over `repetitions` pairs of rows."""
    blocks = [_block(seeds, videos, spread, number) for number in range(-(-repetitions // BLOCK))]
    return {name: 100 * float(np.concatenate([block[name] for block in blocks]).mean()) for name in COLUMNS}


def _block(seeds: int, videos: int, spread: float, number: int) -> dict[str, NDArray[np.bool_]]:
    seed = seed_for("coverage", seeds, videos, str(spread), number)
    correct_TN, given_G, truth = _answers(seeds, videos, spread, np.random.default_rng(seed))
    rows, row_T = len(given_G), np.repeat(np.arange(len(given_G)), seeds)
    draws_TB = bootstrap_means(correct_TN, DRAWS, seed)
    estimates = estimate(correct_TN.mean(axis=1, dtype=np.float64), draws_TB, row_T, rows, videos)
    tests = difference_tests(estimates, np.arange(0, rows, 2), np.arange(1, rows, 2))
    plain_GB = _resample_seeds(draws_TB.reshape(rows, seeds, DRAWS), seed)
    low_G, high_G = nested_intervals(estimates, seed)
    return {
        "videos": _inside(given_G, *np.quantile(estimates.draws_GB, TAILS, axis=1)),
        "plain": _inside(truth, *np.quantile(plain_GB, TAILS, axis=1)),
        "nested": _inside(truth, low_G, high_G),
        "difference": _inside(0.0, tests.low, tests.high),
    }


def _answers(
    seeds: int, videos: int, spread: float, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    """Correctness [T,N] of 2 × BLOCK rows, accuracy [G] of each row's seeds over all videos, and that of all seeds."""
    level = float(norm.ppf(ACCURACY))
    scale = spread / 100 / float(norm.pdf(level))
    effect_GS = level + scale * generator.standard_normal((2 * BLOCK, seeds))
    difficulty_GN = np.repeat(generator.standard_normal((BLOCK, videos), np.float32), 2, axis=0)
    noise_GSN = generator.standard_normal((2 * BLOCK, seeds, videos), np.float32)
    score_GSN = DIFFICULTY**0.5 * difficulty_GN[:, None] + (1 - DIFFICULTY) ** 0.5 * noise_GSN
    correct_GSN = score_GSN > -effect_GS[..., None].astype(np.float32)
    truth = float(norm.cdf(level / np.hypot(1, scale)))
    return correct_GSN.reshape(-1, videos).astype(np.float32), norm.cdf(effect_GS).mean(axis=1), truth


def _resample_seeds(draws_GSB: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Means [G,B] of resampled seeds on resampled videos, the usual percentile bootstrap."""
    seeds, draws = draws_GSB.shape[1:]
    picked_BS = np.random.default_rng(seed).multinomial(seeds, [1 / seeds] * seeds, size=draws) / seeds
    return np.einsum("gsb,bs->gb", draws_GSB, picked_BS)  # type: ignore[no-any-return]


def _inside(
    truth: NDArray[np.float64] | float, low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.bool_]:
    return (low <= truth) & (truth <= high)


def table() -> Iterator[str]:
    """Lines of the Markdown table over all seeds × videos × spreads."""
    yield f"| seeds | videos | s.d. over seeds | {' | '.join(COLUMNS.values())} |"
    yield "| ---: " * (3 + len(COLUMNS)) + "|"
    for seeds, videos, spread in product(SEEDS, VIDEOS, SPREADS):
        found = " | ".join(f"{value:.1f}" for value in coverage(seeds, videos, spread).values())
        yield f"| {seeds} | {videos} | {spread:g} | {found} |"


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
