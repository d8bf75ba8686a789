"""The suites of TACO: they plan on the real declarations and in the embedded world, beside the published numbers."""

from __future__ import annotations

import pytest

from bench.graph.build import build_graph
from bench.published.pairing import pairs
from bench.suite.named_protocols import named_protocol
from bench.suite.resolve import SUITES, load_suite
from bench.suite.trial import Suite

NAMES = sorted(path.stem for path in SUITES.glob("taco-*.yaml"))


def shipped(name: str, *overrides: str) -> Suite:
    return load_suite(SUITES / f"{name}.yaml", ("seeds=[0]", *overrides))


@pytest.mark.parametrize("name", NAMES)
def test_it_plans_on_real_declarations_and_in_the_embedded_world_with_the_same_rows(name: str) -> None:
    real, small = shipped(name), shipped(name, "world=glyphs")
    assert [(t.row, t.point) for t in real.trials] == [(t.row, t.point) for t in small.trials]
    embedded = build_graph(small)
    assert all(data.startswith("glyphs") for data in embedded.datasets) and not embedded.missing
    assert build_graph(real).missing


@pytest.mark.parametrize("name", NAMES)
def test_published_numbers_stand_beside_the_released_setting(name: str) -> None:
    found = pairs(shipped(name))
    numbers = {(pair.number.backbone, pair.measure): pair.number.value for pair in found}
    assert [numbers["ViT-B/16", measure] for measure in ("UCF", "HMDB", "K600")] == ["85.6", "60.0", "77.0"]
    for pair in found:
        assert pair.number.method == "TACO" and not pair.differs and not pair.number.second_hand


def test_the_official_recipe_is_that_of_the_released_configs() -> None:
    by_model = {dict(t.point)["model"]: t for t in shipped("taco-zero-shot").trials if t.row == "taco"}
    for model, batch, lr in (("B/16", 192, 5e-5), ("L/14", 96, 2.5e-5)):
        recipe = by_model[model].recipe
        assert (recipe.batch, recipe.lr, recipe.tower_lr_ratio, recipe.epochs) == (batch, lr, 0.075, 15)
        assert (recipe.shards, recipe.precision, recipe.templates, recipe.weight_decay) == (3, "fp16", "bike", 0.2)
        assert recipe.average is not None and recipe.average.start and recipe.average.kind == "epochs"
    spaces = {t.row: (t.inference.model_dump().get("projected"), t.recipe) for t in shipped("taco-zero-shot").trials}
    assert (spaces["taco"][0], spaces["projected"][0]) == (False, True) and spaces["taco"][1] == spaces["projected"][1]


def test_three_splits_have_descriptions_in_the_place_of_names_and_full_sets_names() -> None:
    templates = {what: named_protocol(f"taco/{what}")["templates"] for what in ("ucf101-3split", "ucf101-full", "k400")}
    assert templates == {"ucf101-3split": "described28", "ucf101-full": "mote28", "k400": "bike"}
    ways = [named_protocol(f"taco/{what}") for what in ("hmdb51-3split", "k400", "hmdb51-half")]
    assert [way["views"]["clips"] for way in ways] == [3, 1, 3]
    assert [way["fusion"] for way in ways] == ["double_softmax", "double_softmax", "cos_mean"]
