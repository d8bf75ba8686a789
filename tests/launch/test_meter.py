"""Seconds and memory of an attempt."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.launch import meter
from bench.launch.meter import Meter, memory_asked

MEGABYTE = 2**20
linux = pytest.mark.skipif(not meter.PROC.joinpath("self/status").exists(), reason="only Linux tells")
HOLDS = "own = bytearray(64 << 20); print(flush=True); input()"  # 64 MB, every page of them written


def measured(size: int) -> int:
    """The memory of an attempt that fills so many megabytes."""
    found = Meter(alone=True)
    with found.computing():
        bytearray(size * MEGABYTE)
    return int(found.reading()["memory"])


@linux
def test_memory_is_the_peak_of_one_attempt() -> None:
    before = measured(0)
    assert measured(256) >= before + 200 * MEGABYTE
    if resettable():
        assert measured(0) < before + 100 * MEGABYTE


def resettable() -> bool:
    try:
        (meter.PROC / "self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@linux
def test_the_memory_of_processes_that_an_attempt_starts_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "LOOK", 0.01)
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDS!r}])"
    found, deadline = Meter(), time.monotonic() + 60
    with found.computing(), subprocess.Popen([sys.executable, "-c", nested], stdin=-1, stdout=-1) as child:
        assert child.stdout and child.stdout.readline()
        while found.children < 64 * MEGABYTE and time.monotonic() < deadline:
            time.sleep(0.01)
        child.communicate(b"\n")
    assert found.children >= 64 * MEGABYTE and found.reading()["memory"] > found.children


def test_the_processes_that_all_slots_share_are_their_overhead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's process 2 has a tracker 3 and a fork server 4, which has forked the slots 5 and 6."""
    for process, (parent, children) in {2: (1, "3 4"), 3: (2, ""), 4: (2, "5 6"), 5: (4, ""), 6: (4, "")}.items():
        (tmp_path / f"{process}/task/{process}").mkdir(parents=True)
        (tmp_path / f"{process}/task/{process}/children").write_text(children)
        (tmp_path / f"{process}/status").write_text(f"PPid:\t{parent}\nVmRSS:\t{10**process} kB\n")
    monkeypatch.setattr(meter, "PROC", tmp_path)
    assert "overhead" not in Meter().reading()  # this process is no slot
    monkeypatch.setattr(meter, "parent_process", lambda: object())
    monkeypatch.setattr(meter.os, "getppid", lambda: 4)
    assert Meter().reading()["overhead"] == (10**2 + 10**3 + 10**4) * 1024


def test_an_attempt_that_never_computed_was_all_start_up() -> None:
    reading = Meter().reading()
    assert reading["compute"] == 0 and reading["startup"] >= 0


@pytest.mark.parametrize(
    ("given", "megabytes"),
    [
        ({"SLURM_MEM_PER_NODE": "4096", "SLURM_MEM_PER_CPU": "1"}, 4096),
        ({"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_ON_NODE": "4"}, 4000),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({}, None),
    ],
)
def test_what_slurm_gave(given: dict[str, str], megabytes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert memory_asked() == megabytes
