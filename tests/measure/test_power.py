"""Power of the test over videos and seeds: closed forms where there are some, and what it follows from."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
from scipy import stats

from bench.measure.power import Variances, measured, needed_seeds, power, smallest

VIDEOS = Variances(1600.0, (0.0, 0.0), (0.0, 0.0))
SEEDS = Variances(400.0, (1.0, 1.0), (900.0, 900.0))


@pytest.mark.parametrize("groups", [10, 50, 2000])
@pytest.mark.parametrize("difference", [0.0, 1.0, 5.0])
def test_of_videos_alone_it_is_that_of_a_paired_t_test(groups: int, difference: float) -> None:
    shift, critical = difference / sqrt(1600 / groups), stats.t.ppf(0.975, groups - 1)
    expected = stats.nct.sf(critical, groups - 1, shift) + stats.nct.cdf(-critical, groups - 1, shift)
    assert power(difference, VIDEOS, groups, (1, 1)) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (3, 1), (10, 5)])
def test_it_is_the_share_of_estimates_that_are_significant(seeds: tuple[int, int]) -> None:
    """Of Gaussian effects: 200,000 draws of a difference and of all that Welch's test estimates beside it."""
    alone = seeds[1] == 1  # a row without chance
    variances = Variances(400.0, (1.0, 0.0 if alone else 2.0), (900.0, 0.0 if alone else 400.0))
    generator, groups, draws = np.random.default_rng(0), 300, 200_000
    noise = [both / groups / count for both, count in zip(variances.both, seeds, strict=True)]
    videos = variances.videos / groups + sum(noise)
    own = [seed / count for seed, count in zip(variances.seeds, seeds, strict=True)]
    difference = smallest(variances, groups, seeds)
    found = difference + sqrt(videos + sum(own)) * generator.standard_normal(draws)
    variance = videos * generator.chisquare(groups - 1, draws) / (groups - 1)
    doubt = variance**2 / (groups - 1)
    for each, less, count in zip(own, noise, seeds, strict=True):
        between = (each + less) * (generator.chisquare(count - 1, draws) / (count - 1) if count > 1 else 0.0)
        variance = variance + np.maximum(between - less, 0)
        doubt = doubt + between**2 / max(count - 1, 1)
    critical = stats.t.ppf(0.975, np.maximum(variance**2 / doubt, 1)) * np.sqrt(variance)
    assert power(difference, variances, groups, seeds) == pytest.approx(0.8, abs=1e-4)
    assert np.mean(np.abs(found) > critical) == pytest.approx(0.8, abs=0.005)


def test_more_seeds_and_more_videos_find_less_and_a_smaller_level_more() -> None:
    found = [smallest(SEEDS, 500, (seeds, seeds)) for seeds in (2, 3, 5, 10, 100, inf)]
    assert found == sorted(found, reverse=True) and len(set(found)) == len(found)
    assert smallest(SEEDS, 2000, (3, 3)) < smallest(SEEDS, 500, (3, 3)) < smallest(SEEDS, 500, (3, 3), level=0.005)
    assert found[-1] == pytest.approx((1.96 + 0.84) * 20 / sqrt(500), rel=0.01)


def test_the_seeds_that_a_point_needs_are_the_fewest() -> None:
    needed = needed_seeds(1.0, SEEDS, 5000)
    assert needed is not None
    assert smallest(SEEDS, 5000, (needed, needed)) <= 1.0 < smallest(SEEDS, 5000, (needed - 1, needed - 1))
    assert needed_seeds(1.0, SEEDS, 500) is None and smallest(SEEDS, 500, (inf, inf)) > 1.0
    assert needed_seeds(50.0, SEEDS, 5000) == 2


def test_nothing_varies_or_too_much() -> None:
    assert smallest(Variances(0.0, (0.0, 0.0), (0.0, 0.0)), 100, (3, 3)) == pytest.approx(0, abs=1e-3)
    assert smallest(Variances(1e6, (0.0, 0.0), (0.0, 0.0)), 10, (3, 3)) == inf


def test_variances_are_estimated_without_bias() -> None:
    """Two rows of four and three seeds on 50 groups, whose effects are drawn."""
    generator, found, truth = (
        np.random.default_rng(1),
        list[Variances](),
        Variances(400.0, (30.0, 20.0), (900.0, 100.0)),
    )
    for _ in range(400):
        shared = 50 * generator.standard_normal(50)
        rows = [
            shared
            + sqrt(truth.videos / 2) * generator.standard_normal(50)
            + sqrt(truth.seeds[row]) * generator.standard_normal((seeds, 1))
            + sqrt(truth.both[row]) * generator.standard_normal((seeds, 50))
            for row, seeds in enumerate((4, 3))
        ]
        found.append(measured(*rows))
    for name in ("videos", "seeds", "both"):
        mean = np.mean([getattr(own, name) for own in found], axis=0)
        assert mean == pytest.approx(np.array(getattr(truth, name)), rel=0.12)


def test_a_row_of_one_seed_counts_as_one_without_chance() -> None:
    a_SN, b_SN = np.random.default_rng(2).normal(size=(3, 40)), np.random.default_rng(3).normal(size=(1, 40))
    found = measured(a_SN, b_SN)
    assert found.seeds[1] == found.both[1] == 0 and found.both[0] > 0
