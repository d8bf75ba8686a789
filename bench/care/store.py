"""Examination of a store: records, accuracies against predictions, checkpoints, what does not belong there.

Findings are warnings with a place and what to do. Nothing is changed. Launches are examined by their own room.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.store.answers import disagreement
from bench.store.records import KINDS, LEFT_OUT, REDO, RecordData, Store, event_in

KIND = "|".join(KINDS)
NAMES = {  # folder of a store -> what may lie in it
    ".": r"records|checkpoints|running|writing|damaged|attempts|claims|launches|merged|code|reports|attempts\.jsonl"
    r"|store\.json(\.\w+\.tmp)?",
    "records": KIND,
    "checkpoints": KIND,
    "running": rf"({KIND})-\w+\.json(\.\w+\.tmp)?",
    "claims": rf"({KIND}|driver)-[\w+-]+\.\d+\.json|\.\w+",
    "attempts": r".+\.jsonl(\.\w+\.tmp)?",
    "launches": r"\d{8}-\d{6}-.+",
    "merged": r"\d{8}-\d{6}-.+",
    "code": r"[0-9a-f]{32}",
}
WRONG = {
    "attempts": "has lines that are no events",
    "claims": "names no launch",
    "running": "tells no progress of a stage",
}
SAVED = r"(training|best-\d+|shard-\d+)\.pt"

log = logging.getLogger(__name__)


def examine(store: Store, progress: Callable[[int, int], None]) -> int:
    """Warn of all that is wrong; `progress` is told of records done and to do.

    Returns the number of records whose inputs have no record, which is no fault.
    """
    for folder, pattern in NAMES.items():
        for entry in _entries(store.root / folder):
            if not re.fullmatch(pattern, entry.name):
                _warn(entry, "is not part of a store")
    known, lone = {kind: store.known(kind) for kind in KINDS}, 0
    for kind in KINDS:
        for entry in _entries(store.root / "records" / kind):
            if entry.name not in known[kind] or not _entries(entry):
                _warn(entry, "is not part of a store")
    keys = [(kind, identity) for kind in KINDS for identity in sorted(known[kind])]
    for number, key in enumerate(keys, start=1):
        left_out = store.left_out(*key)
        record = store.find(*key, () if left_out else None)
        if record and left_out:
            record = store.find(*key, record["bytes"].keys() - left_out)
        if record:
            _look(store.folder(*key), record)
            lone += any(identity not in known[kind] for kind, identity in record["inputs"].values())
        progress(number, len(keys))
    for folder, holds in (("attempts", _is_log), ("claims", _is_claim), ("running", partial(_is_progress, store))):
        for entry in _entries(store.root / folder):
            if entry.suffix in (".json", ".jsonl") and re.fullmatch(NAMES[folder], entry.name):
                with suppress(FileNotFoundError):  # its stage has ended meanwhile
                    if entry.is_dir() or not holds(entry):
                        _warn(entry, WRONG[folder])
    for kind in KINDS:
        for saved in _entries(store.root / "checkpoints" / kind):
            _load(saved)
    return lone


def _look(folder: Path, record: RecordData) -> None:
    for entry in _entries(folder):
        if entry.name not in {"record.json", LEFT_OUT, *record["bytes"]}:
            _warn(entry, "does not belong to the record")
    if record["kind"] == "evaluate" and (reason := disagreement(record, folder)):
        _warn(folder, reason, REDO)


def _is_log(file: Path) -> bool:
    """True if every line is an event or the beginning of one, as a killed process leaves it."""
    return all(
        event_in(line) or (_json(line) is None and line[:1] in (b"", b"{")) for line in file.read_bytes().split(b"\n")
    )


def _is_claim(file: Path) -> bool:
    held = _json(file.read_bytes())
    return isinstance(held, dict) and isinstance(held.get("launch"), str)


def _is_progress(store: Store, file: Path) -> bool:
    kind, _, identity = file.stem.partition("-")
    return store.progress(kind, identity) is not None or not file.exists()


def _json(content: bytes) -> Any:
    """The value in a text, None if it is no JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _load(folder: Path) -> None:
    from bench.stages.checkpoint import DamagedCheckpoint, OtherVersions, load

    for file in _entries(folder):
        if not re.fullmatch(rf"{SAVED}(\.\w+\.tmp|\.damaged-\w+)?", file.name):
            _warn(file, "does not belong to a checkpoint")
        elif re.fullmatch(SAVED, file.name):
            try:
                with suppress(OtherVersions):  # it is sound; the training that goes on from it says so
                    load(file, lambda state: None)
            except (DamagedCheckpoint, OSError) as error:
                log.warning("%s\n  hint: delete it; the stage then starts anew", error)


def _warn(place: Path, what: str, hint: str = "move it elsewhere, or delete it") -> None:
    log.warning("%s", UserError(what, where=str(place), hint=hint))


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing if it is none."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
