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
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from bench.core.errors import Interrupted
from bench.core.processes import (
    Stopped,
    block_stop_signals,
    end_with_parent,
    preload,
    receiving_stops,
    shared_fork_server,
    use_fork_server,
)
from bench.graph.stage import ALONE, Stage
from bench.launch.claims import claiming
from bench.launch.launches import PlannedStage
from bench.launch.schedule import Schedule
from bench.launch.work import Order, execute
from bench.stages.work import Compute
from bench.store.provenance import Provenance
from bench.store.records import Store

ATTEMPTS = 3  # at a stage whose process dies; a stage that raises an error is not tried again
SAVING = ("encode", "train")  # kinds of stages that save what they have when they are asked to stop
PATIENCE = 30.0  # seconds that they have for it
SAVES = f"stopping: saving for at most {PATIENCE:.0f} s; a second signal ends this at once\n".encode()
LOOK = 0.5  # seconds between two looks at what goes on


Watch = Callable[[Schedule], None]
MakeOrder = Callable[[PlannedStage], Order]


def preload_stages(stages: Iterable[Stage], threads: int) -> None:
    """Let slots be forked from a process that has imported what these stages need; no effect once it runs."""
    # Libraries read their thread count when they are loaded, which is before a stage can set it.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)))
    preload(["bench.launch.work", *sorted({f"bench.stages.{stage.kind}" for stage in stages})])


def run_local(
    stages: list[Stage], store: Store, compute: Compute, jobs: int, origin: Provenance, watch: Watch
) -> Schedule:
    """Carry out the stages that have no record yet, `jobs` at once; 0: in this process, one after the other.

    `watch` is called about twice a second and after every stage. Stages are claimed for the launch that `origin` names.
    """
    by_identity = {stage.identity: stage for stage in stages}

    def order(stage: PlannedStage) -> Order:
        return Order.of(by_identity[stage.identity])

    with claiming(store, origin.get("launch")) as claims, _StopRequest() as stop:
        unusable = [stage.identity for stage in stages if stage.missing]
        state = Schedule([PlannedStage.of(stage, stage.flops) for stage in stages], store, claims, unusable)
        with suppress(Stopped):
            if jobs == 0:
                _in_process(state, order, compute, origin, watch, stop)
            else:
                preload_stages((by_identity[identity] for identity in state.todo), compute.threads)
                _in_slots(state, order, compute, jobs, origin, watch, stop)
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


def _in_process(
    state: Schedule, order: MakeOrder, compute: Compute, origin: Provenance, watch: Watch, stop: _StopRequest
) -> None:
    while not stop.number:
        state.look_again()
        if stage := state.start():
            watch(state)
            stop.patient = stage.kind in SAVING
            state.finish(stage, _attempt(order(stage), state.store, compute, origin, stop.pipe.poll))
        elif state.waiting:
            time.sleep(LOOK)
        else:
            break
        watch(state)


def _attempt(*given: Any) -> str | Interrupted | None:
    """Carry out a stage. Returns None for success, else the error, or how far it came before it was asked to stop."""
    try:
        return execute(*given)
    except Interrupted as early:
        return early


def _in_slots(
    state: Schedule, order: MakeOrder, compute: Compute, jobs: int, origin: Provenance, watch: Watch, stop: _StopRequest
) -> None:
    slots, attempts = [_Slot(stop.pipe) for _ in range(jobs)], Counter[str]()
    try:
        while True:
            state.look_again()
            for slot in slots:
                if stop.number and slot.stage and slot.stage.kind not in SAVING:
                    slot.close()
                elif not stop.number and not slot.stage and (stage := state.start()):
                    slot.begin(stage, (order(stage), state.store, compute, origin))
            busy = {slot.pipe: slot for slot in slots if slot.stage}
            if not busy and (stop.number or not state.waiting):
                break
            for pipe in wait(list(busy), LOOK):
                slot = busy[pipe]  # type: ignore[index]
                assert slot.stage
                stage, slot.stage = slot.stage, None
                attempts[stage.identity] += 1
                try:
                    state.finish(stage, slot.pipe.recv())
                except (EOFError, OSError):
                    slot.close()
                    _died(state, stage, attempts[stage.identity])
            watch(state)
    finally:
        for slot in slots:
            slot.close()


class _Slot:
    """A process that carries out one stage after another, started when it is needed and replaced when it dies."""

    def __init__(self, stop: Connection) -> None:
        self.stop = stop
        self.stage: PlannedStage | None = None
        self.process: ForkServerProcess | None = None
        self.pipe: Connection

    def begin(self, stage: PlannedStage, work: tuple[Order, Store, Compute, Provenance]) -> None:
        if stage.kind in ALONE:
            self.close()  # a fresh process: earlier stages leave nothing in its memory
        self.stage = stage
        if self.process is None:
            context = get_context("forkserver")
            self.pipe, theirs = context.Pipe()
            with block_stop_signals():
                given = theirs, self.stop, {**os.environ}, shared_fork_server()
                self.process = context.Process(target=_serve, args=given)
                self.process.start()
            theirs.close()
        with suppress(OSError):  # it has died, which its pipe says too
            self.pipe.send(work)

    def close(self) -> None:
        """End the process at once; an interrupted stage resumes from its checkpoint."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
        self.process = self.stage = None


def _serve(pipe: Connection, stop: Connection, environment: dict[str, str], fork_server: dict[str, Any]) -> None:
    """Body of a slot's process: carry out the stages that come, until it is killed.

    It is forked from a server, so it has the environment of the launch as it was when that started.
    """
    end_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    use_fork_server(fork_server)
    with suppress(EOFError):
        while True:
            pipe.send(_attempt(*pipe.recv(), stop.poll))


def _died(state: Schedule, stage: PlannedStage, attempt: int) -> None:
    state.store.log("death", *stage.key, title=stage.title, attempt=attempt)
    if attempt < ATTEMPTS:
        state.repeat(stage)
    else:
        state.finish(stage, f"its process died {attempt} times (killed, or out of memory?)")
