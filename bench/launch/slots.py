"""Slots: processes that carry out stages side by side, for the local launcher and for a job on Slurm.

A slot is forked from a server that has imported what stages need, and stays warm: models that it has loaded serve later
stages. If it dies (killed, out of memory), its stage alone is lost. However the process that has the slots ends, they
and all that they have started end with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, Protocol

from bench.core.errors import Interrupted
from bench.core.processes import block_stop_signals, end_with_parent, preload, shared_fork_server, use_fork_server
from bench.graph.stage import ALONE
from bench.launch.launches import PlannedStage
from bench.launch.schedule import Schedule

LOOK = 0.5  # seconds between two looks at what goes on

Work = Callable[..., str | None]  # what a slot does, given a function that tells whether to stop


class Stop(Protocol):
    """A request to stop: the signal that asked for it, 0 before; a pipe has something to read once there is one."""

    @property
    def number(self) -> int: ...

    pipe: Connection


def set_threads(count: int) -> None:
    """Set the thread count of libraries that read it when they are loaded, which is before a stage can set it."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(count)))


def preload_stages(kinds: Iterable[str], threads: int) -> None:
    """Let slots be forked from a process that has imported what these kinds need; no effect once it runs."""
    set_threads(threads)
    preload(["bench.launch.work", *sorted({f"bench.stages.{kind}" for kind in kinds})])


class Slot:
    """A process that carries out one stage after another, started when it is needed and replaced when it dies."""

    def __init__(self, stop: Connection, environment: dict[str, str] | None = None) -> None:
        """`environment`: variables beside those of this process."""
        self.stop, self.environment = stop, environment or {}
        self.stage: PlannedStage | None = None
        self.process: ForkServerProcess | None = None
        self.pipe: Connection

    def begin(self, stage: PlannedStage, work: Work) -> None:
        if stage.kind in ALONE:
            self.close()  # a fresh process: earlier stages leave nothing in its memory
        self.stage = stage
        if self.process is None:
            context = get_context("forkserver")
            self.pipe, theirs = context.Pipe()
            with block_stop_signals():
                given = theirs, self.stop, {**os.environ, **self.environment}, shared_fork_server()
                self.process = context.Process(target=_serve, args=given)
                self.process.start()
            theirs.close()
        with suppress(OSError):  # it has died, which its pipe says too
            self.pipe.send(work)

    def close(self, patience: float = 0.0) -> int:
        """End the process, after so many seconds; an interrupted stage resumes later. Returns its exit code."""
        code = 0
        if self.process is not None:
            self.process.join(patience)
            self.process.kill()
            self.process.join()
            self.pipe.close()
            code = self.process.exitcode or 0
        self.process = self.stage = None
        return code


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
            pipe.send(attempt(pipe.recv(), stop.poll))


def attempt(work: Work, stopping: Callable[[], bool]) -> str | Interrupted | None:
    """Carry out a stage. Returns None for success, else the error, or how far it came before it was asked to stop."""
    try:
        return work(stopping)
    except Interrupted as early:
        return early


def run_in_slots(
    slots: Sequence[Slot],
    state: Schedule,
    work: Callable[[PlannedStage], Work],
    stop: Stop,
    patient: Collection[str],
    died: Callable[[PlannedStage, int], None],
    watch: Callable[[Schedule], None],
    fits: Callable[[Schedule], bool] = lambda state: True,
) -> None:
    """Carry out what the schedule lets start, a stage in each slot, until nothing runs and nothing can start.

    After a request to stop, running stages of the kinds in `patient` are waited for, and others ended. `died` is told a
    stage whose process has died, and its exit code; `fits` tells whether another stage has room beside those that run;
    `watch` is called about twice a second and after every stage.
    """
    try:
        while True:
            state.look_again()
            for slot in slots:
                if stop.number and slot.stage and slot.stage.kind not in patient:
                    slot.close()
                elif not (stop.number or slot.stage) and fits(state) and (stage := state.start()):
                    slot.begin(stage, work(stage))
            busy = {slot.pipe: slot for slot in slots if slot.stage}
            if not busy and (stop.number or not state.waiting):
                break
            for pipe in wait(list(busy), LOOK):
                slot = busy[pipe]  # type: ignore[index]
                assert slot.stage
                stage, slot.stage = slot.stage, None
                try:
                    state.finish(stage, slot.pipe.recv())
                except (EOFError, OSError):
                    died(stage, slot.close(patience=1.0))
            watch(state)
    finally:
        for slot in slots:
            slot.close()
