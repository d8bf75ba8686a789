"""From records to lines: parts, draws and deviations; what has no record; which axes are over protocols."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from bench.data.datasets import Dataset, declared_fields, shipped
from bench.graph.build import ProbeCell, grouping
from bench.launch.launches import PlannedStage, create
from bench.store.records import DamagedRecord, Store
from bench.suite.measures import RESERVED
from reports.collect import (
    _Environments,
    _title,
    collect,
    collect_costs,
    collect_distances,
    collect_estimates,
    collect_maps,
    collect_routing,
    collect_trainings,
)
from reports.cost_figures import cost_figures
from reports.costs import cost_tables
from reports.facts import Estimate
from reports.results import Results
from reports.snapshot import Evaluations
from tests.errors import says
from tests.reports import costly, synthetic

RESULT = {"top1": 70.0, "top5": None, "mean_class": 69.0, "videos": 40, "undecodable": 1}
DRAWS = [{"top1": 65.0 + i, "top5": None, "mean_class": 60.0, "videos": 20, "classes": 2} for i in range(10)]
ORIGIN = dict.fromkeys(("revision", "dirty", "command", "host", "device", "threads", "python")) | {"versions": {}}


class _Store:
    """Records by identity."""

    root = Path("runs")

    def __init__(self, **results: dict[str, Any]) -> None:
        self.results = results

    def done(self, kind: str, identity: str) -> bool:
        return identity in self.results

    def known(self, kind: str) -> set[str]:
        return set(self.results)

    def find(self, kind: str, identity: str, files: Iterable[str]) -> dict[str, Any]:
        return {"seal": "", "result": self.results[identity], "provenance": ORIGIN}

    def read(self, kind: str, identity: str, files: Iterable[str] = ()) -> dict[str, Any]:
        return self.find(kind, identity, files)

    def events(self) -> list[dict[str, Any]]:
        """`s1` failed and was done the second time, `s2` failed twice; another suite's stage failed, too."""
        said = "Traceback:\n  ...\nStageError: no\n"
        ends = [("s1", "failure", {"reason": said}), ("s1", "end", {}), ("s2", "failure", {"reason": said})]
        ends += [("s2", "death", {}), ("other", "failure", {"reason": said})]
        return [
            event
            for identity, end, details in ends
            for event in ({"event": "start", "identity": identity}, {"event": end, "identity": identity, **details})
        ]


def _trial(seed: int) -> SimpleNamespace:
    deviations = {"split3": "views.clips 1 instead of 3"}
    named = {"row": "mote", "label": "MoTE", "method": "mote", "point": (("frames", 8),), "seed": seed}
    return SimpleNamespace(**named, deviations=deviations)


def _cell(trial: SimpleNamespace, protocol: str, part: str, identity: str) -> SimpleNamespace:
    stage = SimpleNamespace(
        identity=identity, key=("evaluate", identity), title=f"evaluate {identity}", kind="evaluate", inputs={}
    )
    named = {"trial": trial, "protocol": protocol, "part": part, "role": "zero-shot", "dataset": "ucf101"}
    return SimpleNamespace(**named, expert="", stage=stage)


def _collected(axes: dict[str, Any], join: str | None = None) -> Results:
    """Three splits of which one is missing, and ten draws with one record, of which one seed has none."""
    trials = [_trial(seed) for seed in (0, 1)]
    cells = [_cell(trials[0], "split3", f"test{i}", f"s{i}") for i in (1, 2, 3)]
    cells += [_cell(trial, "half", "", f"h{seed}") for seed, trial in enumerate(trials)]
    report = SimpleNamespace(join=join, reference=None, compare=[], published=[], tolerance=0.5)
    file = SimpleNamespace(report=report, title="Title", world=None, description="", axes=axes, rows={}, select=None)
    suite: Any = SimpleNamespace(name="suite", file=file, axes={"frames": "protocol.views.frames"})
    graph: Any = SimpleNamespace(
        cells=cells,
        probes=[],
        maps=[],
        weights=[],
        trainings=[],
        profiles=[],
        notes={},
        datasets={"ucf101": shipped()["ucf101"]},
        protocols={"split3": {}, "half": {}},
        stages={cell.stage.identity: cell.stage for cell in cells},
    )
    store: Any = _Store(s1=RESULT, s3=RESULT, h0={**RESULT, "draws": DRAWS})
    return collect(suite, graph, store, {"suite file": "suite.yaml"})


def test_parts_and_draws_are_lines() -> None:
    table = _collected({}).table
    assert table["part"].to_list() == ["test1", "test2", "test3", *(f"draw {i}" for i in range(10)), ""]
    assert table["identity"].to_list() == ["s1", "", "s3", *["h0"] * 10, ""]
    drawn = table[table["part"].str.startswith("draw")]
    assert drawn["top1"].to_list() == [65.0 + i for i in range(10)] and set(drawn["videos"]) == {20}
    assert table["top1"].isna().to_list() == [identity == "" for identity in table["identity"]]


def test_groups_are_those_that_the_datasets_declare(tmp_path: Path) -> None:
    found = _collected({})
    videos = ["Archery/v_Archery_g01_c02.avi", "Archery/v_Archery_g01_c03.avi", "odd.avi"]
    assert found.group_names("ucf101", videos) == ["v_Archery_g01", "v_Archery_g01", "odd.avi"]
    assert not found.ungrouped("split3")
    own: list[Any] = []
    for number, dataset in enumerate(("one", "two")):
        (tmp_path / f"{dataset}.txt").write_text(f"path,label,group\n{dataset}.mp4,0,film {number}\nalone.mp4,1,\n")
        (tmp_path / "classes.csv").write_text("id,name\n0,a\n1,b\n")
        declared = {"root": "videos", "classes": "classes.csv", "splits": {"test": f"{dataset}.txt"}}
        own.append(Dataset.model_validate(declared_fields(dataset, str(tmp_path), declared)))
        own[-1].entries("test")
    cells = [SimpleNamespace(dataset="one", part=part) for part in ("", "two/test")]
    graph: Any = SimpleNamespace(cells=cells, datasets={each.name: each for each in own})
    assert grouping(graph) == {"one": {"one.mp4": "film 0", "two.mp4": "film 1"}}


def test_summaries_know_what_is_missing() -> None:
    line = _collected({}).summary().iloc[0]
    assert [line[f"split3_{fact}"] for fact in ("n", "parts", "parts_missing")] == [0, 3, 1]
    assert [line[f"half_{fact}"] for fact in ("n", "parts", "mean")] == [1, 10, 69.5]
    assert line["half_parts_std"] == pytest.approx(np.std(range(10)))


@pytest.mark.parametrize(
    "numbers", [{"top1": float("nan")}, {"mean_class": float("inf")}, {"draws": [{**RESULT, "top1": float("nan")}]}]
)
def test_a_record_without_numbers_is_named_and_counts_as_missing(
    numbers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RESULT, next(iter(numbers)), next(iter(numbers.values())))
    results = _collected({})
    assert results.table.loc[results.table["protocol"] == "split3", "identity"].to_list() == ["", "", ""]
    assert "evaluate s1" in results.unsound[0] and "records/evaluate/s1" in results.unsound[0]
    assert any(word in results.unsound[0] for word in ("top1 is nan", "mean_class is inf"))


@pytest.mark.parametrize("bad", ["cosines", "norms", ""])
def test_scores_that_are_not_finite_are_seen_but_for_undecodable_videos(bad: str, tmp_path: Path) -> None:
    scores = {"cosines": np.zeros((3, 2, 4), np.float32), "norms": np.ones((3, 2), np.float32)}
    scores["cosines"][2] = np.nan  # undecodable
    if bad:
        scores[bad][1] = np.inf
    failure = pd.DataFrame({"failure": [None, None, "broken"]})
    with Store.create(tmp_path).writing("evaluate", "ee", {}) as folder:
        save_file(scores, folder / "scores.safetensors")
        failure.to_parquet(folder / "predictions.parquet")
    evaluations = Evaluations(Store.create(tmp_path))
    assert evaluations.finite("ee") == (not bad) and len(evaluations.cosines("ee")) == 4 * 3 * 2 * 4


def test_environments_are_those_of_a_record_and_its_inputs(tmp_path: Path) -> None:
    def stage(identity: str, kind: str, device: str, torch: str, **inputs: Any) -> Any:
        versions = {"torch": torch, "open_clip_torch": "3.2.0"}
        with Store.create(tmp_path).writing(kind, identity, {"provenance": {"device": device, "versions": versions}}):
            pass
        return SimpleNamespace(identity=identity, key=(kind, identity), inputs=inputs)

    train = stage("t", "train", "NVIDIA H200", "2.9.0")
    absent: Any = SimpleNamespace(identity="x", key=("texts", "x"), inputs={})
    of = _Environments(Store.create(tmp_path), {}).of
    assert of(train) == "NVIDIA H200, torch 2.9.0, open_clip 3.2.0" and of(absent) == ""
    own = stage("e", "evaluate", "cpu (AVX2)", "2.9.0", train=train, texts=absent)
    assert of(own) == "NVIDIA H200 and cpu (AVX2), torch 2.9.0, open_clip 3.2.0"


def test_deviations_belong_to_their_protocol() -> None:
    table = _collected({}).table
    assert set(table.loc[table["protocol"] == "split3", "deviation"]) == {"views.clips 1 instead of 3"}
    assert set(table.loc[table["protocol"] == "half", "deviation"]) == {""}


@pytest.mark.parametrize(
    ("axes", "found"),
    [
        ({"protocol.views.frames": [8, 16]}, ("frames",)),
        ({"recipe.views.frames": [8, 16]}, ()),
        ({"frames": {"few": {"recipe.epochs": 1}, "many": {"protocols.half.split": "test"}}}, ("frames",)),
        ({}, ()),  # the axis of a row: it deviates from the columns instead
    ],
)
def test_axes_of_the_suite_over_protocols(axes: dict[str, Any], found: tuple[str, ...]) -> None:
    results = _collected(axes, join="frames")
    assert results.protocol_axes == found
    assert results.settings.join == (None if found else "frames")


def test_damaged_records_are_told_from_stages_that_did_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(store: _Store, kind: str, identity: str, files: Iterable[str] = ()) -> dict[str, Any]:
        if identity == "s3":
            raise DamagedRecord("is empty", where="runs/records/evaluate/s3/record.json", hint="")
        return found(store, kind, identity, files)

    found = _Store.find
    monkeypatch.setattr(_Store, "read", read)
    monkeypatch.setattr(_Store, "find", lambda *asked: None if "s3" in asked else found(*asked))
    *_, damaged = _collected({}).failures
    assert (damaged.title, damaged.failures, damaged.done) == ("evaluate s3", 0, False)
    says(damaged.reason, "records/evaluate/s3/record.json", "is empty")


def test_failures_are_those_of_the_suite() -> None:
    first, second = _collected({}).failures
    assert (first.title, first.attempts, first.failures, first.reason) == ("evaluate s1", 2, 1, "StageError: no")
    assert (second.title, second.attempts, second.failures) == ("evaluate s2", 2, 2)
    assert (first.done, second.done, second.reason) == (True, False, "its process died")


@pytest.mark.parametrize("correct", [[True, False, True], [0.5, np.nan, 1.0]])
def test_correctness_is_that_of_the_predictions(correct: list[float], tmp_path: Path) -> None:
    frame = pd.DataFrame({"video": list("abc"), "label": 0, "prediction": 0, "correct": correct, "failure": None})
    store = Store.create(tmp_path)
    with store.writing("evaluate", "any", {}) as folder:
        frame.to_parquet(folder / "predictions.parquet")
    quick = Evaluations(store).answers("any").correct_N
    slow = replace(_collected({}), predictions=lambda identity: frame, answers=None).correct("any")
    assert quick.dtype == slow.dtype == np.float32
    np.testing.assert_array_equal(quick, slow)
    np.testing.assert_array_equal(quick, np.array(correct, np.float32))


def test_a_title_says_what_stands_for_the_data_of_the_columns() -> None:
    columns = {"UCF": SimpleNamespace(dataset="glyphs-narrow-objects")}
    suite: Any = SimpleNamespace(file=SimpleNamespace(title="Table 1", world="glyphs"), columns=columns)
    assert _title(suite) == "Table 1, in world glyphs (UCF is glyphs-narrow-objects)"


# --- costs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "runs")


def _row_trial(row: str = "mote", seed: int = 0, **point: object) -> Any:
    return SimpleNamespace(row=row, label=synthetic.ROWS[row][0], point=tuple(point.items()), seed=seed)


def _cost_stage(kind: str, identity: str, **inputs: Any) -> Any:
    spec = {"imported": identity} if identity.startswith("imported") else {}
    return SimpleNamespace(kind=kind, identity=identity, key=(kind, identity), spec=spec, inputs=inputs)


def _write(store: Store, stage: Any, result: dict[str, Any], processes: int = 1, **cost: float) -> None:
    about = {
        **{"result": result, "cost": {"seconds": 90.0, **cost}, "provenance": {"device": "NVIDIA H200"}},
        "context": {"execution": {"processes": processes}},
    }
    with store.writing(stage.kind, stage.identity, about):
        pass


def test_a_profile_is_a_cost_at_every_point_and_once_for_all_seeds(store: Store) -> None:
    shared, absent = _cost_stage("profile", "p0"), _cost_stage("profile", "p1")
    _write(store, shared, costly.profile(gflops=7))
    cells = [
        ProbeCell(_row_trial(seed=seed, layers=2, alpha=alpha), "", shared) for seed in (0, 1) for alpha in (0.5, 1.0)
    ]
    found = list(collect_costs([*cells, ProbeCell(_row_trial("dense"), "", absent)], store))
    assert [own.setting for own in found] == [("mote", "layers 2, alpha 0.5"), ("mote", "layers 2, alpha 1.0")]
    assert {own.subject.identity for own in found} == {"p0"} and found[0].machine == costly.MACHINE
    assert found[0].result["flops"]["view"]["counted"] == 7e9


def test_each_training_counts_once_with_the_rows_that_share_it(store: Store) -> None:
    train = _cost_stage("train", "t0")
    _write(store, train, {"seconds": 60.0}, processes=2)
    evaluations = [_cost_stage("evaluate", f"e{number}", train=train) for number in range(3)]
    trials = [
        _row_trial("mote", layers=2, tfm=True),
        _row_trial("mote", layers=2, tfm=False),
        _row_trial("dense", layers=2),
    ]
    cells = [ProbeCell(trial, "", stage) for trial in trials for stage in evaluations]
    (found,) = collect_trainings([*cells, ProbeCell(trials[0], "", train)], store)
    assert (*found.setting, found.subject.seed, found.sharing) == ("mote", "layers 2", 0, ("dense",))
    assert (found.seconds, found.devices, found.device) == (60.0, 2, "NVIDIA H200")
    assert found.device_hours == pytest.approx(2 / 60)


def test_what_was_not_trained_here_has_no_training_cost(store: Store) -> None:
    plain, old, imported, absent = (_cost_stage("train", name) for name in ("t0", "t1", "imported0", "t2"))
    for stage in (plain, old, imported):
        _write(store, stage, {"seconds": 60.0} if stage is plain else {})
    cells = [ProbeCell(_row_trial(seed=seed), "", stage) for seed, stage in enumerate((plain, old, imported, absent))]
    untrained = ProbeCell(_row_trial("clip"), "", _cost_stage("evaluate", "e0"))
    found = collect_trainings([*cells, untrained], store)
    assert [(own.subject.identity, own.seconds) for own in found] == [("t0", 60.0), ("t1", 90.0)]


def test_prices_stand_beside_the_truth(store: Store) -> None:
    """Those of the first launch, by which nobody knew how long the stages take."""
    stages = [_cost_stage("train", name) for name in ("t0", "t1", "t2")] + [_cost_stage("evaluate", "e0")]
    for stage in stages:
        stage.context = {"execution": {"processes": 2}} if stage.kind == "train" else {}
        if stage.identity != "t2":
            _write(store, stage, {})
    graph: Any = SimpleNamespace(stages={stage.identity: stage for stage in stages})
    assert not list(collect_estimates("small", graph, store))
    for suite, second, seconds in (("small", 1, 60.0), ("small", 2, 80.0), ("other", 0, 7.0)):
        planned = [PlannedStage(stage.kind, stage.identity, "", (), seconds) for stage in stages]
        launch = create(store, {"suite": suite, "on": "local"}, planned)
        launch.folder.rename(launch.folder.with_name(f"20300101-00000{second}-{suite}-abcd"))
    (store.root / "launches/20300101-000000-small-dcba").mkdir()
    (store.root / "launches/20300101-000000-small-dcba/launch.json").write_text("{")
    found = list(collect_estimates("small", graph, store))
    assert found == [Estimate("train", 2, 240.0, 360.0), Estimate("evaluate", 1, 60.0, 90.0)]
    table = next(own for own in cost_tables(replace(synthetic.plain(), estimates=tuple(found))))
    assert synthetic.heads(table)[2:] == ["Estimated device-minutes", "Measured device-minutes"]
    assert synthetic.texts(table)[-1] == ("all", "3", "5.00", "7.50")


def test_from_a_store_to_pictures_and_tables(store: Store) -> None:
    profile, train = _cost_stage("profile", "p0"), _cost_stage("train", "t0")
    _write(store, profile, costly.profile(experts=4))
    _write(store, train, {"seconds": 7200.0}, processes=3)
    cells = [ProbeCell(_row_trial(), "", stage) for stage in (profile, train)]
    costs, trainings = collect_costs(cells[:1], store), collect_trainings(cells, store)
    results = replace(synthetic.plain(), costs=tuple(costs), trainings=tuple(trainings))
    assert [picture.name for picture in cost_figures(results)] == ["costs", "costs-experts"]
    *tables, training = cost_tables(results)
    assert {cell.origin for table in tables for row in table.rows for cell in row} == {"", "p0"}
    assert "6.00" in synthetic.texts(training)[0] and training.rows[0][-1].origin == "t0"
    assert "Memory" not in f"{training.columns}{training.caption}"  # older records do not say it


def test_trainings_say_how_much_memory_they_took(store: Store) -> None:
    stages = [_cost_stage("train", f"t{seed}") for seed in range(3)]
    for stage, cost in zip(stages, ({"memory": 2 << 30}, {"memory": 3 << 30}, {}), strict=True):
        _write(store, stage, {"seconds": 60.0}, **cost)
    cells = [ProbeCell(_row_trial(seed=seed), "", stage) for seed, stage in enumerate(stages)]
    results = replace(synthetic.plain(), trainings=tuple(collect_trainings(cells, store)))
    (training,) = cost_tables(results)
    place = [column.head for column in training.columns].index("Memory (MiB)")
    assert [row[place].text for row in training.rows] == ["3,072.0"] and "the host's" in training.caption


# --- experts ---------------------------------------------------------------------------------------------------------

CLASSES = ("star rising", "star falling")


def _expert_trial(seed: int = 0, **point: object) -> Any:
    config = SimpleNamespace(routing_odds=(0.25, 0.75))
    return SimpleNamespace(row="mote", label="MoTE", point=tuple(point.items()), seed=seed, config=config)


def _expert_stage(kind: str, identity: str) -> Any:
    texts = SimpleNamespace(context={"class_names": CLASSES})
    named = {"kind": kind, "identity": identity, "key": (kind, identity)}
    return SimpleNamespace(**named, spec={"feature": "t_frames"}, inputs={"texts": texts})


def _record(store: Store, stage: Any, result: dict[str, Any], **tensors: np.ndarray) -> None:
    with store.writing(stage.kind, stage.identity, {"result": result}) as out:
        save_file(tensors, out / f"{'counts' if stage.kind == 'train' else stage.kind}.safetensors")


def test_maps_have_class_names(store: Store) -> None:
    stage = _expert_stage("maps", "m0")
    result = {"names": ["merged", "expert 0"], "videos": ["a.mp4"], "labels": [1], "predictions": [[1, 0]]}
    pixels, cosines = np.zeros((1, 4, 3, 8, 8), np.uint8), np.zeros((1, 2, 4, 2, 2), np.float32)
    _record(store, stage, result, pixels=pixels, cosines=cosines)
    (maps,) = collect_maps(
        [ProbeCell(_expert_trial(), "K600", stage), ProbeCell(_expert_trial(), "K600", _expert_stage("maps", "m1"))],
        store,
    )
    assert (maps.subject.row, maps.subject.seed, maps.protocol, maps.feature) == ("mote", 0, "K600", "t_frames")
    (clip,) = maps.clips
    assert (clip.video, clip.shown, clip.predicted) == ("a.mp4", "star falling", ("star falling", "star rising"))
    assert clip.pixels.shape == (4, 3, 8, 8) and clip.cosines.shape == (2, 4, 2, 2)


def test_points_that_share_a_training_are_one_named_by_what_they_share(store: Store) -> None:
    shared, other = _expert_stage("weights", "w0"), _expert_stage("weights", "w1")
    for stage in (shared, other):
        result = {"groups": ["all layers"], "parameters": [10], "experts": 2}
        _record(store, stage, result, distance=np.zeros((1, 2, 2)), cosine=np.ones((1, 2, 2)))
    cells = [ProbeCell(_expert_trial(layers=4, alpha=alpha), "", shared) for alpha in (0.5, 1.0)]
    found = list(collect_distances([*cells, ProbeCell(_expert_trial(layers=6, alpha=1.0), "", other)], store))
    assert [own.subject.point for own in found] == ["layers 4", "layers 6, alpha 1.0"]
    assert found[0].groups == ("all layers",) and found[0].cosine.shape == (1, 2, 2)


def test_routing_is_every_pool_that_was_drawn_from(store: Store) -> None:
    stage, imported = _expert_stage("train", "t0"), _expert_stage("train", "t1")
    counts = np.array([[1, 3]])
    _record(store, stage, {}, routing=counts, routing_down=2 * counts, routing_never=0 * counts, clipped=counts)
    with store.writing(imported.kind, imported.identity, {"result": {}}):
        pass
    found = list(collect_routing([ProbeCell(_expert_trial(), "", own) for own in (stage, stage, imported)], store))
    assert [own.pool for own in found] == ["routing", "routing_down"]
    assert found[1].counts.tolist() == [[2, 6]] and found[0].odds == (0.25, 0.75)


def test_no_axis_may_overwrite_a_column_of_the_results() -> None:
    """Real tables have no columns besides those that suites refuse as axes, and the axes themselves."""
    results = _collected({"recipe.views.frames": [8, 16]})
    assert set(results.table.columns) - set(results.axes) <= RESERVED
