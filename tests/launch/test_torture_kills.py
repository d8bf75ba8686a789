"""A few rounds of each torture; `tests/torture.py` runs more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.launch import torture_kills

pytestmark = pytest.mark.slow


def wrong(found: Counter[str]) -> list[str]:
    return [outcome for outcome in found if outcome.startswith("WRONG")]


def test_two_launches_at_once(tmp_path: Path) -> None:
    found = torture_kills.launches(0, 1, tmp_path)
    assert not wrong(found), found
    assert found["the same table"] == 1 and found["stages done"] == 13


@pytest.mark.torture  # more than a minute; tests/integration/test_interruption.py kills at chosen moments
def test_kills_at_random_moments(tmp_path: Path) -> None:
    found = torture_kills.run(1, 2, tmp_path)
    assert not wrong(found), found
    assert found["the same table"] >= 1 and sum(found[kind] for kind in torture_kills.KILLS) == 2
