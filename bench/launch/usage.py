"""What the stages of a launch on Slurm asked for and what they used, by kind, and what to ask for next time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from bench.launch.launches import Launch, PlannedStage
from bench.store.attempts import attempts_from, lacks_memory
from bench.store.records import KINDS, Event
from bench.suite.resources import Resources, in_clock, round_minutes

MEMORY_MARGIN, TIME_MARGIN = 1.3, 2.0  # suggested over used


@dataclass(frozen=True)
class Usage:
    """Stages of a kind. `time` in minutes, `longest` in seconds, `memory` and `peak` in megabytes of a node.

    `longest`, start-up included, and `peak`, of a job with all that it uses, are those of attempts that had to take as
    much: of those that ended with a record, and of those that had worked and were stopped, as by their time limit, or
    lacked memory. What failed for another reason might have taken anything. 0: unknown, or not asked for.
    """

    kind: str
    time: int
    longest: float
    memory: int
    peak: float
    cpus: int

    @property
    def suggestion(self) -> str:
        """The kind's line of `resources`."""
        memory = f", memory: {ceil(self.peak * MEMORY_MARGIN / 1024)}G" if self.peak else ""
        return f"  {self.kind}: {{time: {in_clock(round_minutes(self.longest * TIME_MARGIN / 60))}{memory}}}"


def usage(launch: Launch, events: Iterable[Event]) -> list[Usage]:
    """The kinds of stages of which a launch on Slurm has measured an attempt, inputs first."""
    found = list[Usage]()
    known = attempts_from(event for event in events if event["time"] >= launch.about["created"] and _tells(event))
    for kind in KINDS:
        stages = [(own, known[own.identity]) for own in launch.stages if own.kind == kind and own.resources]
        if longest := max((attempts.longest for _, attempts in stages), default=0.0):
            time, cpus = (max(own.resources.get(name) or 0 for own, _ in stages) for name in ("time", "cpus"))
            memory = max(own.resources.get("memory") or attempts.memory_asked for own, attempts in stages)
            peak = max(attempts.megabytes(_at_once_on_a_node(own)) for own, attempts in stages)
            found.append(Usage(kind, time, longest, memory, peak, cpus))
    return found


def _tells(event: Event) -> bool:
    """True if what an attempt took says what another needs."""
    stopped = event["event"] == "interrupted" or lacks_memory(event)
    return event["event"] in ("start", "end") or (stopped and bool(event.get("compute")))


def _at_once_on_a_node(stage: PlannedStage) -> int:
    """Processes of stages like this one: one is measured, and the others take about as much."""
    return max(stage.tasks // (stage.resources.get("nodes") or 1), Resources(**stage.resources).side_by_side)
