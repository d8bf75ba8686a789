"""Presets are settings that their method and recipes know."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from bench.models.prompts import TEMPLATES
from bench.suite.recipe import Recipe
from methods.registry import method, methods

PRESETS: dict[tuple[str, str], Any] = {
    (name, fidelity): preset
    for name, each in methods().items()
    for fidelity, preset in getattr(import_module(each.modules[0]), "PRESETS", {}).items()
}


@pytest.mark.parametrize("name", PRESETS, ids="-".join)
def test_a_preset_is_valid(name: tuple[str, str]) -> None:
    preset, registered, size = PRESETS[name], method(name[0]), {"resize": 256, "size": 224}
    assert set(preset) <= {"config", "inference", "recipe"}
    config = registered.config.model_validate(preset.get("config", {}))
    config.check(registered.inference.model_validate(preset["inference"]))
    recipe = preset["recipe"]
    Recipe.model_validate({**recipe, "views": {**recipe["views"], **size}})
    assert recipe["templates"] in TEMPLATES


def test_the_official_test_interpolates_and_the_clean_one_does_not() -> None:
    alphas = {name: preset["inference"]["clip_alpha"] for name, preset in PRESETS.items()}
    assert (alphas["mote", "official"], alphas["mote", "clean"]) == (0.99, 1.0)
