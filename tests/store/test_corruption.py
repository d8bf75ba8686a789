"""A few rounds of the corruption of stores; `torture_corruption` carries out any number."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.torture_corruption import run


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_no_damage_gives_other_numbers(tmp_path: Path) -> None:
    outcomes = run(seed=1, count=2, folder=tmp_path)
    assert outcomes.total() == 2 and not [name for name in outcomes if name.startswith("WRONG")], outcomes
