"""A suite of a tiny dataset that has been run in this process, for tests of what reads a finished store."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.videos import write_tiny_dataset

SUITE = """\
title: Tiny
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: tiny, templates: glyphs, views: {frames: 2, copies: 1}, batch: 4, epochs: 1,
         warmup_epochs: 0.5, lr: 1.0e-3}
protocol: {templates: glyphs, dataset: tiny, views: {frames: 2}}
protocols:
  closed: {role: closed-set, views: {clips: 2, crops: 3}, fusion: logit_sum}
  other: {role: zero-shot}
rows:
  plain: {label: Plain, method: clip_mean}
  dense: {method: dense_temporal, config: {layers: 1}, axes: {recipe.lr: [1.0e-3, 2.0e-3]}}
  tuned: {method: clip_mean, config: {tower: tuned}, inference: {clip_alpha: 0.5}, recipe: {views: {copies: 0}}}
  more: {method: clip_mean, config: {tower: tuned}, init_from: tuned, recipe: {views: {copies: 0}, epochs: 2}}
report: {reference: plain, compare: [[dense, plain]], join: lr}
"""


class Trained(NamedTuple):
    """The suite's file beside its videos, and its finished store."""

    suite: Path
    store: Path


def train(folder: Path) -> Trained:
    """Write the suite and its videos, and run it in this process."""
    import video_transfer_bench as vtb

    write_tiny_dataset(folder, train=6, test=4)
    (folder / "tiny.yaml").write_text(SUITE)
    found = vtb.run(folder / "tiny.yaml", store=folder / "runs", jobs=0, workers=0, device="cpu")
    return Trained(folder / "tiny.yaml", found.store)
