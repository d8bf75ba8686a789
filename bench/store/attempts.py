"""What the attempts at a stage have come to, from the events that they left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.store.records import Store

Part = dict[str, Any]

OUTCOMES = ("end", "failure", "interrupted", "death")


@dataclass
class History:
    """The attempts at one stage. `spent` are those that count: an interrupted one that got further does not."""

    spent: int = 0
    hopeless: bool = False  # another attempt would end alike
    started: Part | None = None  # the attempt that has not ended, or whose process is gone without a word
    last: Part | None = None  # the latest event
    failure: Part | None = None  # the latest failure, death or interruption that counts
    furthest: int = 0

    def over(self, attempts: int) -> bool:
        """Whether nothing more should be tried, of so many attempts."""
        return self.hopeless or self.spent >= attempts

    def add(self, event: Part) -> None:
        """Take the next event into account."""
        kind = event["event"]
        if kind == "note":
            return
        self.last = event
        if kind == "start":
            if self.started:  # the one before has ended without a word
                self.spent += 1
            self.started = event
        elif kind in OUTCOMES:
            self.started = None
            if kind == "interrupted" and event["done"] > self.furthest:
                self.furthest = event["done"]
            elif kind != "end":
                self.spent += 1
                self.failure = event
            self.hopeless |= bool(event.get("final"))


def histories(store: Store, since: float = 0.0) -> dict[str, History]:
    """By identity, all that happened from `since` on."""
    return collected(event for event in store.events() if event["time"] >= since)


def collected(events: Iterable[Part]) -> dict[str, History]:
    """Histories of events in the order of time."""
    found: dict[str, History] = {}
    for event in events:
        found.setdefault(event["identity"], History()).add(event)
    return found
