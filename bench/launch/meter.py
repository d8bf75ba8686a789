"""What an attempt at a stage takes: seconds of start-up and of computing, and the memory at its peak."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from bench.core.processes import started_processes

LOOK = 1.0  # seconds between two looks at the memory of child processes
PROC = Path("/proc")

_used = False  # whether this process has measured an attempt before


class Meter:
    """Measures one attempt, from its start on.

    An attempt starts with its job, or with its process, if that was made for stages and this is its first; else now.
    Start-up lasts until `computing` begins: interpreter, imports, checks of code and inputs. Memory is the host's: the
    peak resident set of this process while it computes, plus the largest sum of the private memory of the processes
    that it has started, which decode or are ranks here, as seen once a second. Where Linux does not let the peak be
    reset, earlier stages of the process count too; outside of Linux it is unknown. Device memory is what torch had
    allocated in this process on a CUDA device at most; there is none on a CPU, or where the ranks are other processes.
    Overhead is what a slot's attempt needs besides, once for all slots: their fork server, the process that has them.
    """

    def __init__(self, alone: bool = False, submitted: float | None = None, started: float | None = None) -> None:
        """`alone`: nothing may run beside the stage; times at which its job was `submitted` and `started`, if known."""
        global _used
        first, _used = not _used and parent_process() is not None, True
        self.begun = time.time()
        self.started = started or (process_start() if first else self.begun)
        self.waiting = max(0.0, started - submitted) if started and submitted else 0.0
        self.alone, self.children = alone, 0
        self.computed: float | None = None  # when computing began
        self.ended: float | None = None

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The block is the stage function."""
        _reset_peaks()
        done = threading.Event()
        if not self.alone:
            threading.Thread(target=self._watch, args=(done,), daemon=True).start()
        self.computed = time.time()
        try:
            yield
        finally:
            self.ended = time.time()
            done.set()

    def reading(self) -> dict[str, Any]:
        """Seconds: `startup`, `compute`; bytes, where known: `memory`, `overhead`, `device_memory`, `device_total`."""
        now = time.time()
        computed = self.computed or now
        found = {"startup": max(0.0, computed - self.started), "compute": (self.ended or now) - computed}
        memory = {"memory": _field("self", "VmHWM") * 1024 + self.children, "device_memory": _device_peak()}
        memory |= {"device_total": _device_total(), "overhead": _overhead()}
        return found | {name: size for name, size in memory.items() if size}

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(LOOK):
            found = {*_descendants(str(os.getpid()))}
            found |= {each for pid in map(str, started_processes()) for each in (pid, *_descendants(pid))}
            own = sum(_field(child, "RssAnon") for child in found)
            self.children = max(self.children, own * 1024)


def memory_asked() -> int | None:
    """Megabytes that Slurm gives this job on its node; None outside of one, or if there is no limit."""
    with suppress(KeyError, ValueError):
        if "SLURM_MEM_PER_NODE" in os.environ:
            return int(os.environ["SLURM_MEM_PER_NODE"]) or None
        return int(os.environ["SLURM_MEM_PER_CPU"]) * int(os.environ["SLURM_CPUS_ON_NODE"]) or None
    return None


def process_start() -> float:
    """When this process started, in seconds since 1970; now where that is unknown."""
    with suppress(OSError, AttributeError):
        fields = (PROC / "self/stat").read_text().rpartition(")")[2].split()  # a name may have spaces
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.time() - max(0.0, age)
    return time.time()


def _reset_peaks() -> None:
    """Let the peaks of this process's memory start again from what it holds now."""
    with suppress(OSError):
        (PROC / "self/clear_refs").write_text("5")
    for device in _devices():
        sys.modules["torch"].cuda.reset_peak_memory_stats(device)


def _device_peak() -> int:
    return max((sys.modules["torch"].cuda.max_memory_allocated(device) for device in _devices()), default=0)


def _device_total() -> int:
    return max((sys.modules["torch"].cuda.get_device_properties(own).total_memory for own in _devices()), default=0)


def _devices() -> range:
    """The CUDA devices, if this process has used one."""
    cuda = sys.modules["torch"].cuda if "torch" in sys.modules else None
    return range(cuda.device_count() if cuda and cuda.is_initialized() else 0)


def _overhead() -> int:
    """Resident bytes of the process that has the slots, of which this is one, and of its helpers; 0 elsewhere."""
    server = str(os.getppid())
    first = str(_field(server, "PPid"))
    found = {first, *_descendants(first)} - {*_descendants(server)} if parent_process() else ()
    return sum(_field(each, "VmRSS") for each in found) * 1024


def _field(process: str, field: str) -> int:
    """A field of a process's status, in kilobytes for memory; 0 if it has ended, or there is no such."""
    with suppress(OSError):
        for line in (PROC / process / "status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1])
    return 0


def _descendants(process: str) -> Iterator[str]:
    """The processes that a process has started, and those that they have started."""
    for tasks in (PROC / process / "task").glob("*/children"):
        with suppress(OSError):
            for child in tasks.read_text().split():
                yield child
                yield from _descendants(child)
