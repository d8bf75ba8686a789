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
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from bench.core.errors import Interrupted
from bench.core.processes import Stopped, block_stop_signals, end_with_parent, receiving_stops
from bench.graph.stage import ALONE, Stage
from bench.launch.claims import Claims, claiming
from bench.launch.work import Order, execute
from bench.stages.work import Compute
from bench.store.provenance import Provenance
from bench.store.records import Store

ATTEMPTS = 3  # at a stage whose process dies; a stage that raises an error is not tried again
SAVING = ("encode", "train")  # kinds of stages that save what they have when they are asked to stop
PATIENCE = 30.0  # seconds that they have for it
SAVES = f"stopping: saving for at most {PATIENCE:.0f} s; a second signal ends this at once\n".encode()
LOOK = 0.5  # seconds between two looks at what goes on


Watch = Callable[["LocalRun"], None]


class LocalRun:
    """The stages of a run: to do, ready to start (their inputs have records), running, done and failed."""

    def __init__(self, stages: list[Stage], store: Store, claims: Claims | None = None) -> None:
        keys = {each.key for stage in stages for each in (stage, *stage.inputs.values())}
        done = {identity for kind, identity in keys if store.done(kind, identity)}
        self.store, self.claims = store, claims or Claims(store, "")
        self.started = time.monotonic()
        self.todo = {stage.identity: stage for stage in stages if stage.identity not in done}
        self.waiting: dict[str, str] = {}  # identities of those that another launch carries out -> that launch
        self.running: dict[str, Stage] = {}
        self.done: list[Stage] = []
        self.failed: dict[str, str] = {}  # identity -> reason
        self.saved: dict[str, str] = {}  # identity -> how far it came before it was asked to stop
        self.stopped = 0  # the signal that ended the run
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
        """Claim the costliest stage that is ready, so that no long one is left to the end; None if none is ready."""
        while not any(stage.kind in ALONE for stage in self.running.values()):
            ready = self._alone if not self._ready and not self.running else self._ready
            if not ready:
                break
            stage = self.todo[heappop(ready)[1]]
            if by := self.claims.take(stage.key):
                self.waiting[stage.identity] = by
                continue
            self.running[stage.identity] = self.todo.pop(stage.identity)
            if not self.store.done(*stage.key):
                return stage
            self.finish(stage, None)  # another launch was faster
        return None

    def look_again(self) -> None:
        """Go on from stages that other launches have finished, and offer those that they have left."""
        for stage in [self.todo[identity] for identity in self.waiting]:
            if self.store.done(*stage.key) or self.claims.free(stage.key):
                del self.waiting[stage.identity]
                self._offer([stage.identity])

    def finish(self, stage: Stage, outcome: str | Interrupted | None) -> None:
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

    `watch` is called about twice a second and after every stage. Stages are claimed for the launch that `origin` names.
    """
    with claiming(store, origin.get("launch")) as claims, _StopRequest() as stop:
        state = LocalRun(stages, store, claims)
        with suppress(Stopped):
            if jobs == 0:
                _in_process(state, compute, origin, watch, stop)
            else:
                _in_slots(state, compute, jobs, origin, watch, stop)
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


def _in_process(state: LocalRun, compute: Compute, origin: Provenance, watch: Watch, stop: _StopRequest) -> None:
    while not stop.number:
        state.look_again()
        if stage := state.start():
            watch(state)
            stop.patient = stage.kind in SAVING
            state.finish(stage, _attempt(Order.of(stage), state.store, compute, origin, stop.pipe.poll))
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
    state: LocalRun, compute: Compute, jobs: int, origin: Provenance, watch: Watch, stop: _StopRequest
) -> None:
    slots, attempts = [_Slot(stop.pipe) for _ in range(jobs)], Counter[str]()
    try:
        while True:
            state.look_again()
            for slot in slots:
                if stop.number and slot.stage and slot.stage.kind not in SAVING:
                    slot.close()
                elif not stop.number and not slot.stage and (stage := state.start()):
                    slot.begin(stage, state.store, compute, origin)
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
        self.stage: Stage | None = None
        self.process: SpawnProcess | None = None
        self.pipe: Connection

    def begin(self, stage: Stage, store: Store, compute: Compute, origin: Provenance) -> None:
        if stage.kind in ALONE:
            self.close()  # a fresh process: earlier stages leave nothing in its memory
        self.stage = stage
        if self.process is None:
            # Libraries read their thread count when they are loaded, which is before the stage can set it.
            os.environ.update({name: str(compute.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")})
            context = get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs, self.stop))
            with block_stop_signals():
                self.process.start()
            theirs.close()
        with suppress(OSError):  # it has died, which its pipe says too
            self.pipe.send((Order.of(stage), store, compute, origin))

    def close(self) -> None:
        """End the process at once; an interrupted stage resumes from its checkpoint."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
        self.process = self.stage = None


def _serve(pipe: Connection, stop: Connection) -> None:
    """Body of a slot's process: carry out the stages that come, until it is killed."""
    end_with_parent()
    with suppress(EOFError):
        while True:
            pipe.send(_attempt(*pipe.recv(), stop.poll))


def _died(state: LocalRun, stage: Stage, attempt: int) -> None:
    state.store.log("death", *stage.key, title=stage.title, attempt=attempt)
    if attempt < ATTEMPTS:
        state.repeat(stage)
    else:
        state.finish(stage, f"its process died {attempt} times (killed, or out of memory?)")
