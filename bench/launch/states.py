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
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from bench.core.errors import UserError
from bench.launch import scheduler
from bench.launch.launches import JobArray, Launch, LaunchData, PlannedStage, StageKey, holder, open_launch
from bench.launch.local import ATTEMPTS
from bench.launch.scheduler import QueuedJob
from bench.store.attempts import Attempts, attempts_from
from bench.store.records import KINDS, Event, Store

STATES = ("done", "running", "queued", "failed", "blocked", "lost")
FRESH = 120.0  # seconds for which a sign of life shows that a process on another machine lives
SLACK = 10.0  # seconds by which clocks of machines may differ


class StageProgress(NamedTuple):
    """The progress of a running stage. `changed`: time of the last report."""

    done: int
    total: int
    unit: str
    started: float
    changed: float


@dataclass(frozen=True)
class Observations:
    """The contents of store and queue at one moment. `queue` is None if Slurm gave no answer; `silence` says why."""

    time: float
    queue: dict[str, QueuedJob] | None
    silence: str
    events: list[Event]
    progress: dict[StageKey, StageProgress]
    done: dict[str, set[str]]  # kind -> identities with a record


def observe(store: Store, launches: Iterable[Launch]) -> Observations:
    """Look at the store and, for launches on Slurm, at the queue."""
    launches = list(launches)
    users = {launch.about["user"] for launch in launches if launch.about["on"] == "slurm"}
    # In this order, a stage that moves on meanwhile is seen further than it was, and never as lost.
    now = time.time()
    queue, silence = _queue(users) if users else (None, "")
    events, progress = store.events(), _progress(store, {stage.key for launch in launches for stage in launch.stages})
    return Observations(now, queue, silence, events, progress, {kind: store.known(kind) for kind in KINDS})


def launch_status(launch: Launch) -> LaunchStatus:
    """The status of a launch now."""
    return LaunchStatus(launch, observe(launch.store, [launch]))


def _queue(users: Iterable[str]) -> tuple[dict[str, QueuedJob] | None, str]:
    try:
        return scheduler.jobs(users), ""
    except UserError as error:
        return None, error.what.splitlines()[-1]


def _progress(store: Store, keys: set[StageKey]) -> dict[StageKey, StageProgress]:
    folder, found = store.root / "running", {}
    for entry in os.scandir(folder) if folder.is_dir() else ():
        kind, _, identity = entry.name.removesuffix(".json").partition("-")
        if (kind, identity) in keys and (known := store.progress(kind, identity)):
            done, total, unit = known["done"], known["total"] or 0, known["unit"]
            found[kind, identity] = StageProgress(done, total, unit, known["started"], _changed(Path(entry.path)))
    return found


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # the stage has just ended
        return 0.0


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
    progress: StageProgress | None = None
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
        self._numbers = {stage.key: number for number, stage in enumerate(launch.stages)}
        self._jobs = {  # number of a stage -> its latest job
            number: (job, array) for array in self.arrays for job, numbers in array.jobs().items() for number in numbers
        }
        self._statuses: dict[int, StageStatus] = {}

    @cached_property
    def _events(self) -> list[Event]:
        """The events that count for this launch."""
        since = {stage.identity: self.launch.about["created"] for stage in self.launch.stages}
        for number, (_, array) in self._jobs.items():
            since[self.launch.stages[number].identity] = array.since
        return [event for event in self.seen.events if event["time"] >= since.get(event.get("identity", ""), inf)]

    @cached_property
    def _all_attempts(self) -> dict[str, Attempts]:
        return attempts_from(self._events)

    @cached_property
    def _starts(self) -> dict[str, Event]:
        return {event["identity"]: event for event in self._events if event["event"] == "start"}

    @cached_property
    def _ends(self) -> dict[str, Event]:
        return {event["identity"]: event for event in self._events if event["event"] == "end"}

    # --- the launch ---------------------------------------------------------------------------------------------------

    @cached_property
    def stages(self) -> list[StageStatus]:
        return [self._stage(number) for number in range(len(self.launch.stages))]

    @cached_property
    def active(self) -> list[str]:
        """Its jobs that run or will run."""
        return scheduler.active(self.seen.queue or {}, (job for array in self.arrays for job in array.jobs()))

    @cached_property
    def finalizers(self) -> list[str]:
        """The finalizers among its active jobs."""
        own = {array.job for array in self.arrays if array.finalizer}
        return [job for job in self.active if job in own]

    @cached_property
    def submitting(self) -> bool:
        """True while its jobs are being submitted."""
        if self.ended or not self.on_slurm or any(array.finalizer for array in self.arrays):
            return False
        alive = process_lives(self.launch.about)
        return self.seen.time - self.launch.about["created"] < FRESH if alive is None else alive

    @cached_property
    def going_on(self) -> bool:
        """True if a part of it runs or will run, as far as is known."""
        if self.ended:
            return False
        if self.on_slurm:
            return self.seen.queue is None or bool(self.active) or self.submitting
        alive = process_lives(self.launch.about)
        return self._gave_sign() if alive is None else alive

    def _gave_sign(self) -> bool:
        """True if one of its stages gave a sign of life lately."""
        signs = [self.launch.about["created"], *(known.changed for known in self.seen.progress.values())]
        signs += (attempts.last["time"] for attempts in self._all_attempts.values() if attempts.last)
        return bool(self.seen.time - max(signs) < FRESH)

    @cached_property
    def complete(self) -> bool:
        return all(stage.state == "done" for stage in self.stages)

    @cached_property
    def wrong(self) -> bool:
        """True if it will not become complete by itself."""
        if self.complete:
            return False
        if self.ended:
            return bool(self.ended["state"] != "complete")
        if not self.on_slurm or self.seen.queue is None or self.submitting:
            return not self.going_on
        return not self.finalizers and any(stage.state in ("failed", "lost") for stage in self.stages)

    @cached_property
    def at_once(self) -> int:
        """Number of stages, or of jobs of several stages, that run at the same time."""
        return len({stage.job or stage.stage.identity for stage in self.stages if stage.state == "running"})

    @cached_property
    def work_left(self) -> float | None:
        """Estimated seconds of work left, one stage after the other; None if there is no estimate or no work left."""
        return sum(self._left(stage) for stage in self.stages if stage.open) or None

    @cached_property
    def eta(self) -> float | None:
        """Estimated seconds to the end if as many stages run at once as now; None if none runs or has an estimate."""
        if not self.work_left or not self.at_once:
            return None
        return max(self.work_left / self.at_once, *(stage.left or 0.0 for stage in self.stages))

    def _left(self, status: StageStatus) -> float:
        return self._expected(status.stage) if status.left is None else status.left

    def _expected(self, stage: PlannedStage) -> float:
        """The estimate of a stage, corrected by the actual times of its kind, or else of all kinds."""
        return stage.seconds * self._corrections.get(stage.kind, self._corrections.get("", 1.0))

    @cached_property
    def _corrections(self) -> dict[str, float]:
        """Actual over estimated seconds, by kind; "" for all kinds."""
        actual, estimated = defaultdict[str, float](float), defaultdict[str, float](float)
        for stage in self.launch.stages:
            if (end := self._ends.get(stage.identity)) and stage.identity in self.seen.done[stage.kind]:
                for kind in (stage.kind, ""):
                    actual[kind] += end["seconds"]
                    estimated[kind] += stage.seconds
        return {kind: actual[kind] / seconds for kind, seconds in estimated.items() if seconds}

    # --- a stage ------------------------------------------------------------------------------------------------------

    def _stage(self, number: int) -> StageStatus:
        if number not in self._statuses:
            self._statuses[number] = self._look(number)
        return self._statuses[number]

    def _look(self, number: int) -> StageStatus:
        stage = self.launch.stages[number]
        if stage.identity in self.seen.done[stage.kind]:
            end = self._ends.get(stage.identity)
            return self._status(stage, "done", seconds=end["seconds"] if end else None)
        if not self.on_slurm:
            return self._local(stage) if self.going_on else self._over(stage)
        if number in self._jobs:
            return self._in_job(stage, *self._jobs[number])
        return self._elsewhere(stage)

    def _in_job(self, stage: PlannedStage, name: str, array: JobArray) -> StageStatus:
        """A stage that this launch has submitted."""
        if self.seen.queue is None:
            return self._over(stage) if self.ended else self._by_events(stage, name)
        job, attempts = self.seen.queue.get(name), self._attempts(stage)
        if job is None and array.time > self.seen.time - SLACK:
            return self._status(stage, "queued", name, remark="just submitted")
        if job is None or not job.active:
            return self._over(stage, name)
        if job.state != "RUNNING":
            waits = job.reason if job.state == "PENDING" and job.reason != "None" else job.state.lower()
            return self._status(stage, "queued", name, remark=waits)
        if attempts.running and attempts.running.get("job") == name:
            return self._running(stage, name)
        if attempts.last and attempts.last["time"] >= array.time and attempts.last["event"] in ("failure", "blocked"):
            return self._over(stage, name)  # the job goes on with other stages
        return self._status(stage, "queued", name, remark="its job runs another stage")

    def _elsewhere(self, stage: PlannedStage) -> StageStatus:
        """A stage without a job of this launch: another launch carries it out, or it is not submitted yet."""
        by = holder(self.launch.store, stage.key)
        other = self._other(by) if by and by != self.launch.name else None
        if other and stage.key in other._numbers:
            status = other._stage(other._numbers[stage.key])
            remark = f"by launch {by}" + (f": {status.remark}" if status.remark else "")
            ended = status.state in ("failed", "blocked", "lost")
            will_retry = status.will_retry or (ended and self._will_retry(stage))
            return replace(status, stage=stage, remark=remark, will_retry=will_retry)
        if self.seen.queue is None and not self.ended:
            return self._by_events(stage, "")
        return self._status(stage, "queued", remark="not submitted yet") if self.submitting else self._over(stage)

    def _other(self, name: str) -> LaunchStatus | None:
        if name not in self._others:
            self._others[name] = None  # so that launches that claim from each other end the recursion
            folder = self.launch.folder.parent / name
            if (folder / "launch.json").is_file():
                self._others[name] = LaunchStatus(open_launch(folder), self.seen, self._others)
        return self._others[name]

    def _local(self, stage: PlannedStage) -> StageStatus:
        """A stage of a local launch whose process lives."""
        attempts, known = self._attempts(stage), self.seen.progress.get(stage.key)
        last = attempts.last["time"] if attempts.last else self.launch.about["created"]
        if attempts.running or (known and known.started >= last):
            return self._running(stage)
        if attempts.failure and (attempts.failure["event"] != "death" or attempts.spent >= ATTEMPTS):
            return self._status(stage, "failed", failure=attempts.failure)
        if blockers := self._blockers(stage):
            return self._status(stage, "blocked", blockers=blockers)
        return self._status(stage, "queued", remark="its process died; will be tried again" if attempts.failure else "")

    def _by_events(self, stage: PlannedStage, job: str) -> StageStatus:
        """A stage of a launch that has not ended, where Slurm gives no answer."""
        if self._attempts(stage).running:
            return self._running(stage, job)
        over = self._over(stage, job)
        return over if over.state in ("failed", "blocked") else replace(over, state="queued", will_retry=False)

    def _over(self, stage: PlannedStage, job: str = "") -> StageStatus:
        """A stage without a record that no process carries out."""
        attempts, will_retry = self._attempts(stage), self._will_retry(stage)
        if attempts.failure or attempts.fatal:
            # An attempt that left no outcome after a failure is explained by its job's output instead.
            failure = None if attempts.running else attempts.failure
            return self._status(stage, "failed", job, will_retry=will_retry, failure=failure)
        blockers = self._blockers(stage)
        if blockers or (attempts.last and attempts.last["event"] == "blocked"):
            will_retry &= all(self._stage(number).open for number in self._known_inputs(stage, blockers))
            return self._status(
                stage, "blocked", job, will_retry=will_retry, blockers=blockers or self._missing_inputs(attempts)
            )
        return self._status(stage, "lost", job, will_retry=will_retry)

    def _will_retry(self, stage: PlannedStage) -> bool:
        """True if the finalizer will submit it again."""
        if self.ended or not self.on_slurm or not (self.finalizers or self.seen.queue is None):
            return False
        attempts = self._attempts(stage)
        most = int(self.launch.about["site"]["attempts"])
        return not attempts.fatal and attempts.spent + (attempts.running is not None) < most

    def _blockers(self, stage: PlannedStage) -> tuple[StageKey, ...]:
        """The failed stages that it depends on, directly or through others."""
        found: dict[StageKey, None] = {}
        for number in self._known_inputs(stage, stage.inputs):
            status = self._stage(number)
            if status.state == "failed":
                found[status.stage.key] = None
            elif status.state == "blocked":
                found |= dict.fromkeys(status.blockers)
        return tuple(found)

    def _missing_inputs(self, attempts: Attempts) -> tuple[StageKey, ...]:
        """The inputs that had no record when its job looked, and that have none now."""
        missing = attempts.last["lacking"] if attempts.last else ()
        return tuple((kind, identity) for kind, identity in missing if identity not in self.seen.done[kind])

    def _known_inputs(self, stage: PlannedStage, keys: Iterable[StageKey]) -> Iterator[int]:
        return (self._numbers[key] for key in keys if key in self._numbers and key != stage.key)

    def _running(self, stage: PlannedStage, job: str = "") -> StageStatus:
        begun, known = self._attempts(stage).running, self.seen.progress.get(stage.key)
        started = begun["time"] if begun else known.started if known else self.seen.time
        if known and known.started < started - SLACK:
            known = None  # left over from an attempt that was killed
        seconds = max(0.0, self.seen.time - started)
        left = self._time_left(stage, known, seconds)
        return self._status(stage, "running", job, started=started, seconds=seconds, progress=known, left=left)

    def _time_left(self, stage: PlannedStage, known: StageProgress | None, seconds: float) -> float | None:
        """Seconds left at its speed, or by its estimate. Steps that earlier attempts saved do not count as speed."""
        saved = self._attempts(stage).furthest
        if known and known.total and known.done > saved:
            return max(0.0, seconds * (known.total - known.done) / (known.done - saved))
        return self._expected(stage) - seconds if self._expected(stage) > seconds else None

    def _status(self, stage: PlannedStage, state: str, job: str = "", **more: Any) -> StageStatus:
        """A status with what events add: host, start and duration of the last attempt."""
        start, last = self._starts.get(stage.identity), self._attempts(stage).last
        if start:
            seconds = last["time"] - start["time"] if last and last is not start else None
            more = {"started": start["time"], "seconds": seconds, "host": start.get("host", ""), **more}
            job = job or start.get("job") or ""
        return StageStatus(stage, state, job, **more)

    def _attempts(self, stage: PlannedStage) -> Attempts:
        return self._all_attempts.get(stage.identity) or Attempts()


def process_lives(about: LaunchData) -> bool | None:
    """True if the process that made the launch still runs; None if it was on another machine."""
    if about["host"] != socket.gethostname():
        return None
    try:
        os.kill(about["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    return command_line(about["pid"]) != ""


def command_line(pid: int) -> str | None:
    """The command line of a process, "" if it is a zombie; None if that is unknown."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
