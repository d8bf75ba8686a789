"""The attempts at a stage, counted from the events that they left in the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import ceil, inf

import yaml

from bench.core.files import ASSETS
from bench.store.records import Event, Store

OUTCOMES = ("end", "failure", "interrupted", "death")
USEFUL = 0.25  # least share of computing in an interrupted attempt that is not spent: a job pays start-up three times


@dataclass
class Attempts:
    """The attempts at one stage.

    An interrupted attempt that got further than all before is not `spent`, unless it was mostly start-up; the next one
    that is worth its start-up makes good for those. Nor is one that a fault of the machine ended, as the event says
    (`machine`). Seconds and memory are of attempts that left an outcome of their own: a process that was killed says
    nothing.
    """

    spent: int = 0
    fatal: bool = False  # another attempt would end the same way
    start: Event | None = None  # the latest start
    end: Event | None = None  # the success
    running: Event | None = None  # the start of an attempt that has no outcome: it runs, or its process is gone
    last: Event | None = None  # the latest event
    failure: Event | None = None  # the latest failure, death or interruption that was spent
    furthest: int = 0  # steps or videos that were saved
    started: int = 0  # number of attempts
    startup: float = 0.0  # seconds, of all attempts together
    compute: float = 0.0  # likewise
    longest: float = 0.0  # seconds of the longest attempt
    slowest: float = 0.0  # seconds of the longest start-up
    memory: int = 0  # bytes at the peak of any attempt; 0: unknown
    overhead: int = 0  # bytes that its job used besides, once for all slots; 0: unknown, or it has none
    device_memory: int = 0  # bytes at the peak, of a GPU
    device_total: int = 0  # bytes that this GPU has
    memory_asked: int = 0  # megabytes that Slurm gave the first attempt that says so; 0: unknown
    out_of_memory: int = 0  # attempts that ended for lack of the host's memory
    forgiven: int = 0  # those of them before a retry, which tell of memory and cost no attempt
    wasted: int = 0  # attempts in a row, among those spent, that got further but were mostly start-up

    def over(self, most: int, grows: bool = False) -> bool:
        """Tell that the stage must not be tried again, where at most so many attempts are allowed.

        Where memory grows up to a limit, that limit ends attempts that lack memory; they do not count.
        """
        return self.fatal or self.spent - (self.out_of_memory - self.forgiven) * grows >= most

    def add(self, event: Event, counts: bool = True) -> None:
        """Count the next event. One that does not count, because it was before a retry, tells of memory alone."""
        name = event["event"]
        for own in ("memory", "overhead", "device_memory", "device_total"):
            setattr(self, own, max(getattr(self, own), event.get(own, 0)))
        self.memory_asked = self.memory_asked or event.get("memory_asked", 0)
        ran_out = name in ("failure", "death") and lacks_memory(event)
        self.out_of_memory, self.forgiven = self.out_of_memory + ran_out, self.forgiven + (ran_out and not counts)
        if name == "note" or not counts:
            return
        self.last = event
        if name == "start":
            if self.running:  # the attempt before left no outcome
                self.spent += 1
            self.start = self.running = event
            self.started += 1
        elif name in OUTCOMES:
            self.running = None
            self._measure(event)
            if name == "end":
                self.end = event
            elif name == "interrupted" and event.get("done", 0) > self.furthest:
                self.furthest = event["done"]
                self._weigh(event)
            elif not event.get("machine"):
                self._spend(event)
            self.fatal |= bool(event.get("final"))

    def broke(self, since: float) -> bool:
        """True if an attempt failed or died after a time, and none has begun after it."""
        return self.last is not None and self.last["time"] >= since and self.last["event"] in ("failure", "death")

    def megabytes(self, side_by_side: int = 1) -> float:
        """Memory of a job that makes so many such attempts at once; 0: unknown."""
        return (self.memory * side_by_side + self.overhead) / 2**20 if self.memory else 0.0

    def minutes_for(self, saving: float) -> int:
        """Time limit at which an attempt is mostly computing: four times the longest start-up, and as many seconds for
        saving."""
        return ceil((self.slowest / USEFUL + saving) / 60)

    def _measure(self, event: Event) -> None:
        startup, compute = event.get("startup", 0.0), event.get("compute", 0.0)
        self.startup, self.compute = self.startup + startup, self.compute + compute
        self.longest, self.slowest = max(self.longest, startup + compute), max(self.slowest, startup)

    def _weigh(self, event: Event) -> None:
        """Spend an attempt that got further if it was mostly start-up; else take back those before it."""
        startup, compute = event.get("startup", 0.0), event.get("compute", 0.0)
        if compute < USEFUL * (startup + compute):
            self._spend(event)
            self.wasted += 1
        else:
            self.spent, self.wasted = self.spent - self.wasted, 0
            self.failure = self.failure if self.spent else None

    def _spend(self, event: Event) -> None:
        self.spent += 1
        self.failure = event


def attempts_since(store: Store, since: float = 0.0, launched: float = inf) -> defaultdict[str, Attempts]:
    """Attempts by stage identity, from the events after a time; those before it, since `launched`, tell of memory."""
    return attempts_from((event for event in store.events() if event["time"] >= min(since, launched)), since)


def attempts_from(events: Iterable[Event], since: float = 0.0) -> defaultdict[str, Attempts]:
    """Attempts by stage identity, from events in order of time; those before `since` tell of memory alone."""
    found = defaultdict[str, Attempts](Attempts)
    for event in events:
        found[event.get("identity", "")].add(event, event["time"] >= since)
    return found


def lacks_memory(event: Event) -> bool:
    """Tell that an attempt ended for lack of the host's memory, as Slurm's state or its own error says."""
    text = f"{event.get('state', '')}\n{event.get('reason', '')}"
    device, host = _signs()
    return any(sign in text for sign in host) and not any(sign in text for sign in device)


@cache
def _signs() -> tuple[list[str], list[str]]:
    """The texts that are evidence of too little memory of a GPU, and of the host (bench/launch/failures.py)."""
    causes = yaml.safe_load((ASSETS / "failures.yaml").read_text(encoding="utf-8"))
    return causes["gpu_memory"]["signs"], causes["memory"]["signs"]
