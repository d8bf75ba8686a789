"""A miniature suite through the command: videos, processes, records, report; and what happens when things go wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bench.commands.app import main
from bench.graph.build import build_graph
from bench.graph.stage import Stage
from bench.launch.local import run_local
from bench.stages.work import Compute
from bench.store.records import Store
from bench.suite.resolve import load_suite
from reports import page
from tests.errors import says
from tests.videos import write_tiny_dataset

SUITE = """\
title: Tiny
seeds: [0, 1]
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: tiny, templates: glyphs, pretrained: "random:0", views: {frames: 2, copies: 2}, batch: 4, epochs: 2,
         warmup_epochs: 0, lr: 1.0e-3}
protocol: {templates: glyphs, views: {frames: 2}}
protocols:
  closed-set: {role: closed-set, dataset: tiny}
  zero-shot: {role: zero-shot, dataset: tiny, views: {clips: 2}}
rows:
  clip_mean: {label: CLIP mean-pool, method: clip_mean}
  dense: {method: dense_temporal, config: {layers: 1}}
  mote: {method: mote, config: {layers: 1, num_experts: 2}, axes: {inference.tfm: [true, false]}}
  tuned: {method: clip_mean, config: {tower: tuned}, inference: {clip_alpha: 0.5},
          recipe: {views: {copies: 0}, precision: bf16}}
report: {reference: clip_mean, experts: [mote], compare: [[dense, clip_mean]]}
"""


without_figures = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The suite's file, beside the videos that it declares."""
    return written(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite of one seed, carried out in this process and reported without pictures; not to be changed."""
    suite = written(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "FIGURES", ())
        assert run(suite, "--jobs", "0", "seeds=[0]") == 0
    return suite


def written(folder: Path) -> Path:
    write_tiny_dataset(folder)
    path = folder / "tiny.yaml"
    path.write_text(SUITE)
    return path


def run(suite: Path, *options: str) -> int:
    workers = () if "--workers" in options else ("--workers", "0")
    return main([str(suite), "--store", str(suite.parent / "runs"), "--device", "cpu", *workers, *options])


def records(suite: Path, kind: str) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in (suite.parent / "runs/records" / kind).glob("*/record.json")]


def hashes(suite: Path) -> dict[object, object]:
    """What the trainings and evaluations of seed 0 left, by title."""
    found = [record for kind in ("train", "evaluate") for record in records(suite, kind)]
    return {record["title"]: record["sha256"] for record in found if "seed 1" not in str(record["title"])}


def test_from_suite_to_report_and_nothing_the_second_time_and_the_bits_of_one_process(
    suite: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(suite, "--jobs", "2") == 0
    report = suite.parent / "runs/reports/tiny"
    assert {
        "report.html",
        "tradeoff.png",
        "tradeoff.pdf",
        "table.csv",
        "table.md",
        "table.tex",
        "expert-similarity-mote.png",
    } <= {path.name for path in report.iterdir()}
    table = pd.read_csv(report / "table.csv")
    assert table.notna().any(axis=None) and "CLIP mean-pool" in (report / "table.md").read_text()
    assert len(records(suite, "train")) == 2 * 3  # dense, mote (shared by two rows' points), tuned
    assert hashes(suite) == hashes(finished) and len(hashes(finished)) > 10
    before = {path: path.stat().st_mtime_ns for path in (suite.parent / "runs/records").rglob("record.json")}
    capsys.readouterr()
    assert run(suite) == 0
    assert "Nothing had to run" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (suite.parent / "runs/records").rglob("record.json")}


def test_records_say_where_they_come_from(finished: Path) -> None:
    (record, *_) = records(finished, "evaluate")
    origin = record["provenance"]
    assert isinstance(origin, dict)
    assert {"revision", "dirty", "command", "versions", "host", "device", "threads", "started", "seconds"} <= set(
        origin
    )
    assert "torch" in origin["versions"]
    result = record["result"]
    assert isinstance(result, dict) and (result["videos"], result["classes"], result["undecodable"]) == (6, 3, 0)


@without_figures
def test_an_undeclared_bad_video_stops_its_evaluations_until_it_is_declared(
    suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (suite.parent / "test/1.mp4").write_bytes(b"not a video")
    assert run(suite, "--jobs", "0", "seeds=[0]") == 1
    message = capsys.readouterr().err
    says(message, "1 videos", "'tiny'", "test/1.mp4")
    assert not records(suite, "evaluate") and len(records(suite, "train")) == 3
    assert "missing" in (suite.parent / "runs/reports/tiny/table.md").read_text()
    assert run(suite, "--jobs", "0", "seeds=[0]", "datasets.tiny.known_bad=[test/1.mp4]") == 0
    assert {record["result"]["undecodable"] for record in records(suite, "evaluate")} == {1}  # type: ignore[index]
    (identity, *_) = (str(record["identity"]) for record in records(suite, "evaluate"))
    predictions = pd.read_parquet(suite.parent / f"runs/records/evaluate/{identity}/predictions.parquet")
    bad = predictions[predictions["video"] == "test/1.mp4"].iloc[0]
    assert not bad["correct"] and isinstance(bad["failure"], str) and len(predictions) == 6


@without_figures
def test_a_bad_training_video_is_replaced_and_counted(suite: Path) -> None:
    (suite.parent / "train/2.mp4").write_bytes(b"not a video")
    assert run(suite, "--jobs", "0", "seeds=[0]") == 0
    assert {record["result"]["resampled"] for record in records(suite, "train")} == {2}  # type: ignore[index]


@without_figures
def test_a_changed_video_is_another_measurement(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished.parent, tmp_path, dirs_exist_ok=True)
    suite, count = tmp_path / finished.name, len(records(finished, "evaluate"))
    (tmp_path / "test/1.mp4").write_bytes((tmp_path / "test/2.mp4").read_bytes())
    assert run(suite, "--jobs", "0", "seeds=[0]") == 0
    assert len(records(suite, "evaluate")) == 2 * count


def test_missing_videos_are_an_error_before_anything_runs(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(suite, "datasets.tiny.root=nowhere") == 2
    assert "dataset 'tiny'" in capsys.readouterr().err
    assert not (suite.parent / "runs").exists()


def test_a_class_id_out_of_range_names_file_and_line(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(suite.parent / "test.txt", "a") as file:
        file.write("test/6.mp4 3\n")
    assert run(suite) == 2
    says(capsys.readouterr().err, "test.txt:7: class id 3", "0..2")


@without_figures
def test_a_diverging_training_fails_alone(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(suite, "--jobs", "0", "seeds=[0]", "rows.dense.recipe.lr=1.0e+30") == 1
    message = capsys.readouterr().err
    assert "failed: train dense seed 0" in message and "the loss is not finite" in message
    assert len(records(suite, "train")) == 2


def test_a_stage_whose_process_dies_is_tried_again(suite: Path) -> None:
    """The first attempt of one training is killed by its own config: a marker file makes the second one live."""
    graph = build_graph(load_suite(suite, ("seeds=[0]",)))
    store = Store.create(suite.parent / "runs")
    killed: list[str] = []

    def watch(state: object) -> None:
        for stage in graph.stages.values():
            progress = store.progress(*stage.key)
            if stage.title == "train dense seed 0" and progress and not killed:
                killed.append(stage.identity)
                os.kill(progress["pid"], 9)

    wanted = [stage for stage in graph.stages.values() if stage.kind != "evaluate"]
    _slow(graph.stages.values())
    outcome = run_local(wanted, store, Compute(), 2, {"versions": {}}, watch)
    assert killed and not outcome.failed and not outcome.blocked
    events = store.events()
    assert [event["event"] for event in events if event["identity"] == killed[0]] == ["start", "death", "start", "end"]


def _slow(stages: object) -> None:
    """Make one training long enough to be caught in the act."""
    for stage in stages:  # type: ignore[attr-defined]
        assert isinstance(stage, Stage)
        if stage.title == "train dense seed 0":
            stage.spec = {**stage.spec, "recipe": stage.spec["recipe"].model_copy(update={"epochs": 120})}
