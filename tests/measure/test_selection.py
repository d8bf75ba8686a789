"""The choice among points: other seeds choose, and resamples choose anew."""

from __future__ import annotations

import numpy as np
import pytest

from bench.measure.selection import chosen, resampled


def test_a_seed_is_measured_where_the_others_choose() -> None:
    judged_PS = np.array([[90.0, 50.0, 50.0], [60.0, 60.0, 60.0]])  # the first point has one lucky seed
    assert chosen(judged_PS).tolist() == [1, 0, 0]
    assert chosen(judged_PS, across=False).tolist() == [0, 0, 0]
    assert chosen(judged_PS[:, :1]).tolist() == [0]


def test_of_equal_points_the_first_is_chosen_also_if_sums_are_rounded() -> None:
    judged_PS = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    assert chosen(judged_PS, across=False).tolist() == [0, 0, 0]


def test_a_resample_that_chooses_the_same_moves_as_the_point_does() -> None:
    generator = np.random.default_rng(0)
    test_PS, test_PSB = generator.normal(70, 1, (2, 3)), generator.normal(70, 1, (2, 3, 5))
    picked_S = np.array([1, 1, 0])
    found = resampled(test_PS, test_PSB, picked_S, np.repeat(picked_S[:, None], 5, axis=1))
    assert found == pytest.approx(test_PSB[picked_S, np.arange(3)])


def test_points_that_differ_clearly_move_a_number_by_what_they_differ() -> None:
    test_PS = np.array([[80.0, 80.2], [60.0, 60.2]])
    found = resampled(test_PS, np.repeat(test_PS[..., None], 4, axis=2), np.array([0, 0]), np.ones((2, 4), int))
    assert found == pytest.approx(np.repeat([[60.0], [60.2]], 4, axis=1), abs=0.01)


def test_points_that_differ_by_chance_do_not() -> None:
    test_PS = np.array([[80.0, 60.0], [60.0, 79.0]])
    found = resampled(test_PS, np.repeat(test_PS[..., None], 4, axis=2), np.array([0, 1]), np.array([[1] * 4, [0] * 4]))
    assert found == pytest.approx(np.repeat([[80.0], [79.0]], 4, axis=1))
