"""What whole commands cost: `python -m tests.benchmarks.whole FOLDER [CHECKOUT ...] [--only NAME ...]`.

Runs each in every checkout of the project in turn (default: this one), from nothing where it says so, below FOLDER, and
prints processor seconds and wall seconds. All processes count, also those that a fork server has started.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import yaml

from bench.store.records import Store
from tests.integration.test_miniature import write_miniature
from tests.suites import many_trials, write_suite

ROOT = Path(__file__).parents[2]
PR_SET_CHILD_SUBREAPER = 36  # of Linux: orphans become children of this process, which learns what they took
ABLATION = {"inference.merge_temperature": [*range(1, 31)]}  # 30 choices for each of three trained models
RUNS = {  # name -> (suite, what of the folder is removed before)
    "miniature suite, 28 stages": ("miniature", ("miniature", "cache")),
    "again, nothing to do": ("miniature", ()),
    "quickstart": ("quickstart", ("quickstart", "cache")),
    "quickstart again, nothing to do": ("quickstart", ()),
    "report of it, nothing changed": ("report quickstart", ()),
    "90 trials of inference on its trainings": ("ablation", ()),
    "plan of the quickstart, 100,000 records": ("plan filled", ()),
    "plan of 10,000 trials": ("plan ten", ()),
    "plan of 100,000 trials": ("plan hundred", ()),
}


def measured(command: Iterable[str], **environment: str) -> tuple[float, float, str]:
    """Processor seconds and wall seconds of a command and of all processes that it leaves, and its output."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([*command], env={**os.environ, **environment}, capture_output=True, text=True)
    wall = time.monotonic() - began
    with suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, done.stdout


def write_suites(folder: Path) -> None:
    """The suites that are not shipped."""
    for own in ("train", "seen", "unseen"):
        shutil.rmtree(folder / own, ignore_errors=True)
    write_miniature(folder)
    quickstart = yaml.safe_load((ROOT / "suites/quickstart.yaml").read_text(encoding="utf-8"))
    rows = {"mote": {**quickstart["rows"]["mote"], "axes": ABLATION}}
    ablation = {**quickstart, "title": "Ablation", "rows": rows, "report": {}}
    (folder / "ablation.yaml").write_text(yaml.safe_dump(ablation), encoding="utf-8")
    for name, trials in (("ten", 10_000), ("hundred", 100_000)):
        write_suite(folder, text=many_trials(trials)).rename(folder / f"{name}.yaml")


def filled(store: Path) -> Path:
    """A store with 100,000 records of evaluations; made once, which takes minutes."""
    records = Store.create(store)
    record = {"title": "one", "spec": {}, "context": {}, "inputs": {}, "provenance": {"device": "cpu (AVX512)"}}
    record |= {"cost": {"flops": 1e9, "seconds": 1.0, "compute": 1.0}, "result": {"top1": 50.0}}
    with patch("os.fsync"):
        for number in range(len(records.known("evaluate")), 100_000):
            with records.writing("evaluate", f"{number:032x}", {**record}) as folder:
                (folder / "scores.safetensors").write_bytes(b"0")
    return store


def run(name: str, folder: Path, checkout: Path) -> tuple[float, float]:
    """Seconds of one of RUNS in a checkout."""
    what, removed = RUNS[name]
    own = folder / checkout.name
    own.mkdir(parents=True, exist_ok=True)
    for each in removed:
        shutil.rmtree(own / each, ignore_errors=True)
    *verb, suite = what.split()
    store = own / ("quickstart" if suite == "ablation" else suite)
    if suite == "filled":
        suite, store = "quickstart", filled(folder / "filled")
    file = folder / f"{suite}.yaml"
    arguments = [*verb, str(file) if file.is_file() else suite, "--store", str(store), "--cache", str(own / "cache")]
    command = [sys.executable, str(checkout / "run_suite.py"), *arguments]
    return measured(command, PYTHONPATH=str(checkout))[:2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.whole")
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkouts", type=Path, nargs="*", default=[ROOT])
    parser.add_argument("--only", nargs="+", default=[*RUNS], choices=[*RUNS], metavar="NAME")
    chosen = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    write_suites(chosen.folder.resolve())
    for name in chosen.only:
        for checkout in chosen.checkouts:
            cpu, wall = run(name, chosen.folder.resolve(), checkout.resolve())
            print(f"{name:42} {checkout.name:12} {cpu:8.1f} CPU-s {wall:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
