"""Recipes: which settings cannot go together."""

from __future__ import annotations

from typing import Any

import pytest

from bench.core.identity import identity_value
from bench.suite.recipe import Recipe, Training
from bench.video.views import TrainViews


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 5, "processes": 3, "accumulate": 2}, "batch 5 has no video for each of 6 parts"),
        ({"keep": "best"}, "keep: best needs a validation split"),
    ],
)
def test_impossible_recipes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_settings_that_nobody_chooses_are_no_part_of_an_identity() -> None:
    """Also those that are newer than recorded trainings."""
    assert identity_value(TrainViews()) == {}
    assert identity_value(Training()) == identity_value(Training(**Training().model_dump())) == {}
    chosen: dict[str, Any] = {"smoothing": 0.1, "undecayed": ("1d",), "drop_last": True, "micro_steps": 2}
    assert identity_value(Training(**chosen)) == {**chosen, "undecayed": ["1d"]}
