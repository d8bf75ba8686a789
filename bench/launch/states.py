"""How a launch stands: the state of each of its stages, from records, events, progress files and one look at the queue.

    done     its record is there
    running  a process is at it
    queued   a job, or the process of a local launch, has yet to come to it
    failed   its attempts failed
    blocked  an input failed
    lost     nobody is at it any more, and it has not said why

No file of a single stage is read but the progress of those that run, so thousands of stages are looked at in a second.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from bench.core.errors import UserError
from bench.launch import scheduler
from bench.launch.launches import Jobs, Key, Launch, Planned, holder, open_launch
from bench.launch.local import ATTEMPTS
from bench.launch.scheduler import Job
from bench.store.attempts import History, collected
from bench.store.records import KINDS, Store

Part = dict[str, Any]

STATES = ("done", "running", "queued", "failed", "blocked", "lost")
FRESH = 120.0  # seconds for which a sign of life shows that a process on another machine lives
SLACK = 10.0  # seconds by which clocks of machines may differ


class Progress(NamedTuple):
    """How far a running stage is. `changed`: when it last said so."""

    done: int
    total: int
    unit: str
    started: float
    changed: float


@dataclass(frozen=True)
class Facts:
    """What store and scheduler say at one moment. `queue` is None where Slurm cannot be asked; `silence` says why."""

    time: float
    queue: dict[str, Job] | None
    silence: str
    events: list[Part]
    progress: dict[Key, Progress]
    done: dict[str, set[str]]  # kind -> identities with a record


def gather(store: Store, launches: Iterable[Launch]) -> Facts:
    """The facts about the stages of these launches."""
    launches = list(launches)
    users = {launch.about["user"] for launch in launches if launch.about["on"] == "slurm"}
    # In this order: what moves on between two looks is seen further than it was, and never as if it had vanished.
    now = time.time()
    queue, silence = _queue(users) if users else (None, "")
    events, progress = store.events(), _progress(store, {stage.key for launch in launches for stage in launch.stages})
    return Facts(now, queue, silence, events, progress, {kind: store.known(kind) for kind in KINDS})


def survey(launch: Launch) -> Survey:
    """The launch as it stands now."""
    return Survey(launch, gather(launch.store, [launch]))


def _queue(users: Iterable[str]) -> tuple[dict[str, Job] | None, str]:
    try:
        return scheduler.jobs(users), ""
    except UserError as error:
        return None, error.what.splitlines()[-1]


def _progress(store: Store, keys: set[Key]) -> dict[Key, Progress]:
    folder, found = store.root / "running", {}
    for entry in os.scandir(folder) if folder.is_dir() else ():
        kind, _, identity = entry.name.removesuffix(".json").partition("-")
        if (kind, identity) in keys and (known := store.progress(kind, identity)):
            done, total, unit = known["done"], known["total"] or 0, known["unit"]
            found[kind, identity] = Progress(done, total, unit, known["started"], _changed(Path(entry.path)))
    return found


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # the stage has just ended
        return 0.0


@dataclass(frozen=True)
class Standing:
    """A stage as it stands. `job` carries it out, or did so last; `failure` is the event that tells why it failed."""

    stage: Planned
    state: str
    job: str = ""
    remark: str = ""
    again: bool = False  # failed, blocked or lost as it is, it will be tried again
    failure: Part | None = None
    blockers: tuple[Key, ...] = ()  # what failed, so that a blocked one cannot start
    host: str = ""
    started: float | None = None  # when its last attempt began
    seconds: float | None = None  # that its last attempt has taken, up to now if it runs
    progress: Progress | None = None
    left: float | None = None  # seconds that a running one still needs, about

    @property
    def open(self) -> bool:
        """Whether it may still get its record in this launch."""
        return self.again or self.state in ("running", "queued")


class Survey:
    """A launch as it stands at one moment."""

    def __init__(self, launch: Launch, facts: Facts, others: dict[str, Survey | None] | None = None) -> None:
        self.launch, self.facts = launch, facts
        self.jobs, self.ended = launch.jobs(), launch.ended()
        self.on_slurm = launch.about["on"] == "slurm"
        self._others = {} if others is None else others
        self._others[launch.name] = self
        self._numbers = {stage.key: number for number, stage in enumerate(launch.stages)}
        self._elements = {number: (name, jobs) for name, jobs, numbers in elements(self.jobs) for number in numbers}
        self._standings: dict[int, Standing] = {}

    @cached_property
    def _events(self) -> list[Part]:
        """The events that count for this launch."""
        since = {stage.identity: self.launch.about["created"] for stage in self.launch.stages}
        for number, (_, jobs) in self._elements.items():
            since[self.launch.stages[number].identity] = jobs.since
        return [event for event in self.facts.events if event["time"] >= since.get(event.get("identity", ""), inf)]

    @cached_property
    def _histories(self) -> dict[str, History]:
        return collected(self._events)

    @cached_property
    def _starts(self) -> dict[str, Part]:
        return {event["identity"]: event for event in self._events if event["event"] == "start"}

    @cached_property
    def _ends(self) -> dict[str, Part]:
        return {event["identity"]: event for event in self._events if event["event"] == "end"}

    # --- the launch ---------------------------------------------------------------------------------------------------

    @cached_property
    def stages(self) -> list[Standing]:
        return [self._standing(number) for number in range(len(self.launch.stages))]

    @cached_property
    def active(self) -> list[str]:
        """Its jobs that run or will run."""
        return scheduler.active(self.facts.queue or {}, (name for name, _, _ in elements(self.jobs)))

    @cached_property
    def closing(self) -> list[str]:
        """The closing jobs among them."""
        own = {jobs.job for jobs in self.jobs if jobs.closing}
        return [name for name in self.active if name in own]

    @cached_property
    def submitting(self) -> bool:
        """Whether the jobs are just being submitted."""
        if self.ended or not self.on_slurm or any(jobs.closing for jobs in self.jobs):
            return False
        alive = process_lives(self.launch.about)
        return self.facts.time - self.launch.about["created"] < FRESH if alive is None else alive

    @cached_property
    def going_on(self) -> bool:
        """Whether anything of it runs or will run, as far as can be told."""
        if self.ended:
            return False
        if self.on_slurm:
            return self.facts.queue is None or bool(self.active) or self.submitting
        alive = process_lives(self.launch.about)
        return self._gave_sign() if alive is None else alive

    def _gave_sign(self) -> bool:
        """Whether one of its stages was heard of lately."""
        signs = [self.launch.about["created"], *(known.changed for known in self.facts.progress.values())]
        signs += (history.last["time"] for history in self._histories.values() if history.last)
        return bool(self.facts.time - max(signs) < FRESH)

    @cached_property
    def complete(self) -> bool:
        return all(standing.state == "done" for standing in self.stages)

    @cached_property
    def wrong(self) -> bool:
        """Whether it will not become complete by itself."""
        if self.complete:
            return False
        if self.ended:
            return bool(self.ended["state"] != "complete")
        if not self.on_slurm or self.facts.queue is None or self.submitting:
            return not self.going_on
        return not self.closing and any(standing.state in ("failed", "lost") for standing in self.stages)

    @cached_property
    def at_once(self) -> int:
        """How many stages, or jobs of several, are carried out at the same time."""
        running = [standing for standing in self.stages if standing.state == "running"]
        return len({standing.job or standing.stage.identity for standing in running})

    @cached_property
    def work_left(self) -> float | None:
        """Seconds of work to come, one stage after the other; None if nothing is known of them, or none will come."""
        left = [self._left(standing) for standing in self.stages if standing.open]
        return sum(left) or None

    @cached_property
    def eta(self) -> float | None:
        """Seconds until all is done if as much runs at once as now; None if nothing runs, or nothing is known."""
        if not self.work_left or not self.at_once:
            return None
        return max(self.work_left / self.at_once, *(standing.left or 0.0 for standing in self.stages))

    def _left(self, standing: Standing) -> float:
        return self._expected(standing.stage) if standing.left is None else standing.left

    def _expected(self, stage: Planned) -> float:
        """Its estimate, corrected by how those of its kind came true, or those of all kinds."""
        return stage.seconds * self._corrections.get(stage.kind, self._corrections.get("", 1.0))

    @cached_property
    def _corrections(self) -> dict[str, float]:
        """Seconds that passed over seconds estimated, by kind; "" for all."""
        pairs = [
            (stage.kind, event["seconds"], stage.seconds)
            for stage in self.launch.stages
            if (event := self._ends.get(stage.identity)) and stage.identity in self.facts.done[stage.kind]
        ]
        found = {}
        for kind in {"", *(kind for kind, _, _ in pairs)}:
            estimated = sum(estimate for of, _, estimate in pairs if kind in ("", of))
            if estimated:
                found[kind] = sum(seconds for of, seconds, _ in pairs if kind in ("", of)) / estimated
        return found

    # --- a stage ------------------------------------------------------------------------------------------------------

    def _standing(self, number: int) -> Standing:
        if number not in self._standings:
            self._standings[number] = self._look(number)
        return self._standings[number]

    def _look(self, number: int) -> Standing:
        stage = self.launch.stages[number]
        if stage.identity in self.facts.done[stage.kind]:
            return self._done(stage)
        if not self.on_slurm:
            return self._under_way(stage) if self.going_on else self._over(stage)
        if number in self._elements:
            return self._in_job(stage, *self._elements[number])
        return self._elsewhere(stage)

    def _done(self, stage: Planned) -> Standing:
        end = self._ends.get(stage.identity)
        return self._told(stage, "done", seconds=end["seconds"] if end else None)

    def _in_job(self, stage: Planned, name: str, jobs: Jobs) -> Standing:
        """A stage of a launch that has submitted it."""
        if self.facts.queue is None:
            return self._over(stage) if self.ended else self._by_events(stage, name)
        job, history = self.facts.queue.get(name), self._history(stage)
        if job is None and jobs.time > self.facts.time - SLACK:
            return self._told(stage, "queued", name, remark="just submitted")
        if job is None or not job.active:
            return self._over(stage, name)
        if job.state != "RUNNING":
            waits = job.reason if job.state == "PENDING" and job.reason != "None" else job.state.lower()
            return self._told(stage, "queued", name, remark=waits)
        if history.started and history.started.get("job") == name:
            return self._running(stage, name)
        if history.last and history.last["time"] >= jobs.time and history.last["event"] in ("failure", "blocked"):
            return self._over(stage, name)  # the job goes on with other stages
        return self._told(stage, "queued", name, remark="its job is at another stage")

    def _elsewhere(self, stage: Planned) -> Standing:
        """A stage without a job of this launch: another launch carries it out, or the job is yet to be submitted."""
        by = holder(self.launch.store, stage.key)
        other = self._other(by) if by and by != self.launch.name else None
        if other and stage.key in other._numbers:
            standing = other._standing(other._numbers[stage.key])
            remark = f"by launch {by}" + (f": {standing.remark}" if standing.remark else "")
            again = standing.again or (standing.state in ("failed", "blocked", "lost") and self._may_repeat(stage))
            return replace(standing, stage=stage, remark=remark, again=again)
        if self.facts.queue is None and not self.ended:
            return self._by_events(stage, "")
        return self._told(stage, "queued", remark="not submitted yet") if self.submitting else self._over(stage)

    def _other(self, name: str) -> Survey | None:
        if name not in self._others:
            self._others[name] = None  # while it is being looked at
            folder = self.launch.folder.parent / name
            if (folder / "launch.json").is_file():
                self._others[name] = Survey(open_launch(folder), self.facts, self._others)
        return self._others[name]

    def _under_way(self, stage: Planned) -> Standing:
        """A stage of a local launch whose process lives."""
        history, known = self._history(stage), self.facts.progress.get(stage.key)
        last = history.last["time"] if history.last else self.launch.about["created"]
        if history.started or (known and known.started >= last):
            return self._running(stage)
        if history.failure and (history.failure["event"] != "death" or history.spent >= ATTEMPTS):
            return self._told(stage, "failed", failure=history.failure)
        if blockers := self._blockers(stage):
            return self._told(stage, "blocked", blockers=blockers)
        return self._told(stage, "queued", remark="its process died; will be tried again" if history.failure else "")

    def _by_events(self, stage: Planned, name: str) -> Standing:
        """A stage of a launch that has not ended, where Slurm cannot be asked."""
        history = self._history(stage)
        if history.started:
            return self._running(stage, name)
        over = self._over(stage, name)
        return over if over.state in ("failed", "blocked") else replace(over, state="queued", again=False)

    def _over(self, stage: Planned, name: str = "") -> Standing:
        """A stage without a record that nobody is at."""
        history, again = self._history(stage), self._may_repeat(stage)
        if history.failure or history.hopeless:
            # What came without a word after a failure is told by its job's own output.
            told = None if history.started else history.failure
            return self._told(stage, "failed", name, again=again, failure=told)
        blockers = self._blockers(stage)
        if blockers or (history.last and history.last["event"] == "blocked"):
            again = self._may_repeat(stage) and all(self._standing(n).open for n in self._known_inputs(stage, blockers))
            return self._told(stage, "blocked", name, again=again, blockers=blockers or self._lacking(history))
        return self._told(stage, "lost", name, again=again)

    def _may_repeat(self, stage: Planned) -> bool:
        """Whether the closing job will submit it again."""
        if self.ended or not self.on_slurm or not (self.closing or self.facts.queue is None):
            return False
        history = self._history(stage)
        attempts = int(self.launch.about["site"]["attempts"])
        return not history.hopeless and history.spent + (history.started is not None) < attempts

    def _blockers(self, stage: Planned) -> tuple[Key, ...]:
        """The stages that failed, so that this one cannot start; those it needs by way of others too."""
        found: dict[Key, None] = {}
        for number in self._known_inputs(stage, stage.inputs):
            standing = self._standing(number)
            if standing.state == "failed":
                found[standing.stage.key] = None
            elif standing.state == "blocked":
                found |= dict.fromkeys(standing.blockers)
        return tuple(found)

    def _lacking(self, history: History) -> tuple[Key, ...]:
        """The inputs that its job found without a record, and that have none now."""
        lacking = history.last["lacking"] if history.last else ()
        return tuple((kind, identity) for kind, identity in lacking if identity not in self.facts.done[kind])

    def _known_inputs(self, stage: Planned, keys: Iterable[Key]) -> Iterator[int]:
        return (self._numbers[key] for key in keys if key in self._numbers and key != stage.key)

    def _running(self, stage: Planned, name: str = "") -> Standing:
        begun, known = self._history(stage).started, self.facts.progress.get(stage.key)
        started = begun["time"] if begun else known.started if known else self.facts.time
        if known and known.started < started - SLACK:
            known = None  # of an attempt before, which could not remove it
        seconds = max(0.0, self.facts.time - started)
        left = self._time_left(stage, known, seconds)
        return self._told(stage, "running", name, started=started, seconds=seconds, progress=known, left=left)

    def _time_left(self, stage: Planned, known: Progress | None, seconds: float) -> float | None:
        """By how fast it gets on, else by its estimate. What an earlier attempt saved was there from the start."""
        saved = self._history(stage).furthest
        if known and known.total and known.done > saved:
            return max(0.0, seconds * (known.total - known.done) / (known.done - saved))
        return self._expected(stage) - seconds if self._expected(stage) > seconds else None

    def _told(self, stage: Planned, state: str, name: str = "", **more: Any) -> Standing:
        """A standing with what the events add: where and when its last attempt was, and how long it took."""
        start, last = self._starts.get(stage.identity), self._history(stage).last
        if start:
            took = last["time"] - start["time"] if last and last is not start else None
            more = {"started": start["time"], "seconds": took, "host": start.get("host", ""), **more}
            name = name or start.get("job") or ""
        return Standing(stage, state, name, **more)

    def _history(self, stage: Planned) -> History:
        return self._histories.get(stage.identity) or History()


def elements(submitted: Iterable[Jobs]) -> Iterator[tuple[str, Jobs, list[int]]]:
    """Every job by its id, with the array it is of and the numbers of its stages; the latest last."""
    for jobs in submitted:
        for name, numbers in zip(jobs.ids(), jobs.elements, strict=True):
            yield name, jobs, numbers


def process_lives(about: Part) -> bool | None:
    """Whether the process that made the launch still runs; None if that was on another machine."""
    if about["host"] != socket.gethostname():
        return None
    try:
        os.kill(about["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return command_line(about["pid"]) != ""


def command_line(pid: int) -> str | None:
    """The words that a process was started with, "" if it has ended and nobody has noticed; None if that is unknown."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
