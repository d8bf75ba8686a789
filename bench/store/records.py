"""The store: what finished stages left, under their identities.

    records/<kind>/<identity>/record.json   and the stage's files, moved into place in one rename
    checkpoints/<kind>/<identity>/          what an interrupted stage resumes from; removed when its record stands
    running/<kind>-<identity>.json          how far a stage is, for progress displays only
    writing/<identity>-<hex>/               a record on its way
    attempts/<host>-<pid>[-<slurm job>].jsonl   every start, end and failure, append-only; never decides what is done
    claims/<kind>-<identity>.<n>.json       who is about to carry a stage out under Slurm; the highest n counts
    launches/<id>/                          what a launch was to do, its jobs, and how it ended

A record that exists is complete: it is written elsewhere, checked and renamed. A failure is never a record. Each
process appends to a log of its own, because appends of several machines to one file on NFS overwrite each other.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.files import file_sha256, write_atomically

SCHEMA = 1
KINDS = ("texts", "encode", "train", "evaluate", "probe", "maps", "weights", "profile")  # of stages, inputs first
LISTINGS = 5  # of the logs, before one that vanishes while they are read is passed over
REDO = "delete the record's folder, and the next run makes it again"


@dataclass(frozen=True)
class Store:
    """A folder of records. Safe for concurrent writers: the first rename wins, later ones are dropped."""

    root: Path

    def folder(self, kind: str, identity: str) -> Path:
        """Where the record of a stage is, or will be."""
        return self.root / "records" / kind / identity

    def checkpoint(self, kind: str, identity: str) -> Path:
        """Where an unfinished stage keeps what it resumes from."""
        return self.root / "checkpoints" / kind / identity

    def done(self, kind: str, identity: str) -> bool:
        return (self.folder(kind, identity) / "record.json").is_file()

    def known(self, kind: str) -> set[str]:
        """Identities with a record of this kind; one directory listing."""
        folder = self.root / "records" / kind
        return {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()

    def read(self, kind: str, identity: str) -> dict[str, Any]:
        """The record. Raises FileNotFoundError if the stage is not done and UserError if its files were changed."""
        folder = f"{self.root}/records/{kind}/{identity}"  # a report reads thousands: no paths are made of it
        with open(f"{folder}/record.json", "rb") as file:
            record: dict[str, Any] = json.loads(file.read())
        if (record["kind"], record["identity"]) != (kind, identity):
            raise UserError(f"holds the record of {record['kind']} {record['identity']}", where=folder, hint=REDO)
        for name, recorded in record["bytes"].items():
            if (size := _size(f"{folder}/{name}")) != recorded:
                raise UserError(f"{size} bytes, recorded were {recorded}", where=f"{folder}/{name}", hint=REDO)
        return record

    @contextmanager
    def writing(self, kind: str, identity: str, record: dict[str, Any]) -> Iterator[Path]:
        """A folder to write a record's files into; when the block ends, `record` is added and it moves into place.

        The block may fill `record`. If it raises, nothing is left behind.
        """
        folder = self.root / "writing" / f"{identity}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        try:
            yield folder
            self._seal(folder, {"schema": SCHEMA, "kind": kind, "identity": identity, **record})
            self._place(folder, self.folder(kind, identity))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.checkpoint(kind, identity), ignore_errors=True)

    def _seal(self, folder: Path, record: dict[str, Any]) -> None:
        files = sorted(path for path in folder.iterdir())
        record["bytes"] = {path.name: path.stat().st_size for path in files}
        record["sha256"] = {path.name: file_sha256(path) for path in files}
        write_atomically(folder / "record.json", json.dumps(record, indent=1).encode())

    def _place(self, folder: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(folder, target)
        except OSError:  # another process finished the same stage first; its record is as good
            if not (target / "record.json").is_file():
                raise

    def log(self, event: str, kind: str, identity: str, **details: object) -> None:
        """Append one event to this process's log; a single write, so that its threads and readers see whole lines."""
        line = json.dumps({"time": time.time(), "event": event, "kind": kind, "identity": identity, **details})
        job = os.environ.get("SLURM_JOB_ID", "")
        path = self.root / "attempts" / f"{socket.gethostname()}-{os.getpid()}{job and f'-{job}'}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened anew for every line: the file may have been merged with others since the last one.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"  # by a full disk, or a killed namesake
            os.write(descriptor, b"\n" * torn + line.encode() + b"\n")
        finally:
            os.close(descriptor)

    def events(self) -> list[dict[str, Any]]:
        """All events of all logs in the order of their times; lines that are cut off are passed over."""
        lines = dict.fromkeys(line for log in self._logs() for line in log.split(b"\n"))  # a merge may repeat lines
        events = [event for line in lines if (event := _event(line)) is not None]
        return sorted(events, key=lambda event: event["time"])

    def _logs(self) -> list[bytes]:
        """What is in every log. One that vanishes was just merged with others: the next listing has them all."""
        for _ in range(LISTINGS):
            read = [_read(path) for path in self._log_files()]
            if None not in read:
                break
        return [log for log in read if log is not None]

    def _log_files(self) -> list[str]:
        older = self.root / "attempts.jsonl"  # one log of all processes, as stores had until there were launches
        files = [str(older)] if older.is_file() else []
        folder = self.root / "attempts"
        if folder.is_dir():
            files += sorted(entry.path for entry in os.scandir(folder) if entry.name.endswith(".jsonl"))
        return files

    def report_progress(self, kind: str, identity: str, state: dict[str, object] | None) -> None:
        """Say how far a running stage is; None when it ended."""
        path = self.root / "running" / f"{kind}-{identity}.json"
        if state is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(state).encode(), durable=False)

    def progress(self, kind: str, identity: str) -> dict[str, Any] | None:
        """How far a running stage is, None if unknown."""
        try:
            state: dict[str, Any] = json.loads((self.root / "running" / f"{kind}-{identity}.json").read_text())
        except (OSError, ValueError):
            return None
        return state


def _size(path: str) -> int:
    """The size of a file in bytes, 0 if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _read(path: str) -> bytes | None:
    """The bytes of a file, None if it is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # stale: removed by another machine, on NFS
            return None
        raise


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("time"), int | float) else None
