"""The official warm-up cosine."""

from __future__ import annotations

from math import cos, pi

import pytest

from bench.stages.training.schedule import lr_factor, vifi_factor


def test_the_rate_is_computed_at_the_first_and_every_tenth_iteration_and_held() -> None:
    factors = [lr_factor(1, i, 35, 6, 2) for i in range(35)]
    changes = [i for i in range(1, 35) if factors[i] != factors[i - 1]]
    assert changes == [9, 19, 29]
    assert factors[0] == 0.5
    assert factors[9] == (1 + 9 / 35) / 2


def test_the_published_run_starts_at_zero() -> None:
    assert lr_factor(0, 8, 940, 30, 5) == 0
    assert 5e-5 * lr_factor(0, 10, 940, 30, 5) == pytest.approx(9.57e-8, rel=1e-3)


def test_a_new_epoch_computes_anew_even_within_ten_iterations() -> None:
    assert [lr_factor(epoch, 3, 4, 4, 2) for epoch in range(3)] == [0, 0.5, 1]


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1.0), (1, 0.5 * (1 + cos(pi / 2.5))), (3, 0.0)])
def test_epochs_may_be_fractional_and_the_floor_is_zero(epoch: int, expected: float) -> None:
    assert lr_factor(epoch, 0, 100, 2.5, 0) == pytest.approx(expected)


def test_a_run_as_long_as_its_warm_up_only_warms_up() -> None:
    assert lr_factor(0, 50, 100, 0.5, 0.5) == pytest.approx(0.49 / 0.5)


def test_the_schedule_of_vifi_clip_gives_the_rates_of_mstas_logs() -> None:
    """50 epochs of 100 iterations, 5 of them warm-up; logged after the step with the same number."""
    logged = {450: 9.0e-4, 900: 9.22942e-4, 2700: 4.42960e-4, 4950: 1.0244e-5}
    for step, rate in logged.items():
        epoch, iteration = divmod(step + 1, 100)
        assert 1e-3 * vifi_factor(epoch, iteration, 100, 50, 5) == pytest.approx(rate, rel=5e-5)
    assert vifi_factor(0, 0, 100, 50, 5) == 0
    assert 1e-3 * vifi_factor(5, 1, 100, 50, 5) == pytest.approx(9.7577e-4, rel=1e-5)
