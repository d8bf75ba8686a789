"""What a suite would do: stages, what is there already, and about how long the rest takes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from bench.graph import KINDS, Graph, Stage
from bench.records import Store

ASSUMED_FLOPS_PER_SECOND = 1e10  # of a stage kind that has no record yet: one CPU core, roughly
OVERHEAD_SECONDS = 0.3  # of any stage
SAMPLED_RECORDS = 50
MOST_JOBS = 8  # each slot is a process with its own torch, half a gigabyte and more


@dataclass(frozen=True)
class Plan:
    """The stages of a suite by state; `seconds` estimates the stages to run, in one slot."""

    cached: Counter[str]
    to_run: Counter[str]
    missing: Counter[str]
    missing_data: dict[str, str]  # dataset -> why
    seconds: float
    measured: bool  # whether earlier records gave the rates of every kind to run


def make_plan(graph: Graph, store: Store) -> Plan:
    """Compare the graph with the store. Reads directory listings and a sample of records, no data."""
    known = {kind: store.known(kind) for kind in KINDS}
    states: dict[str, list[Stage]] = {"cached": [], "to_run": [], "missing": []}
    for stage in graph.stages.values():
        state = "cached" if stage.identity in known[stage.kind] else "missing" if stage.missing else "to_run"
        states[state].append(stage)
    rates = measured_rates(store)
    counts = {state: Counter(stage.kind for stage in stages) for state, stages in states.items()}
    reasons = {
        name: reason for name, data in graph.datasets.items() if not data.buildable and (reason := data.missing())
    }
    return Plan(
        counts["cached"],
        counts["to_run"],
        counts["missing"],
        reasons,
        sum(estimate(states["to_run"], rates)),
        set(counts["to_run"]) <= set(rates),
    )


def measured_rates(store: Store) -> dict[str, float]:
    """Median seconds per FLOP of each kind, from earlier records on this store."""
    rates = {}
    for kind in KINDS:
        sample = sorted(store.known(kind))[:SAMPLED_RECORDS]
        costs = [json.loads((store.folder(kind, identity) / "record.json").read_text())["cost"] for identity in sample]
        if found := [cost["seconds"] / cost["flops"] for cost in costs if cost["flops"]]:
            rates[kind] = median(found)
    return rates


def estimate(stages: Iterable[Stage], rates: dict[str, float]) -> list[float]:
    """Seconds that each stage takes, from measured rates or the assumed one."""
    return [OVERHEAD_SECONDS + stage.flops * rates.get(stage.kind, 1 / ASSUMED_FLOPS_PER_SECOND) for stage in stages]


def default_jobs() -> int:
    """Stages at once on this machine: one per core that this process may use, at most `MOST_JOBS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_JOBS, cores)
