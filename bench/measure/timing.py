"""Seconds and memory of calls on a device, and a description of the machine."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch

from bench.measure.disturbance import counters, disturbance

Timing = dict[str, Any]  # p50, p95, runs, memory; disturbed, if it was: by what
Machine = dict[str, Any]  # property -> value

STATUS, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CPUS = Path("/proc/cpuinfo")
FEWEST = 3  # smallest number of timed calls
ATTEMPTS, PAUSE = 3, 2.0  # measurements of a call while others disturb it, and most seconds between two


@dataclass(frozen=True)
class Clock:
    """Times repeated calls for about `seconds`.

    Calls are timed one by one, not in blocks as by torch.utils.benchmark, because users wait for single calls.
    """

    device: str
    seconds: float

    def measure(self, call: Callable[[], object]) -> Timing:
        """p50 and p95 in seconds, runs, and additional peak bytes; the first call is a warm-up.

        A measurement that others disturb is repeated; if all are, the one that is least disturbed counts, and
        `disturbed` tells the reason.
        """
        self._timed(call)
        best = self._attempt(call)
        for _ in range(1, ATTEMPTS):
            if best[0] > 1:
                sleep(min(PAUSE, self.seconds))
                best = min(best, self._attempt(call), key=lambda attempt: attempt[0])
        degree, reason, found = best
        return found | ({"disturbed": reason} if degree > 1 else {})

    def _attempt(self, call: Callable[[], object]) -> tuple[float, str, Timing]:
        """Degree of disturbance, its reason, and the measurement."""
        held, before, times = self._held(), counters(), list[float]()
        while len(times) < FEWEST or sum(times) < self.seconds:
            times.append(self._timed(call))
        memory = None if held is None else self._peak() - held
        degree, reason = disturbance(before, counters(), times, os.cpu_count() or 1, not self._on_cuda)
        p50, p95 = np.percentile(times, (50, 95)).tolist()
        return degree, reason, {"p50": p50, "p95": p95, "runs": len(times), "memory": memory}

    @property
    def _on_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def _timed(self, call: Callable[[], object]) -> float:
        """Seconds from an idle device until it has finished the call."""
        self._finish()
        started = perf_counter()
        call()
        self._finish()
        return perf_counter() - started

    def _finish(self) -> None:
        if self._on_cuda:
            torch.cuda.synchronize(self.device)

    def _held(self) -> int | None:
        """Bytes in use; resets the peak. None if the system does not report them."""
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        _trim_memory()
        try:
            RESET_PEAK.write_text("5")
            return _status("VmRSS")
        except OSError:
            return None

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) if self._on_cuda else _status("VmHWM")


def _trim_memory() -> None:
    """Let the C library return free memory, which would count as in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(name: str) -> int:
    """Bytes in a field of the kernel's status of this process."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


# --- the machine ------------------------------------------------------------------------------------------------------


def machine(device: str, threads: int) -> Machine:
    """Description of the machine. Clocks are current values, so call it right after the measurement."""
    found: Machine = {"threads": threads, "torch": torch.__version__, "host": platform.machine(), "cpu": _cpu()}
    if device.startswith("cuda"):
        return {**found, "device": torch.cuda.get_device_name(device), **_graphics(device)}
    capability = torch.backends.cpu.get_cpu_capability()
    return {**found, "device": f"cpu ({capability})", "clocks_mhz": None, "driver": None}


def _cpu() -> str:
    """Name of the processor, if known."""
    lines = CPUS.read_text().splitlines() if CPUS.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _graphics(device: str) -> Machine:
    """Current and highest clock of the multiprocessors, driver and CUDA version; None if nvidia-smi does not report."""
    fields = ("clocks.sm", "clocks.max.sm", "driver_version")
    properties = torch.cuda.get_device_properties(device)
    command = ["nvidia-smi", f"--id=GPU-{properties.uuid}", f"--query-gpu={','.join(fields)}"]
    try:
        asked = subprocess.run(
            [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20, check=True
        )
        now, most, driver = asked.stdout.strip().split(", ")
        clocks: Machine = {"clocks_mhz": float(now), "clocks_max_mhz": float(most), "driver": driver}
    except (OSError, subprocess.SubprocessError, ValueError):
        clocks = {"clocks_mhz": None, "clocks_max_mhz": None, "driver": None}
    return {**clocks, "cuda": torch.version.cuda}
