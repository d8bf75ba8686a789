"""A job of a launch on Slurm: its stages one after the other, each with its own record, log and failure.

Slurm tells a job to stop by SIGUSR2, some time before its limit or its preemption, and by SIGTERM when it is requeued
or cancelled from outside. The handlers only note the signal. A training looks at each step, its ranks agree, it saves,
and the job requeues itself under the same id, so that jobs that depend on it keep waiting. submitit's own handlers
would interrupt one rank between any two instructions, and count any signal as a timeout if the limit is under ten
minutes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Container, Iterable
from pathlib import Path

from bench.core.errors import Interrupted
from bench.launch import scheduler
from bench.launch.claims import release
from bench.launch.launches import Launch, StageKey, open_launch
from bench.launch.work import Order, assist, execute
from bench.stages.work import Compute
from bench.store.attempts import attempts_since
from bench.store.records import Store
from bench.suite.resources import in_clock, round_minutes

THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # libraries read them when they are loaded
KILLED_WITHIN = 900.0  # seconds after SIGTERM; Slurm's grace and kill times together are far shorter


class StopSignals:
    """The signals to stop that the job has received."""

    def __init__(self) -> None:
        self.received = set[int]()
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, lambda number, frame: self.received.add(number))

    def __call__(self) -> bool:
        return bool(self.received)

    @property
    def requeue(self) -> bool:
        """True if the job has to go on later."""
        return signal.SIGUSR2 in self.received


def run_array_task(folder: str, numbers: list[int], since: float) -> None:
    """Carry out stages of the launch in `folder`. submitit calls this on a node, once for each Slurm task of the job.

    `numbers` are the stages; attempts before `since` do not count.
    """
    stop = StopSignals()
    launch = open_launch(Path(folder))
    set_environment(launch)
    rank, tasks = int(os.environ.get("SLURM_PROCID", 0)), int(os.environ.get("SLURM_NTASKS", 1))
    if tasks > 1:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    orders = launch.orders(numbers)
    job = _Job(launch, stop, since, {order.key for order in orders.values()})
    for order in (orders[number] for number in numbers):
        try:
            if not stop():
                job.carry_out(order, rank)
        except Interrupted as early:
            _say(f"{order.title}: {early}")
            if rank == 0 and not job.may_go_on(order) and tasks > 1:
                sys.exit(1)  # which ends the other tasks too
        if stop() and (tasks > 1 or job.has_work(orders.values())):
            leave(stop, rank)


def set_environment(launch: Launch) -> None:
    """Set the environment variables of the launch, before libraries that read them are imported."""
    from bench.models.weights import offline

    os.environ.update(launch.about["environment"])
    threads = str(launch.about["compute"]["threads"])
    os.environ.update(dict.fromkeys(THREAD_COUNTS, threads))
    offline()


def job_id() -> str:
    """The id of this job as squeue shows it: `123`, or `123_4` in an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


class _Job:
    """The stages of a job, and the attempts at them."""

    def __init__(self, launch: Launch, stop: StopSignals, since: float, own: Container[StageKey] = ()) -> None:
        self.launch, self.stop, self.since, self.own = launch, stop, since, own
        self.store: Store = launch.store
        self.growing = {stage.key for stage in launch.stages if stage.grows}
        self.compute = Compute(**launch.about["compute"])
        self.most_attempts: int = launch.about["site"]["attempts"]
        self.before = attempts_since(self.store, since)
        self.origin = {**launch.about["provenance"], "launch": launch.name, "job": job_id()}
        self.submitted = next((array.time for array in launch.arrays() if job_id() in array.jobs()), None)

    def carry_out(self, order: Order, rank: int) -> None:
        """Carry out a stage, unless it is done, follows one that failed or has no attempts left. Raises Interrupted."""
        inputs = (key for key in order.inputs.values() if key in self.own)
        if self.store.done(*order.key) or not all(self.store.done(*key) for key in inputs):
            return
        if self.before[order.identity].over(self.most_attempts, order.key in self.growing):
            return
        if rank > 0:
            assist(order, self.store, self.compute, self.stop)
            return
        _say(f"{order.title}: starts")
        known = self.before[order.identity]
        reason = execute(
            order, self.store, self.compute, self.origin, self.stop, submitted=self.submitted, before=known
        )
        _say(f"{order.title}: {reason or 'done'}")
        if reason is None:
            release(self.store, order.key)

    def has_work(self, orders: Iterable[Order]) -> bool:
        """True if any of these stages is neither done nor out of attempts."""
        found, most = attempts_since(self.store, self.since), self.most_attempts
        left = (own for own in orders if not found[own.identity].over(most, own.key in self.growing))
        return not all(self.store.done(*own.key) for own in left)

    def may_go_on(self, order: Order) -> bool:
        """True if an interrupted stage has attempts left; if not, log a failure that suggests a time limit."""
        found = attempts_since(self.store, self.since)[order.identity]
        if found.spent < self.most_attempts:
            return True
        limit = next(stage.resources["time"] for stage in self.launch.stages if stage.key == order.key)
        saving = self.compute.checkpoint_seconds + self.launch.about["site"]["signal"]
        wanted = in_clock(round_minutes(max(2 * limit, found.minutes_for(saving))))
        reason = f"interrupted {found.spent} times without progress that is worth a start-up of {found.slowest:.0f} s; "
        reason += f"give its jobs more time: resources.{order.kind}.time: {wanted}"
        self.store.log("failure", *order.key, title=order.title, reason=reason, final=True)
        return False


def leave(stop: StopSignals, rank: int) -> None:
    """End the job, after requeueing it if it has to stop for a while."""
    if rank == 0 and stop.requeue:
        refused = scheduler.requeue(job_id())
        _say(f"not requeued: {refused}" if refused else "saved; the job will go on later")
        if refused:
            sys.exit(1)  # the driver submits its stages again
    if rank == 0 and not stop.requeue:
        _say("ends because of SIGTERM")
    # Slurm would count a job that exits during its preemption as finished, so it waits until it is killed.
    deadline = time.monotonic() + KILLED_WITHIN
    while time.monotonic() < deadline:
        if rank == 0 and stop.requeue and signal.SIGTERM in stop.received:
            sys.exit(0)
        time.sleep(0.2)
    sys.exit(0)


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)
