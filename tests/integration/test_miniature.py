"""A miniature suite whose numbers are pinned to the digit: a guard for changes that identities do not see."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from bench.commands.app import main
from tests.videos import write_tiny_dataset

GOLDEN = Path(__file__).parents[1] / "golden"
SUITE = """\
title: Miniature
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: tiny, templates: glyphs, views: {frames: 4, copies: 2}, batch: 8, epochs: 6, warmup_epochs: 1, lr: 5.0e-3,
         descriptions: glyphs}
protocol: {templates: glyphs, views: {frames: 4}}
protocols:
  closed-set: {role: closed-set, dataset: tiny, split: train}
  zero-shot: {role: zero-shot, dataset: tiny, views: {clips: 2, crops: 3}}
rows:
  clip_mean: {method: clip_mean}
  text4vis: {method: text4vis, config: {layers: 1}}
  msta: {method: msta, recipe: {views: {copies: 0, augmentation: mote}, epochs: 2}}
  mote: {method: mote, config: {layers: 1, num_experts: 2}}
  vidprism: {method: vidprism, config: {rates: [1, 2], slow_rate: 2, classifier: text}}
  tuned: {method: clip_mean, config: {tower: tuned}, inference: {clip_alpha: 0.5},
          recipe: {views: {copies: 0, augmentation: mote}, epochs: 2, tower_lr_ratio: 0.1}}
"""


CLASSES = [
    f"{thing} {verb}" for thing in ("skull", "sun", "king", "flag") for verb in ("rising", "growing", "blinking")
]


def _write_dataset(folder: Path) -> None:
    """Noise of twelve classes: 24 videos that are learnt by heart, and 36 others."""
    write_tiny_dataset(folder, train=24, test=36)
    (folder / "classes.csv").write_text("id,name\n" + "".join(f"{n},{name}\n" for n, name in enumerate(CLASSES)))
    for split, count in (("train", 24), ("test", 36)):
        (folder / f"{split}.txt").write_text("".join(f"{split}/{n}.mp4 {n % len(CLASSES)}\n" for n in range(count)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store after the suite has run in this process."""
    folder = tmp_path_factory.mktemp("miniature")
    _write_dataset(folder)
    (folder / "miniature.yaml").write_text(SUITE, encoding="utf-8")
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
    pinned = (GOLDEN / "miniature.csv").read_text(encoding="utf-8")
    assert list(csv.reader(found.splitlines())) == list(csv.reader(pinned.splitlines()))


def test_losses_are_the_same(store: Path) -> None:
    records = [json.loads(path.read_text()) for path in (store / "records/train").glob("*/record.json")]
    found = {record["title"]: record["result"]["total"] for record in records}
    pinned = json.loads((GOLDEN / "miniature.json").read_text(encoding="utf-8"))
    assert found == pytest.approx(pinned, rel=1e-5)
