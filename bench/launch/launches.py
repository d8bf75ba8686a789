"""Launches: the stages of each, its jobs and its end, in folders that any machine can read.

    launches/<id>/launch.json    the suite, how to compute, and the stages that had no record; never changed
                  <suite>.yaml   the suite as it was submitted
                  orders.jsonl   line i is the order of stage i
                  jobs.jsonl     the job arrays in order of submission, and the driver's jobs
                  alive          touched now and then by the process of a local launch, or by the driver, which writes
                                 into it what Slurm says of jobs that it does not take
                  ended.json     how the launch ended; missing while it goes on

An id starts with its time, so names sort by age. Only records decide which stages are done.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from getpass import getuser
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from bench.core.errors import UserError, unknown
from bench.core.files import write_atomically
from bench.core.processes import this_process
from bench.core.words import typed
from bench.graph.stage import Stage
from bench.launch.scheduler import QueuedJob
from bench.launch.work import Order
from bench.store.records import YEARS, Store
from bench.suite.base import suite_text

LaunchData = dict[str, Any]  # launch.json without its stages
StageKey = tuple[str, str]  # kind and identity

ABOUT = ("suite", "on", "host", "pid", "user", "created")  # what every launch says of itself
MERGED = "merged"  # folder of the store with launches elsewhere, whose records were merged; only reports read them
FORGET = "delete the launch's folder: `status` then forgets it, and records stay"

log = logging.getLogger(__name__)  # names what is passed over; the commands show each line once


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a launch. `seconds` is an estimate; `tasks` processes share its work."""

    kind: str
    identity: str
    title: str
    inputs: tuple[StageKey, ...]
    seconds: float
    tasks: int = 1
    resources: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, stage: Stage, seconds: float) -> PlannedStage:
        return cls(*stage.key, stage.title, tuple(other.key for other in stage.inputs.values()), seconds)

    @property
    def key(self) -> StageKey:
        return self.kind, self.identity

    def after(self, others: Iterable[PlannedStage]) -> PlannedStage:
        """This stage, waiting for no inputs but those of others."""
        keys = {own.key for own in others}
        return replace(self, inputs=tuple(key for key in self.inputs if key in keys))

    @property
    def grows(self) -> bool:
        """True if it asks for more memory, up to a declared limit, when memory ran out."""
        return bool(self.resources.get("memory_limit"))


@dataclass(frozen=True)
class JobArray:
    """A submitted array of jobs, or a single job. Each array task lists its stages, as numbers in the launch."""

    job: str
    name: str
    array_tasks: list[list[int]]
    since: float  # attempts before this time do not count
    time: float
    driver: bool = False

    def jobs(self) -> dict[str, list[int]]:
        """The stages of each job, by the job id that the scheduler shows."""
        if len(self.array_tasks) == 1:
            return {self.job: self.array_tasks[0]}
        return {f"{self.job}_{index}": numbers for index, numbers in enumerate(self.array_tasks)}


def stage_jobs(arrays: Iterable[JobArray]) -> list[JobArray]:
    """The arrays that carry out stages."""
    return [array for array in arrays if not array.driver]


def jobs_of(arrays: Iterable[JobArray]) -> list[tuple[str, list[int]]]:
    """The jobs of arrays, each with its stages."""
    return [job for array in arrays for job in array.jobs().items()]


def active_jobs(arrays: Iterable[JobArray], queue: dict[str, QueuedJob]) -> list[str]:
    """The jobs of arrays that run or will run."""
    return [job for job, _ in jobs_of(arrays) if job in queue and queue[job].active]


@dataclass(frozen=True)
class Launch:
    """A launch, read from its folder."""

    folder: Path
    about: LaunchData
    stages: tuple[PlannedStage, ...]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def suite_file(self) -> Path:
        """The suite as it was submitted."""
        return self.folder / f"{self.about['suite']}.yaml"

    @property
    def store(self) -> Store:
        return Store(self.folder.parent.parent)

    @property
    def since(self) -> float:
        """The time before which attempts do not count: its creation, or its last retry."""
        return max((array.since for array in self.arrays()), default=float(self.about["created"]))

    @property
    def code(self) -> Path | None:
        """The folder of the code that it runs; None for a launch of older versions, which kept none."""
        return self.store.code(self.about["code"]) if "code" in self.about else None

    @property
    def command(self) -> str:
        """What was typed to make it, or as much as older launches say of that, to be pasted into a shell."""
        about, store = self.about, self.store.root
        known = about.get("command") or typed(about["file"], *about["overrides"], "--on", about["on"], "--store", store)
        return known if about["folder"] == str(Path.cwd()) else f"cd {shlex.quote(about['folder'])} && {known}"

    def orders(self, numbers: Iterable[int]) -> dict[int, Order]:
        """The orders of these stages, by number."""
        wanted = set(numbers)
        path = self.folder / "orders.jsonl"
        try:
            with open(path, "rb") as file:
                found = {number: json.loads(line) for number, line in enumerate(file) if number in wanted}
            return TypeAdapter(dict[int, Order]).validate_python(found)
        except (OSError, ValueError) as error:
            raise UserError("does not hold the orders of the launch", where=str(path), hint=FORGET) from error

    def missing(self) -> list[int]:
        """Numbers of the stages without a record."""
        store = self.store
        return [number for number, stage in enumerate(self.stages) if not store.done(*stage.key)]

    def arrays(self) -> list[JobArray]:
        """All submitted job arrays in order."""
        return submitted(self.folder)

    def add(self, array: JobArray) -> None:
        """Append a submitted array. Only one process writes: the command, then the driver that holds the claim."""
        with open(self.folder / "jobs.jsonl", "a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"  # the disk was full
            file.write(b"\n" * torn + json.dumps(asdict(array)).encode() + b"\n")

    def ended(self) -> dict[str, Any] | None:
        """Time, state (complete, incomplete or cancelled), reason, failed and blocked stages; None while it goes on."""
        file = self.folder / "ended.json"
        try:
            end: dict[str, Any] = json.loads(file.read_bytes())
            if 0 <= end["time"] < YEARS and isinstance(end["state"], str):
                return end
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            pass
        log.warning("%s: does not say how the launch ended\n  hint: delete it", file)
        return None

    def end(self, state: str, failed: Iterable[str] = (), blocked: Iterable[str] = (), reason: str = "") -> None:
        """Write how the launch ended, and the reason, if it is not told by its stages."""
        self.store.require()
        end = {"time": time.time(), "state": state, "failed": list(failed), "blocked": list(blocked), "reason": reason}
        write_atomically(self.folder / "ended.json", json.dumps(end).encode())

    def reopen(self) -> None:
        (self.folder / "ended.json").unlink(missing_ok=True)


def create(
    store: Store, about: LaunchData, stages: list[PlannedStage], orders: Iterable[Order] = (), suite: Path | None = None
) -> Launch:
    """Make a launch, with a copy of the suite's file that needs no base.

    `about` has at least `suite` and `on`; user, host, process, time and the variables that begin with VTB_ are added.
    """
    now = time.time()
    environment = {name: value for name, value in os.environ.items() if name.startswith("VTB_")}
    within = f"{int(now % 1 * 0x10000):04x}"  # of the second, by which launches of one second keep their order
    identifier = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{about['suite']}-{within}"
    about = {"environment": environment, **about, "id": identifier, "user": getuser(), **this_process(), "created": now}
    folder = store.inside("launches") / identifier
    folder.mkdir()
    if suite is not None:
        write_atomically(folder / f"{about['suite']}.yaml", suite_text(suite))
    if data := b"".join(json.dumps(asdict(order)).encode() + b"\n" for order in orders):
        write_atomically(folder / "orders.jsonl", data)
    text = json.dumps({**about, "stages": [asdict(stage) for stage in stages]})
    write_atomically(folder / "launch.json", text.encode())
    return Launch(folder, about, tuple(stages))


def open_launch(folder: Path) -> Launch:
    """Read the launch in a folder. Raises UserError if there is none, or its files are damaged."""
    file = folder / "launch.json"
    try:
        about = json.loads(file.read_bytes())
        stages = TypeAdapter(tuple[PlannedStage, ...]).validate_python(about.pop("stages"))
        if lacking := [name for name in ABOUT if name not in about]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except FileNotFoundError as error:
        raise UserError("no such file, so no launch", where=str(file)) from error
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError("describes no launch, so it is damaged", where=str(file), hint=FORGET) from error
    return Launch(folder, about, stages)


def submitted(folder: Path) -> list[JobArray]:
    """All job arrays that the launch in a folder has submitted, in order; a warning names damaged lines."""
    file, found, line_of = folder / "jobs.jsonl", list[JobArray](), TypeAdapter(JobArray)
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(line_of.validate_json(line))
        except ValueError:
            log.warning("%s:%d: describes no jobs\n  hint: look into `squeue`, then delete the line", file, number)
    return found


def launch_folders(store: Store, *more: str) -> list[Path]:
    """The folders of all launches, and of those in `more` folders of the store, the oldest first."""
    found = {path.parent.name: path.parent for name in (*more, "launches") for path in _descriptions(store.root / name)}
    return sorted(found.values(), key=lambda entry: (entry.name[: len("20261231-235959")], entry.name[-4:], entry.name))


def _descriptions(folder: Path) -> list[Path]:
    found = [entry / "launch.json" for entry in folder.iterdir()] if folder.is_dir() else []
    return [file for file in found if file.is_file()]


def launches(store: Store, *more: str) -> Iterator[Launch]:
    """All launches, also those in `more` folders, the newest first; damaged ones are named in a warning."""
    for folder in reversed(launch_folders(store, *more)):
        try:
            yield open_launch(folder)
        except UserError as error:
            log.warning("%s", error)


def find_launch(store: Store, name: str | None = None) -> Launch:
    """The newest launch of all, or of a suite, or the launch whose id starts with `name`. Raises UserError."""
    folders = launch_folders(store)
    if not folders:
        raise UserError("the store has no launches", where=str(store.root), hint="is it the right --store?")
    name = Path(name).stem if name and name.endswith((".yaml", ".yml")) else name or ""
    wanted = [folder for folder in folders if folder.name.startswith(name) or suite_of(folder) == name]
    while wanted:
        try:
            return open_launch(wanted.pop())
        except UserError as error:
            if not wanted:
                raise
            log.warning("%s", error)
    raise unknown("launch or suite", name, {*map(suite_of, folders), folders[-1].name}, where=str(store.root))


def estimates(store: Store, suite: str) -> dict[str, float]:
    """Seconds of each stage as the first launch of a suite with it priced them, by identity; merged ones count too.

    Damaged launches are passed over.
    """
    found: dict[str, float] = {}
    for folder in reversed(launch_folders(store, MERGED)):
        if suite_of(folder) == suite:
            with suppress(UserError):
                found |= {stage.identity: stage.seconds for stage in open_launch(folder).stages}
    return found


def suite_of(folder: Path) -> str:
    """The suite's name within `<date>-<time>-<suite>-<hex>`; empty for a folder of another name."""
    return "".join(folder.name.split("-", 2)[2:]).rpartition("-")[0]
