"""The store: what finished stages left, under their identities.

    records/<kind>/<identity>/record.json   and the stage's files, moved into place in one rename
    checkpoints/<kind>/<identity>/          what an interrupted stage resumes from; removed when its record stands
    running/<kind>-<identity>.json          how far a stage is, for progress displays only
    attempts.jsonl                          every start, end and failure, append-only; never decides what is done

A record that exists is complete: it is written elsewhere, checked and renamed. A failure is never a record.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import write_atomically

SCHEMA = 1
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
        folder = self.folder(kind, identity)
        record: dict[str, Any] = json.loads((folder / "record.json").read_text())
        if (record["kind"], record["identity"]) != (kind, identity):
            raise UserError(f"holds the record of {record['kind']} {record['identity']}", where=str(folder), hint=REDO)
        for name, recorded in record["bytes"].items():
            file = folder / name
            size = file.stat().st_size if file.is_file() else 0
            if size != recorded:
                raise UserError(f"{size} bytes, recorded were {recorded}", where=str(file), hint=REDO)
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
        record["sha256"] = {path.name: _sha256(path) for path in files}
        write_atomically(folder / "record.json", json.dumps(record, indent=1).encode())

    def _place(self, folder: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(folder, target)
        except OSError:  # another process finished the same stage first; its record is as good
            if not (target / "record.json").is_file():
                raise

    def log(self, event: str, kind: str, identity: str, **details: object) -> None:
        """Append one line to the attempts' log; a single write, so concurrent lines do not mix."""
        self.root.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": time.time(), "event": event, "kind": kind, "identity": identity, **details})
        with open(self.root / "attempts.jsonl", "ab", buffering=0) as file:
            file.write(line.encode() + b"\n")

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


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
