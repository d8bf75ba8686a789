"""The store: records of finished stages, and files of stages that are under way.

    store.json                              marks the folder as a store; nothing is written where it is missing
    records/<kind>/<identity>/record.json   the record, beside the stage's files; moved into place in one rename
    records/<kind>/<identity>/left-out.json names of its files that the archive left out from which it was merged
    checkpoints/<kind>/<identity>/          state from which an interrupted stage resumes; removed with its record
    running/<kind>-<identity>.json          progress of a running stage, for displays only
    writing/<identity>-<hex>/               a record that is being written
    damaged/<kind>-<identity>-<hex>/        what stood in the place of a record and was none; a run moves it here
    attempts/<host>-<pid>[-<slurm job>].jsonl   log of every start, end and failure; never decides which stage is done
    claims/<kind>-<identity>.<n>.json       the launch that carries out a stage; the highest n counts
    launches/<id>/                          the stages of a launch, its jobs and its end
    code/<hash>/                            the code of launches, as it was when they started (bench/launch/code.py)
    merged/<id>/launch.json                 launches elsewhere whose records were merged, for reports alone

A record that exists is complete: it is written elsewhere, checked and renamed. A failure is never a record. Its first
key, `seal`, is the hash of all bytes after it, and `sha256` has those of its files: what was changed is no record.
Older records have no seal; evaluations among them have to agree with their predictions. Each process appends to its own
log, because appends of several machines to one file on NFS overwrite each other. Commands create a store; stages, jobs
and launches only write into one, so they never fill the mount point of a disk that is away.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.files import file_sha256, sync, write_atomically

SCHEMA = 1
MARKER = "store.json"
LEFT_OUT = "left-out.json"  # in a record's folder
KINDS = ("texts", "encode", "train", "evaluate", "probe", "maps", "weights", "profile")  # of stages, inputs first
LISTINGS = 5  # attempts to read all logs; a log that vanishes in each of them is skipped
REDO = "delete the record's folder; the next run makes it again"
ASIDE = "the next run sets it aside and makes it again; without one, delete the record's folder"
SEAL = b'{\n "seal": "'  # how a sealed record begins; older ones have none
FIELDS = dict.fromkeys(("kind", "identity", "title"), str) | dict.fromkeys(  # of records without a seal
    ("spec", "context", "inputs", "result", "cost", "provenance", "bytes", "sha256"), dict
)
NUMBER = int | float
INNER: dict[str, dict[str, Any]] = {  # keys within these that readers use, of all kinds ("") and of one
    "": {"cost.flops": NUMBER, "cost.seconds": NUMBER, "provenance.versions": dict},
    "train": {"context.execution": dict, "provenance.device": str},
    "evaluate": dict.fromkeys(("result.top1", "result.top5", "result.mean_class"), NUMBER | None)
    | {"result.videos": int, "result.undecodable": int},
    "probe": {"result.names": list, "result.videos": NUMBER | list},
    "maps": dict.fromkeys(("result.labels", "result.predictions", "result.videos", "result.names"), list),
    "weights": {"result.groups": list, "result.parameters": list},
    "profile": {"result.machine": dict, "result.flops": dict, "result.choices": list},
}
IDENTITY = re.compile(r"\w+")  # 32 hex digits, and short names in trials of the store
DATA = (".safetensors", ".parquet")  # of files that only stages write
DETAILS = {"kind": str, "identity": str, "job": str | int | None} | dict.fromkeys(  # of an event
    ("done", "seconds", "startup", "compute", "waiting", "memory", "memory_asked"), NUMBER
)
YEARS = 1e11  # seconds since 1970 that no clock shows

RecordData = dict[str, Any]  # record.json
Event = dict[str, Any]  # a line of a log: at least time, event, kind, identity
ProgressData = dict[str, Any]  # running/*.json: title, done, total, unit, started, pid, host

log = logging.getLogger(__name__)  # names what is passed over; the commands show each line once


class DamagedRecord(UserError):
    """What stands in the place of a record cannot be used. A run sets it aside and carries the stage out again."""


class MissingStore(OSError):
    """The folder is no store: it was moved, or its disk is not mounted here. A fault of the machine."""

    def __init__(self, root: Path) -> None:
        super().__init__(errno.ENODEV, f"the store is not there (no {MARKER}); is its disk mounted?", str(root))


@dataclass(frozen=True)
class Store:
    """A folder of records. Writers may work at the same time: the first rename wins, later ones are dropped."""

    root: Path

    @classmethod
    def create(cls, root: Path) -> Store:
        """The store in a folder, which is made, and marked as a store, if it is not yet. For commands only."""
        if not (root / MARKER).exists():
            root.mkdir(parents=True, exist_ok=True)
            write_atomically(root / MARKER, json.dumps({"schema": SCHEMA}).encode())
        return cls(root)

    def require(self) -> None:
        """Raise MissingStore if the folder is no store, or not any more."""
        if not os.path.exists(self.root / MARKER):
            raise MissingStore(self.root)

    def inside(self, *parts: str) -> Path:
        """A folder of the store, made if need be. Raises MissingStore."""
        self.require()
        folder = self.root.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def folder(self, kind: str, identity: str) -> Path:
        """The folder of a stage's record, which may not exist yet."""
        return self.root / "records" / kind / identity

    def checkpoint(self, kind: str, identity: str) -> Path:
        """The folder from which an interrupted stage resumes."""
        return self.root / "checkpoints" / kind / identity

    def code(self, name: str) -> Path:
        """The folder of a launch's code, which Python of any working directory can import from."""
        return self.root.resolve() / "code" / name

    def done(self, kind: str, identity: str) -> bool:
        return self.find(kind, identity) is not None

    def sound(self, kind: str, identity: str) -> bool:
        """Tell as `done` does, but without a warning: for those who then call `mend`, which names the damage."""
        with suppress(FileNotFoundError, UserError):
            return bool(self.read(kind, identity))
        return False

    def left_out(self, kind: str, identity: str) -> list[str]:
        """Files that a record lists and a merged archive left out, such as weights: reports do without, stages do not.

        A stage that reads the record needs it whole, so its own stage runs again before (`make_plan`).
        """
        try:
            names = json.loads((self.folder(kind, identity) / LEFT_OUT).read_bytes())
        except (OSError, ValueError):
            return []
        return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

    def known(self, kind: str) -> set[str]:
        """Identities of all records of a kind, damaged ones too, from one directory listing; strays are passed over."""
        folder = self.root / "records" / kind
        entries = os.scandir(folder) if folder.is_dir() else ()
        return {entry.name for entry in entries if IDENTITY.fullmatch(entry.name) and entry.is_dir()}

    def find(self, kind: str, identity: str, files: Iterable[str] | None = ()) -> RecordData | None:
        """Read a record as `read` does; None if there is none, or a damaged one, which a warning names."""
        try:
            return self.read(kind, identity, files)
        except FileNotFoundError:
            return None
        except UserError as error:
            log.warning("%s", error)
            return None

    def read(self, kind: str, identity: str, files: Iterable[str] | None = ()) -> RecordData:
        """Read a record; check the sizes of its files, and the hashes of some, or with None of all.

        A process hashes a file that stays as it is once. Files that an archive left out are missed only if they are
        asked for. Raises FileNotFoundError if there is no record, DamagedRecord if something was changed, UserError if
        it cannot be read or is of a newer version.
        """
        folder = f"{self.root}/records/{kind}/{identity}"  # a string: a report reads thousands, and Path is slow
        path = f"{folder}/record.json"
        try:
            with open(path, "rb", opener=_open_at_once) as file:
                record = parse_record(content := file.read())
            if (record["kind"], record["identity"]) != (kind, identity):
                raise ValueError(f"holds the record of {record['kind']} {record['identity']}")
            asked = _data(folder) if files is None and "seal" not in record else files or ()
            if unlisted := sorted({*asked} - {*record["bytes"]}):
                path = f"{folder}/{unlisted[0]}"
                raise ValueError("is not among the files that the record lists")
            for name, recorded in record["bytes"].items():
                path = f"{folder}/{name}"
                hashed = files is None or name in files
                try:
                    found = os.stat(path)
                except FileNotFoundError:
                    if hashed or name not in self.left_out(kind, identity):
                        raise
                    continue
                if (size := found.st_size if stat.S_ISREG(found.st_mode) else 0) != recorded:
                    raise ValueError(f"has {size} bytes; the record says {recorded}")
                if hashed and _sha256(path, size, found.st_mtime_ns, found.st_ino) != record["sha256"].get(name):
                    raise ValueError("its bytes are not those that were written")
            if kind == "evaluate" and "seal" not in record:
                path = folder
                if reason := _disagreement(folder, content, os.stat(f"{folder}/predictions.parquet").st_mtime_ns):
                    raise ValueError(reason)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            if not os.path.lexists(folder) or _is_empty(folder):
                raise FileNotFoundError(errno.ENOENT, "no record", folder) from None
            left_out = os.path.basename(path) in self.left_out(kind, identity)
            what = "was left out of the archive that the record came from" if left_out else "is missing"
            raise DamagedRecord(what, where=path, hint=ASIDE) from None
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=path, hint="make it readable") from error
        except ValueError as error:
            raise DamagedRecord(str(error), where=path, hint=ASIDE) from error
        except UserError as error:  # of a newer version
            raise error.at(path) from None
        return record

    def mend(self, kind: str, identity: str) -> bool:
        """Verify all of a record, and move aside one that is damaged or not whole. Returns True if none is left."""
        try:
            self.read(kind, identity, None)
        except FileNotFoundError:
            return True
        except DamagedRecord as error:
            aside = self.root / "damaged" / f"{kind}-{identity}-{uuid.uuid4().hex[:8]}"
            aside.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another process was faster
                os.rename(self.folder(kind, identity), aside)
            log.warning("%s: %s\n  moved to %s; its stage runs again", error.where, error.what, aside)
            return True
        return False

    @contextmanager
    def writing(self, kind: str, identity: str, record: RecordData) -> Iterator[Path]:
        """Give a folder for a record's files. When the block ends, `record` is added and the folder moves into place.

        The block may fill `record`. If it raises, nothing is left behind.
        """
        with self.placing(kind, identity) as folder:
            yield folder
            self._seal(folder, {"schema": SCHEMA, "kind": kind, "identity": identity, **record})
        shutil.rmtree(self.checkpoint(kind, identity), ignore_errors=True)

    @contextmanager
    def placing(self, kind: str, identity: str) -> Iterator[Path]:
        """Give a folder that moves into a record's place when the block ends, unless there is a record by then."""
        folder = self.inside("writing") / f"{identity}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        try:
            yield folder
            for path in folder.iterdir():
                sync(path)
            self._place(folder, self.inside("records", kind) / identity)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _seal(self, folder: Path, record: RecordData) -> None:
        files = sorted(path for path in folder.iterdir())
        record["bytes"] = {path.name: path.stat().st_size for path in files}
        record["sha256"] = {path.name: file_sha256(path) for path in files}
        rest = json.dumps(record, indent=1).encode().removeprefix(b"{\n")
        seal = hashlib.sha256(rest).hexdigest()
        write_atomically(folder / "record.json", SEAL + f'{seal}",\n'.encode() + rest)

    def _place(self, folder: Path, target: Path) -> None:
        try:
            os.rename(folder, target)
        except OSError:  # another process finished the same stage first; its record is as good
            if not (target / "record.json").is_file():
                raise
        sync(target.parent)

    def log(self, event: str, kind: str, identity: str, **details: object) -> None:
        """Append an event to this process's log, in a single write, so that threads and readers see whole lines."""
        line = json.dumps({"time": time.time(), "event": event, "kind": kind, "identity": identity, **details})
        job = os.environ.get("SLURM_JOB_ID", "")
        path = self.inside("attempts") / f"{socket.gethostname()}-{os.getpid()}{job and f'-{job}'}.jsonl"
        # Opened anew for every line: the file may have been merged with others since the last one.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"  # the disk was full, or a process was killed
            os.write(descriptor, b"\n" * torn + line.encode() + b"\n")
        finally:
            os.close(descriptor)

    def events(self, identity: str = "") -> list[Event]:
        """All events of all logs, or those of one stage, in order of time; incomplete lines are skipped."""
        wanted = identity.encode()
        found = (line for log in self._logs() if wanted in log for line in log.split(b"\n") if wanted in line)
        lines = dict.fromkeys(found)  # a merge may repeat lines
        events = [event for line in lines if (event := event_in(line)) is not None]
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
            entries = (entry for entry in os.scandir(folder) if entry.name.endswith(".jsonl"))
            files += sorted(entry.path for entry in entries if entry.is_file())
        return files

    def report_progress(self, kind: str, identity: str, state: ProgressData | None) -> None:
        """Write the progress of a running stage; None removes it, when the stage ended."""
        name = f"{kind}-{identity}.json"
        if state is None:
            (self.root / "running" / name).unlink(missing_ok=True)
        else:
            write_atomically(self.inside("running") / name, json.dumps(state).encode(), durable=False)

    def progress(self, kind: str, identity: str) -> ProgressData | None:
        """The progress of a running stage, with the time of its last report as `changed`; None if unknown."""
        path = self.root / "running" / f"{kind}-{identity}.json"
        try:
            known = json.loads(path.read_bytes())
            whole = all(isinstance(known[name], NUMBER) for name in ("started", "done", "total"))
            return {**known, "changed": path.stat().st_mtime} if whole else None
        except (OSError, ValueError, TypeError, KeyError):  # it is only shown, and written again within a second
            return None


def parse_record(content: bytes) -> RecordData:
    """The record in a `record.json`. Raises ValueError with what is wrong, UserError for one of a newer version."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON" if content else "is empty") from None
    fields = record if isinstance(record, dict) else {}
    if isinstance(schema := fields.get("schema"), int) and schema > SCHEMA:
        what = f"was written by a newer version of this program (schema {schema}; this one reads {SCHEMA})"
        raise UserError(what, hint="update this program, or use another store; the record stays as it is")
    if "seal" in fields:
        rest = content[len(SEAL) + 64 + len(b'",\n') :]
        if not content.startswith(SEAL) or hashlib.sha256(rest).hexdigest() != fields["seal"]:
            raise ValueError("was changed after it was written")
    elif wrong := [name for name, kind in FIELDS.items() if not isinstance(fields.get(name), kind)] or _lacks(fields):
        raise ValueError(f"holds no record: it lacks {', '.join(wrong)}")
    return fields


def _lacks(record: RecordData) -> list[str]:
    """What of the inner fields of a record without a seal is missing or of another type."""
    wrong = []
    for path, kind in {**INNER[""], **INNER.get(record["kind"], {})}.items():
        field, name = path.split(".")
        if not isinstance(record[field].get(name, ...), kind):
            wrong.append(path)
    for name, kind in {"bytes": int, "sha256": str, "inputs": list}.items():
        if not all(isinstance(own, kind) for own in record[name].values()):
            wrong.append(name)
    if "inputs" not in wrong and any([type(part) for part in key] != [str, str] for key in record["inputs"].values()):
        wrong.append("inputs")
    if record["bytes"].keys() != record["sha256"].keys():
        wrong.append("sha256")
    return wrong


def _is_empty(folder: str) -> bool:
    """True for a folder without entries, in whose place a record can be moved."""
    try:
        return not os.listdir(folder)
    except OSError:
        return False


def _data(folder: str) -> list[str]:
    """The files in a record's folder that stages write, whether the record lists them or not."""
    return [name for name in os.listdir(folder) if name.endswith(DATA)]


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, and never wait for a named pipe to get a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


@cache
def _sha256(path: str, size: int, changed: int, inode: int) -> str:
    """Hash of a file as it is by size and time."""
    return file_sha256(Path(path))


@cache
def _disagreement(folder: str, content: bytes, changed: int) -> str:
    """What in a record without a seal contradicts its predictions, which are as they are by time."""
    from bench.store.answers import disagreement  # with pandas, which plans do without

    return disagreement(json.loads(content), Path(folder))


def _read(path: str) -> bytes | None:
    """The content of a file, None if it is gone, or cannot be read, which a warning names."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # ESTALE: another machine removed it, on NFS
            return None
        log.warning("%s: cannot be read: %s", path, error.strerror)
        return b""


def event_in(line: bytes) -> Event | None:
    """The event in a line of a log, None if the line is incomplete or holds something else."""
    try:
        event = json.loads(line)
        whole = 0 <= event["time"] < YEARS and isinstance(event["event"], str)
        whole = whole and all(isinstance(event[name], kind) for name, kind in DETAILS.items() if name in event)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return event if whole else None
