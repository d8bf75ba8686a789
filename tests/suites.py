"""Suites for tests: small declarations on the embedded world, and what is changed in them."""

from __future__ import annotations

from pathlib import Path

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
