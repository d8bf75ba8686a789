"""What nobody needs any more in a store and in the cache folder: how it is found, and how it goes.

Records, reports, videos and the manifests' hashes are never waste. Stages may be running meanwhile, on other machines
too, so age alone decides little: a stage gives signs of life (events, progress, claims), and what belongs to one that
gave any lately stays. A folder is renamed before it is emptied, so that nobody finds half of it. Links are left alone.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import NamedTuple

from bench.core.files import write_atomically
from bench.store.records import Store

DAY = 86_400.0  # seconds; clocks of machines differ by less, and file attributes on NFS are at most a minute old
MANY, SMALL = 100, 1_000_000  # logs of fewer bytes are merged when there are so many
GONE = ".gone-"  # the names of folders that are being removed begin so

LOG = "small log"


class Waste(NamedTuple):
    """A file or folder that can go. Of logs only the number shrinks, so their `bytes` are 0."""

    kind: str
    path: Path
    bytes: int
    reason: str


def find(store: Store, cache: Path, days: float, now: float) -> Iterator[Waste]:
    """What can go, looked at as it is asked for; nothing is changed. `days` is the patience with unfinished work."""
    search = _Search(store, cache, days, now)
    yield from search.unfinished_records()
    yield from search.checkpoints()
    yield from search.progress()
    yield from search.claims()
    yield from search.launches()
    yield from search.frames()
    yield from search.temporary_files()
    yield from search.logs()


def remove(found: Iterable[Waste]) -> Iterator[tuple[Waste, str]]:
    """Remove one after the other, as it is found; each with the reason why it stays, "" if it is gone."""
    logs = []
    for waste in found:
        if waste.kind == LOG:
            logs.append(waste)
        else:
            yield waste, _remove(waste.path)
    if logs:
        yield from _merge(logs)


# --- finding ----------------------------------------------------------------------------------------------------------


class _Seen(NamedTuple):
    bytes: int
    used: float  # seconds since 1970


@dataclass(frozen=True)
class _Search:
    store: Store
    cache: Path
    days: float
    now: float

    @property
    def yesterday(self) -> float:
        return self.now - DAY

    @property
    def long_ago(self) -> float:
        return self.now - self.days * DAY

    @property
    def untouched(self) -> str:
        return f"untouched for {self.days:g} days"

    @cached_property
    def signs(self) -> dict[str, float]:
        """When a stage gave its last sign of life, by identity."""
        signs = {event["identity"]: event["time"] for event in self.store.events() if "identity" in event}
        for entry in [*_entries(self.store.root / "running"), *_entries(self.store.root / "claims")]:
            identity = entry.name.partition("-")[2].partition(".")[0]
            signs[identity] = max(signs.get(identity, 0.0), _look(entry.path).used)
        return signs

    def unfinished_records(self) -> Iterator[Waste]:
        # A stage opens its folder when it starts and fills it when it ends, days later perhaps: the folder's age says
        # nothing while the stage gives signs of life. An empty one costs nothing and may be that of a suspended job.
        for entry in _entries(self.store.root / "writing"):
            seen = _look(entry.path)
            alive = max(seen.used, self.signs.get(entry.name.rpartition("-")[0], 0.0))
            if entry.name.startswith(GONE) or alive < (self.yesterday if seen.bytes else self.long_ago):
                yield Waste("unfinished record", Path(entry.path), seen.bytes, "its stage gave no sign of life")

    def checkpoints(self) -> Iterator[Waste]:
        # With its record a stage is never carried out again, and who wrote the record removes the checkpoint as well.
        # Without one, reading a checkpoint leaves no trace on it, but a stage logs its start before it looks for one.
        for kind in _entries(self.store.root / "checkpoints"):
            for entry in _entries(Path(kind.path)):
                seen = _look(entry.path)
                if self.store.done(kind.name, entry.name) or entry.name.startswith(GONE):
                    yield Waste("checkpoint", Path(entry.path), seen.bytes, "its record stands")
                elif max(seen.used, self.signs.get(entry.name, 0.0)) < self.long_ago:
                    yield Waste("checkpoint", Path(entry.path), seen.bytes, self.untouched)

    def progress(self) -> Iterator[Waste]:
        # Only displays read it, and a stage that does go on writes it again with its next step.
        for entry in _entries(self.store.root / "running"):
            seen = _look(entry.path)
            if entry.name.endswith(".json") and seen.used < self.yesterday:
                yield Waste("progress", Path(entry.path), seen.bytes, "its stage gave no sign of life")

    def claims(self) -> Iterator[Waste]:
        # They are numbered without gaps, and the highest counts: all of a stage go, the lowest first, or none. At worst
        # one stage is done twice, and the first record wins.
        claims: dict[tuple[str, str], list[tuple[int, Path]]] = {}
        for entry in _entries(self.store.root / "claims"):
            stage, _, number = entry.name.removesuffix(".json").rpartition(".")
            kind, _, identity = stage.partition("-")
            if entry.name.endswith(".json") and number.isdecimal():
                claims.setdefault((kind, identity), []).append((int(number), Path(entry.path)))
        known = {kind: self.store.known(kind) for kind in {kind for kind, _ in claims}}
        for (kind, identity), numbered in claims.items():
            looked = [(path, _look(path)) for _, path in sorted(numbered)]
            finished = identity in known[kind]
            if finished or all(seen.used < self.long_ago for _, seen in looked):
                why = "its record stands" if finished else self.untouched
                yield from (Waste("claim", path, seen.bytes, why) for path, seen in looked)

    def launches(self) -> Iterator[Waste]:
        # ended.json is written last, and a job that outlived its launch still writes into its log. What tells what the
        # launch was and how it went stays.
        for launch in _entries(self.store.root / "launches"):
            if _look(os.path.join(launch.path, "ended.json")).used >= self.long_ago:
                continue
            for entry in _entries(Path(launch.path)):
                seen = _look(entry.path)
                spent = entry.name in ("jobs", "orders.jsonl") or entry.name.startswith(GONE)
                if spent and seen.used < self.long_ago:
                    yield Waste("files of jobs", Path(entry.path), seen.bytes, f"ended, {self.untouched}")

    def frames(self) -> Iterator[Waste]:
        # Every process that uses a folder reads its index first, and a file system notes that once a day at least.
        # Where it is told not to (noatime), only writing shows, and a reader could lose frames that it still wants:
        # there they stay while a stage of this store is at work. Writers do without a folder that is gone.
        folder = self.cache / "frames"
        entries = [entry for entry in _entries(folder) if entry.is_dir(follow_symlinks=False)]
        if not entries:
            return
        silent = bool(os.statvfs(folder).f_flag & getattr(os, "ST_NOATIME", 0))
        if silent and any(_look(entry.path).used > self.yesterday for entry in _entries(self.store.root / "running")):
            return
        for entry in entries:
            seen = _look(entry.path, reads=True)
            if entry.name.startswith(GONE) or seen.used < self.long_ago:
                why = f"not {'written' if silent else 'read'} for {self.days:g} days"
                yield Waste("decoded frames", Path(entry.path), seen.bytes, why)

    def temporary_files(self) -> Iterator[Waste]:
        # Their writers rename them within seconds.
        root, cache = self.store.root, self.cache
        launches = [Path(launch.path) for launch in _entries(root / "launches")]
        for folder in (root / "running", root / "claims", root / "attempts", *launches, cache, cache / "content"):
            for entry in _entries(folder):
                seen = _look(entry.path)
                temporary = entry.name.endswith(".tmp") or (folder.name == "claims" and entry.name.startswith("."))
                if temporary and entry.is_file() and seen.used < self.yesterday:
                    yield Waste("temporary file", Path(entry.path), seen.bytes, "its writer is gone")

    def logs(self) -> Iterator[Waste]:
        # A process that logs again after a day finds its file gone and begins another.
        files = [entry for entry in _entries(self.store.root / "attempts") if entry.name.endswith(".jsonl")]
        seen = [(Path(entry.path), _look(entry.path)) for entry in files]
        small = [path for path, log in seen if log.bytes < SMALL and log.used < self.yesterday]
        if len(small) >= MANY:
            yield from (Waste(LOG, path, 0, "merged into one") for path in small)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name, without links; nothing if it is none, or cannot be read."""
    if folder.is_symlink():
        return []
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not entry.is_symlink()), key=lambda entry: entry.name)
    except OSError:
        return []


def _look(path: str | Path, *, reads: bool = False) -> _Seen:
    """Bytes and last use of a file, or of all below a folder; `reads` count as uses if they should.

    What cannot be looked at, perhaps because it is going just now, counts as in use.
    """
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            return _Seen(status.st_size, max(status.st_mtime, status.st_atime if reads else 0.0))
        with os.scandir(path) as entries:
            below = [_look(entry.path, reads=reads) for entry in entries]
    except OSError:
        return _Seen(0, inf)
    return _Seen(sum(seen.bytes for seen in below), max([status.st_mtime, *(seen.used for seen in below)]))


# --- removing ---------------------------------------------------------------------------------------------------------


def _remove(path: Path) -> str:
    """Remove a file or folder; why that failed, if it did."""
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            gone = path.with_name(f"{GONE}{uuid.uuid4().hex}")
            os.rename(path, gone)
            path = gone
            shutil.rmtree(gone)
        else:
            path.unlink()
    except FileNotFoundError:
        return ""  # another process was at it too
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def _merge(logs: list[Waste]) -> Iterator[tuple[Waste, str]]:
    """Put the lines of logs into one. Every line is in a log at all times; readers drop those that are in two.

    A log is renamed before it is read, so that its process, if it lives, cannot open it any more and begins another.
    What it was writing just then shows by a second reading; such a log stays under its new name.
    """
    folder = logs[0].path.parent
    taken: list[tuple[Waste, Path, bytes]] = []
    for waste in logs:
        renamed = folder / f"merging-{uuid.uuid4().hex}.jsonl"
        try:
            os.rename(waste.path, renamed)
            taken.append((waste, renamed, renamed.read_bytes()))
        except FileNotFoundError:
            continue  # another process merges it
        except OSError as error:
            yield waste, f"{waste.path}: {error.strerror}"
    lines = b"".join(content if content.endswith(b"\n") else content + b"\n" for _, _, content in taken)
    moment = time.strftime("%Y%m%d-%H%M%S")
    write_atomically(folder / f"merged-{moment}-{socket.gethostname()}-{uuid.uuid4().hex[:8]}.jsonl", lines)
    for waste, renamed, content in taken:
        try:
            if renamed.read_bytes() == content:
                renamed.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            yield waste, f"{renamed}: {error.strerror}"
            continue
        yield waste, ""
