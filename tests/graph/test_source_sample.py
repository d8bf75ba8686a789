"""What a method sees of its source before training: a tenth, of each class alike, in one view, by plain CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from bench.data.selection import Selection
from bench.graph.build import build_graph
from bench.graph.plan import make_plan
from bench.graph.stage import Stage, as_json
from bench.launch.local import run_local
from bench.stages.work import Compute
from bench.store.records import Store
from bench.suite.resolve import load_suite
from methods.text4vis.classifiers import discriminant_rows
from tests.videos import CLASSES, write_tiny_dataset

SUITE = """\
title: Sample
seeds: [0, 1]
datasets: {tiny: {root: videos, classes: classes.csv, splits: {train: train.txt, test: test.txt}}}
recipe: {source: tiny, templates: glyphs, pretrained: "random:0", batch: 6, epochs: 1, warmup_epochs: 0,
         views: {frames: 2, resize: [70, 90], size: 64}}
protocol: {templates: glyphs, views: {frames: 2}}
protocols: {closed-set: {role: closed-set, dataset: tiny}}
rows:
  lda: {method: text4vis, config: {layers: 1, tower: tuned, classifier: lda}}
  drawn: {method: text4vis, config: {layers: 1, tower: tuned, classifier: random}}
"""


def listed(folder: Path, per_class: tuple[int, ...]) -> None:
    """Lists of videos that are not there, so many of each class."""
    (folder / "videos").mkdir()
    (folder / "classes.csv").write_text("id,name\n" + "".join(f"{n},{name}\n" for n, name in enumerate(CLASSES)))
    lines = [f"{label}-{n}.mp4 {label}\n" for label, count in enumerate(per_class) for n in range(count)]
    for split in ("train", "test"):
        (folder / f"{split}.txt").write_text("".join(lines))


def stages(folder: Path, *overrides: str) -> list[Stage]:
    (folder / "sample.yaml").write_text(SUITE)
    return list(build_graph(load_suite(folder / "sample.yaml", overrides)).stages.values())


def samples(folder: Path, *overrides: str) -> list[Selection]:
    trained = [stage for stage in stages(folder, *overrides) if stage.kind == "train"]
    encoded = [stage.inputs["source_features"] for stage in trained if "source_features" in stage.inputs]
    assert len(encoded) == 2 and all("train" not in stage.inputs for stage in encoded)
    return [Selection(*stage.context["selection"]) for stage in encoded]


@pytest.mark.parametrize(
    ("per_class", "overrides", "shots"),
    [
        ((40, 50, 60), (), 5),
        ((10, 90, 140), (), 8),
        ((4, 100, 196), (), 4),  # of no class more than it has
        ((12, 12, 12), (), 2),  # scatter within a class needs two
        ((1, 12, 12), (), 1),
        ((60, 60, 60), ("recipe.shots=4",), 4),  # nothing beyond what is learnt from
        ((60, 60, 60), ("recipe.shots=16",), 6),
        ((60, 60, 60), ("recipe.shots=1",), 1),
    ],
)
def test_a_tenth_of_each_class_alike(
    tmp_path: Path, per_class: tuple[int, ...], overrides: tuple[str, ...], shots: int
) -> None:
    listed(tmp_path, per_class)
    assert samples(tmp_path, *overrides) == [Selection("tiny", "train", "all", shots, seed) for seed in (0, 1)]


def test_it_is_drawn_as_shots_are_and_from_the_classes_that_are_learnt(tmp_path: Path) -> None:
    listed(tmp_path, (20, 30, 40))
    assert samples(tmp_path, "recipe.draw=5") == [Selection("tiny", "train", "all", 3, 5)] * 2
    assert {sample.classes for sample in samples(tmp_path, "recipe.classes=base")} == {"base"}


def test_it_is_seen_in_one_view_without_chance(tmp_path: Path) -> None:
    listed(tmp_path, (20, 30, 40))
    planned = stages(tmp_path)
    (one, other) = (stage for stage in planned if "shot" in stage.title)
    assert one.title == "encode tiny/train 3-shot draw 0" and one.identity != other.identity
    views: dict[str, Any] = as_json(one.spec["views"])
    assert (views["clips"], views["crops"], views["sampler"]) == (1, 1, "segment_start")
    assert (views["frames"], views["resize"], views["size"]) == (2, [70, 90], 64)
    assert one.flops > 0 and one.frames is not None


def test_data_that_are_not_there_are_marked_and_counted(tmp_path: Path) -> None:
    listed(tmp_path, (20, 30, 40))
    (tmp_path / "videos").rmdir()
    planned = stages(tmp_path)
    encoded = [stage for stage in planned if "shot" in stage.title]
    assert len(encoded) == 2 and all(stage.missing and stage.flops > 0 for stage in encoded)
    plan = make_plan(build_graph(load_suite(tmp_path / "sample.yaml")), Store.create(tmp_path / "runs"))
    assert plan.missing["encode"] >= 2 and "tiny" in plan.missing_data


def test_rows_are_those_of_the_sample(tmp_path: Path) -> None:
    """From the suite to the trained weights, on videos."""
    write_tiny_dataset(tmp_path, 12, 6)
    wanted = [
        stage
        for stage in stages(tmp_path, "datasets.tiny.root=.", "seeds=[0]")
        if stage.row == "lda" and "train" not in stage.inputs
    ]
    store = Store.create(tmp_path / "runs")
    outcome = run_local(wanted, store, Compute("cpu", loader_workers=0), 0, {}, lambda state: None)
    assert not outcome.failed
    (train,) = (stage for stage in wanted if stage.kind == "train")
    sample, trained = (store.folder(*stage.key) for stage in (train.inputs["source_features"], train))
    features_ND = load_file(sample / "features.safetensors")["features"].mean(dim=(1, 2))
    labels = pd.read_parquet(sample / "videos.parquet")["label"]
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    rows_CD = discriminant_rows(features_ND, torch.tensor(labels.to_numpy()), len(CLASSES)).float()
    torch.testing.assert_close(load_file(trained / "weights.safetensors")["classifier.rows_CD"], rows_CD)
