"""Presets are settings that their method and recipes know."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from bench.models.prompts import TEMPLATES
from bench.suite.recipe import Recipe
from bench.suite.resolve import SUITES, load_suite
from methods.registry import method, methods
from tests.errors import refused

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


def divided(suite: str, row: str, *overrides: str) -> set[tuple[int, int, int]]:
    """(batch, processes, accumulate) of the trials of a row."""
    trials = [trial for trial in load_suite(SUITES / f"{suite}.yaml", overrides).trials if trial.row == row]
    return {(trial.recipe.batch, trial.recipe.processes, trial.recipe.accumulate) for trial in trials}


def test_the_official_step_of_mote_has_three_parts_and_that_of_vidprism_two() -> None:
    assert divided("mote-table1", "tfm") == divided("mote-fig1b", "mote") == {(144, 1, 3)}
    assert divided("mote-table1", "tfm", "recipe.processes=3") == {(144, 3, 1)}
    assert divided("mote-table1", "dense") == {(144, 1, 1)}  # which draws nothing
    assert divided("mote-table1", "tfm", "fidelity=clean", "recipe.processes=2") == {(144, 2, 1)}
    assert divided("vidprism-losses", "ce", "recipe.processes=2") == {(64, 2, 1)}
    assert divided("vidprism-k400", "vidprism") == {(64, 1, 2), (128, 1, 4)}
    assert divided("mote-table1", "tfm", "world=glyphs") == {(48, 1, 1)}


def test_192_videos_a_step_are_a_variant_of_the_official_program() -> None:
    assert divided("mote-fig1b", "mote", "fidelity=official-192") == {(192, 1, 3)}
    assert divided("mote-experts", "clip_mean", "fidelity=official-192") == {(192, 1, 1)}
    official, larger = PRESETS["mote", "official"], PRESETS["mote", "official-192"]
    assert {**larger, "recipe": {**larger["recipe"], "batch": 144}} == official


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        (("recipe.processes=2",), "override recipe.processes=2"),
        (("recipe.accumulate=6",), "override recipe.accumulate=6"),
        (("recipe.processes=3", "recipe.accumulate=3"), "override recipe.processes=3"),
        (("rows.tfm.recipe={accumulate: 1}",), "override rows.tfm.recipe={accumulate: 1}"),
    ],
)
def test_other_numbers_of_draws_are_refused_with_those_that_fit(overrides: tuple[str, ...], place: str) -> None:
    with refused("3 parts", where=place, allowed=["processes 1 x accumulate 3", "processes 3 x accumulate 1"]):
        load_suite(SUITES / "mote-table1.yaml", overrides)


def test_another_number_of_parts_can_be_declared() -> None:
    assert divided("mote-table1", "tfm", "recipe.parts=null", "recipe.processes=2") == {(144, 2, 1)}
    assert divided("mote-table1", "tfm", "recipe.parts=4", "recipe.processes=2") == {(144, 2, 2)}
