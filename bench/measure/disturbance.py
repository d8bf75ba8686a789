"""Whether other work disturbed a measurement of seconds, by what the kernel and the seconds themselves tell.

Thresholds come from measurements (docs/costs.md). What cannot be known here, such as the load of a machine without
/proc, disturbs nothing.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np

STAT = Path("/proc/stat")
WORKING = slice(1, 4), slice(6, 9)  # columns of STAT: user, nice, system; interrupts and time that a host took away

OTHERS = 0.1  # share of the machine's processors that others may take
TICKS = 0.05  # seconds: the kernel counts in hundredths, for all processors together
SWITCHES = 20  # times a second that others may interrupt this process
STALLED = 0.1  # share of the time in which a computing process may stand still
SPREAD = 2.0  # largest p95 over p50
APART = 0.25  # largest difference of a whole from the sum of its parts, in the whole
OVERHEAD = 5e-4  # seconds that a single call may take beside its work


class Counters(NamedTuple):
    """What has passed at a moment: seconds, processor seconds of this process and of all, involuntary switches."""

    seconds: float
    own: float
    all: float
    switches: int


def counters() -> Counters:
    """The counters now; without /proc all work is this process's own."""
    own = process_time()
    try:
        columns = STAT.read_text().split("\n", 1)[0].split()
        ticks = sum(int(column) for part in WORKING for column in columns[part])
        everything = ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        everything = own
    return Counters(perf_counter(), own, everything, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)


class Disturbance(NamedTuple):
    """The worst sign: how many times above its threshold it is, and in words. Up to 1 nothing is disturbed."""

    degree: float
    reason: str


def disturbance(
    before: Counters, after: Counters, times: Sequence[float], processors: int, computes: bool
) -> Disturbance:
    """Signs in the calls `times` between two readings. `computes`: the process itself does the work, not a GPU."""
    seconds = max(after.seconds - before.seconds, 1e-9)
    own, switches = after.own - before.own, after.switches - before.switches
    others = max(0.0, after.all - before.all - own - TICKS) / seconds
    stalled = max(0.0, seconds - own - TICKS) / seconds if computes else 0.0
    p50, p95 = np.percentile(times, (50, 95)).tolist()
    spread = (p95 - OVERHEAD) / p50
    return max(
        Disturbance(others / (OTHERS * processors), f"other processes took {others:.1f} of {processors} processors"),
        Disturbance(
            max(0.0, switches - 5) / seconds / SWITCHES,
            f"other processes interrupted it {switches / seconds:.0f} times a second",
        ),
        Disturbance(stalled / STALLED, f"it stood still for {stalled:.0%} of the time"),
        Disturbance(spread / SPREAD, f"p95 is {p95 / p50:.1f} times p50"),
    )


def contradiction(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Why the p50 of `video`, `tower` and `head` cannot all be right; "" if they can. A video is both others."""
    video, tower, head = (1e3 * found[part]["p50"] for part in ("video", "tower", "head"))
    if abs(video - tower - head) <= APART * video + 1e3 * OVERHEAD:
        return ""
    return f"tower ({tower:.1f} ms) and head ({head:.1f} ms) are not the video ({video:.1f} ms) that consists of them"
