"""The store: records of finished stages, and files of stages that are under way.

    records/<kind>/<identity>/record.json   the record, beside the stage's files; moved into place in one rename
    checkpoints/<kind>/<identity>/          state from which an interrupted stage resumes; removed with its record
    running/<kind>-<identity>.json          progress of a running stage, for displays only
    writing/<identity>-<hex>/               a record that is being written
    attempts/<host>-<pid>[-<slurm job>].jsonl   log of every start, end and failure; never decides which stage is done
    claims/<kind>-<identity>.<n>.json       the launch that carries out a stage; the highest n counts
    launches/<id>/                          the stages of a launch, its jobs and its end

A record that exists is complete: it is written elsewhere, checked and renamed. A failure is never a record. Each
process appends to its own log, because appends of several machines to one file on NFS overwrite each other.
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
LISTINGS = 5  # attempts to read all logs; a log that vanishes in each of them is skipped
REDO = "delete the record's folder; the next run makes it again"

RecordData = dict[str, Any]  # record.json
Event = dict[str, Any]  # a line of a log: at least time, event, kind, identity
ProgressData = dict[str, Any]  # running/*.json: title, done, total, unit, started, pid, host


@dataclass(frozen=True)
class Store:
    """A folder of records. Writers may work at the same time: the first rename wins, later ones are dropped."""

    root: Path

    def folder(self, kind: str, identity: str) -> Path:
        """The folder of a stage's record, which may not exist yet."""
        return self.root / "records" / kind / identity

    def checkpoint(self, kind: str, identity: str) -> Path:
        """The folder from which an interrupted stage resumes."""
        return self.root / "checkpoints" / kind / identity

    def done(self, kind: str, identity: str) -> bool:
        return (self.folder(kind, identity) / "record.json").is_file()

    def known(self, kind: str) -> set[str]:
        """Identities of all records of a kind, from one directory listing."""
        folder = self.root / "records" / kind
        return {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()

    def read(self, kind: str, identity: str) -> RecordData:
        """Read a record. Raises FileNotFoundError if there is none, UserError if one of its files was changed."""
        folder = f"{self.root}/records/{kind}/{identity}"  # a string: a report reads thousands, and Path is slow
        with open(f"{folder}/record.json", "rb") as file:
            record: RecordData = json.loads(file.read())
        if (record["kind"], record["identity"]) != (kind, identity):
            raise UserError(f"holds the record of {record['kind']} {record['identity']}", where=folder, hint=REDO)
        for name, recorded in record["bytes"].items():
            if (size := _size(f"{folder}/{name}")) != recorded:
                raise UserError(f"has {size} bytes; the record says {recorded}", where=f"{folder}/{name}", hint=REDO)
        return record

    @contextmanager
    def writing(self, kind: str, identity: str, record: RecordData) -> Iterator[Path]:
        """Give a folder for a record's files. When the block ends, `record` is added and the folder moves into place.

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

    def _seal(self, folder: Path, record: RecordData) -> None:
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
        """Append an event to this process's log, in a single write, so that threads and readers see whole lines."""
        line = json.dumps({"time": time.time(), "event": event, "kind": kind, "identity": identity, **details})
        job = os.environ.get("SLURM_JOB_ID", "")
        path = self.root / "attempts" / f"{socket.gethostname()}-{os.getpid()}{job and f'-{job}'}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened anew for every line: the file may have been merged with others since the last one.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"  # the disk was full, or a process was killed
            os.write(descriptor, b"\n" * torn + line.encode() + b"\n")
        finally:
            os.close(descriptor)

    def events(self) -> list[Event]:
        """All events of all logs in order of time; incomplete lines are skipped."""
        lines = dict.fromkeys(line for log in self._logs() for line in log.split(b"\n"))  # a merge may repeat lines
        events = [event for line in lines if (event := _event(line)) is not None]
        return sorted(events, key=lambda event: event["time"])

    def _logs(self) -> list[bytes]:
        """Contents of all logs. A log that vanishes was just merged with others: the next listing has all lines."""
        for _ in range(LISTINGS):
            read = [_read(path) for path in self._log_files()]
            if None not in read:
                break
        return [log for log in read if log is not None]

    def _log_files(self) -> list[str]:
        older = self.root / "attempts.jsonl"  # old stores have one log of all processes
        files = [str(older)] if older.is_file() else []
        folder = self.root / "attempts"
        if folder.is_dir():
            files += sorted(entry.path for entry in os.scandir(folder) if entry.name.endswith(".jsonl"))
        return files

    def report_progress(self, kind: str, identity: str, state: ProgressData | None) -> None:
        """Write the progress of a running stage; None removes it, when the stage ended."""
        path = self.root / "running" / f"{kind}-{identity}.json"
        if state is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(state).encode(), durable=False)

    def progress(self, kind: str, identity: str) -> ProgressData | None:
        """The progress of a running stage, with the time of its last report as `changed`; None if unknown."""
        path = self.root / "running" / f"{kind}-{identity}.json"
        try:
            return {**json.loads(path.read_text()), "changed": path.stat().st_mtime}
        except (OSError, ValueError):
            return None


def _size(path: str) -> int:
    """The size of a file in bytes, 0 if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _read(path: str) -> bytes | None:
    """The content of a file, None if it is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # ESTALE: another machine removed it, on NFS
            return None
        raise


def _event(line: bytes) -> Event | None:
    """The event in a line of a log, None if the line is incomplete."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("time"), int | float) else None
