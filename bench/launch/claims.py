"""Claims: which launch carries out a stage. Launches that share a store share its stages, and none does one twice.

    claims/<kind>-<identity>.<n>.json    the launch that has claimed a stage; the highest n counts

A launch claims a stage when it starts it, or submits it to Slurm. It gives the claim up with the record, the failure or
its own end. A claim holds while its launch goes on: jobs in the queue; a process on this machine; for a process
elsewhere, signs of life, which it leaves in the launch's folder. The driver of a launch on Slurm is claimed in the same
way, by a job or a process, so that two that are started never both submit.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Container, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count, takewhile
from math import inf
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.processes import process_lives
from bench.launch import scheduler
from bench.launch.launches import Launch, LaunchData, StageKey, active_jobs, open_launch, submitted
from bench.store.records import Store

SUBMITTING = 600.0  # seconds for which a launch without jobs counts as still submitting
ASKED = 30.0  # seconds for which Slurm's answer about a launch counts
BEAT = 10.0  # seconds between two signs of life of a local launch
FRESH = 120.0  # seconds for which a sign of life shows that a process on another machine lives


def take(store: Store, key: StageKey, launch: str, alive: Container[str]) -> str | None:
    """Claim a stage for a launch. Returns None if that worked, else the launch that holds the stage.

    A claim is a numbered file that exactly one process can create (a hard link to a whole file, which is atomic on NFS
    too). The highest number counts. A claim of a launch that is not `alive` is outbid by the next number.
    """
    store.inside("claims")
    number = 1
    while True:
        path = _claim(store, key, number)
        mine = _create(path, {"launch": launch, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()})
        if _claim(store, key, number + 1).exists():
            if mine:  # it filled a hole below the claim that counts, left by a process that died during a release
                path.unlink()
            number += 1
            continue
        if mine and number > 1 and ((below := _holder(_claim(store, key, number - 1))) is None or below in alive):
            path.unlink()  # the claim that was to be outbid is gone by now, and perhaps somebody else came first
            number = 1
            continue
        holder = launch if mine else _holder(path)
        if holder == launch:
            return None
        if holder is not None and holder in alive:
            return holder
        number += holder is not None  # a claim that was just released is free again


def release(store: Store, key: StageKey, launch: str | None = None) -> None:
    """Release the claims to a stage, the oldest first, so that the one that counts goes last.

    With `launch`, only if that launch holds the stage; without, because the stage is done.
    """
    if launch in (None, holder(store, key)):
        for path in _claims(store, key):
            path.unlink(missing_ok=True)


def holder(store: Store, key: StageKey) -> str | None:
    """The launch that has claimed a stage."""
    claims = _claims(store, key)
    return _holder(claims[-1]) if claims else None


def _claims(store: Store, key: StageKey) -> list[Path]:
    """The claims to a stage, the oldest first."""
    return list(takewhile(Path.exists, (_claim(store, key, number) for number in count(1))))


def _claim(store: Store, key: StageKey, number: int) -> Path:
    return store.root / "claims" / f"{key[0]}-{key[1]}.{number}.json"


def _create(path: Path, content: dict[str, Any]) -> bool:
    """Create a file with its content. Returns False if it exists already."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        temporary.write_text(json.dumps(content))  # an error, as of a full disk, leaves no claim
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            with suppress(FileExistsError), open(path, "x") as file:
                return bool(file.write(json.dumps(content)))
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _holder(path: Path) -> str | None:
    """The launch that made a claim; None if the claim is gone, "" if it is damaged, so that any launch outbids it."""
    for _ in range(20):
        try:
            return str(json.loads(path.read_text())["launch"])
        except FileNotFoundError:
            return None
        except ValueError:  # half written, where there are no links
            time.sleep(0.05)
        except (OSError, TypeError, KeyError):
            break
    return ""


# --- other launches ---------------------------------------------------------------------------------------------------


class OtherLaunches:
    """Other launches of a store: those that go on are in it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._abouts = dict[str, LaunchData]()
        self._known = dict[str, tuple[float, list[str] | None]]()  # launch on Slurm -> time and answer

    def __contains__(self, name: object) -> bool:
        return self.jobs(str(name)) is not None

    def jobs(self, name: str) -> list[str] | None:
        """The active jobs of a launch that goes on, none if it is local or yet to submit them; None if it has ended."""
        folder = self.store.root / "launches" / name
        if (folder / "ended.json").is_file() or not (folder / "launch.json").is_file():
            return None
        try:
            self._abouts[name] = self._abouts.get(name) or open_launch(folder).about
        except UserError:  # damaged, so nothing can go on with it
            return None
        if self._abouts[name]["on"] == "local":
            return [] if goes_on(folder, self._abouts[name]) else None
        when, _ = self._known.get(name, (-inf, None))
        if time.monotonic() - when > ASKED:
            self._known[name] = time.monotonic(), self._queued(folder)
        return self._known[name][1]

    def _queued(self, folder: Path) -> list[str] | None:
        if not (folder / "orders.jsonl").is_file():
            return None
        arrays = submitted(folder)
        try:
            queue = scheduler.jobs({folder.owner()})  # asked last, so it has all these jobs
        except UserError:
            return []  # Slurm gives no answer here, so the launch counts as going on
        if active := active_jobs(arrays, queue):
            return active
        finished = any(array.driver for array in arrays) or time.time() - folder.stat().st_mtime >= SUBMITTING
        return None if finished and submitted(folder) == arrays else []


# --- a launch ---------------------------------------------------------------------------------------------------------


class Claims:
    """The claims of a launch to its stages."""

    def __init__(self, store: Store, launch: str) -> None:
        self.store, self.launch = store, launch
        self.others = OtherLaunches(store)

    def take(self, key: StageKey) -> str | None:
        """Claim a stage. Returns None if that worked, else the launch that holds it."""
        return take(self.store, key, self.launch, self.others) if self.launch else None

    def free(self, key: StageKey) -> bool:
        """True if no other launch that goes on holds the stage."""
        return (by := holder(self.store, key)) is None or by not in self.others

    def mine(self, key: StageKey) -> bool:
        return holder(self.store, key) == self.launch

    def release(self, key: StageKey) -> None:
        if self.launch:
            release(self.store, key, self.launch)


def release_all(launch: Launch) -> None:
    """Give up all claims of a launch that has ended."""
    for stage in launch.stages:
        release(launch.store, stage.key, launch.name)


@contextmanager
def claiming(store: Store, launch: str | None) -> Iterator[Claims]:
    """The claims of a launch of this process, which gives signs of life meanwhile; none are made without a launch."""
    with beating(store.root / "launches" / launch) if launch else nullcontext():
        yield Claims(store, launch or "")


@contextmanager
def beating(folder: Path) -> Iterator[None]:
    """Signs of life of this process in the folder of its launch."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.is_set():
            with suppress(OSError):  # perhaps the next one works
                (folder / "alive").touch()
            ended.wait(BEAT)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def goes_on(folder: Path, about: LaunchData, *signs: float) -> bool:
    """True if the process of a launch lives: on another machine, if there was a sign of life lately."""
    if (lives := process_lives(about)) is not None:
        return lives
    try:
        last = (folder / "alive").stat().st_mtime
    except OSError:  # none yet
        last = float(about["created"])
    return time.time() - max([last, *signs]) < FRESH


def driving_process(launch: Launch) -> LaunchData | None:
    """The process that drives a launch in the foreground, if one does."""
    by = holder(launch.store, ("driver", launch.name)) or ""
    about = {**launch.about, **json.loads(by)} if by.startswith("{") else None  # else it is a job
    return about if about and goes_on(launch.folder, about) else None


def refused(launch: Launch) -> str:
    """What Slurm says of jobs that the driver of a launch submits, if it refuses them."""
    file = launch.folder / "alive"
    return " ".join(file.read_text().split()) if file.exists() else ""
