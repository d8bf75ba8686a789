"""Launches: what each set out to do, which jobs it submitted and how it ended, in folders that any machine can read.

    launches/<id>/launch.json    the suite, how to compute, and the stages that had no record; never changed
                  orders.jsonl   line i is the order of stage i
                  jobs.jsonl     the arrays that were submitted, in rounds: the first one, and others for what was lost
                  ended.json     how it ended; while it is not there, the launch goes on

An id starts with its time, so names sort by age. None of this decides what is done: records alone do.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from getpass import getuser
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, unknown
from bench.core.files import write_atomically
from bench.launch.work import Order
from bench.store.records import Store

Part = dict[str, Any]
Key = tuple[str, str]  # kind and identity


@dataclass(frozen=True)
class Planned:
    """A stage that a launch is to carry out. `seconds` is an estimate; `tasks` processes share its work."""

    kind: str
    identity: str
    title: str
    inputs: tuple[Key, ...]
    seconds: float
    tasks: int = 1
    resources: Part = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.kind, self.identity


@dataclass(frozen=True)
class Jobs:
    """An array of jobs, or a single job. Each element lists the stages it carries out, as numbers in the launch."""

    job: str
    name: str
    elements: list[list[int]]
    round: int
    since: float  # attempts before this time do not count
    time: float
    closing: bool = False

    def ids(self) -> list[str]:
        """The job ids of the elements, as the scheduler shows them."""
        return [self.job] if len(self.elements) == 1 else [f"{self.job}_{k}" for k in range(len(self.elements))]


@dataclass(frozen=True)
class Launch:
    """A launch as it stands in its folder. `about` holds launch.json without the stages."""

    folder: Path
    about: Part
    stages: tuple[Planned, ...]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def suite_file(self) -> Path:
        """The suite as it was when it was launched."""
        return self.folder / f"{self.about['suite']}.yaml"

    @property
    def store(self) -> Store:
        return Store(self.folder.parent.parent)

    def orders(self, numbers: Iterable[int]) -> dict[int, Order]:
        """The orders of these stages, by number."""
        wanted = set(numbers)
        with open(self.folder / "orders.jsonl", encoding="utf-8") as file:
            found = {number: json.loads(line) for number, line in enumerate(file) if number in wanted}
        return {number: _order(found[number]) for number in wanted}

    def lacking(self) -> list[int]:
        """The stages that have no record, by number."""
        store = self.store
        done = {kind: store.known(kind) for kind in {stage.kind for stage in self.stages}}
        return [number for number, stage in enumerate(self.stages) if stage.identity not in done[stage.kind]]

    def jobs(self) -> list[Jobs]:
        """All that was submitted, in order."""
        return submitted(self.folder)

    def add(self, jobs: Jobs) -> None:
        """Note what was submitted. Only the submitter writes: first the command, then one closing job after another."""
        with open(self.folder / "jobs.jsonl", "ab", buffering=0) as file:
            file.write(json.dumps(asdict(jobs)).encode() + b"\n")

    def ended(self) -> Part | None:
        """How it ended, None while it goes on."""
        file = self.folder / "ended.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def end(self, state: str, failed: Iterable[str] = (), blocked: Iterable[str] = ()) -> None:
        """Note that nothing more will be done. `state`: complete, incomplete or cancelled."""
        lost = {"failed": list(failed), "blocked": list(blocked)}
        write_atomically(self.folder / "ended.json", json.dumps({"time": time.time(), "state": state, **lost}).encode())

    def reopen(self) -> None:
        (self.folder / "ended.json").unlink(missing_ok=True)


def _order(found: Part) -> Order:
    return Order(**{**found, "inputs": {name: tuple(key) for name, key in found["inputs"].items()}})


def create(store: Store, about: Part, stages: list[Planned], orders: Iterable[Order] = ()) -> Launch:
    """A new launch. `about` has at least `suite` and `on`; user, host, process and time are added."""
    now = time.time()
    suite = about["suite"]
    identifier = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{suite}-{uuid.uuid4().hex[:4]}"
    process = {"user": getuser(), "host": socket.gethostname(), "pid": os.getpid()}
    about = {**about, "id": identifier, **process, "created": now}
    folder = store.root / "launches" / identifier
    folder.mkdir(parents=True)
    lines = (json.dumps(asdict(order)).encode() + b"\n" for order in orders)
    if data := b"".join(lines):
        write_atomically(folder / "orders.jsonl", data)
    text = json.dumps({**about, "stages": [asdict(stage) for stage in stages]})
    write_atomically(folder / "launch.json", text.encode())
    return Launch(folder, about, tuple(stages))


def open_launch(folder: Path) -> Launch:
    """The launch in a folder. Raises UserError if there is none."""
    file = folder / "launch.json"
    if not file.is_file():
        raise UserError("no launch is described here", where=str(file))
    about = json.loads(file.read_text(encoding="utf-8"))
    stages = [
        Planned(**{**stage, "inputs": tuple((kind, identity) for kind, identity in stage["inputs"])})
        for stage in about.pop("stages")
    ]
    return Launch(folder, about, tuple(stages))


def submitted(folder: Path) -> list[Jobs]:
    """All that the launch in a folder has submitted, in order."""
    file = folder / "jobs.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [Jobs(**json.loads(line)) for line in lines]


def launch_folders(store: Store) -> list[Path]:
    """The folders of all launches, the oldest first."""
    folder = store.root / "launches"
    return sorted(entry for entry in folder.iterdir() if (entry / "launch.json").is_file()) if folder.is_dir() else []


def find_launch(store: Store, name: str | None = None) -> Launch:
    """The newest launch, or the newest of a suite, or the one whose id starts with `name`. Raises UserError."""
    folders = launch_folders(store)
    if not folders:
        raise UserError("nothing was launched with this store", where=str(store.root), hint="is it the right --store?")
    if name is None:
        return open_launch(folders[-1])
    name = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    for folder in reversed(folders):
        if folder.name.startswith(name) or _suite(folder) == name:
            return open_launch(folder)
    raise unknown("launch or suite", name, {*map(_suite, folders), folders[-1].name}, where=str(store.root))


def _suite(folder: Path) -> str:
    """The suite's name within `<date>-<time>-<suite>-<hex>`."""
    return folder.name.split("-", 2)[2].rpartition("-")[0]


# --- claims -----------------------------------------------------------------------------------------------------------


def take(store: Store, key: Key, launch: str, alive: Container[str]) -> str | None:
    """Claim a stage for a launch; None if that worked, else the launch that holds it.

    A claim is a numbered file that exactly one process can create (a hard link to a whole file, which is atomic on NFS
    too). The highest number counts. A claim of a launch that is not `alive` is outbid by the next number.
    """
    number = 1
    while True:
        path = _claim(store, key, number)
        mine = _create(path, {"launch": launch, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()})
        if mine and not _claim(store, key, number + 1).exists():
            return None
        if mine:  # a hole below the claim that counts, left by a process that died while it gave its claims up
            path.unlink()
            number += 1
            continue
        if _claim(store, key, number + 1).exists():
            number += 1
            continue
        holder = _holder(path)
        if holder == launch:
            return None
        if holder is not None and holder in alive:
            return holder
        number += holder is not None  # a claim that has just gone is free again


def release(store: Store, key: Key, launch: str | None = None) -> None:
    """Give up the claims to a stage, the oldest first, so that the one that counts goes last.

    With `launch`, only if it is the one that holds the stage; without, because nobody needs to hold it any more.
    """
    if launch in (None, holder(store, key)):
        for path in list(_claims(store, key)):
            path.unlink(missing_ok=True)


def holder(store: Store, key: Key) -> str | None:
    """The launch that has claimed a stage."""
    claims = list(_claims(store, key))
    return _holder(claims[-1]) if claims else None


def _claims(store: Store, key: Key) -> Iterator[Path]:
    number = 1
    while (path := _claim(store, key, number)).exists():
        yield path
        number += 1


def _claim(store: Store, key: Key, number: int) -> Path:
    return store.root / "claims" / f"{key[0]}-{key[1]}.{number}.json"


def _create(path: Path, content: Part) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    temporary.write_text(json.dumps(content))
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _holder(path: Path) -> str | None:
    """The launch that made a claim; None if the claim is gone."""
    try:
        return str(json.loads(path.read_text())["launch"])
    except FileNotFoundError:
        return None
