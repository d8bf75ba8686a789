"""Recipes: which settings cannot go together."""

from __future__ import annotations

from typing import Any

import pytest

from bench.suite.recipe import Recipe


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
