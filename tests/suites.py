"""Suites for tests: small declarations on the embedded world, and what is changed in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.graph.build import build_graph
from bench.suite.file import Published
from bench.suite.resolve import SUITES, load_suite
from bench.suite.trial import Suite

SMALL = """\
title: Small
seeds: [0, 1]
recipe:
  source: glyphs-narrow
  templates: glyphs
  views: {frames: 4, copies: 1}
  batch: 48
  epochs: 1
  warmup_epochs: 0.2
  lr: 1.0e-3
protocol:
  templates: glyphs
  views: {frames: 4}
protocols:
  closed-set: {role: closed-set, dataset: glyphs-narrow, split: validation}
  new-verbs: {role: zero-shot, dataset: glyphs-narrow-verbs}
rows:
  clip_mean: {label: CLIP mean-pool, method: clip_mean}
  dense: {method: dense_temporal, config: {layers: 1}}
  mote: {method: mote, config: {layers: 1, num_experts: 2}}
  mote_no_tfm: {method: mote, config: {layers: 1, num_experts: 2}, inference: {tfm: false}}
report:
  reference: clip_mean
  experts: [mote]
  compare: [[dense, clip_mean]]
"""


def write_suite(folder: Path, *changes: tuple[str, str], text: str = SMALL) -> Path:
    """A suite file with parts of its text replaced; every part must occur."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "small.yaml"
    path.write_text(text)
    return path


def many_trials(trials: int = 10_000) -> str:
    """4 depths x 5 numbers of experts x 25 rates x modulation on or off x as many seeds as it takes."""
    rates = [round(1e-4 * n, 6) for n in range(1, 26)]
    head = SMALL[: SMALL.index("rows:")].replace("seeds: [0, 1]", f"seeds: {list(range(trials // 1000))}")
    return f"""{head}rows:
  mote:
    method: mote
    axes:
      config.layers: [1, 2, 3, 4]
      config.num_experts: [2, 3, 4, 5, 6]
      recipe.lr: {rates}
      inference.tfm: [true, false]
"""


def selecting(suite: Suite, *published: Published) -> Suite:
    """The suite with these published numbers in the place of its own."""
    report = suite.file.report.model_copy(update={"published": list(published)})
    return replace(suite, file=suite.file.model_copy(update={"report": report}))


def plans_alike(name: str) -> None:
    """A shipped suite has the same trials with real data and in the embedded world, where nothing is missing."""
    real, small = (load_suite(SUITES / f"{name}.yaml", world) for world in ((), ("world=glyphs",)))
    assert [(t.row, t.point, t.seed) for t in real.trials] == [(t.row, t.point, t.seed) for t in small.trials]
    graph = build_graph(small)
    assert not graph.missing and any(stage.kind == "train" for stage in graph.stages.values())
