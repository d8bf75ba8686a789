"""Corruption of every kind of file of a store: each is named, mended or harmless, and never gives other numbers.

Each round copies one of four small stores (finished; without its evaluations; cut off while encoding; cut off while
training), damages one file, and carries out `report` and `run` in this process.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import re
import shutil
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from bench.commands.app import main
from bench.stages import encode
from bench.stages.train import Trainer
from reports import page
from tests.videos import write_tiny_dataset

SUITE = """\
title: Corruption
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: tiny, templates: glyphs, views: {frames: 2, copies: 1}, batch: 6, epochs: 2, warmup_epochs: 0,
         lr: 1.0e-3, validation: test, keep: best}
protocol: {templates: glyphs, views: {frames: 2}}
protocols:
  closed-set: {role: closed-set, dataset: tiny}
  zero-shot: {role: zero-shot, dataset: tiny}
rows:
  mote: {method: mote, config: {layers: 1, num_experts: 2}}
report: {experts: [mote]}
"""
NUMBERS = ("top1", "top5", "mean_class")  # of the table


class Cut(Exception):
    """Stands for the death of the process."""


# --- stores -----------------------------------------------------------------------------------------------------------


def build(folder: Path) -> dict[str, Path]:
    """The stores that rounds begin with; the suite lies beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tiny_dataset(folder)
    (folder / "suite.yaml").write_text(SUITE)
    stores = {name: folder / name for name in ("finished", "unevaluated", "encoding", "training")}
    code, said = command("run", folder / "suite.yaml", stores["finished"])
    assert code == 0, said
    shutil.copytree(stores["finished"], stores["unevaluated"], symlinks=True)
    for kind in ("evaluate", "probe"):
        shutil.rmtree(stores["unevaluated"] / "records" / kind)
    (stores["unevaluated"] / "claims").mkdir(exist_ok=True)
    (stores["unevaluated"] / "claims" / "train-abc.1.json").write_text('{"launch": "another"}')
    calls = iter(range(1000))
    with patch.object(encode, "_encode", after(2, calls, encode._encode)), patch.object(encode, "BATCH", 4):
        command("run", folder / "suite.yaml", stores["encoding"])
    calls = iter(range(1000))
    with patch.object(Trainer, "_step", after(3, calls, Trainer._step)):  # in the second epoch of two steps
        command("run", folder / "suite.yaml", stores["training"])
    assert list(stores["encoding"].glob("checkpoints/encode/*/shard-*")), "no checkpoint of an encoding"
    saved = {path.name for path in stores["training"].glob("checkpoints/train/*/*")}
    assert saved == {"training.pt", "best-0.pt"}, saved
    return stores


def after(calls: int, counter: Iterator[int], original: Callable[..., object]) -> Callable[..., object]:
    """A function that raises Cut when it is called once more than `calls` times."""

    def counted(*arguments: object, **named: object) -> object:
        if next(counter) >= calls:
            raise Cut
        return original(*arguments, **named)

    return counted


@contextmanager
def small_shards() -> Iterator[None]:
    """Checkpoints of four videos, and reports without figures."""
    with patch.object(encode, "SHARD", 4), patch.object(page, "FIGURES", ()):
        yield


def command(name: str, suite: Path, store: Path) -> tuple[int, str]:
    """Carry out a command. Returns its exit code and all that it prints; -1 and the traceback if it raises."""
    options = ["--jobs", "0", "--workers", "0", "--device", "cpu", "--checkpoint-seconds", "0", "--frame-cache", "0"]
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), small_shards():
        try:
            code = main([name, str(suite), "--store", str(store), *(options if name == "run" else [])])
        except Exception:
            code = -1
            said.write(traceback.format_exc())
    return code, said.getvalue()


# --- damages ----------------------------------------------------------------------------------------------------------


def damages(path: Path, others: list[Path], draw: random.Random) -> dict[str, Callable[[], object]]:
    """What can happen to a file. Every choice is drawn, so that a round depends on its seed alone."""
    content, junk = path.read_bytes(), draw.randbytes(draw.randrange(1, 500))
    size, other = draw.randrange(len(content) or 1), draw.choice(others).read_bytes()
    flipped = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        if flipped:
            flipped[draw.randrange(len(flipped))] ^= draw.randint(1, 255)

    def folder() -> None:
        path.unlink()
        path.mkdir()

    def schema() -> None:
        """Also a file that says the same in other bytes."""
        text = json.loads(content) if path.suffix == ".json" else []
        path.write_text(json.dumps({**text, "schema": 2} if isinstance(text, dict) else text))

    found: dict[str, Callable[[], object]] = {
        "truncated": lambda: path.write_bytes(content[:size]),
        "emptied": lambda: path.write_bytes(b""),
        "flipped": lambda: path.write_bytes(bytes(flipped)),
        "garbage": lambda: path.write_bytes(junk),
        "zeros": lambda: path.write_bytes(bytes(len(content))),
        "deleted": path.unlink,
        "folder": folder,
        "foreign": lambda: path.write_text('{"name": "foreign"}'),
        "list": lambda: path.write_text("[]"),
        "appended": lambda: path.write_bytes(content + junk),
        "latin1": lambda: path.write_bytes("é".encode("latin1")),
        "another": lambda: path.write_bytes(other),
    }
    if "reports" in path.parts:  # a report cannot replace a folder; such errors of the environment have their own tests
        del found["folder"]
    return found | ({"schema": schema} if path.name == "record.json" else {})


def kind_of(path: Path, store: Path) -> str:
    """A file's place in a store without identities and times, so that all kinds are drawn equally often."""
    text = re.sub(r"[0-9a-f]{32}|\d{8}-\d{6}-[^/]*", "*", str(path.relative_to(store)))
    return re.sub(r"(attempts|code)/.*", r"\1/*", text)


# --- rounds -----------------------------------------------------------------------------------------------------------


def run(seed: int, count: int, folder: Path) -> Counter[str]:
    """Carry out rounds. Returns the number of each outcome; those that begin with WRONG are faults."""
    draw, outcomes = random.Random(seed), Counter[str]()
    stores = build(folder / "stores")
    suite = folder / "stores" / "suite.yaml"
    truth, numbers = table(stores["finished"]), hashes(stores["finished"])
    for number in range(count):
        begun = draw.choice(sorted(stores))
        store = folder / f"round-{number}"
        shutil.copytree(stores[begun], store, symlinks=True)
        kinds = defaultdict(list)
        files = (path for path in store.rglob("*") if path.is_file())
        for path in sorted(path for path in files if path.parts[-3] != "reports" or path.stem == "results"):
            kinds[kind_of(path, store)].append(path)
        kind = draw.choice(sorted(kinds))
        path = draw.choice(kinds[kind])
        choices = damages(path, [each for own in kinds.values() for each in own if each.name == path.name], draw)
        damage = draw.choice(sorted(choices))
        choices[damage]()
        outcome = judged(suite, store, path, truth, numbers)
        outcomes[f"{outcome}: {begun}, {kind}, {damage}" if outcome.startswith("WRONG") else outcome] += 1
        if not outcome.startswith("WRONG"):
            shutil.rmtree(store)
    return outcomes


def judged(suite: Path, store: Path, path: Path, truth: list[list[str]], numbers: dict[str, str]) -> str:
    """The outcome of `report` and `run` in a damaged store."""
    first, said = command("report", suite, store)
    if first:
        return f"WRONG report {said[-300:]}"
    seen = table(store)
    code, more = command("run", suite, store)
    said += more
    if code == -1 or "Traceback" in said:
        return f"WRONG traceback {said.strip()[-300:]}"
    named = any(str(place) in said for place in (path, path.parent if path.parent.parent != store else path))
    for one, other in zip(seen, truth, strict=True):
        if any(a not in ("", b) for a, b in zip(one, other, strict=True)):
            return "WRONG other table"
    if code:
        return "named" if named else "WRONG silent"
    found, damaged = hashes(store), str(path.relative_to(store))
    if table(store) != truth or {**found, damaged: ""} != {**numbers, damaged: ""}:
        return "WRONG other numbers"
    return "recovered" if named else "harmless"


def table(store: Path) -> list[list[str]]:
    """The numbers of a store's report, "" for those that are missing."""
    (file,) = store.glob("reports/*-*/results.csv")  # beside it is a link
    with open(file, encoding="utf-8", newline="") as lines:
        return [[line[name] for name in NUMBERS] for line in csv.DictReader(lines)]


def hashes(store: Path) -> dict[str, str]:
    """Hash of every file of every record, apart from the records' own times."""
    files = [path for path in (store / "records").rglob("*") if path.is_file() and path.name != "record.json"]
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
