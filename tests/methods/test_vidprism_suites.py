"""The suites of VidPrism's ablations: they plan on the real declarations and in the embedded world."""

from __future__ import annotations

import pytest

from bench.graph.build import Graph, build_graph
from bench.published.pairing import pairs
from bench.suite.resolve import SUITES, load_suite
from bench.suite.trial import Suite

NAMES = sorted(path.stem for path in SUITES.glob("vidprism-*.yaml"))


def planned(name: str, *overrides: str) -> tuple[Suite, Graph]:
    suite = load_suite(SUITES / f"{name}.yaml", overrides)
    return suite, build_graph(suite)


@pytest.mark.parametrize("name", NAMES)
def test_it_plans_on_real_declarations_and_in_the_embedded_world_with_the_same_rows(name: str) -> None:
    (real, graph), (small, embedded) = planned(name), planned(name, "world=glyphs")
    assert [(t.row, t.point, t.seed) for t in real.trials] == [(t.row, t.point, t.seed) for t in small.trials]
    assert all(data.startswith("glyphs") for data in embedded.datasets)
    assert not embedded.missing and graph.missing
    for a, b in zip(real.trials, small.trials, strict=True):
        assert a.config.model_copy(update={"tower": b.config.tower}) == b.config
        assert b.recipe.shards == 1 and b.recipe.views.frames == 8


@pytest.mark.parametrize("name", NAMES)
def test_published_numbers_stand_beside_the_points_that_they_belong_to(name: str) -> None:
    suite, _ = planned(name, "seeds=[0]")
    found = pairs(suite)
    assert found and all(pair.number.method == "VidPrism" and pair.number.second_hand for pair in found)
    assert {pair.measure for pair in found} == set(suite.file.protocols)


def test_the_official_recipe_has_the_two_processes_batches() -> None:
    suite, _ = planned("vidprism-k400", "seeds=[0]")
    by_point = {tuple(value for _, value in trial.point): trial for trial in suite.trials}
    trial = by_point["ViT-B/16", "32"]
    assert (trial.recipe.batch, trial.recipe.shards, trial.recipe.lr, trial.recipe.precision) == (64, 2, 1e-4, "fp16")
    assert trial.config.depends_on_batch and trial.inference.clip_alpha == 1.0
    clean, _ = planned("vidprism-k400", "seeds=[0]", "fidelity=clean")
    assert not any(trial.config.depends_on_batch for trial in clean.trials)
