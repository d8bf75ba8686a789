"""Garbage in a store and in the cache folder: find it and remove it.

Records, reports, videos and the hashes of manifests are never garbage. Stages may be running meanwhile, on other
machines too, so age alone decides little: a stage gives signs of life (events, progress, claims), and files of a stage
that gave one lately stay. A folder is renamed before it is emptied, so that no process finds half of it. Links stay.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain
from math import inf
from pathlib import Path
from typing import NamedTuple

from bench.core.files import write_atomically
from bench.store.records import Store

DAY = 86_400.0  # seconds; clocks of machines differ by less, and file attributes on NFS are at most a minute old
MANY, SMALL = 100, 1_000_000  # so many logs, each of fewer bytes, are merged
GONE = ".gone-"  # prefix of folders that are being removed

LOG = "small log"


class Garbage(NamedTuple):
    """A file or folder to remove. Merging logs frees no space, so their `bytes` are 0."""

    kind: str
    path: Path
    bytes: int
    reason: str


def find(store: Store, cache: Path, days: float, now: float) -> Iterator[Garbage]:
    """Find garbage, without removing it. Unfinished work is garbage after `days` without a sign of life."""
    search = _Search(store, cache, days, now)
    yield from chain(search.unfinished_records(), search.checkpoints(), search.progress(), search.claims())
    yield from chain(search.launches(), search.code(), search.frames(), search.temporary_files(), search.logs())


def whole(kind: str, path: Path, reason: str) -> Garbage:
    """A file or folder, with its size."""
    return Garbage(kind, path, _usage(path).bytes, reason)


def remove(found: Iterable[Garbage]) -> Iterator[tuple[Garbage, str]]:
    """Remove garbage. Yields each item with the error that kept it, "" if it was removed."""
    logs = []
    for item in found:
        if item.kind == LOG:
            logs.append(item)
        else:
            yield item, _remove(item.path)
    if logs:
        yield from _merge(logs)


# --- finding ----------------------------------------------------------------------------------------------------------


class _Usage(NamedTuple):
    """Size and last use of a file or folder."""

    bytes: int
    used: float  # seconds since 1970


class _Search:
    """A search for garbage at one moment; a method for each kind of garbage."""

    def __init__(self, store: Store, cache: Path, days: float, now: float) -> None:
        self.store, self.cache, self.days = store, cache, days
        self.yesterday, self.long_ago, self.untouched = now - DAY, now - days * DAY, f"untouched for {days:g} days"

    @cached_property
    def signs(self) -> dict[str, float]:
        """Time of the last sign of life of each stage, by identity."""
        signs = {event["identity"]: event["time"] for event in self.store.events() if "identity" in event}
        for entry in [*_entries(self.store.root / "running"), *_entries(self.store.root / "claims")]:
            identity = entry.name.partition("-")[2].partition(".")[0]
            signs[identity] = max(signs.get(identity, 0.0), _usage(entry.path).used)
        return signs

    def unfinished_records(self) -> Iterator[Garbage]:
        # A stage opens its folder when it starts and fills it when it ends, perhaps days later: the folder's age says
        # nothing while the stage gives signs of life. An empty folder costs nothing and may be of a suspended job.
        for kind in _entries(self.store.root / "records"):
            for entry in (entry for entry in _entries(Path(kind.path)) if entry.name.startswith(GONE)):
                yield whole("removed record", Path(entry.path), "its removal was interrupted")
        for entry in _entries(self.store.root / "writing"):
            seen = _usage(entry.path)
            alive = max(seen.used, self.signs.get(entry.name.rpartition("-")[0], 0.0))
            if entry.name.startswith(GONE) or alive < (self.yesterday if seen.bytes else self.long_ago):
                yield Garbage("unfinished record", Path(entry.path), seen.bytes, "its stage gave no sign of life")

    def checkpoints(self) -> Iterator[Garbage]:
        # A stage with a record never runs again, and the process that wrote the record removes the checkpoint as well.
        # Reading a checkpoint leaves no trace on it, but a stage logs its start before it looks for one.
        for kind in _entries(self.store.root / "checkpoints"):
            for entry in _entries(Path(kind.path)):
                seen = _usage(entry.path)
                if self.store.done(kind.name, entry.name) or entry.name.startswith(GONE):
                    yield Garbage("checkpoint", Path(entry.path), seen.bytes, "its stage has a record")
                elif max(seen.used, self.signs.get(entry.name, 0.0)) < self.long_ago:
                    yield Garbage("checkpoint", Path(entry.path), seen.bytes, self.untouched)

    def progress(self) -> Iterator[Garbage]:
        # Only displays read progress files, and a stage that still runs writes its own again with its next step.
        for entry in _entries(self.store.root / "running"):
            seen = _usage(entry.path)
            if entry.name.endswith(".json") and seen.used < self.yesterday:
                yield Garbage("progress", Path(entry.path), seen.bytes, "its stage gave no sign of life")

    def claims(self) -> Iterator[Garbage]:
        # The claims to a stage are numbered without gaps, and the highest counts: either all of them are removed, the
        # lowest first, or none. At worst one stage is done twice, and the first record wins.
        claims = defaultdict[tuple[str, str], list[tuple[int, Path]]](list)
        for entry in _entries(self.store.root / "claims"):
            if match := re.fullmatch(r"([^-]*)-(.*)\.(\d+)\.json", entry.name):
                claims[match[1], match[2]].append((int(match[3]), Path(entry.path)))
        known = {kind: self.store.known(kind) for kind in {kind for kind, _ in claims}}
        for (kind, identity), numbered in claims.items():
            looked = [(path, _usage(path)) for _, path in sorted(numbered)]
            finished = identity in known[kind]
            if finished or all(seen.used < self.long_ago for _, seen in looked):
                why = "its stage has a record" if finished else self.untouched
                yield from (Garbage("claim", path, seen.bytes, why) for path, seen in looked)

    def launches(self) -> Iterator[Garbage]:
        # ended.json is written last, and a job that outlived its launch still writes into its log. Files that describe
        # the launch and its end stay.
        for launch in _entries(self.store.root / "launches"):
            if _usage(os.path.join(launch.path, "ended.json")).used >= self.long_ago:
                continue
            for entry in _entries(Path(launch.path)):
                seen = _usage(entry.path)
                of_jobs = entry.name in ("jobs", "orders.jsonl") or entry.name.startswith(GONE)
                if of_jobs and seen.used < self.long_ago:
                    yield Garbage("files of jobs", Path(entry.path), seen.bytes, f"ended, {self.untouched}")

    def code(self) -> Iterator[Garbage]:
        # A launch uses its copy, which marks it, moments before it writes down which one that is.
        kept = [self._code_of(Path(launch.path)) for launch in _entries(self.store.root / "launches")]
        for entry in _entries(self.store.root / "code") if None not in kept else ():
            if entry.name not in kept and os.lstat(entry.path).st_mtime < self.yesterday:
                yield Garbage("code", Path(entry.path), _usage(entry.path).bytes, "no launch has it")

    def _code_of(self, launch: Path) -> str | None:
        """The name of a launch's code, "" if it has none; None if that cannot be read."""
        try:
            return str(json.loads((launch / "launch.json").read_bytes()).get("code", ""))
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, AttributeError):
            return None

    def frames(self) -> Iterator[Garbage]:
        # Every process that uses a folder reads its index first, and a file system notes reads at least once a day.
        # With the mount option noatime it does not, and a reader could lose frames that it still needs: there, frames
        # stay while a stage of this store runs. A writer whose folder is gone works without a cache.
        folder = self.cache / "frames"
        entries = [entry for entry in _entries(folder) if entry.is_dir(follow_symlinks=False)]
        if not entries:
            return
        unnoted = bool(os.statvfs(folder).f_flag & getattr(os, "ST_NOATIME", 0))
        if unnoted and any(_usage(entry.path).used > self.yesterday for entry in _entries(self.store.root / "running")):
            return
        for entry in entries:
            seen = _usage(entry.path, reads=True)
            if entry.name.startswith(GONE) or seen.used < self.long_ago:
                why = f"not {'written' if unnoted else 'read'} for {self.days:g} days"
                yield Garbage("decoded frames", Path(entry.path), seen.bytes, why)

    def temporary_files(self) -> Iterator[Garbage]:
        # A writer renames its temporary file within seconds.
        root, cache = self.store.root, self.cache
        launches = [Path(launch.path) for launch in _entries(root / "launches")]
        for folder in (root / "running", root / "claims", root / "attempts", *launches, cache, cache / "content"):
            for entry in _entries(folder):
                seen = _usage(entry.path)
                temporary = entry.name.endswith(".tmp") or (folder.name == "claims" and entry.name.startswith("."))
                if temporary and entry.is_file() and seen.used < self.yesterday:
                    yield Garbage("temporary file", Path(entry.path), seen.bytes, "its writer is gone")

    def logs(self) -> Iterator[Garbage]:
        # A process that logs again after a day finds its file gone and starts another.
        files = [entry for entry in _entries(self.store.root / "attempts") if entry.name.endswith(".jsonl")]
        seen = [(Path(entry.path), _usage(entry.path)) for entry in files]
        small = [path for path, log in seen if log.bytes < SMALL and log.used < self.yesterday]
        if len(small) >= MANY:
            yield from (Garbage(LOG, path, 0, "merged into one") for path in small)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Entries of a folder by name, without links; none if the folder does not exist or cannot be read."""
    if folder.is_symlink():
        return []
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not entry.is_symlink()), key=lambda entry: entry.name)
    except OSError:
        return []


def _usage(path: str | Path, *, reads: bool = False) -> _Usage:
    """Size and last use of a file, or of everything below a folder. With `reads`, reading counts as use.

    A file that cannot be examined, perhaps because it is being removed, counts as in use.
    """
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            return _Usage(status.st_size, max(status.st_mtime, status.st_atime if reads else 0.0))
        with os.scandir(path) as entries:
            below = [_usage(entry.path, reads=reads) for entry in entries]
    except OSError:
        return _Usage(0, inf)
    return _Usage(sum(seen.bytes for seen in below), max([status.st_mtime, *(seen.used for seen in below)]))


# --- removing ---------------------------------------------------------------------------------------------------------


def _remove(path: Path) -> str:
    """Remove a file or folder. Returns the error, "" if there was none."""
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            gone = path.with_name(f"{GONE}{uuid.uuid4().hex}")
            os.rename(path, gone)
            path = gone
            shutil.rmtree(gone)
        else:
            path.unlink()
    except FileNotFoundError:
        return ""  # another process removed it
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def _merge(logs: list[Garbage]) -> Iterator[tuple[Garbage, str]]:
    """Merge logs into one. Every line is in a log at all times; readers drop lines that are in two.

    A log is renamed before it is read, so that its process, if it lives, cannot open it again and starts another.
    A line that it was writing just then shows in a second reading; such a log stays under its new name.
    """
    folder = logs[0].path.parent
    taken: list[tuple[Garbage, Path, bytes]] = []
    for item in logs:
        renamed = folder / f"merging-{uuid.uuid4().hex}.jsonl"
        try:
            os.rename(item.path, renamed)
            taken.append((item, renamed, renamed.read_bytes()))
        except FileNotFoundError:
            continue  # another process merges it
        except OSError as error:
            yield item, f"{item.path}: {error.strerror}"
    lines = b"".join(content if content.endswith(b"\n") else content + b"\n" for _, _, content in taken)
    moment = time.strftime("%Y%m%d-%H%M%S")
    write_atomically(folder / f"merged-{moment}-{socket.gethostname()}-{uuid.uuid4().hex[:8]}.jsonl", lines)
    for item, renamed, content in taken:
        try:
            if renamed.read_bytes() == content:
                renamed.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            yield item, f"{renamed}: {error.strerror}"
            continue
        yield item, ""
