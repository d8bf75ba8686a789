"""The cluster that SLURM_CONF names, and suites on it, started by the command as a user does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bench.launch.claims import holder
from bench.launch.failures import job_outputs, tail
from bench.launch.launches import JobArray, Launch, find_launch, launch_folders, stage_jobs, submitted
from bench.store.records import Event, Store

ROOT = Path(__file__).parent.parent.parent
DEADLINE = 600.0  # seconds for whatever is waited for; a busy machine takes its time
SITE: dict[str, Any] = {"signal": 15, "pack": 5, "attempts": 2, "resources": {"all": {"cpus": 1, "time": 5}}}

HEAD = """\
title: Tiny
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: tiny, templates: glyphs, pretrained: "random:0", views: {frames: 2, copies: 2}, batch: 4, epochs: 2,
         warmup_epochs: 0, lr: 1.0e-3}
protocol: {templates: glyphs, views: {frames: 2}}
protocols:
  closed-set: {role: closed-set, dataset: tiny}
"""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Cluster:
    """A folder with the tiny dataset's videos, suites and stores. `started` are jobs beside those of launches."""

    folder: Path
    started: list[str] = field(default_factory=list)

    def suite(self, name: str, text: str) -> Path:
        """A suite's file beside the videos that it declares."""
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        return path

    def store(self, name: str, like: Store | None = None, kinds: tuple[str, ...] = ("texts", "encode")) -> Store:
        """A store of its own, with another one's records of some kinds."""
        store = Store.create(self.folder / name) if like else Store(self.folder / name)
        for kind in kinds if like else ():
            shutil.copytree(like.root / "records" / kind, store.root / "records" / kind)  # type: ignore[union-attr]
        return store

    def arguments(self, suite: Path, store: Store, *options: str, **site: Any) -> list[str]:
        """The command that submits a suite; `site` changes the profile."""
        resources = {**SITE["resources"], **site.pop("resources", {})}
        profile = store.root.with_name(f"{store.root.name}-{suite.stem}-site.yaml")
        profile.write_text(json.dumps({**SITE, **site, "resources": resources}))  # YAML as well
        return command(suite, store, "--on", "slurm", "--site", str(profile), *options)

    def run(self, arguments: list[str], code: int = 0, **environment: str) -> str:
        """The output of a command, which must end with this exit code."""
        done = self.start(arguments, **environment)
        said, _ = done.communicate(timeout=DEADLINE)
        assert done.returncode == code, said
        return said

    def start(self, arguments: list[str], **environment: str) -> subprocess.Popen[str]:
        """A command under way. A variable that is said to be empty is not there."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("VTB_")}
        variables = {**inherited, "VTB_CACHE": str(self.folder / "cache"), **environment}
        return subprocess.Popen(
            arguments,
            cwd=Path(arguments[1]).parent,  # of run_suite.py
            env={name: value for name, value in variables.items() if value},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def local(self, suite: Path, store: Store, *options: str) -> Store:
        """The store, after this machine has carried the suite out."""
        self.run(command(suite, store, "--jobs", "2", *options))
        return store

    def submit(self, suite: Path, store: Store, *options: str, **site: Any) -> Launch:
        """The launch of a suite that the command has just submitted."""
        self.run(self.arguments(suite, store, *options, **site))
        return find_launch(store)

    def cancel(self) -> None:
        """End all jobs that were started in this folder."""
        jobs = list(self.started)
        for launches in self.folder.glob("*/launches"):
            jobs += [each.job for folder in launch_folders(Store(launches.parent)) for each in submitted(folder)]
        if jobs:
            subprocess.run(["scancel", "--quiet", *jobs], check=False)


def command(suite: Path, store: Store, *options: str, root: Path = ROOT) -> list[str]:
    fixed = ("--store", str(store.root), "--device", "cpu", "--workers", "0")
    return [sys.executable, str(root / "run_suite.py"), "run", str(suite), *fixed, *options]


def on_launch(verb: str, launch: Launch) -> list[str]:
    """A command on a launch, such as `status`."""
    return [sys.executable, str(ROOT / "run_suite.py"), verb, launch.name, "--store", str(launch.store.root)]


def until(look: Callable[[], Found | None], what: str, pause: float = 0.3) -> Found:
    """Call `look` until it returns something."""
    deadline = time.monotonic() + DEADLINE
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE:.0f} s\n{asked('squeue')}"
        time.sleep(pause)
    return found


def ended(launch: Launch) -> dict[str, Any]:
    """Wait for the end of a launch. Returns how it ended."""
    return until(launch.ended, f"end of {launch.name}, see {launch.folder / 'jobs'}")


def asked(*command: str) -> str:
    """The output of one of Slurm's commands."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def arrays(launch: Launch) -> list[JobArray]:
    """The arrays of stages, without the driver."""
    return stage_jobs(launch.arrays())


def drivers(launch: Launch) -> list[str]:
    """The jobs of all its drivers in order."""
    return [array.job for array in launch.arrays() if array.driver]


def driving(launch: Launch) -> str:
    """Wait until a driver holds the launch and has a successor in the queue. Returns its job."""
    job = until(lambda: holder(launch.store, ("driver", launch.name)), "a driver")
    until(lambda: drivers(launch)[-1] != job or None, "its successor")
    return job


def at_work(launch: Launch, title: str) -> str:
    """Wait until a training has done some steps. Returns its job."""
    key = next(stage.key for stage in launch.stages if stage.title == title)

    def look() -> str | None:
        progress = launch.store.progress(*key)
        return events(launch.store, "start")[title][-1]["job"] if progress and progress["done"] > 10 else None

    return until(look, f"steps of {title}")


def output(launch: Launch, *jobs: str) -> str:
    """What jobs have said, by default the drivers."""
    files = job_outputs(launch.folder / "jobs")
    return "\n".join(tail(file) for job in jobs or drivers(launch) for file in files[job])


def failing(folder: Path, *programs: str) -> tuple[str, list[Path]]:
    """A line of `setup` with which each of these programs of Slurm fails while its file exists, and those files."""
    folder.mkdir()
    fails = [folder / f"{name}.fails" for name in programs]
    for name, file in zip(programs, fails, strict=True):
        file.touch()
        text = f"[ -e {file} ] && {{ echo '{name}: error: out of order' >&2; exit 1; }}"
        (folder / name).write_text(f'#!/bin/sh\n{text}\nexec {shutil.which(name)} "$@"\n')
        (folder / name).chmod(0o755)
    return f"export PATH={folder}:$PATH", fails


def events(store: Store, event: str) -> dict[str, list[Event]]:
    """The events of one sort, by the title of the stage, or by its identity."""
    found: dict[str, list[Event]] = {}
    for each in store.events():
        if each["event"] == event:
            found.setdefault(each.get("title") or each["identity"], []).append(each)
    return found


def results(store: Store) -> dict[tuple[str, str], dict[str, Any]]:
    """The result of every record without times, and the hashes of its files."""
    found = {}
    for path in (store.root / "records").glob("*/*/record.json"):
        record = json.loads(path.read_text())
        result = {name: value for name, value in (record["result"] or {}).items() if "seconds" not in name}
        found[record["kind"], record["identity"]] = {"result": result, "sha256": record["sha256"]}
    return found


def identities(store: Store, kind: str) -> dict[str, str]:
    """Identity by title of all records of a kind."""
    return {store.read(kind, identity)["title"]: identity for identity in store.known(kind)}


def weights(store: Store, title: str) -> bytes:
    """The weights that a training left."""
    return (store.folder("train", identities(store, "train")[title]) / "weights.safetensors").read_bytes()
