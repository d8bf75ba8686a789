"""Run a suite and kill the process (SIGKILL) at a chosen event, in forked children of a process that has torch loaded.

    python -m tests.integration.killed SUITE FOLDER POINTS SEED

Events are optimiser steps, file writes (killed half-way through) and renames (killed before and after). Prints JSON:
the hashes of all records' files of an uninterrupted run, and for each point its kind and the hashes after resuming.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bench.graph.build import build_graph
from bench.launch.local import run_local
from bench.stages import encode, evaluate, probe, texts, train  # loaded once, here, and not by every child
from bench.stages.work import Compute
from bench.store.records import Store
from bench.suite.resolve import load_suite

Events = list[str]


def run(suite: Path, store: Path) -> None:
    """Everything the suite needs, in this process, with a checkpoint after every step."""
    graph = build_graph(load_suite(suite))
    outcome = run_local(
        list(graph.stages.values()),
        Store.create(store),
        Compute(loader_workers=0, checkpoint_seconds=0.0),
        0,
        {"versions": {}},
        lambda state: None,
    )
    assert not outcome.failed and not outcome.blocked, outcome


def armed(kill_at: int, events: Events) -> None:
    """Patch steps, writes and renames so that event number `kill_at` ends the process; others are noted."""

    def event(kind: str) -> bool:
        events.append(kind)
        return len(events) - 1 == kill_at

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def renaming(original: Callable[..., None]) -> Callable[..., None]:
        def rename(*arguments: Any) -> None:
            if Path(arguments[1]).parent.name == "running":  # progress, written by the clock
                return original(*arguments)
            if event("before a rename"):
                die()
            original(*arguments)
            if event("after a rename"):
                die()

        return rename

    def writing(original: Callable[..., None], place: int) -> Callable[..., None]:
        def write(*arguments: Any, **options: Any) -> None:
            original(*arguments, **options)
            if event("in the middle of a write"):
                path = arguments[place]
                os.truncate(path, os.path.getsize(path) // 2)
                die()

        return write

    os.replace, os.rename = renaming(os.replace), renaming(os.rename)
    torch.save = writing(torch.save, 1)
    for module in (encode, evaluate, probe, texts, train):
        module.save_file = writing(safetensors.torch.save_file, 1)  # type: ignore[attr-defined]
    step = train.Trainer._step

    def stepping(*arguments: Any) -> None:
        step(*arguments)
        if event("after a step"):
            die()

    train.Trainer._step = stepping  # type: ignore[method-assign, assignment]


def forked(work: Callable[[], None]) -> int:
    """Exit status of `work` in a child, as os.waitpid gives it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def hashes(store: Path) -> dict[str, str]:
    """Hash of every file of every record, apart from the records' own times."""
    files = sorted(path for path in (store / "records").rglob("*") if path.is_file() and path.name != "record.json")
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main(suite: Path, folder: Path, points: int, seed: int) -> None:
    torch.set_num_threads(1)
    build_graph(load_suite(suite))  # hashes the videos, so that all runs find the hashes

    def counted() -> None:
        events: Events = []
        armed(-1, events)
        run(suite, folder / "whole")
        (folder / "events.json").write_text(json.dumps(events))

    assert forked(counted) == 0
    events: Events = json.loads((folder / "events.json").read_text())
    kinds = sorted(set(events))
    draw = random.Random(seed)
    each = -(-points // len(kinds))
    places = {kind: draw.sample([n for n, own in enumerate(events) if own == kind], each) for kind in kinds}
    chosen = [places[kinds[point % len(kinds)]].pop() for point in range(points)]
    found = []
    for number in chosen:
        store = folder / f"killed-{number}"

        def killed(number: int = number, store: Path = store) -> None:
            armed(number, [])
            run(suite, store)

        status = forked(killed)
        again = forked(lambda store=store: run(suite, store))  # type: ignore[misc]
        found.append(
            {
                "event": number,
                "kind": events[number],
                "signal": os.WTERMSIG(status),
                "again": again,
                "hashes": hashes(store),
            }
        )
    print(json.dumps({"whole": hashes(folder / "whole"), "points": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
