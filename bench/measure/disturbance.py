"""Whether other work disturbed a measurement of seconds, by what the kernel and the seconds themselves tell.

docs/costs.md has the measurements behind the thresholds. What a machine does not tell counts as undisturbed.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

STAT = Path("/proc/stat")
WORKING = (1, 2, 3, 6, 7, 8)  # its columns user, nice, system, interrupts, and what the host of a virtual machine took

OTHERS = 0.1  # share of the machine's processors that others may take
SLACK = 0.05  # seconds: the kernel counts in hundredths, for each processor
SWITCHES, FEW = 20, 5  # times a second, and at all, that others may interrupt this process
STALLED = 0.1  # share of the time in which a process that computes may stand still
SPREAD = 2.0  # largest p95 over p50
APART = 0.25  # largest difference of a whole from the sum of its parts, as a share of it
OVERHEAD = 5e-4  # seconds that a call may take beside its work


def counters() -> tuple[float, float, float, int]:
    """Seconds, processor seconds of this process and of all processes, involuntary switches of this one, up to now."""
    own = everything = process_time()
    if STAT.is_file():
        columns = STAT.read_text().split("\n", 1)[0].split()
        everything = sum(int(columns[column]) for column in WORKING) / os.sysconf("SC_CLK_TCK")
    return perf_counter(), own, everything, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def disturbance(
    before: Sequence[float], after: Sequence[float], times: Sequence[float], processors: int, computes: bool
) -> tuple[float, str]:
    """The worst sign in calls that took `times` between two readings of the counters: its degree, and it in words.

    Up to a degree of 1 nothing is disturbed. `computes`: this process does the work itself, not a GPU.
    """
    seconds, own, everything, switches = (end - start for start, end in zip(before, after, strict=True))
    others = max(0.0, everything - own - SLACK) / seconds
    stalled = max(0.0, seconds - own - SLACK) / seconds if computes else 0.0
    often = max(0.0, switches - FEW) / seconds
    p50, p95 = np.percentile(times, (50, 95)).tolist()
    return max(
        (others / (OTHERS * processors), f"other processes took {others:.1f} of {processors} processors"),
        (often / SWITCHES, f"other processes interrupted it {often:.0f} times a second"),
        (stalled / STALLED, f"it stood still for {stalled:.0%} of the time"),
        ((p95 - OVERHEAD) / p50 / SPREAD, f"p95 is {p95 / p50:.1f} times p50"),
    )


def contradiction(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Why the p50 of `video`, `tower` and `head` cannot all be right; "" if they can. A video is both others."""
    video, tower, head = (1e3 * found[part]["p50"] for part in ("video", "tower", "head"))
    if abs(video - tower - head) <= APART * video + 1e3 * OVERHEAD:
        return ""
    return f"tower ({tower:.1f} ms) and head ({head:.1f} ms) are not the video ({video:.1f} ms) that consists of them"
