"""Seconds and memory of calls, and the machine's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.measure import timing
from bench.measure.timing import Clock, machine


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine does."""
    monkeypatch.setattr(timing, "disturbance", lambda *told: (0.0, ""))


def lasting(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """Let calls last so long, one after the other."""
    readings = iter([reading for each in seconds for reading in (0.0, each)])
    monkeypatch.setattr(timing, "perf_counter", lambda: next(readings))


def test_calls_are_timed_one_by_one_after_a_first_one_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    lasting(monkeypatch, 50.0, 1.0, 2.0, 3.0, 2.0)
    found = Clock("cpu", 7.5).measure(lambda: None)
    assert (found["p50"], found["p95"], found["runs"]) == (2.0, pytest.approx(2.85), 4)


def test_three_calls_are_timed_however_long_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    lasting(monkeypatch, 9.0, 9.0, 9.0, 9.0)
    assert Clock("cpu", 1e-3).measure(lambda: None)["runs"] == 3


def test_memory_is_the_peak_of_the_calls_above_what_was_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel's words made up: what this process holds in truth depends on all that ran in it before."""
    status, reset = tmp_path / "status", tmp_path / "clear_refs"
    status.write_text("Name:\tpython\nVmHWM:\t 999 kB\nVmRSS:\t 100 kB\n")
    monkeypatch.setattr(timing, "STATUS", status)
    monkeypatch.setattr(timing, "RESET_PEAK", reset)

    def call() -> None:
        if reset.exists():  # the peak of the first call is forgotten
            status.write_text("Name:\tpython\nVmHWM:\t 164 kB\nVmRSS:\t 120 kB\n")

    assert Clock("cpu", 1e-3).measure(call)["memory"] == 64 * 1024
    assert reset.read_text() == "5"


def test_the_kernel_knows_of_large_tensors() -> None:
    """No tight bound: the kernel takes back what others held meanwhile, and counts by the page and thread."""
    held = Clock("cpu", 1e-3).measure(lambda: torch.ones(64, 2**20).sum())["memory"]
    assert held is None or held > 128 * 2**20


def test_memory_is_unknown_where_the_peak_cannot_be_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "RESET_PEAK", tmp_path / "nowhere" / "clear_refs")
    assert Clock("cpu", 1e-3).measure(lambda: None)["memory"] is None


def test_the_machine_of_a_cpu() -> None:
    found: dict[str, Any] = machine("cpu", 3)
    assert found["threads"] == 3 and found["torch"] == torch.__version__ and found["device"].startswith("cpu (")
    assert found["clocks_mhz"] is None and "cuda" not in found
