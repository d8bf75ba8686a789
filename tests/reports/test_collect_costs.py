"""From records to costs: a profile for each row and point, each training once, and the whole way to a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.graph.build import ProbeCell
from bench.store.records import Store
from reports.collect_costs import collect_costs, collect_trainings
from reports.cost_figures import cost_figures
from reports.cost_tables import cost_grids
from tests.reports import costly, synthetic


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def _trial(row: str = "mote", seed: int = 0, **point: object) -> Any:
    return SimpleNamespace(row=row, label=synthetic.ROWS[row][0], point=tuple(point.items()), seed=seed)


def _stage(kind: str, identity: str, **inputs: Any) -> Any:
    spec = {"imported": identity} if identity.startswith("imported") else {}
    return SimpleNamespace(kind=kind, identity=identity, key=(kind, identity), spec=spec, inputs=inputs)


def _write(store: Store, stage: Any, result: dict[str, Any], processes: int = 1) -> None:
    about = {
        **{"result": result, "cost": {"seconds": 90.0}, "provenance": {"device": "NVIDIA H200"}},
        "context": {"execution": {"processes": processes}},
    }
    with store.writing(stage.kind, stage.identity, about):
        pass


def test_a_profile_is_a_cost_at_every_point_and_once_for_all_seeds(store: Store) -> None:
    shared, absent = _stage("profile", "p0"), _stage("profile", "p1")
    _write(store, shared, costly.profile(gflops=7))
    cells = [ProbeCell(_trial(seed=seed, layers=2, alpha=alpha), "", shared) for seed in (0, 1) for alpha in (0.5, 1.0)]
    found = list(collect_costs([*cells, ProbeCell(_trial("dense"), "", absent)], store))
    assert [(own.row, own.point) for own in found] == [("mote", "layers 2, alpha 0.5"), ("mote", "layers 2, alpha 1.0")]
    assert {own.identity for own in found} == {"p0"} and found[0].machine == costly.MACHINE
    assert found[0].result["flops"]["view"]["counted"] == 7e9


def test_each_training_counts_once_with_the_rows_that_share_it(store: Store) -> None:
    train = _stage("train", "t0")
    _write(store, train, {"seconds": 60.0}, processes=2)
    evaluations = [_stage("evaluate", f"e{number}", train=train) for number in range(3)]
    trials = [_trial("mote", layers=2, tfm=True), _trial("mote", layers=2, tfm=False), _trial("dense", layers=2)]
    cells = [ProbeCell(trial, "", stage) for trial in trials for stage in evaluations]
    (found,) = collect_trainings([*cells, ProbeCell(trials[0], "", train)], store)
    assert (found.row, found.point, found.seed, found.sharing) == ("mote", "layers 2", 0, ("dense",))
    assert (found.seconds, found.devices, found.device) == (60.0, 2, "NVIDIA H200")
    assert found.device_hours == pytest.approx(2 / 60)


def test_what_was_not_trained_here_has_no_training_cost(store: Store) -> None:
    plain, old, imported, absent = (_stage("train", name) for name in ("t0", "t1", "imported0", "t2"))
    for stage in (plain, old, imported):
        _write(store, stage, {"seconds": 60.0} if stage is plain else {})
    cells = [ProbeCell(_trial(seed=seed), "", stage) for seed, stage in enumerate((plain, old, imported, absent))]
    untrained = ProbeCell(_trial("clip"), "", _stage("evaluate", "e0"))
    found = collect_trainings([*cells, untrained], store)
    assert [(own.identity, own.seconds) for own in found] == [("t0", 60.0), ("t1", 90.0)]


def test_from_a_store_to_pictures_and_tables(store: Store) -> None:
    profile, train = _stage("profile", "p0"), _stage("train", "t0")
    _write(store, profile, costly.profile(experts=4))
    _write(store, train, {"seconds": 7200.0}, processes=3)
    cells = [ProbeCell(_trial(), "", stage) for stage in (profile, train)]
    costs, trainings = collect_costs(cells[:1], store), collect_trainings(cells, store)
    results = replace(synthetic.plain(), costs=tuple(costs), trainings=tuple(trainings))
    assert [picture.name for picture in cost_figures(results)] == ["costs", "costs-experts"]
    *tables, training = cost_grids(results)
    assert {identity for grid in tables for identity in grid.links.values()} == {"p0"}
    assert "6.00" in training.rows[0] and set(training.links.values()) == {"t0"}
