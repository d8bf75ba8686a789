"""A job of a launch on Slurm: its stages one after the other, each with its own record, log and failure.

Slurm tells a job to stop by SIGUSR2, some time before its limit or its preemption, and by SIGTERM when it is requeued
or cancelled from outside. Handlers only note the signal. A training looks at each step, its ranks agree, it saves, and
the job has itself requeued under the same id, so that what depends on it keeps waiting. Handlers of submitit's own
would act on one rank between any two instructions, and take a job under ten minutes for one that has timed out.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from bench.core.errors import Interrupted
from bench.launch import scheduler
from bench.launch.launches import Launch, open_launch, release
from bench.launch.work import Order, assist, execute
from bench.stages.work import Compute
from bench.store.attempts import histories
from bench.store.records import Store

THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # read by libraries when they are loaded
KILLED_WITHIN = 900.0  # seconds after SIGTERM; Slurm's grace and kill times together are far shorter


class Stop:
    """Whether the job was told to stop, and how."""

    def __init__(self) -> None:
        self.requeue = self.terminate = False
        signal.signal(signal.SIGUSR2, self._note)
        signal.signal(signal.SIGTERM, self._note)

    def __call__(self) -> bool:
        return self.requeue or self.terminate

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR2:
            self.requeue = True
        else:
            self.terminate = True


def run_element(folder: str, numbers: list[int], since: float) -> None:
    """What submitit calls on a node, once for each task of the job. `numbers`: the stages of the launch in `folder`.

    Attempts before `since` do not count.
    """
    stop = Stop()
    launch = open_launch(Path(folder))
    prepare(launch)
    rank, tasks = int(os.environ.get("SLURM_PROCID", 0)), int(os.environ.get("SLURM_NTASKS", 1))
    if tasks > 1:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    element = _Element(launch, stop, since)
    orders = launch.orders(numbers)
    for order in (orders[number] for number in numbers):
        try:
            if not stop():
                element.carry_out(order, rank)
        except Interrupted as early:
            _say(f"{order.title}: {early}")
            if rank == 0 and not element.worthwhile(order) and tasks > 1:
                sys.exit(1)  # which ends the other tasks too
        if stop() and (tasks > 1 or element.left(orders.values())):
            _leave(stop, rank)


def prepare(launch: Launch) -> None:
    """The environment of the launch, before anything heavy is imported."""
    from bench.models.weights import offline

    os.environ.update(launch.about["environment"])
    threads = str(launch.about["compute"]["threads"])
    os.environ.update(dict.fromkeys(THREAD_COUNTS, threads))
    offline()


def job_id() -> str:
    """This job as squeue shows it: `123`, or `123_4` in an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


class _Element:
    """One job at work."""

    def __init__(self, launch: Launch, stop: Stop, since: float) -> None:
        self.launch, self.stop, self.since = launch, stop, since
        self.store: Store = launch.store
        self.compute = Compute(**launch.about["compute"])
        self.attempts: int = launch.about["site"]["attempts"]
        self.known = histories(self.store, since)
        self.origin = {**launch.about["provenance"], "launch": launch.name, "job": job_id()}

    def carry_out(self, order: Order, rank: int) -> None:
        """One stage, unless it is done, or given up, or one of its inputs is not done. Raises Interrupted."""
        if self.store.done(order.kind, order.identity):
            return
        history = self.known.get(order.identity)
        if history and history.over(self.attempts):
            return
        if lacking := [key for key in order.inputs.values() if not self.store.done(*key)]:
            if rank == 0:
                _say(f"{order.title}: blocked, {len(lacking)} inputs have no record")
                log = {"title": order.title, "lacking": lacking, "job": self.origin["job"]}
                self.store.log("blocked", order.kind, order.identity, **log)
            return
        if rank > 0:
            assist(order, self.store, self.compute, self.stop)
            return
        _say(f"{order.title}: starts")
        reason = execute(order, self.store, self.compute, self.origin, self.stop)
        _say(f"{order.title}: {reason or 'done'}")
        if reason is None:
            release(self.store, (order.kind, order.identity))

    def left(self, orders: Iterable[Order]) -> bool:
        """Whether anything is still to be done of these stages."""
        over = {key for key, history in histories(self.store, self.since).items() if history.over(self.attempts)}
        return any(order.identity not in over and not self.store.done(order.kind, order.identity) for order in orders)

    def worthwhile(self, order: Order) -> bool:
        """Whether a stage that was interrupted should go on; if not, that is its failure."""
        spent = histories(self.store, self.since)[order.identity].spent
        if spent < self.attempts:
            return True
        reason = (
            f"interrupted {spent} times without getting further; give its jobs more time: resources.{order.kind}.time"
        )
        self.store.log("failure", order.kind, order.identity, title=order.title, reason=reason, final=True)
        return False


def _leave(stop: Stop, rank: int) -> None:
    """End the job; it is requeued if it was to stop for a while."""
    if rank == 0 and stop.requeue:
        refused = scheduler.requeue(job_id())
        _say(f"not requeued: {refused}" if refused else "saved; the job will go on later")
        if refused:
            sys.exit(1)  # the closing job submits its stages again
    if rank == 0 and not stop.requeue:
        _say("told to end")
    # A job that ends by itself while it is being preempted would count as finished, so it waits until it is killed.
    deadline = time.monotonic() + KILLED_WITHIN
    while time.monotonic() < deadline:
        if rank == 0 and stop.requeue and stop.terminate:
            sys.exit(0)
        time.sleep(0.2)
    sys.exit(0)


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)
