"""A job of a launch on Slurm: its stages in slots, each with its own record, log and failure; or one of several tasks.

A job has one slot, or as many as its resources say, which share its CPUs and memory; with several GPUs, each slot sees
one. A stage starts beside others as far as memory suffices for what its kind has been seen to use.

Slurm tells a job to stop by SIGUSR2, some time before its limit or its preemption, and by SIGTERM when it is requeued
or cancelled from outside. The handlers only note the signal. A training looks at each step, its ranks agree, it saves,
and the job requeues itself under the same id, so that its driver keeps waiting. submitit's own handlers would interrupt
one rank between any two instructions, and count any signal as a timeout if the limit is under ten minutes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from math import inf
from multiprocessing import get_context
from pathlib import Path

from bench.core.errors import Interrupted
from bench.launch import scheduler
from bench.launch.launches import Launch, PlannedStage, jobs_of, open_launch
from bench.launch.meter import memory_asked, process_start
from bench.launch.schedule import Schedule
from bench.launch.slots import Slot, Work, preload_stages, run_in_slots, set_threads
from bench.launch.work import Order, assist, execute
from bench.stages.work import Compute
from bench.store.attempts import attempts_since
from bench.store.provenance import Provenance
from bench.store.records import KINDS, Store
from bench.suite.resources import Resources, in_clock, round_minutes

KILLED_WITHIN = 900.0  # seconds after SIGTERM; Slurm's grace and kill times together are far shorter


class StopSignals:
    """The signals to stop that the job has received."""

    def __init__(self) -> None:
        self.received = set[int]()
        self.pipe, self._end = get_context("spawn").Pipe(duplex=False)
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        if not self.received:
            self._end.send(None)  # nobody takes it out, so every slot sees it
        self.received.add(number)

    def __call__(self) -> bool:
        return bool(self.received)

    @property
    def number(self) -> int:
        """The signal that asked to stop; 0 before."""
        return min(self.received, default=0)

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
    orders, job = launch.orders(numbers), _Job(launch, stop, since)
    if tasks > 1:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        job.as_rank(rank, *orders.values())
    else:
        job.in_slots([launch.stages[number] for number in numbers], orders.values())
    if stop() and (tasks > 1 or job.has_work(orders.values())):
        leave(stop, rank)


def set_environment(launch: Launch) -> None:
    """Set the environment variables of the launch, before libraries that read them are imported."""
    from bench.models.weights import offline

    os.environ.update(launch.about["environment"])
    set_threads(launch.about["compute"]["threads"])
    offline()


def job_id() -> str:
    """The id of this job as squeue shows it: `123`, or `123_4` in an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


class _Job:
    """The stages of a job, and the attempts at them."""

    def __init__(self, launch: Launch, stop: StopSignals, since: float) -> None:
        self.launch, self.stop, self.since = launch, stop, since
        self.store: Store = launch.store
        self.growing = {stage.key for stage in launch.stages if stage.grows}
        self.compute = Compute(**launch.about["compute"])
        self.most_attempts: int = launch.about["site"]["attempts"]
        self.origin = {**launch.about["provenance"], "launch": launch.name, "job": job_id()}
        self.started = process_start()
        self.submitted = next((array.time for array in launch.arrays() if job_id() in array.jobs()), None)
        self._look()

    def _look(self) -> None:
        """Learn what attempts there were, and which stages later jobs have: what broke here, before a requeue."""
        self.before, since = attempts_since(self.store, self.since), self.submitted or inf
        later = jobs_of(array for array in self.launch.arrays() if array.time > since)
        found = {self.launch.stages[number].key for _, numbers in later for number in numbers}
        self.elsewhere = {key for key in found if not self.store.done(*key)}

    def as_rank(self, rank: int, order: Order) -> None:
        """Carry out a stage of several tasks, or assist. Ends the job if it is interrupted for the last time."""
        if self.store.done(*order.key) or self.is_over(order):
            return
        try:
            if rank > 0:
                assist(order, self.store, self.compute, self.stop)
            else:
                self._work(order)(self.stop)
        except Interrupted:
            if rank == 0 and not self.may_go_on(order):
                sys.exit(1)  # which ends the other tasks too

    def in_slots(self, stages: Iterable[PlannedStage], orders: Iterable[Order]) -> None:
        """Carry out stages, each after those of its inputs that are among them, and unless one of those fails."""
        by_identity = {order.identity: order for order in orders if not self.is_over(order)}
        stages = [own for own in stages if own.identity in by_identity]
        # Where another input has no record, the stage says so.
        state = Schedule([own.after(stages) for own in stages], self.store)
        if not state.todo:
            return
        count = min(Resources(**stages[0].resources).side_by_side, len(state.todo))
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if count > 1 else []
        slots = [Slot(self.stop.pipe, _with_device(devices, number)) for number in range(count)]

        def died(stage: PlannedStage, code: int) -> None:
            memory = {"state": "OUT_OF_MEMORY"} if code == -signal.SIGKILL and out_of_memory_here() else {}
            reason = f"its process ended with exit code {code} in job {job_id()}"
            self.store.log("death", *stage.key, title=stage.title, job=job_id(), reason=reason, **memory)
            state.finish(stage, reason)

        preload_stages((stage.kind for stage in state.todo.values()), self.compute.threads)
        fits = Room(self.launch, count, len(devices)).fits

        def work(stage: PlannedStage) -> Work:
            first = not (state.done or state.failed or state.saved)
            return self._work(by_identity[stage.identity], first)

        run_in_slots(slots, state, work, self.stop, KINDS, died, lambda state: None, fits)
        for identity in state.saved:
            self.may_go_on(by_identity[identity])

    def _work(self, order: Order, first: bool = True) -> Work:
        """The work at a stage; the job was started for it if it is one of the `first`."""
        times = (self.submitted, self.started) if first else (None, None)
        return partial(_carry_out, order, self.store, self.compute, self.origin, *times)

    def is_over(self, order: Order) -> bool:
        """True if a stage has no attempts left, or a later job has it or an input of it."""
        over = self.before[order.identity].over(self.most_attempts, order.key in self.growing)
        return over or not self.elsewhere.isdisjoint({order.key, *order.inputs.values()})

    def has_work(self, orders: Iterable[Order]) -> bool:
        """True if any of these stages is neither done nor out of attempts."""
        self._look()
        return any(not self.is_over(own) and not self.store.done(*own.key) for own in orders)

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


class Room:
    """The memory of a job and of its GPUs, of which stages that run side by side must not need more."""

    def __init__(self, launch: Launch, slots: int, devices: int) -> None:
        self.launch, self.slots, self.devices = launch, slots, max(1, devices)
        self.memory = (memory_asked() or 0) * 2**20  # bytes; 0: without limit
        self._seen, self._peaks = -1, Counter[tuple[str, str]]()

    def fits(self, state: Schedule) -> bool:
        """True if there is room for another stage, as far as it is known what stages of its kind have used at most."""
        if not state.running or not state.todo or self.slots == 1:
            return True
        if self._seen != len(state.done):
            self._seen = len(state.done)
            self._learn()
        kinds, more = [stage.kind for stage in state.running.values()], {stage.kind for stage in state.todo.values()}
        memory = self.memory - self._peaks["overhead", "all"]
        share = memory / self.slots
        host = sum(self._peaks["host", kind] or share for kind in kinds)
        host += max(self._peaks["host", kind] or share for kind in more)
        on_one = -(-(len(kinds) + 1) // self.devices)  # stages on a GPU
        device = on_one * max(self._peaks["device", kind] for kind in {*kinds, *more})
        return (not self.memory or host <= memory) and device <= self._peaks["device", "all"]

    def _learn(self) -> None:
        found = attempts_since(self.launch.store, self.launch.about["created"])
        for stage in self.launch.stages:
            own = found[stage.identity]
            self._peaks["host", stage.kind] = max(self._peaks["host", stage.kind], own.memory)
            self._peaks["overhead", "all"] = max(self._peaks["overhead", "all"], own.overhead)
            self._peaks["device", stage.kind] = max(self._peaks["device", stage.kind], own.device_memory)
            self._peaks["device", "all"] = max(self._peaks["device", "all"], own.device_total)


def _with_device(devices: list[str], number: int) -> dict[str, str]:
    """The variable by which a slot sees one of several GPUs."""
    return {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if len(devices) > 1 else {}


def out_of_memory_here() -> bool:
    """True if Linux has killed processes of this one's control group for lack of memory, or if it does not say."""
    with suppress(OSError, StopIteration, IndexError):
        group = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        events = (Path("/sys/fs/cgroup") / group[4:] / "memory.events").read_text().split()
        return int(events[events.index("oom_kill") + 1]) > 0 if "oom_kill" in events else True
    return True


def _carry_out(
    order: Order,
    store: Store,
    compute: Compute,
    origin: Provenance,
    submitted: float | None,
    started: float | None,
    stopping: Callable[[], bool],
) -> str | None:
    """Carry out a stage and say so in the job's output. Returns None for success, else the error."""
    _say(f"{order.title}: starts")
    try:
        reason = execute(order, store, compute, origin, stopping, submitted=submitted, started=started)
    except Interrupted as early:
        _say(f"{order.title}: {early}")
        raise
    _say(f"{order.title}: {reason or 'done'}")
    return reason


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
