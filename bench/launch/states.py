"""The status of a launch and of its stages, from records, events, progress files and one look at the queue.

    done     the stage has a record
    running  a process carries it out
    queued   a job, or the process of a local launch, has yet to start it
    failed   its attempts failed
    blocked  an input failed
    lost     no job or process is left for it, and none left an error

The only files of single stages that are read are the progress files of running ones, so thousands of stages take a
second.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.launch import scheduler
from bench.launch.claims import driving_process, goes_on, holder
from bench.launch.launches import JobArray, Launch, PlannedStage, StageKey, active_jobs, open_launch
from bench.launch.local import ATTEMPTS
from bench.launch.scheduler import QueuedJob
from bench.store.attempts import Attempts, attempts_from
from bench.store.records import KINDS, Event, ProgressData, Store

STATES = ("done", "running", "queued", "failed", "blocked", "lost")
SLACK = 10.0  # seconds by which clocks of machines may differ


@dataclass(frozen=True)
class Observations:
    """The contents of store and queue at one moment. `queue` is None if Slurm gave no answer; `silence` says why."""

    time: float
    queue: dict[str, QueuedJob] | None
    silence: str
    events: list[Event]
    progress: dict[StageKey, ProgressData]
    done: dict[str, set[str]]  # kind -> identities with a record


def observe(store: Store, launches: Iterable[Launch]) -> Observations:
    """Look at the store and, for launches on Slurm, at the queue."""
    launches = list(launches)
    users = {launch.about["user"] for launch in launches if launch.about["on"] == "slurm"}
    # In this order, a stage that moves on meanwhile is seen further than it was, and never as lost.
    now, queue, silence = time.time(), None, ""
    try:
        queue = scheduler.jobs(users) if users else None
    except UserError as error:
        silence = error.what.splitlines()[-1]
    events, progress = store.events(), _progress(store, {stage.key for launch in launches for stage in launch.stages})
    return Observations(now, queue, silence, events, progress, {kind: store.known(kind) for kind in KINDS})


def launch_status(launch: Launch) -> LaunchStatus:
    """The status of a launch now."""
    return LaunchStatus(launch, observe(launch.store, [launch]))


def _progress(store: Store, keys: Iterable[StageKey]) -> dict[StageKey, ProgressData]:
    """The progress of those of the stages that have a progress file."""
    folder = store.root / "running"
    names = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else ()
    return {key: known for key in keys if f"{'-'.join(key)}.json" in names and (known := store.progress(*key))}


@dataclass(frozen=True)
class StageStatus:
    """The status of a stage. `job` carries it out, or did so last; `failure` is the event that gives the reason."""

    stage: PlannedStage
    state: str
    job: str = ""
    remark: str = ""
    will_retry: bool = False  # failed, blocked or lost, but it will be tried again
    failure: Event | None = None
    blockers: tuple[StageKey, ...] = ()  # the failed stages that a blocked one depends on
    host: str = ""
    started: float | None = None  # start of its last attempt
    seconds: float | None = None  # duration of its last attempt, so far if it runs
    progress: ProgressData | None = None
    left: float | None = None  # estimated seconds until a running one ends

    @property
    def open(self) -> bool:
        """True if it may still get its record in this launch."""
        return self.will_retry or self.state in ("running", "queued")


class LaunchStatus:
    """The status of a launch at one moment."""

    def __init__(
        self, launch: Launch, seen: Observations, others: dict[str, LaunchStatus | None] | None = None
    ) -> None:
        self.launch, self.seen = launch, seen
        self.arrays, self.ended = launch.arrays(), launch.ended()
        self.on_slurm = launch.about["on"] == "slurm"
        self._others = {} if others is None else others
        self._others[launch.name] = self
        self._planned = {stage.key: stage for stage in launch.stages}
        latest = {n: (job, array) for array in self.arrays for job, numbers in array.jobs().items() for n in numbers}
        self._jobs = {launch.stages[number].key: job for number, job in latest.items()}
        self._statuses: dict[StageKey, StageStatus] = {}

    @cached_property
    def _attempts(self) -> defaultdict[str, Attempts]:
        """Attempts by identity, from the events that count for this launch."""
        since = dict.fromkeys((stage.identity for stage in self.launch.stages), self.launch.about["created"])
        since |= {identity: array.since for (_, identity), (_, array) in self._jobs.items()}
        events = (event for event in self.seen.events if event["time"] >= since.get(event.get("identity", ""), inf))
        return attempts_from(events)

    # --- the launch ---------------------------------------------------------------------------------------------------

    @cached_property
    def stages(self) -> list[StageStatus]:
        return [self.of(key) for key in self._planned]

    @cached_property
    def active(self) -> list[str]:
        """Its jobs that run or will run."""
        return active_jobs(self.arrays, self.seen.queue or {})

    @cached_property
    def drivers(self) -> list[str]:
        """The drivers among its active jobs: the one that runs, or will run first, before its successor."""
        own, queue = {array.job for array in self.arrays if array.driver}, self.seen.queue or {}
        return sorted((job for job in self.active if job in own), key=lambda job: queue[job].state == "PENDING")

    @cached_property
    def driven(self) -> bool:
        """True if something goes on submitting its stages: a driver in the queue, or a process that gives signs."""
        return not self.ended and (bool(self.drivers) or self.submitting or driving_process(self.launch) is not None)

    @cached_property
    def last_driver(self) -> str:
        """The last driver that has ended, and its state in Slurm's words; empty if none has."""
        queue = self.seen.queue or {}
        ended = [each.job for each in self.arrays if each.driver and each.job in queue and not queue[each.job].active]
        return f"job {ended[-1]}: {queue[ended[-1]].state}" if ended else ""

    @cached_property
    def submitting(self) -> bool:
        """True while its jobs are being submitted."""
        begins = self.on_slurm and not self.ended and not any(array.driver for array in self.arrays)
        return begins and goes_on(self.launch.folder, self.launch.about)

    @cached_property
    def going_on(self) -> bool:
        """True if a part of it runs or will run, as far as is known."""
        if self.ended:
            return False
        if self.on_slurm:
            return self.seen.queue is None or bool(self.active) or self.driven
        reported = (known["changed"] for known in self.seen.progress.values())
        signs = (each.last["time"] for each in self._attempts.values() if each.last)
        return goes_on(self.launch.folder, self.launch.about, *reported, *signs)

    @cached_property
    def complete(self) -> bool:
        return all(stage.state == "done" for stage in self.stages)

    @cached_property
    def wrong(self) -> bool:
        """True if it will not become complete by itself."""
        if self.ended:
            whole = self.complete and not self.ended.get("reason")
            return self.ended["state"] != "complete" and not whole
        return not self.going_on or (self.on_slurm and self.seen.queue is not None and not self.driven)

    @cached_property
    def at_once(self) -> int:
        """Number of stages, or of jobs of several stages, that run at the same time."""
        return len({stage.job or stage.stage.identity for stage in self.stages if stage.state == "running"})

    @cached_property
    def work_left(self) -> float | None:
        """Estimated seconds of work left, one stage after the other; None if there is no estimate or no work left."""
        left = (self._expected(each.stage) if each.left is None else each.left for each in self.stages if each.open)
        return sum(left) or None

    @cached_property
    def eta(self) -> float | None:
        """Estimated seconds to the end if as many stages run at once as now; None if none runs or has an estimate."""
        if not self.work_left or not self.at_once:
            return None
        return max(self.work_left / self.at_once, *(stage.left or 0.0 for stage in self.stages))

    def _expected(self, stage: PlannedStage) -> float:
        """The estimate of a stage, corrected by the actual times of its kind, or else of all kinds."""
        return stage.seconds * self._corrections.get(stage.kind, self._corrections.get("", 1.0))

    @cached_property
    def _corrections(self) -> dict[str, float]:
        """Actual over estimated seconds, by kind; "" for all kinds."""
        actual, estimated = defaultdict[str, float](float), defaultdict[str, float](float)
        for stage in self.launch.stages:
            if (end := self._attempts[stage.identity].end) and stage.identity in self.seen.done[stage.kind]:
                for kind in (stage.kind, ""):
                    actual[kind] += end["seconds"]
                    estimated[kind] += stage.seconds
        return {kind: actual[kind] / seconds for kind, seconds in estimated.items() if seconds}

    # --- a stage ------------------------------------------------------------------------------------------------------

    def of(self, key: StageKey) -> StageStatus:
        """The status of a stage."""
        if key not in self._statuses:
            self._statuses[key] = self._look(self._planned[key])
        return self._statuses[key]

    def _look(self, stage: PlannedStage) -> StageStatus:
        job, array = self._jobs.get(stage.key, ("", None))
        if stage.identity in self.seen.done[stage.kind]:
            end = self._attempts[stage.identity].end
            return self._status(stage, "done", seconds=end.get("seconds") if end else None)
        queued = self.on_slurm and self.seen.queue is not None
        if queued and array is not None and (found := self._in_job(stage, job, array)):
            return found
        by = holder(self.launch.store, stage.key)
        if by and by != self.launch.name and (elsewhere := self._elsewhere(stage, by)):
            return elsewhere
        if not queued:
            return self._by_events(stage, job) if self.going_on else self._over(stage, job)
        over = self._over(stage, job)
        given_up = array is None or (over.state == "lost" and not by)  # the latter after a retry
        waits = self.driven and given_up and (over.will_retry or over.state == "lost")
        return self._status(stage, "queued", job, remark=self._needs(stage)) if waits else over

    def _needs(self, stage: PlannedStage) -> str:
        """What a stage that is not submitted yet waits for."""
        open_inputs = any(identity not in self.seen.done[kind] for kind, identity in stage.inputs)
        return "waits for its inputs" if open_inputs else "will be submitted"

    def _in_job(self, stage: PlannedStage, name: str, array: JobArray) -> StageStatus | None:
        """A stage that this launch has submitted, by what Slurm says of its job; None if that is over."""
        job, attempts = (self.seen.queue or {}).get(name), self._attempts[stage.identity]
        if job is None and array.time > self.seen.time - SLACK:
            return self._status(stage, "queued", name, remark="just submitted")
        if job is None or not job.active:
            return None
        if job.state != "RUNNING":
            waits = job.reason if job.state == "PENDING" and job.reason != "None" else job.state.lower()
            return self._status(stage, "queued", name, remark=waits)
        if attempts.running and attempts.running.get("job") == name:
            return self._running(stage, attempts.running, name)
        if attempts.broke(array.time):
            return None  # the job goes on with other stages
        return self._status(stage, "queued", name, remark="its job has yet to begin it")

    def _elsewhere(self, stage: PlannedStage, by: str) -> StageStatus | None:
        """The status of a stage that another launch has claimed, if that carries it out; until then it waits."""
        if by not in self._others:
            folder = self.launch.folder.parent / by
            try:
                self._others[by] = LaunchStatus(open_launch(folder), self.seen, self._others)
            except UserError:  # it is gone, or damaged
                self._others[by] = None
        other = self._others[by]
        if other is None or stage.key not in other._planned or other.ended or not (self.going_on or other.going_on):
            return None
        status = other.of(stage.key)
        if status.state == "running":
            return replace(status, stage=stage, remark=f"by launch {by}")
        why = status.remark if status.state == "queued" else f"{status.state} there"
        return self._status(stage, "queued", status.job, remark=f"waits for launch {by}" + (f": {why}" if why else ""))

    def _by_events(self, stage: PlannedStage, job: str) -> StageStatus:
        """A stage of a launch that goes on, on this machine or where Slurm gives no answer."""
        attempts = self._attempts[stage.identity]
        if attempts.running:
            return self._running(stage, attempts.running, job)
        died = attempts.failure is not None and attempts.failure["event"] == "death"
        if not self.on_slurm and died and attempts.spent < ATTEMPTS:
            return self._status(stage, "queued", remark="its process died; will be tried again")
        over = self._over(stage, job)
        return over if over.state in ("failed", "blocked") else replace(over, state="queued", will_retry=False)

    def _over(self, stage: PlannedStage, job: str = "") -> StageStatus:
        """A stage without a record that no process carries out."""
        attempts, will_retry = self._attempts[stage.identity], self._will_retry(stage)
        # Whoever stops a run on this machine wants it to go on later; on Slurm the attempt counts.
        stopped = not self.on_slurm and attempts.failure is not None and attempts.failure["event"] == "interrupted"
        if (attempts.failure and not stopped) or attempts.fatal:
            # An attempt that left no outcome after a failure is explained by its job's output instead.
            failure = None if attempts.running else attempts.failure
            return self._status(stage, "failed", job, will_retry=will_retry, failure=failure)
        blockers = self._blockers(stage)
        if not blockers:
            return self._status(stage, "lost", job, will_retry=will_retry)
        will_retry &= all(key in self._planned and self.of(key).open for key in blockers)
        return self._status(stage, "blocked", job, will_retry=will_retry, blockers=blockers)

    def _will_retry(self, stage: PlannedStage) -> bool:
        """True if the driver will submit it again."""
        if not self.on_slurm or not (self.driven or (not self.ended and self.seen.queue is None)):
            return False
        attempts = self._attempts[stage.identity]
        most = int(self.launch.about["site"]["attempts"])
        return not attempts.over(most - (attempts.running is not None), stage.grows)

    def _blockers(self, stage: PlannedStage) -> tuple[StageKey, ...]:
        """The failed stages that it depends on, directly or through others, and inputs that no stage makes."""
        found: dict[StageKey, None] = {}
        for key in stage.inputs:
            if key not in self._planned:
                found |= {} if key[1] in self.seen.done[key[0]] else {key: None}
            elif (status := self.of(key)).state == "failed":
                found[key] = None
            else:
                found |= dict.fromkeys(status.blockers)
        return tuple(found)

    def _running(self, stage: PlannedStage, start: Event, job: str) -> StageStatus:
        seconds, known = max(0.0, self.seen.time - start["time"]), self.seen.progress.get(stage.key)
        if known and known["started"] < start["time"] - SLACK:
            known = None  # left over from an attempt that was killed
        saved, expected = self._attempts[stage.identity].furthest, self._expected(stage)
        left = expected - seconds if expected > seconds else None
        if known and known["total"] and known["done"] > saved:  # by its speed; what earlier attempts saved is none
            left = max(0.0, seconds * (known["total"] - known["done"]) / (known["done"] - saved))
        return self._status(stage, "running", job, seconds=seconds, progress=known, left=left)

    def _status(self, stage: PlannedStage, state: str, job: str = "", **more: Any) -> StageStatus:
        """A status with what events add: host, start and duration of the last attempt."""
        attempts = self._attempts[stage.identity]
        if start := attempts.start:
            seconds = attempts.last["time"] - start["time"] if attempts.last and attempts.last is not start else None
            more = {"started": start["time"], "seconds": seconds, "host": start.get("host", ""), **more}
            job = job or start.get("job") or ""
        return StageStatus(stage, state, job, **more)


def command_line(pid: int) -> str | None:
    """The command line of a process; None if that is unknown."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
