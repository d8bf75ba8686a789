"""A method that tunes CLIP's text tower as well: alpha reaches frames, texts and the logit scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from bench.graph.build import build_graph
from bench.graph.stage import Stage
from bench.launch.work import Order, execute
from bench.stages.work import Compute
from bench.store.records import Store
from bench.suite.resolve import load_suite
from tests.videos import write_tiny_dataset

SUITE = """\
title: Tuned texts
datasets: {tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}}
recipe:
  source: tiny
  split: train
  templates: glyphs
  views: {frames: 2, copies: 0}
  epochs: 1
  batch: 6
  lr: 1.0e-3
  warmup_epochs: 0
protocol: {templates: glyphs, views: {frames: 2}}
protocols: {closed-set: {role: closed-set, dataset: tiny}}
rows:
  plain: {method: clip_mean}
  both: {method: both_towers, axes: {inference.clip_alpha: [0, 0.5, 1], config.tower: [tuned, frozen]}}
"""


def planned(folder: Path) -> dict[str, Stage]:
    """Evaluations by title, and everything that they need, in the order in which it can be carried out."""
    (folder / "suite.yaml").write_text(SUITE)
    return {stage.title: stage for stage in build_graph(load_suite(folder / "suite.yaml")).stages.values()}


@pytest.mark.slow
def test_at_alpha_0_nothing_of_a_training_is_left(tmp_path: Path, stand_ins: None) -> None:
    write_tiny_dataset(tmp_path, train=6, test=4)
    store, scores = Store.create(tmp_path / "store"), dict[str, dict[str, Tensor]]()
    for title, stage in planned(tmp_path).items():
        assert execute(Order.of(stage), store, Compute("cpu", loader_workers=0), {}) is None
        if stage.kind == "evaluate":
            scores[title] = load_file(store.folder(*stage.key) / "scores.safetensors")
    plain, *both = scores.values()
    assert len(both) == 6
    same = {title: _same(own, plain) for title, own in scores.items() if own is not plain}
    assert same == {title: "clip_alpha=0 " in title for title in same}
    assert len({str(own["cosines"].tolist()) for own in both}) == 5


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    bits: Any = [{name: tensor.numpy().tobytes() for name, tensor in each.items()} for each in (one, other)]
    return bool(bits[0] == bits[1])


def test_texts_alone_share_the_frames_of_plain_clip(tmp_path: Path, stand_ins: None) -> None:
    write_tiny_dataset(tmp_path, train=6, test=4)
    stages = planned(tmp_path)
    features = {title: stage.inputs["features"].identity for title, stage in stages.items() if stage.kind == "evaluate"}
    shared = [title for title, identity in features.items() if identity == next(iter(features.values()))]
    assert len(shared) == 5  # plain CLIP, the frozen tower at three alphas, the tuned one at 0
    assert len(set(features.values())) == 3
