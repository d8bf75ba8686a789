"""The torture of suite files, a few rounds of it."""

from __future__ import annotations

from pathlib import Path

from bench.suite.resolve import SUITES
from tests.suite.torture_yaml import run


def test_mutated_suites_are_planned_or_refused(tmp_path: Path) -> None:
    small = [SUITES / f"{name}.yaml" for name in ("depth", "mote-table1", "text4vis-zero-shot")]
    outcomes = run(0, 10, tmp_path, small)
    assert outcomes.total() == 10 and outcomes["refused"] > 5
    assert [outcome for outcome in outcomes if outcome.startswith("WRONG")] == []
