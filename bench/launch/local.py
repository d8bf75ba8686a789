"""The local launcher: stages on this machine, several at once, each slot a process of its own.

A slot that dies (killed, out of memory) costs its stage one attempt and nothing else: the next attempt resumes from the
checkpoint. A stage that fails blocks only what needs it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context

from bench.graph import Stage
from bench.records import Store
from bench.work import Compute, Order, Part, execute

ATTEMPTS = 3  # of a stage whose process dies; an error of the stage itself is not repeated


@dataclass
class Outcome:
    """How a launch ended."""

    done: list[Stage] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # identity -> reason
    blocked: list[Stage] = field(default_factory=list)  # an input failed or its data are missing


Watch = Callable[["Launch"], None]


@dataclass
class Launch:
    """The state of a launch, for displays."""

    todo: list[Stage]
    store: Store
    running: dict[str, Stage] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)
    started: float = field(default_factory=time.monotonic)


def run_local(stages: list[Stage], store: Store, compute: Compute, jobs: int, launch: Part, watch: Watch) -> Outcome:
    """Carry out the stages that have no record yet. `jobs` = 0 works in this process, one after the other.

    `stages` come inputs first. `watch` is called about twice a second and after every stage.
    """
    state = Launch([stage for stage in stages if not store.done(*stage.key)], store)
    if jobs == 0:
        _in_process(state, compute, launch, watch)
    else:
        _in_slots(state, compute, jobs, launch, watch)
    return state.outcome


def _in_process(state: Launch, compute: Compute, launch: Part, watch: Watch) -> None:
    while stage := next(_ready(state), None):
        state.todo.remove(stage)
        state.running[stage.identity] = stage
        watch(state)
        _finish(state, stage, execute(Order.of(stage), state.store, compute, launch))
        watch(state)
    state.outcome.blocked = state.todo


def _in_slots(state: Launch, compute: Compute, jobs: int, launch: Part, watch: Watch) -> None:
    slots = [_Slot() for _ in range(jobs)]
    attempts: dict[str, int] = {}
    futures: dict[Future[str | None], tuple[_Slot, Stage]] = {}
    try:
        while True:
            busy = {id(slot) for slot, _ in futures.values()}
            for slot in (slot for slot in slots if id(slot) not in busy):
                if stage := next(_ready(state), None):
                    state.todo.remove(stage)
                    state.running[stage.identity] = stage
                    futures[slot.submit(Order.of(stage), state.store, compute, launch)] = slot, stage
            if not futures:
                break
            for future in wait(futures, timeout=0.5, return_when=FIRST_COMPLETED).done:
                slot, stage = futures.pop(future)
                attempts[stage.identity] = attempts.get(stage.identity, 0) + 1
                if isinstance(future.exception(), BrokenProcessPool):
                    slot.renew()
                    _died(state, stage, attempts[stage.identity])
                else:
                    _finish(state, stage, future.result())
            watch(state)
    finally:
        for slot in slots:
            slot.close()
    state.outcome.blocked = state.todo


class _Slot:
    """A process that carries out one stage after another, replaced when it dies."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def submit(self, order: Order, store: Store, compute: Compute, launch: Part) -> Future[str | None]:
        # Libraries read their thread count when they are loaded, before the stage can set it.
        os.environ.update({name: str(compute.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")})
        return self.pool.submit(execute, order, store, compute, launch)

    def close(self) -> None:
        """End the process at once; an interrupted stage resumes from its checkpoint."""
        processes = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _ready(state: Launch) -> Iterator[Stage]:
    """Stages whose inputs have records, the costliest first, so that no long one is left to the end."""
    ready = [
        stage
        for stage in state.todo
        if not stage.missing and all(state.store.done(*other.key) for other in stage.inputs.values())
    ]
    return iter(sorted(ready, key=lambda stage: -stage.flops))


def _finish(state: Launch, stage: Stage, reason: str | None) -> None:
    del state.running[stage.identity]
    if reason is None:
        state.outcome.done.append(stage)
    else:
        state.outcome.failed[stage.identity] = reason


def _died(state: Launch, stage: Stage, attempt: int) -> None:
    state.store.log("death", *stage.key, title=stage.title, attempt=attempt)
    if attempt < ATTEMPTS:
        del state.running[stage.identity]
        state.todo.insert(0, stage)
    else:
        _finish(state, stage, f"its process died {attempt} times (killed, or out of memory?)")
