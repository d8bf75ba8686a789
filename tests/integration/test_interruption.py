"""A run that is killed ends, when it is run again, with the bits of a run that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.videos import write_tiny_dataset

ROOT = Path(__file__).parent.parent.parent
POINTS = 8  # two of each kind; the torture run kills more

SUITE = """\
title: Killed
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: tiny, templates: glyphs, views: {frames: 2, copies: 1}, batch: 5, epochs: 2,
         warmup_epochs: 0, lr: 1.0e-3}
protocol: {templates: glyphs, views: {frames: 2}}
protocols:
  closed-set: {role: closed-set, dataset: tiny}
  zero-shot: {role: zero-shot, dataset: tiny}
rows:
  mote: {method: mote, config: {layers: 1, num_experts: 2}}
  tuned: {method: clip_mean, config: {tower: tuned}, inference: {clip_alpha: 0.5},
          recipe: {views: {copies: 0}}}
report: {experts: [mote]}
"""


def test_killed_at_points_of_all_kinds_and_resumed_bit_equal(tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path)
    (tmp_path / "suite.yaml").write_text(SUITE)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.integration.killed",
            str(tmp_path / "suite.yaml"),
            str(tmp_path),
            str(POINTS),
            "0",
        ],
        cwd=ROOT,
        env={**os.environ, "VTB_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert len(result["whole"]) > 10
    assert {point["kind"] for point in result["points"]} == {
        "after a step",
        "before a rename",
        "after a rename",
        "in the middle of a write",
    }
    for point in result["points"]:
        assert point["signal"] == 9, point
        assert point["again"] == 0, run.stderr
        assert point["hashes"] == result["whole"], point["kind"]
