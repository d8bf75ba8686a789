"""Launches for tests of `status`: stages, jobs and events in a store, and a queue."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.launch import scheduler
from bench.launch.launches import JobArray, Launch, PlannedStage, create
from bench.launch.scheduler import QueuedJob
from bench.launch.states import LaunchStatus, StageStatus, launch_status
from bench.store.records import Store


def identity(name: str) -> str:
    """Sixteen hexadecimal digits for a short name."""
    return name.encode().hex().ljust(16, "0")[:16]


def stage(kind: str, name: str, *inputs: PlannedStage, seconds: float = 100.0) -> PlannedStage:
    keys = tuple(other.key for other in inputs)
    return PlannedStage(kind, identity(name), f"{name} [{kind}]", keys, seconds)


TEXTS = stage("texts", "te")
TRAIN = stage("train", "tr", TEXTS)
OTHER = stage("train", "ot", TEXTS)
EVALUATE = stage("evaluate", "ev", TRAIN)


class Scene:
    """A store with one launch, created an hour ago, and the queue that squeue shows."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *stages: PlannedStage, on: str = "slurm") -> None:
        self.store, self.queue = Store.create(folder / "store"), dict[str, QueuedJob]()
        self.now = time.time()
        self.created = self.now - 3600.0
        self.launch = self.launched("small", *stages, on=on)
        monkeypatch.setattr(scheduler, "jobs", lambda users=(): dict(self.queue))

    def launched(self, suite: str, *stages: PlannedStage, on: str = "slurm", **about: Any) -> Launch:
        made = create(self.store, {"suite": suite, "on": on, "site": {"attempts": 3}, **about}, list(stages))
        return rewritten(made, created=self.created)

    def submit(
        self, job: str, *array_tasks: list[int], launch: Launch | None = None, wave: int = 1, driver: bool = False
    ) -> None:
        name = "driver" if driver else "train"
        array = JobArray(job, name, list(array_tasks), self.created, self.created + wave, driver)
        (launch or self.launch).add(array)

    def log(self, event: str, stage: PlannedStage, ago: float, **details: Any) -> None:
        self.store.log(event, *stage.key, title=stage.title, time=self.now - ago, **details)

    def record(self, stage: PlannedStage, seconds: float | None = None) -> None:
        with self.store.writing(*stage.key, {"result": None}):
            pass
        if seconds is not None:
            self.log("end", stage, 10.0, seconds=seconds)

    def output(self, name: str, text: str | bytes) -> Path:
        """Write an output file of a job."""
        file = self.launch.folder / "jobs" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def status(self) -> LaunchStatus:
        return launch_status(self.launch)

    def stage(self, stage: PlannedStage) -> StageStatus:
        return next(status for status in self.status().stages if status.stage.key == stage.key)

    def state(self, stage: PlannedStage) -> str:
        return self.stage(stage).state


def rewritten(launch: Launch, **about: object) -> Launch:
    """A launch with other facts about it, as if it had been created so."""
    file = launch.folder / "launch.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **about}))
    return Launch(launch.folder, {**launch.about, **about}, launch.stages)


def no_slurm(users: object = ()) -> dict[str, QueuedJob]:
    raise UserError("there is no squeue here, so no Slurm")
