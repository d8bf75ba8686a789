"""Seconds and memory of calls on a device, and what that device is."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

Part = dict[str, Any]

STATUS, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CPUS = Path("/proc/cpuinfo")
FEWEST = 3  # timed calls, however long they take


@dataclass(frozen=True)
class Clock:
    """Times calls for about so many seconds each.

    Every call by itself and not in blocks, as torch.utils.benchmark does it: a percentile is of what a user waits for.
    """

    device: str
    seconds: float

    def measure(self, call: Callable[[], object]) -> Part:
        """p50 and p95 in seconds, runs, and peak bytes above those held before; after a first call as warm-up."""
        self._timed(call)
        held, times = self._held(), list[float]()
        while len(times) < FEWEST or sum(times) < self.seconds:
            times.append(self._timed(call))
        p50, p95 = np.percentile(times, (50, 95)).tolist()
        return {"p50": p50, "p95": p95, "runs": len(times), "memory": None if held is None else self._peak() - held}

    @property
    def _on_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def _timed(self, call: Callable[[], object]) -> float:
        """Seconds until the device is done, which until now had nothing to do."""
        self._finish()
        started = perf_counter()
        call()
        self._finish()
        return perf_counter() - started

    def _finish(self) -> None:
        if self._on_cuda:
            torch.cuda.synchronize(self.device)

    def _held(self) -> int | None:
        """Bytes that are held now, from which on the peak is looked for; None where nobody tells."""
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        _give_back()
        try:
            RESET_PEAK.write_text("5")
            return _status("VmRSS")
        except OSError:
            return None

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) if self._on_cuda else _status("VmHWM")


def _give_back() -> None:
    """Let the C library return what is free, which would count as held."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(name: str) -> int:
    """Bytes that the kernel states for this process."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


# --- the machine ------------------------------------------------------------------------------------------------------


def machine(device: str, threads: int) -> Part:
    """What was measured on. Clocks are those of this moment, so it is asked for right after the work."""
    found: Part = {"threads": threads, "torch": torch.__version__, "host": platform.machine(), "cpu": _cpu()}
    if device.startswith("cuda"):
        return {**found, "device": torch.cuda.get_device_name(device), **_graphics(device)}
    capability = torch.backends.cpu.get_cpu_capability()
    return {**found, "device": f"cpu ({capability})", "clocks_mhz": None, "driver": None}


def _cpu() -> str:
    """The processor's name, as far as it is known."""
    lines = CPUS.read_text().splitlines() if CPUS.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _graphics(device: str) -> Part:
    """Clock of the multiprocessors now and at most, driver, CUDA; None for what nvidia-smi does not tell."""
    fields = ("clocks.sm", "clocks.max.sm", "driver_version")
    properties = torch.cuda.get_device_properties(device)
    command = ["nvidia-smi", f"--id=GPU-{properties.uuid}", f"--query-gpu={','.join(fields)}"]
    try:
        asked = subprocess.run(
            [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20, check=True
        )
        now, most, driver = asked.stdout.strip().split(", ")
        clocks: Part = {"clocks_mhz": float(now), "clocks_max_mhz": float(most), "driver": driver}
    except (OSError, subprocess.SubprocessError, ValueError):
        clocks = {"clocks_mhz": None, "clocks_max_mhz": None, "driver": None}
    return {**clocks, "cuda": torch.version.cuda}
