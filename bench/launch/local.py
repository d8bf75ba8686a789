"""The local launcher: stages on this machine, several at once, each slot a process of its own.

If a process dies (killed, out of memory), its stage loses one attempt, and the next one resumes from the checkpoint. A
stage that fails blocks only stages that depend on it. Stages that measure time wait until no other runs or can start.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from multiprocessing import get_context

from bench.graph.stage import ALONE, Stage
from bench.launch.work import Order, execute
from bench.stages.work import Compute
from bench.store.provenance import Provenance
from bench.store.records import Store

ATTEMPTS = 3  # at a stage whose process dies; a stage that raises an error is not tried again


Watch = Callable[["LocalRun"], None]


class LocalRun:
    """The stages of a run: to do, ready to start (their inputs have records), running, done and failed."""

    def __init__(self, stages: list[Stage], store: Store) -> None:
        keys = {each.key for stage in stages for each in (stage, *stage.inputs.values())}
        done = {identity for kind, identity in keys if store.done(kind, identity)}
        self.store = store
        self.started = time.monotonic()
        self.todo = {stage.identity: stage for stage in stages if stage.identity not in done}
        self.running: dict[str, Stage] = {}
        self.done: list[Stage] = []
        self.failed: dict[str, str] = {}  # identity -> reason
        inputs = {
            stage.identity: {other.identity for other in stage.inputs.values()} - done for stage in self.todo.values()
        }
        self._order = TopologicalSorter(inputs)
        self._order.prepare()
        self._ready: list[tuple[float, str]] = []
        self._alone: list[tuple[float, str]] = []  # ready, but must run alone
        self._offer(self._order.get_ready())

    @property
    def blocked(self) -> list[Stage]:
        """The stages that were not started after the end, because an input failed, or the data are missing."""
        return list(self.todo.values())

    def start(self) -> Stage | None:
        """Start the costliest stage that is ready, so that no long one is left to the end; None if none is ready."""
        if any(stage.kind in ALONE for stage in self.running.values()):
            return None
        ready = self._alone if not self._ready and not self.running else self._ready
        if not ready:
            return None
        stage = self.todo.pop(heappop(ready)[1])
        self.running[stage.identity] = stage
        return stage

    def finish(self, stage: Stage, reason: str | None) -> None:
        """Note the end of a running stage: the error, or None for success, which lets others start."""
        del self.running[stage.identity]
        if reason is not None:
            self.failed[stage.identity] = reason
            return
        self.done.append(stage)
        self._order.done(stage.identity)
        self._offer(self._order.get_ready())

    def repeat(self, stage: Stage) -> None:
        """Make a running stage ready again."""
        self.todo[stage.identity] = self.running.pop(stage.identity)
        self._offer([stage.identity])

    def _offer(self, identities: Iterable[str]) -> None:
        for stage in (self.todo[identity] for identity in identities if identity in self.todo):
            if not stage.missing:
                heappush(self._alone if stage.kind in ALONE else self._ready, (-stage.flops, stage.identity))


def run_local(
    stages: list[Stage], store: Store, compute: Compute, jobs: int, origin: Provenance, watch: Watch
) -> LocalRun:
    """Carry out the stages that have no record yet, `jobs` at once; 0: in this process, one after the other.

    `watch` is called about twice a second and after every stage.
    """
    state = LocalRun(stages, store)
    if jobs == 0:
        _in_process(state, compute, origin, watch)
    else:
        _in_slots(state, compute, jobs, origin, watch)
    return state


def _in_process(state: LocalRun, compute: Compute, origin: Provenance, watch: Watch) -> None:
    while stage := state.start():
        watch(state)
        state.finish(stage, execute(Order.of(stage), state.store, compute, origin))
        watch(state)


def _in_slots(state: LocalRun, compute: Compute, jobs: int, origin: Provenance, watch: Watch) -> None:
    free = [_Slot() for _ in range(jobs)]
    slots, attempts = list(free), Counter[str]()
    futures: dict[Future[str | None], tuple[_Slot, Stage]] = {}
    try:
        while True:
            while free and (stage := state.start()):
                slot = free.pop()
                if stage.kind in ALONE:
                    slot.close()
                    slot.renew()  # a fresh process: earlier stages leave nothing in its memory
                futures[slot.submit(Order.of(stage), state.store, compute, origin)] = slot, stage
            if not futures:
                break
            for future in wait(futures, timeout=0.5, return_when=FIRST_COMPLETED).done:
                slot, stage = futures.pop(future)
                free.append(slot)
                attempts[stage.identity] += 1
                if isinstance(future.exception(), BrokenProcessPool):
                    slot.renew()
                    _died(state, stage, attempts[stage.identity])
                else:
                    state.finish(stage, future.result())
            watch(state)
    finally:
        for slot in slots:
            slot.close()


class _Slot:
    """A process that carries out one stage after another, replaced when it dies."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def submit(self, order: Order, store: Store, compute: Compute, origin: Provenance) -> Future[str | None]:
        # Libraries read their thread count when they are loaded, which is before the stage can set it.
        os.environ.update({name: str(compute.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")})
        return self.pool.submit(execute, order, store, compute, origin)

    def close(self) -> None:
        """End the process at once; an interrupted stage resumes from its checkpoint."""
        processes = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _died(state: LocalRun, stage: Stage, attempt: int) -> None:
    state.store.log("death", *stage.key, title=stage.title, attempt=attempt)
    if attempt < ATTEMPTS:
        state.repeat(stage)
    else:
        state.finish(stage, f"its process died {attempt} times (killed, or out of memory?)")
