"""The schedule of a launch: which of its stages can start, which run, and what became of the others.

Both launchers follow it: the local one gives what can start to slots, the driver of a launch on Slurm to job arrays.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from math import log2

from bench.core.errors import Interrupted
from bench.graph.stage import ALONE
from bench.launch.claims import Claims
from bench.launch.launches import PlannedStage
from bench.store.records import Store


class Schedule:
    """The stages of a launch: to do, ready to start (their inputs have records), running, done and failed.

    `unusable`: identities of stages that cannot be carried out; `beside`: whether stages that measure time may start
    while others run. Stages are claimed when they start, and given up when they end.
    """

    def __init__(
        self,
        stages: Iterable[PlannedStage],
        store: Store,
        claims: Claims | None = None,
        unusable: Collection[str] = (),
        beside: bool = False,
    ) -> None:
        stages = list(stages)
        keys = {key for stage in stages for key in (stage.key, *stage.inputs)}
        done = {identity for kind, identity in keys if store.done(kind, identity)}
        self.store, self.claims = store, claims or Claims(store, "")
        self.started = time.monotonic()
        self.todo = {stage.identity: stage for stage in stages if stage.identity not in done}
        self.waiting: dict[str, str] = {}  # identities of those that another launch carries out -> that launch
        self.running: dict[str, PlannedStage] = {}
        self.done: list[PlannedStage] = []
        self.failed: dict[str, str] = {}  # identity -> reason
        self.saved: dict[str, str] = {}  # identity -> how far it came before it was asked to stop
        self.stopped = 0  # the signal that ended the run
        self._unusable, self._beside = frozenset(unusable), beside
        inputs = {stage.identity: {own for _, own in stage.inputs} - done for stage in self.todo.values()}
        self._after = defaultdict[str, list[str]](list)  # identity -> those of stages that need its record
        for identity, each in inputs.items():
            for own in each:
                self._after[own].append(identity)
        self._order = TopologicalSorter(inputs)  # an input without a record that is no stage here stays in the way
        self._order.prepare()
        self._ready: list[tuple[int, str, str]] = []
        self._alone: list[tuple[int, str, str]] = []  # ready, but must run alone
        self._offer(self._order.get_ready())

    @property
    def blocked(self) -> list[PlannedStage]:
        """The stages that were not started after the end, because an input failed, or the data are missing."""
        return list(self.todo.values())

    def start(self) -> PlannedStage | None:
        """Claim the costliest stage that is ready, so that no long one is left to the end; None if none is ready.

        Of about equal costs, those of one training come together, because a process keeps its model.
        """
        while self._beside or not any(stage.kind in ALONE for stage in self.running.values()):
            ready = self._alone if not self._ready and not self.running else self._ready
            if not ready:
                break
            stage = self.todo[heappop(ready)[-1]]
            if not self.store.done(*stage.key) and (by := self.claims.take(stage.key)):
                self.waiting[stage.identity] = by
                continue
            self.running[stage.identity] = self.todo.pop(stage.identity)
            if not self.store.done(*stage.key):
                return stage
            self.finish(stage, None)  # another launch was faster
        return None

    def follow(self, first: PlannedStage, choose: Callable[[PlannedStage], bool]) -> list[PlannedStage]:
        """Start stages that are chosen and lack nothing but a running one's record, to be carried out behind it."""
        found = list[PlannedStage]()
        for stage in (self.todo[own] for own in self._after[first.identity] if own in self.todo):
            others = (key for key in stage.inputs if key != first.key)
            if all(self.store.done(*key) for key in others) and choose(stage) and not self.claims.take(stage.key):
                self.running[stage.identity] = self.todo.pop(stage.identity)
                found.append(stage)
        return found

    def resume(self, choose: Callable[[PlannedStage], bool]) -> None:
        """Count stages that are chosen as running: they were started before, and this launch has them."""
        chosen = {stage.identity for stage in self.todo.values() if choose(stage)}
        for heap in (self._ready, self._alone):
            heap[:] = sorted(entry for entry in heap if entry[-1] not in chosen)
        self.running |= {identity: self.todo.pop(identity) for identity in chosen}

    def look_again(self) -> None:
        """Go on from stages that other launches have finished, and offer those that they have left."""
        for stage in [self.todo[identity] for identity in self.waiting]:
            if self.store.done(*stage.key) or self.claims.free(stage.key):
                del self.waiting[stage.identity]
                self._offer([stage.identity])

    def finish(self, stage: PlannedStage, outcome: str | Interrupted | None) -> None:
        """Note the end of a running stage: an error, how far it came, or None for success, which lets others start."""
        del self.running[stage.identity]
        self.claims.release(stage.key)
        if isinstance(outcome, Interrupted):
            self.saved[stage.identity] = str(outcome)
        elif outcome is not None:
            self.failed[stage.identity] = outcome
        else:
            self.done.append(stage)
            self._order.done(stage.identity)
            self._offer(self._order.get_ready())

    def repeat(self, stage: PlannedStage) -> None:
        """Make a running stage ready again, unless it waits for an input again."""
        self.todo[stage.identity] = self.running.pop(stage.identity)
        if self.startable(stage):
            self._offer([stage.identity])

    def startable(self, stage: PlannedStage) -> bool:
        """True if a stage waits for no other of these."""
        return not any(own in each for _, own in stage.inputs for each in (self.todo, self.running, self.failed))

    def put_back(self, stage: PlannedStage) -> None:
        """Make a stage that was not started after all ready again, and give up the claim to it."""
        self.claims.release(stage.key)
        self.repeat(stage)

    def _offer(self, identities: Iterable[str]) -> None:
        for stage in (self.todo[identity] for identity in identities if identity in self.todo):
            if stage.identity not in self._unusable:
                alone = stage.kind in ALONE and not self._beside
                training = next((own for kind, own in stage.inputs if kind == "train"), "")
                cost = round(log2(max(1.0, stage.seconds)))
                heappush(self._alone if alone else self._ready, (-cost, training, stage.identity))
