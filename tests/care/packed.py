"""A tiny suite whose records are packed, and changed archives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from bench.care.archive import LIST
from tests.videos import write_tiny_dataset

SUITE = """\
title: Packed
seeds: [0, 1]
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: tiny, templates: glyphs, views: {frames: 2, copies: 1}, batch: 6, epochs: 1, warmup_epochs: 0,
         lr: 1.0e-3}
protocol: {templates: glyphs, views: {frames: 2}}
protocols:
  closed-set: {role: closed-set, dataset: tiny}
  halves: {role: zero-shot, dataset: tiny, half: text4vis}
rows:
  clip_mean: {method: clip_mean}
  mote: {method: mote, config: {layers: 1, num_experts: 2}}
report: {experts: [mote]}
"""


def write(folder: Path) -> Path:
    """The suite's file and its videos."""
    write_tiny_dataset(folder)
    (folder / "packed.yaml").write_text(SUITE)
    return folder / "packed.yaml"


def contents(archive: Path) -> dict[str, bytes]:
    """Entry -> bytes."""
    with ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def rewrite(target: Path, entries: Mapping[str, bytes], listed: bool = False) -> Path:
    """A zip file of these entries; `listed`: with a list of entries that agrees, as a careful forger makes."""
    entries = dict(entries)
    if listed:
        known = json.loads(entries.pop(LIST))
        known["entries"] = {name: [len(own), hashlib.sha256(own).hexdigest()] for name, own in entries.items()}
        entries[LIST] = json.dumps(known, indent=1, sort_keys=True).encode()
    with ZipFile(target, "w") as opened:
        for name, own in entries.items():
            opened.writestr(ZipInfo(name), own)
    return target


def sealed(record: bytes) -> bytes:
    """A record.json with a seal that agrees with it."""
    fields = json.loads(record)
    fields.pop("seal")
    rest = json.dumps(fields, indent=1).encode().removeprefix(b"{\n")
    return b'{\n "seal": "' + hashlib.sha256(rest).hexdigest().encode() + b'",\n' + rest
