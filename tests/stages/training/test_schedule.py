"""The schedules of official code, and the steps of a training."""

from __future__ import annotations

from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from bench.stages.training.schedule import Schedule, lr_factor, vifi_factor
from bench.suite.recipe import Training

GOLDEN = Path(__file__).parents[2] / "golden"


def schedule(videos: int, **recipe: Any) -> Schedule:
    """A schedule of batches of one video, unless the recipe says another number."""
    return Schedule(Training(**{"batch": 1, "warmup_epochs": 2, **recipe}), videos)


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


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_vifi_clip_counts_micro_steps_and_those_that_fill_no_step(case: str) -> None:
    """Golden rates; a micro-step is a video here."""
    golden = load_file(GOLDEN / "vificlip.safetensors")
    epochs, micro_steps, together = golden[f"in.schedule_{case}.epochs_microsteps_accumulation"].tolist()
    sizes = {"batch": together, "micro_steps": together, "drop_last": True}
    own = schedule(micro_steps, schedule="vifi", epochs=epochs, warmup_epochs=5, **sizes)
    rates = [float(golden[f"in.schedule_{case}.lr"]) * own.factor(step) for step in range(own.steps)]
    assert rates == pytest.approx(golden[f"out.schedule_{case}.rates"].tolist(), rel=1e-12, abs=1e-20)


# Rates of official code: step -> rate.
OFFICIAL: dict[str, tuple[Schedule, float, dict[int, float]]] = {
    "Open-VCLIP": (
        schedule(3, schedule="cosine", epochs=22, warmup_start=0.01, floor=0.01),
        0.002,
        {3: 0.00101, 4: 0.00134, 5: 0.00167},
    ),
    "FROSTER": (
        schedule(2, schedule="cosine", epochs=22, warmup_start=0.01, floor=0.01),
        0.0005,
        {2: 0.0002525, 3: 0.00037625},
    ),
    "ST-Adapter": (
        schedule(7, schedule="cosine", epochs=12),
        7.5e-4,
        {0: 0, 1: 5.35714285714e-05, 14: 7.5e-4, 15: 0.000749622399953, 23: 0.000719822914707},
    ),
    "Vita-CLIP": (
        schedule(40, schedule="cosine", epochs=1, warmup_epochs=0),
        4e-4,
        {0: 4e-4, 1: 0.000399383466747, 20: 2e-4, 23: 0.000153310927229},
    ),
    "AIM": (
        schedule(8, schedule="epoch_cosine", epochs=30, warmup_epochs=2.5, warmup_start=0.1),
        3e-4,
        {
            0: 3e-05,
            1: 4.35e-05,
            8: 0.00013762201078,
            19: 0.000283369643805,
            20: 0.00029672214011,
            31: 0.000292658477444,
        },
    ),
    "AIM, whose warm-up ends between two iterations": (
        schedule(5, schedule="epoch_cosine", epochs=30, warmup_epochs=2.5, warmup_start=0.1),
        3e-4,
        {12: 0.000286040143066, 13: 0.000286040143066, 14: 0.000286040143066, 15: 0.000292658477444},
    ),
    "ActionCLIP": (schedule(23, epochs=50, warmup_epochs=5), 5e-5, {8: 0.0, 9: 3.91304347826087e-06, 1149: 1.8427e-09}),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_rates(name: str) -> None:
    own, base, rates = OFFICIAL[name]
    assert {step: base * own.factor(step) for step in rates} == pytest.approx(
        rates, rel=1e-5 if "Act" in name else 1e-11
    )


def test_one_floor_for_all_groups() -> None:
    """X-CLIP's last steps of 6 epochs of 5: its new modules have ten times the rate and fall to the tower's floor."""
    own = schedule(5, schedule="vifi", epochs=6)
    tower, new = ([base * own.factor(step, part) for step in (27, 28, 29)] for base, part in ((8e-6, 1), (8e-5, 0.1)))
    assert tower == pytest.approx([4.2235999e-07, 2.7381620e-07, 1.6653550e-07], rel=1e-6)
    assert new == pytest.approx([3.5347234e-06, 2.0357816e-06, 9.5322190e-07], rel=1e-6)


def test_an_incomplete_batch_is_a_step_unless_it_is_left_out() -> None:
    assert schedule(12, batch=5, epochs=2).steps == 6
    assert schedule(12, batch=5, epochs=2, drop_last=True).steps == 4
    assert schedule(4, batch=5, epochs=2, drop_last=True).steps == 2  # it is the only one
