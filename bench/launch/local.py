"""The local launcher: stages on this machine, several at once, each slot a process of its own.

If a process dies (killed, out of memory), its stage loses one attempt, and the next one resumes from the checkpoint. A
stage that fails blocks only stages that depend on it. Stages that measure time wait until no other runs or can start.
A stage that another launch carries out is waited for, and taken over if that launch ends without its record.

A first signal to stop (Ctrl-C, SIGTERM) lets trainings and encodings save what they have; a second one, or the end of
PATIENCE, ends them. However this process ends, its slots and all that they have started end with it.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing import get_context

from bench.core.processes import Stopped, receiving_stops
from bench.graph.stage import Stage
from bench.launch.claims import claiming
from bench.launch.launches import PlannedStage
from bench.launch.schedule import Schedule
from bench.launch.slots import LOOK, Slot, Work, attempt, preload_stages, run_in_slots
from bench.launch.work import Order, execute
from bench.stages.work import Compute
from bench.store.provenance import Provenance
from bench.store.records import Store

ATTEMPTS = 3  # at a stage whose process dies; a stage that raises an error is not tried again
SAVING = ("encode", "train")  # kinds of stages that save what they have when they are asked to stop
PATIENCE = 30.0  # seconds that they have for it
SAVES = f"stopping: saving for at most {PATIENCE:.0f} s; a second signal ends this at once\n".encode()

Watch = Callable[[Schedule], None]


def run_local(
    stages: list[Stage], store: Store, compute: Compute, jobs: int, origin: Provenance, watch: Watch
) -> Schedule:
    """Carry out the stages that have no record yet, `jobs` at once; 0: in this process, one after the other.

    `watch` is called about twice a second and after every stage. Stages are claimed for the launch that `origin` names.
    """
    by_identity, deaths = {stage.identity: stage for stage in stages}, Counter[str]()

    def work(stage: PlannedStage) -> Work:
        return partial(execute, Order.of(by_identity[stage.identity]), store, compute, origin)

    def died(stage: PlannedStage, code: int) -> None:
        deaths[stage.identity] += 1
        count = deaths[stage.identity]
        store.log("death", *stage.key, title=stage.title, attempt=count)
        if count < ATTEMPTS:
            state.repeat(stage)
        else:
            state.finish(stage, f"its process died {count} times (killed, or out of memory?)")

    with claiming(store, origin.get("launch")) as claims, _StopRequest() as stop:
        unusable = [stage.identity for stage in stages if stage.missing]
        state = Schedule([PlannedStage.of(stage, stage.flops) for stage in stages], store, claims, unusable)
        with suppress(Stopped):
            if jobs == 0:
                _in_process(state, work, watch, stop)
            else:
                preload_stages((stage.kind for stage in state.todo.values()), compute.threads)
                run_in_slots([Slot(stop.pipe) for _ in range(jobs)], state, work, stop, SAVING, died, watch)
        state.stopped = stop.number
        for stage in state.running.values():
            claims.release(stage.key)
    return state


class _StopRequest:
    """A first signal to stop is noted in a pipe that slots and ranks look at. The next one raises Stopped."""

    def __init__(self) -> None:
        self.number = 0
        self.patient = True  # whether there is anything to wait for
        self.pipe, self._end = get_context("spawn").Pipe(duplex=False)
        self._handlers = ExitStack()

    def __enter__(self) -> _StopRequest:
        self._handlers.enter_context(receiving_stops(self._receive))
        before = signal.signal(signal.SIGALRM, self._receive)
        self._handlers.callback(signal.signal, signal.SIGALRM, before)
        self._handlers.callback(signal.setitimer, signal.ITIMER_REAL, 0)
        return self

    def __exit__(self, *error: object) -> None:
        self._handlers.close()

    def _receive(self, number: int, frame: object) -> None:
        if self.number or not self.patient:
            self.number = self.number or number
            raise Stopped(self.number)
        self.number = number
        self._end.send(None)  # nobody takes it out, so everybody sees it
        os.write(2, SAVES)  # print cannot be used where print may have been interrupted
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)


def _in_process(state: Schedule, work: Callable[[PlannedStage], Work], watch: Watch, stop: _StopRequest) -> None:
    while not stop.number:
        state.look_again()
        if stage := state.start():
            watch(state)
            stop.patient = stage.kind in SAVING
            state.finish(stage, attempt(work(stage), stop.pipe.poll))
        elif state.waiting:
            time.sleep(LOOK)
        else:
            break
        watch(state)
