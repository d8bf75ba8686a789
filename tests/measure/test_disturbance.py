"""Disturbed measurements of seconds: signs on counters that are made up, and under load that is made."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.measure import disturbance as module
from bench.measure import timing
from bench.measure.disturbance import contradiction, counters, disturbance
from bench.measure.timing import Clock

START = (100.0, 7.0, 900.0, 4)
CALM = [0.1] * 20


def after(seconds: float = 2.0, own: float = 2.0, others: float = 0.0, switches: int = 5) -> tuple[float, ...]:
    return 100 + seconds, 7 + own, 900 + own + others, 4 + switches


@pytest.mark.parametrize(
    ("passed", "times", "computes", "named"),
    [
        # As read on two processors under real-time priority: 0.95 of one, two switches a second.
        ({"own": 1.9, "switches": 5}, CALM, True, ""),
        ({"others": 0.3}, CALM, True, ""),
        ({"others": 2.0}, CALM, True, "other processes took 1.0 of 2 processors"),
        ({"others": 2.0}, CALM, False, "other processes took 1.0 of 2 processors"),
        ({"switches": 250}, CALM, True, "interrupted it 122 times a second"),
        ({"own": 0.86}, CALM, True, "it stood still for 54% of the time"),
        ({"own": 0.86}, CALM, False, ""),  # a GPU was waited for
        ({"own": 7.5}, CALM, True, ""),  # four threads
        ({}, [0.1] * 17 + [0.26] * 3, True, "p95 is 2.6 times p50"),
        ({}, [5e-5] * 17 + [4e-4] * 3, True, ""),  # less than a call may take beside its work
        # Too short for the kernel's clock of hundredths.
        ({"seconds": 0.003, "own": 0.0, "others": 0.02, "switches": 3}, [1e-3] * 3, True, ""),
    ],
)
def test_signs_of_other_work(passed: dict[str, float], times: list[float], computes: bool, named: str) -> None:
    degree, reason = disturbance(START, after(**passed), times, 2, computes)  # type: ignore[arg-type]
    assert (degree > 1) == bool(named)
    assert named in reason


def test_many_processors_bear_some_other_work() -> None:
    assert (
        disturbance(START, after(others=4.0), CALM, 64, True)[0]
        < 1
        < disturbance(START, after(others=4.0), CALM, 4, True)[0]
    )


@pytest.mark.parametrize(
    ("video", "tower", "head", "right"),
    [(0.27, 0.261, 0.01, True), (0.103, 0.261, 0.01, False), (0.261, 0.103, 0.01, False), (6e-4, 5e-4, 4e-4, True)],
)
def test_a_video_is_its_tower_and_its_head(video: float, tower: float, head: float, right: bool) -> None:
    reason = contradiction({"video": {"p50": video}, "tower": {"p50": tower}, "head": {"p50": head}})
    assert right == (not reason)
    assert right or (f"{1e3 * tower:.1f} ms" in reason and f"{1e3 * video:.1f} ms" in reason)


def test_without_the_kernel_nothing_is_known_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STAT", tmp_path / "stat")
    _, own, everything, _ = counters()
    assert own == everything
    (tmp_path / "stat").write_text("cpu  100 20 3 9999 9999 4 5 6 7 8\ncpu0 1\n")
    assert counters()[2] == 138 / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def spinning() -> Iterator[None]:
    """A process that computes without end for every processor."""
    command = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    time.sleep(0.3)
    yield
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.skipif(not module.STAT.is_file(), reason="needs Linux' account of processor time")
def test_a_measurement_under_load_says_so(spinning: None) -> None:
    found = Clock("cpu", 0.2).measure(lambda: sum(range(100_000)))
    assert any(character.isdigit() for character in found["disturbed"])


def attempts(monkeypatch: pytest.MonkeyPatch, *degrees: float) -> list[float]:
    """Let attempts be so disturbed, one after the other; what is left is returned."""
    left = list(degrees)
    monkeypatch.setattr(timing, "disturbance", lambda *told: ((degree := left.pop(0)), f"degree {degree}"))
    monkeypatch.setattr(timing, "sleep", lambda seconds: None)
    return left


@pytest.mark.parametrize(
    ("degrees", "left", "flagged"),
    [([0.5, 9.0], [9.0], None), ([3.0, 0.9, 9.0], [9.0], None), ([3.0, 2.0, 4.0, 0.1], [0.1], "degree 2.0")],
)
def test_it_is_repeated_and_the_least_disturbed_one_counts(
    degrees: list[float], left: list[float], flagged: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    remaining = attempts(monkeypatch, *degrees)
    assert Clock("cpu", 1e-3).measure(lambda: None).get("disturbed") == flagged
    assert remaining == left
