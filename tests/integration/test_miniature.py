"""A miniature suite whose numbers are pinned to the digit: a guard for changes that identities do not see."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from bench.commands.app import main
from bench.glyphs import world

SUITE = """\
title: Miniature
datasets:
  known: {root: ., classes: train.csv, splits: {train: train.txt, test: seen.txt}}
  new: {root: ., classes: unseen.csv, splits: {test: unseen.txt}}
recipe: {source: known, templates: glyphs, views: {frames: 4, copies: 2}, batch: 8, epochs: 6, warmup_epochs: 1,
         lr: 2.0e-3, descriptions: glyphs}
protocol: {templates: glyphs, views: {frames: 4}}
protocols:
  closed-set: {role: closed-set, dataset: known}
  zero-shot: {role: zero-shot, dataset: new, views: {clips: 2, crops: 3}}
rows:
  clip_mean: {method: clip_mean}
  text4vis: {method: text4vis, config: {layers: 1}}
  msta: {method: msta, recipe: {views: {copies: 0, augmentation: mote}, epochs: 2}}
  mote: {method: mote, config: {layers: 1, num_experts: 2}}
  vidprism: {method: vidprism, config: {rates: [1, 2], slow_rate: 2, classifier: text}}
  tuned: {method: clip_mean, config: {tower: tuned}, inference: {clip_alpha: 0.5},
          recipe: {views: {copies: 0, augmentation: mote}, epochs: 2, tower_lr_ratio: 0.1}}
"""


def write_dataset(folder: Path, name: str, subset: str, split: str, clips: int) -> None:
    """A few clips of each of twelve classes of the embedded world, as a dataset with a list `NAME.txt`."""
    names, kept = world.class_names("narrow", subset)[:12], Counter[int]()
    listed: list[tuple[str, int, str]] = []
    for path, label in world.entries("narrow", subset, split):
        if label < len(names) and kept[label] < clips:
            kept[label] += 1
            listed.append((f"{name}/{len(listed)}.mp4", label, path))
    (folder / name).mkdir()
    for file, _, path in listed:
        world.encode(world.render_entry("narrow", path), folder / file)
    (folder / f"{name}.txt").write_text("".join(f"{file} {label}\n" for file, label, _ in listed))
    (folder / f"{name}.csv").write_text("id,name\n" + "".join(f"{n},{own}\n" for n, own in enumerate(names)))


def write_miniature(folder: Path) -> None:
    """The suite's file and its videos."""
    write_dataset(folder, "train", "source", "train", 2)
    write_dataset(folder, "seen", "source", "validation", 3)
    write_dataset(folder, "unseen", "objects", "test", 3)
    (folder / "miniature.yaml").write_text(SUITE, encoding="utf-8")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store after the suite has run in this process."""
    folder = tmp_path_factory.mktemp("miniature")
    write_miniature(folder)
    options = (
        "--store",
        str(folder / "runs"),
        "--device",
        "cpu",
        "--workers",
        "0",
        "--jobs",
        "0",
        "--frame-cache",
        "0",
    )
    assert main([str(folder / "miniature.yaml"), *options]) == 0
    return folder / "runs"


def test_the_table_is_the_same_to_the_digit(store: Path) -> None:
    found = (store / "reports/miniature/table.csv").read_text(encoding="utf-8")
    pinned = Path(__file__).with_name("miniature.csv").read_text(encoding="utf-8")
    assert list(csv.reader(found.splitlines())) == list(csv.reader(pinned.splitlines()))


def test_losses_are_the_same(store: Path) -> None:
    records = [json.loads(path.read_text()) for path in (store / "records/train").glob("*/record.json")]
    found = {record["title"]: record["result"]["total"] for record in records}
    pinned = json.loads(Path(__file__).with_name("miniature.json").read_text(encoding="utf-8"))
    assert found == pytest.approx(pinned, rel=1e-5)
