"""The attempts at a stage, counted from the events that they left in the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from bench.store.records import Event, Store

OUTCOMES = ("end", "failure", "interrupted", "death")


@dataclass
class Attempts:
    """The attempts at one stage. An interrupted attempt that got further than all before is not `spent`."""

    spent: int = 0
    fatal: bool = False  # another attempt would end the same way
    start: Event | None = None  # the latest start
    end: Event | None = None  # the success
    running: Event | None = None  # the start of an attempt that has no outcome: it runs, or its process is gone
    last: Event | None = None  # the latest event
    failure: Event | None = None  # the latest failure, death or interruption that was spent
    furthest: int = 0  # steps or videos that were saved

    def over(self, most: int) -> bool:
        """Tell that the stage must not be tried again, where at most so many attempts are allowed."""
        return self.fatal or self.spent >= most

    def add(self, event: Event) -> None:
        """Count the next event."""
        name = event["event"]
        if name == "note":
            return
        self.last = event
        if name == "start":
            if self.running:  # the attempt before left no outcome
                self.spent += 1
            self.start = self.running = event
        elif name in OUTCOMES:
            self.running = None
            if name == "interrupted" and event.get("done", 0) > self.furthest:
                self.furthest = event["done"]
            elif name == "end":
                self.end = event
            else:
                self.spent += 1
                self.failure = event
            self.fatal |= bool(event.get("final"))


def attempts_since(store: Store, since: float = 0.0) -> defaultdict[str, Attempts]:
    """Attempts by stage identity, from the events after a time."""
    return attempts_from(event for event in store.events() if event["time"] >= since)


def attempts_from(events: Iterable[Event]) -> defaultdict[str, Attempts]:
    """Attempts by stage identity, from events in order of time."""
    found = defaultdict[str, Attempts](Attempts)
    for event in events:
        found[event.get("identity", "")].add(event)
    return found
