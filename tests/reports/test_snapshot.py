"""Snapshots for later comparisons come back as they were, also after reports of other revisions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.core.errors import UserError
from bench.store.records import Store
from reports.facts import Cost, FailedStage, Subject, TrainingCost
from reports.results import Results
from reports.snapshot import Evaluations, find, load, save
from tests.reports import synthetic

COST = Cost(Subject("mote", "MoTE", "", "c0"), {"latency": []}, {"device": "cpu", "threads": 1})
TRAINING = TrainingCost(Subject("mote", "MoTE", "", "t0", 1), 12.5, 1, "cpu", ("adapter",))
FAILURE = FailedStage("train mote seed 0", 2, 1, "KeyError: 'x'", True)


def of_revision(revision: str, dirty: bool = False, top1: float = 50.0) -> Results:
    """Results that are told apart by one number."""
    results = synthetic.plain()
    table = results.table.copy()
    table.loc[0, "top1"] = top1
    return replace(results, table=table, provenance={"revision": revision, "dirty": dirty, "store": "runs"})


@pytest.mark.parametrize("make", [synthetic.experts, synthetic.layered, synthetic.parts, synthetic.frames])
def test_results_come_back(make: Callable[[], Results], tmp_path: Path) -> None:
    results = replace(make(), costs=(COST,), trainings=(TRAINING,), failures=(FAILURE,))
    save(results, tmp_path)
    again = load(tmp_path)
    pd.testing.assert_frame_equal(again.summary(), results.summary(), check_dtype=False)
    for name in ("suite", "title", "axes", "protocol_axes", "settings", "costs", "trainings", "failures"):
        assert getattr(again, name) == getattr(results, name)
    assert again.protocols == json.loads(json.dumps(results.protocols))
    assert {axis: again.values(axis) for axis in again.axes} == {axis: results.values(axis) for axis in results.axes}
    assert again.probes == ()


def test_texts_stay_texts(tmp_path: Path) -> None:
    results = synthetic.plain()
    names = {"mote": "NA", "dense": "01", "hostile": 'null, "x"'}
    save(
        replace(
            results, table=results.table.replace({"label": {results.labels[row]: name for row, name in names.items()}})
        ),
        tmp_path,
    )
    again = load(tmp_path)
    assert {row: again.labels[row] for row in names} == names
    assert set(again.table["expert"]) == {""} and again.table["top1"].isna().sum() == 1


def test_each_revision_keeps_its_last_report(tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "one"
    for revision, dirty, top1 in (
        ("a" * 40, False, 1.0),
        ("b" * 40, True, 2.0),
        ("b" * 40, True, 3.0),
        ("b" * 40, False, 4.0),
    ):
        save(of_revision(revision, dirty, top1), folder)
    found = {
        name: find(name, tmp_path).table["top1"][0]
        for name in (
            "one",
            "one@aaaaaaa",
            "one@" + "a" * 40,
            "one@aaaa",
            "one@bbbbbbb-dirty",
            "one@bbbbbbb",
            str(folder),
        )
    }
    assert list(found.values()) == [4.0, 1.0, 1.0, 1.0, 3.0, 4.0, 4.0]
    assert find("one", tmp_path).provenance["store"] == str(tmp_path)
    assert load(folder).provenance["store"] == str(Path("runs").resolve())


@pytest.mark.parametrize("name", ["two", "one@ccccccc", "one@bb", "one@aaaaaaa-dirty", "nowhere/one"])
def test_reports_that_are_not_there_are_named_with_those_that_are(tmp_path: Path, name: str) -> None:
    for dirty in (False, True):
        save(of_revision("b" * 40, dirty), tmp_path / "reports" / "one")
    save(of_revision("a" * 40), tmp_path / "reports" / "one")
    with pytest.raises(UserError, match="unknown report") as caught:
        find(name, tmp_path)
    assert caught.value.allowed == ["one", "one@aaaaaaa", "one@bbbbbbb", "one@bbbbbbb-dirty"]


def test_without_a_checkout_there_is_no_copy(tmp_path: Path) -> None:
    save(synthetic.plain(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json"]


def test_a_snapshot_of_another_version_is_refused(tmp_path: Path) -> None:
    save(synthetic.plain(), tmp_path)
    file = tmp_path / "results.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 0}))
    with pytest.raises(UserError, match="version 0 of the format"):
        load(tmp_path)
    with pytest.raises(UserError, match="no snapshot"):
        load(tmp_path / "elsewhere")


@pytest.mark.parametrize("text", [b"", b"[]", b"\xe9", b'{"schema": 1}'])
def test_a_damaged_snapshot_is_refused(tmp_path: Path, text: bytes) -> None:
    save(synthetic.plain(), tmp_path)
    (tmp_path / "results.json").write_bytes(text)
    with pytest.raises(UserError, match=rf"(?s){tmp_path}.*`report` writes it again"):
        load(tmp_path)


def test_predictions_that_were_changed_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store.create(tmp_path)
    with store.writing("evaluate", "ee", {}) as folder:
        (folder / "predictions.parquet").write_bytes(b"one")
    file = store.folder("evaluate", "ee") / "predictions.parquet"
    file.write_bytes(b"two")
    with pytest.raises(UserError, match="not there"):
        Evaluations(store).answers("ee")
    assert str(file) in caplog.text


def test_answers_and_class_names_come_from_the_store(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    with store.writing("texts", "tt", {"context": {"class_names": ["star", "heart"]}}):
        pass
    table = pd.DataFrame({"video": ["a", "b"], "label": [0, 1], "prediction": [0, 0], "correct": [1.0, np.nan]})
    with store.writing("evaluate", "ee", {"inputs": {"texts": ["texts", "tt"]}}) as folder:
        table.to_parquet(folder / "predictions.parquet")
    evaluations = Evaluations(store)
    assert evaluations.predictions("ee").equals(table)
    np.testing.assert_array_equal(evaluations.answers("ee").correct_N, np.array([1, np.nan], np.float32))
    assert evaluations.class_names("ee") == ["star", "heart"]
    with pytest.raises(UserError, match="the predictions of a result are not there"):
        evaluations.answers("gone")
