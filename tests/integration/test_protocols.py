"""What a protocol can ask for, through the command: parts, half-class draws, base and novel, few shots, more names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from bench.commands.app import main
from bench.measure.metrics import half_classes, subset_accuracies
from bench.store.records import Store
from tests.video.clips import write_clip

CLASSES = 6

SUITE = """\
title: Protocols
seeds: [0]
datasets:
  own: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt, test2: test2.txt},
        variants: {shouted: shouted.csv}}
  other: {root: ., classes: other.csv, splits: {test: other.txt}}
recipe: {source: own, templates: name, pretrained: "random:0", views: {frames: 2, copies: 2}, batch: 4, epochs: 1,
         warmup_epochs: 0, lr: 1.0e-3}
protocol: {templates: name, views: {frames: 2}}
protocols: {protocols}
rows: {rows}
"""


pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three training videos and two on each test list, per class; class 5 has one more, so it is not the rarest."""
    lists: dict[str, list[str]] = {"train": [], "test": [], "test2": []}
    for name, count in (("train", 3), ("test", 2), ("test2", 2)):
        for label in range(CLASSES):
            for n in range(count + (name == "train" and label < 3)):
                path = f"{name}/{label}_{n}.mp4"
                write_clip(tmp_path / path, frames=3 + label, width=32 + 2 * n, height=32)
                lists[name].append(f"{path} {label}\n")
        (tmp_path / f"{name}.txt").write_text("".join(lists[name]))
    (tmp_path / "other.txt").write_text("test/0_0.mp4 0\n")
    names = ["run", "walk", "jump", "sit down", "stand up", "clap"]
    for file, spelled in (
        ("classes", names),
        ("shouted", [name.upper() for name in names]),
        ("other", ["Sit-Down", "swim"]),
    ):
        rows = "".join(f"{index},{name}\n" for index, name in enumerate(spelled))
        (tmp_path / f"{file}.csv").write_text(f"id,name\n{rows}")
    return tmp_path


def run(folder: Path, protocols: str, rows: str, *options: str) -> Store:
    text = SUITE.replace("{protocols}", protocols).replace("{rows}", rows)
    (folder / "own.yaml").write_text(text)
    arguments = [str(folder / "own.yaml"), "--store", str(folder / "runs"), "--device", "cpu", "--jobs", "0"]
    assert main([*arguments, "--workers", "0", *options]) == 0
    return Store.create(folder / "runs")


def records(store: Store, kind: str) -> dict[str, dict[str, Any]]:
    """Records of a kind by title."""
    found = (store.read(kind, identity) for identity in store.known(kind))
    return {record["title"]: record for record in found}


def report(store: Store, name: str) -> pd.DataFrame:
    return pd.read_csv(store.root / "reports" / "own" / name)


def test_the_number_is_the_mean_over_the_parts(folder: Path) -> None:
    store = run(
        folder,
        "{lists: {role: zero-shot, dataset: own, over: [{split: test}, {split: test2}]}}",
        "{mean: {method: clip_mean}}",
    )
    parts = records(store, "evaluate")
    assert set(parts) == {"evaluate mean on lists test", "evaluate mean on lists test2"}
    lines = report(store, "results.csv")
    assert lines["part"].tolist() == ["test", "test2"]
    wanted = np.mean([record["result"]["top1"] for record in parts.values()])
    assert report(store, "table.csv")["lists_mean"].item() == pytest.approx(wanted)


def test_half_class_draws_rescore_the_stored_cosines(folder: Path) -> None:
    store = run(
        folder,
        "{half: {role: zero-shot, dataset: own, half: text4vis, fusion: cos_mean}}",
        "{mean: {method: clip_mean}, mote: {method: mote, config: {layers: 1, num_experts: 2}}}",
    )
    record = records(store, "evaluate")["evaluate mean on half"]
    files = store.folder("evaluate", record["identity"])
    scores, table = load_file(files / "scores.safetensors"), pd.read_parquet(files / "predictions.parquet")
    labels, failed = table["label"].to_numpy(), np.zeros(len(table), bool)
    wanted = [
        subset_accuracies(
            scores["cosines"], scores["norms"], 1.0, "cos_mean", labels, failed, half_classes(CLASSES, draw)
        )[0]["top1"]
        for draw in range(10)
    ]
    assert [draw["top1"] for draw in record["result"]["draws"]] == pytest.approx(wanted)
    assert record["result"]["top1"] == pytest.approx(np.mean(np.array(wanted, float)))
    assert {draw["classes"] for draw in record["result"]["draws"]} == {CLASSES // 2}
    assert table["correct"].between(0, 1).all()
    assert report(store, "results.csv").groupby("row")["part"].nunique().eq(10).all()


def test_base_and_novel_are_vocabularies_of_their_own(folder: Path) -> None:
    store = run(
        folder,
        "{base: {role: base, dataset: own}, novel: {role: novel, dataset: own}}",
        "{dense: {method: dense_temporal, config: {layers: 1}, recipe: {classes: base, shots: 2}}}",
    )
    found = records(store, "evaluate")
    for name in ("base", "novel"):
        result = found[f"evaluate dense seed 0 on {name}"]["result"]
        assert (result["classes"], result["videos"]) == (3, 6)
    trained = records(store, "encode")["encode own/train base classes 2-shot draw 0"]
    assert trained["result"]["videos"] == 2 * 3
    texts = records(store, "texts")
    assert texts["texts own (3 classes)"]["context"]["class_names"] in (
        ["run", "walk", "jump"],
        ["sit down", "stand up", "clap"],
    )
    table = report(store, "table.csv").iloc[0]
    base, novel = table["base_mean"], table["novel_mean"]
    hm = next(table[column] for column in table.index if column.lower().startswith("hm") and column.endswith("_mean"))
    assert hm == pytest.approx(2 * base * novel / (base + novel) if base + novel else 0)


def test_novel_classes_must_not_have_been_trained_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SUITE.replace("{protocols}", "{novel: {role: novel, dataset: own}}")
    (folder / "own.yaml").write_text(text.replace("{rows}", "{dense: {method: dense_temporal}}"))
    assert main([str(folder / "own.yaml"), "--store", str(folder / "runs")]) == 2
    assert "recipe.classes: base" in capsys.readouterr().err
    assert not (folder / "runs").exists()


def test_shots_are_drawn_per_trial_seed_and_may_be_repeated_to_a_whole_epoch(folder: Path) -> None:
    store = run(
        folder,
        "{closed: {role: closed-set, dataset: own}}",
        "{few: {method: dense_temporal, config: {layers: 1}, recipe: {shots: 1}},"
        " full: {method: dense_temporal, config: {layers: 1}, recipe: {shots: 1, repeat: true}},"
        " tuned: {method: clip_mean, config: {tower: tuned}, recipe: {shots: 1, repeat: true, views: {copies: 0}}}}",
    )
    steps = {title: record["result"]["steps"] for title, record in records(store, "train").items()}
    assert steps == {
        "train few seed 0": 2,
        "train full seed 0": 6,
        "train tuned seed 0": 6,
    }  # 6 or 21 videos, batches of 4
    encodings = [title for title in records(store, "encode") if "1-shot" in title]
    assert encodings == ["encode own/train 1-shot draw 0"]


def test_more_names_and_other_spellings(folder: Path) -> None:
    store = run(
        folder,
        "{mixed: {role: zero-shot, dataset: own, vocabulary: [other]},"
        " shouted: {role: zero-shot, dataset: own, labels: shouted}}",
        "{mean: {method: clip_mean}}",
    )
    names = {title: record["context"]["class_names"] for title, record in records(store, "texts").items()}
    assert names["texts own + other (7 classes)"][-2:] == ["clap", "swim"]  # Sit-Down is sit down
    found = records(store, "evaluate")
    assert found["evaluate mean on mixed"]["result"]["classes"] == 7
    assert found["evaluate mean on shouted"]["context"]["protocol"]["labels"] == "shouted"
    assert json.dumps(found["evaluate mean on shouted"]["spec"]).count("shouted") == 0
