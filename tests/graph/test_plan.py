"""Planning: fast, without torch, and honest about what is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.graph.build import build_graph
from bench.graph.plan import make_plan
from bench.store.records import Store
from bench.suite.resolve import load_suite
from tests.errors import refused
from tests.suites import many_trials, write_suite

ROOT = Path(__file__).parents[2]


def test_planning_10000_trials_imports_no_torch(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, text=many_trials())
    code = (
        "import sys; from bench.commands.app import main; code = main(sys.argv[1:]); "
        "bad = {'torch', 'torchvision', 'open_clip', 'decord', 'pandas'} & set(sys.modules); "
        "assert not bad, bad; sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "plan", str(suite), "--store", str(tmp_path / "runs")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "10000 trials" in run.stdout


def test_data_that_are_not_there_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "classes.csv").write_text("id,name\n0,cat\n1,dog\n")
    (tmp_path / "test.txt").write_text("a.mp4 0\nb.mp4 1\n")
    suite = load_suite(
        write_suite(
            tmp_path,
            ("rows:", "  mine: {role: zero-shot, dataset: mine}\nrows:"),
            (
                "title: Small",
                ("title: Small\ndatasets:\n  mine: {root: nowhere, classes: classes.csv, splits: {test: test.txt}}"),
            ),
        )
    )
    plan = make_plan(build_graph(suite), Store.create(tmp_path / "runs"))
    assert "nowhere" in plan.missing_data["mine"]
    assert plan.missing["evaluate"] > 0
    assert plan.to_run["train"] == 4


def test_frame_files_numbered_otherwise_than_declared_are_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("id,name\n0,cat\n1,dog\n")
    (tmp_path / "test.txt").write_text("a 3 0\nb 3 1\n")
    for number in range(6):
        file = tmp_path / "frames" / "ab"[number % 2] / f"img_{number // 2:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    declared = "root: frames, classes: classes.csv, splits: {test: test.txt}, frames: 'img_{:05d}.jpg'"
    suite = write_suite(
        tmp_path,
        ("rows:", "  mine: {role: zero-shot, dataset: mine}\nrows:"),
        ("title: Small", f"title: Small\ndatasets:\n  mine: {{{declared}}}"),
    )
    with refused("begins at 0", "say first: 0", where="dataset 'mine'"):
        build_graph(load_suite(suite))
    suite.write_text(suite.read_text().replace(declared, f"{declared}, first: 0"))
    build_graph(load_suite(suite))


def test_identities_are_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change here means that nobody's finished work is found again: it must be wanted, and said in the notes."""
    monkeypatch.setattr("bench.graph.stage.source_fingerprint", lambda *modules, without: "-".join(modules))
    monkeypatch.setattr("bench.graph.specs.weights_identity", lambda *name: "weights")
    monkeypatch.setattr("bench.glyphs.world.recipe_digest", lambda world: world)
    stages = build_graph(load_suite(write_suite(tmp_path))).stages.values()
    found = {stage.title: stage.identity for stage in stages}
    assert {title: found[title] for title in PINNED} == PINNED


PINNED = {
    "texts glyphs-narrow (32 classes)": "3dfe8b4c8daacf8b0ec23d57d2fc0d8f",
    "encode glyphs-narrow/train": "95f60172f5055892659e3979eadb7bdf",
    "encode glyphs-narrow-verbs/test": "db65239443b2b2aa717af460c12ed43c",
    "train mote seed 0": "a35b17f403e4105f2c9c8213d3488d14",
    "evaluate clip_mean on closed-set": "a320d5b390f3e00e24f8796fb8c9a2cb",
    "evaluate mote seed 1, expert 0, on new-verbs": "2b96bcb422e382085c16edb7cdf2562c",
    "probe mote seed 0": "e372e925332f32a552034552145198fd",
}
