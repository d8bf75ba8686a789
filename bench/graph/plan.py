"""Plans: which stages of a suite have records, and which would run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from bench.graph.build import Graph
from bench.graph.stage import Stage
from bench.store.records import KINDS, Store

MOST_JOBS = 8  # each slot is a process with its own torch, half a gigabyte and more


@dataclass(frozen=True)
class Plan:
    """The stages of a suite by state."""

    cached: Counter[str]
    to_run: Counter[str]
    missing: Counter[str]
    missing_data: dict[str, str]  # dataset -> why
    frames: int  # bytes of decoded frames that are read more than once
    todo: list[Stage]  # the stages without a record


def make_plan(graph: Graph, store: Store) -> Plan:
    """Compare the graph with the store. Reads directory listings and records, no data.

    A record without the weights that an archive left out counts as one until a stage that has to run reads it.
    """
    known = {kind: store.known(kind) for kind in KINDS}
    states: dict[str, list[Stage]] = {"cached": [], "to_run": [], "missing": []}
    needed = set[str]()  # what stages without a record read; inputs come after them here
    for stage in reversed(graph.stages.values()):
        cached = stage.identity in known[stage.kind] and store.done(*stage.key)
        cached = cached and not (stage.identity in needed and store.left_out(*stage.key))
        if not cached:
            needed |= {other.identity for other in stage.inputs.values()}
        state = "cached" if cached else "missing" if stage.missing else "to_run"
        states[state].append(stage)
    todo = [*states["to_run"][::-1], *states["missing"][::-1]]
    counts = {state: Counter(stage.kind for stage in stages) for state, stages in states.items()}
    return Plan(
        counts["cached"], counts["to_run"], counts["missing"], graph.missing, sum(_repeated(todo).values()), todo
    )


def mend_inputs(todo: Iterable[Stage], store: Store) -> bool:
    """Verify the records that stages will read, and move damaged ones aside. Returns True if there were any."""
    inputs = {other.key for stage in todo for other in stage.inputs.values() if store.done(*other.key)}
    inputs = {key for key in inputs if not store.left_out(*key)}  # their stages are to do as well
    return sum(store.mend(*key) for key in inputs) > 0


def cache_frames(stages: Iterable[Stage], limit: int) -> int:
    """Switch the frame cache on for stages whose frames are read more than once, the most often read first.

    Of the last list that has room, the videos that are read first are kept. Returns the bytes that are kept, at most
    `limit`.
    """
    stages = list(stages)
    kept = 0
    for key, size in _repeated(stages).items():
        if kept < limit:
            kept = min(limit, kept + size)
            for stage in stages:
                if stage.frames and stage.frames.key == key:
                    stage.context["frame_cache"] = True
    return kept


def _repeated(stages: Iterable[Stage]) -> dict[str, int]:
    """Bytes of the frames that are decoded more than once, the most often decoded first."""
    passes: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for frames in (stage.frames for stage in stages if stage.frames):
        passes[frames.key] = passes.get(frames.key, 0) + frames.passes
        sizes[frames.key] = frames.size
    return {key: sizes[key] for key in sorted(passes, key=lambda key: -passes[key]) if passes[key] > 1}


def default_jobs() -> int:
    """Stages at once on this machine: one per core that this process may use, at most `MOST_JOBS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_JOBS, cores)
