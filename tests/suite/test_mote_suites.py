"""The suites of MoTE's tables and figures: they plan on the real declarations and in the embedded world."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.graph.build import Graph, build_graph
from bench.graph.plan import make_plan
from bench.store.records import Store
from bench.suite.resolve import SUITES, load_suite
from bench.suite.trial import Suite

NAMES = sorted(path.stem for path in SUITES.glob("mote-*.yaml"))


def planned(name: str, *overrides: str) -> tuple[Suite, Graph]:
    suite = load_suite(SUITES / f"{name}.yaml", overrides)
    return suite, build_graph(suite)


def trainings(graph: Graph) -> int:
    return sum(stage.kind == "train" for stage in graph.stages.values())


def test_there_is_one_for_each_table_and_figure() -> None:
    tables = ["1", "2a", "2b", "2c", "2d", "2e", "2f", "3", "4", "5", "7a", "7b", "7c", "7d", "7e", "7f"]
    assert {*(f"mote-table{number}" for number in tables), "mote-fig1b", "mote-experts", "mote-merge"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_plans_on_real_declarations_and_in_the_embedded_world_with_the_same_rows(name: str) -> None:
    (real, graph), (small, embedded) = planned(name), planned(name, "world=glyphs")
    assert [(t.row, t.point, t.seed) for t in real.trials] == [(t.row, t.point, t.seed) for t in small.trials]
    assert real.axes == small.axes
    assert {data for data in graph.datasets if data.startswith("glyphs")} == set()
    assert all(data.startswith("glyphs") for data in embedded.datasets)
    assert not embedded.missing and graph.missing
    assert trainings(graph) >= trainings(embedded) > 0
    for a, b in zip(real.trials, small.trials, strict=True):
        limited = {name: own for name, own in b.config if name in ("tower", "context_vectors")}  # by the world's towers
        assert a.config.model_copy(update=limited) == b.config
        assert a.inference == b.inference
        assert a.recipe.shots == b.recipe.shots


@pytest.mark.parametrize(
    ("name", "rows", "distinct"),
    [
        ("mote-table1", 5, 4),
        ("mote-table2f", 5, 1),
        ("mote-table2c", 3, 1),
        ("mote-table7b", 3, 1),
        ("mote-merge", 11, 1),
    ],
)
def test_rows_that_differ_in_inference_cost_one_training(name: str, rows: int, distinct: int, tmp_path: Path) -> None:
    suite, graph = planned(name, "seeds=[0]")
    assert len(suite.trials) == rows
    plan = make_plan(graph, Store.create(tmp_path))
    assert plan.missing["train"] == trainings(graph) == distinct
    assert len({(trial.method, trial.config.model_dump_json()) for trial in suite.trials}) == distinct
