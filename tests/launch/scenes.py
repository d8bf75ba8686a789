"""Scenes of launches for tests: stages, jobs and events as a launch leaves them, and a queue to look at."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.launch import scheduler
from bench.launch.launches import Jobs, Launch, Planned, create
from bench.launch.scheduler import Job
from bench.launch.states import Standing, Survey, survey
from bench.store.records import Store


def identity(name: str) -> str:
    """Sixteen hexadecimal digits for a short name."""
    return name.encode().hex().ljust(16, "0")[:16]


def stage(kind: str, name: str, *inputs: Planned, seconds: float = 100.0) -> Planned:
    keys = tuple(other.key for other in inputs)
    return Planned(kind, identity(name), f"{name} [{kind}]", keys, seconds)


TEXTS = stage("texts", "te")
TRAIN = stage("train", "tr", TEXTS)
OTHER = stage("train", "ot", TEXTS)
EVALUATE = stage("evaluate", "ev", TRAIN)


class Scene:
    """A store with one launch, created an hour ago, and what squeue says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *stages: Planned, on: str = "slurm") -> None:
        self.store, self.queue = Store(folder / "store"), dict[str, Job]()
        self.now = time.time()
        self.created = self.now - 3600.0
        self.launch = self.launched("small", *stages, on=on)
        monkeypatch.setattr(scheduler, "jobs", lambda users=(): dict(self.queue))

    def launched(self, suite: str, *stages: Planned, on: str = "slurm", **about: Any) -> Launch:
        made = create(self.store, {"suite": suite, "on": on, "site": {"attempts": 3}, **about}, list(stages))
        return rewritten(made, created=self.created)

    def submit(
        self, job: str, *elements: list[int], launch: Launch | None = None, round: int = 1, closing: bool = False
    ) -> None:
        at = self.created + round
        name = "report" if closing else "train"
        jobs = Jobs(job, name, list(elements), round, self.created, at, closing)
        (launch or self.launch).add(jobs)

    def log(self, event: str, stage: Planned, ago: float, **details: Any) -> None:
        self.store.log(event, *stage.key, title=stage.title, time=self.now - ago, **details)

    def record(self, stage: Planned, seconds: float | None = None) -> None:
        with self.store.writing(*stage.key, {"result": None}):
            pass
        if seconds is not None:
            self.log("end", stage, 10.0, seconds=seconds)

    def output(self, name: str, text: str | bytes) -> Path:
        """What a job has printed, in a file of its launch."""
        file = self.launch.folder / "jobs" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def seen(self) -> Survey:
        return survey(self.launch)

    def standing(self, stage: Planned) -> Standing:
        return next(standing for standing in self.seen().stages if standing.stage.key == stage.key)

    def state(self, stage: Planned) -> str:
        return self.standing(stage).state


def rewritten(launch: Launch, **about: object) -> Launch:
    """A launch with other facts about it, as if it had been created so."""
    file = launch.folder / "launch.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **about}))
    return Launch(launch.folder, {**launch.about, **about}, launch.stages)


def no_slurm(users: object = ()) -> dict[str, Job]:
    raise UserError("there is no squeue here, so no Slurm")
