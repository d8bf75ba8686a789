"""A checkout that is edited while a suite runs, or after it was interrupted, changes nothing of the launch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.graph.build import build_graph
from bench.store.records import Store
from bench.suite.resolve import load_suite
from tests.integration.killed import hashes
from tests.launch.test_code import copied_project
from tests.videos import write_tiny_dataset

SUITE = """\
title: Frozen
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: tiny, templates: glyphs, views: {frames: 2, copies: 0}, batch: 5, epochs: 20, warmup_epochs: 0}
protocol: {templates: glyphs, views: {frames: 2}}
protocols:
  closed-set: {role: closed-set, dataset: tiny}
rows:
  tuned: {method: clip_mean, config: {tower: tuned}}
"""
OPTIONS = ("--jobs", "1", "--workers", "0", "--checkpoint-seconds", "0")
SECONDS = 600.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, and a suite beside it."""
    folder = tmp_path_factory.mktemp("frozen")
    write_tiny_dataset(folder)
    (folder / "frozen.yaml").write_text(SUITE)
    return folder


def started(folder: Path, checkout: Path, *arguments: str) -> subprocess.Popen[str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.Popen(
        [sys.executable, str(checkout / "run_suite.py"), *arguments],
        cwd=folder,
        env={**outside, "VTB_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    text = process.communicate(timeout=SECONDS)[0]
    return process.returncode, text


def wait_for(process: subprocess.Popen[str], found: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not found():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_edited_checkout_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First every file is broken while the suite runs; then a training is interrupted, and its code edited."""
    broken, edited = copied_project(folder / "broken"), copied_project(folder / "edited")

    store = folder / "store-broken"
    run = started(folder, broken, "frozen.yaml", "--store", str(store), *OPTIONS)
    wait_for(run, lambda: [*store.glob("launches/*/launch.json")])
    for file in broken.rglob("*.py"):
        file.write_text("half sav(")
    status, text = ended(run)
    assert status == 0, text
    assert [*store.glob("reports/*/report.html")]

    again = folder / "store-edited"
    run = started(folder, edited, "frozen.yaml", "--store", str(again), *OPTIONS)
    wait_for(run, lambda: [*again.glob("checkpoints/train/*/training.pt")])
    run.send_signal(signal.SIGTERM)
    status, text = ended(run)
    assert status == 128 + signal.SIGTERM, text
    with open(edited / "bench/stages/train.py", "a") as source:
        source.write("\nOTHER = 1\n")
    (launch,) = (entry.name for entry in (again / "launches").iterdir())
    differs = "1 file, e.g. bench/stages/train.py"
    status_text = ended(started(folder, edited, "status", "--store", str(again)))[1]
    assert f"the checkout differs from the code of this launch: {differs}" in status_text
    why = ended(started(folder, edited, "why", launch, "--store", str(again)))[1]
    assert "  bench/stages/train.py\n" in why and "other records: encode, train, evaluate\n" in why
    status, text = ended(started(folder, edited, "retry", launch, "--store", str(again)))
    assert status == 0, text
    events = [event for event in Store(again).events() if event["kind"] == "train"]
    assert [event["event"] for event in events] == ["start", "interrupted", "start", "end"]

    assert hashes(again) == hashes(store)
    monkeypatch.setenv("VTB_CACHE", str(folder / "cache"))
    planned = {stage.identity for stage in build_graph(load_suite(folder / "frozen.yaml")).stages.values()}
    assert planned == {Path(name).parts[2] for name in hashes(store)}

    for page in again.glob("reports/*/report.html"):
        page.unlink()
    status, text = ended(started(folder, edited, "report", f"frozen@{launch}", "--store", str(again)))
    assert status == 0, text
    (page,) = {path.resolve() for path in again.glob("reports/*/report.html")}
    assert differs in page.read_text()
