"""From records to lines: parts, draws and deviations; what has no record; which axes are over protocols."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.store.records import Store
from reports.collect import _title, collect
from reports.results import Results
from reports.snapshot import Evaluations

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

    def read(self, kind: str, identity: str) -> dict[str, Any]:
        return {"result": self.results[identity], "provenance": ORIGIN}

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
    report = SimpleNamespace(join=join, reference=None, compare=[], published=[])
    file = SimpleNamespace(report=report, title="Title", world=None, description="", axes=axes)
    suite: Any = SimpleNamespace(name="suite", file=file, axes={"frames": "protocol.views.frames"})
    graph: Any = SimpleNamespace(
        cells=cells,
        probes=[],
        maps=[],
        weights=[],
        trainings=[],
        profiles=[],
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


def test_summaries_know_what_is_missing() -> None:
    line = _collected({}).summary().iloc[0]
    assert [line[f"split3_{fact}"] for fact in ("n", "parts", "parts_missing")] == [0, 3, 1]
    assert [line[f"half_{fact}"] for fact in ("n", "parts", "mean")] == [1, 10, 69.5]
    assert line["half_parts_std"] == pytest.approx(np.std(range(10)))


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


def test_failures_are_those_of_the_suite() -> None:
    first, second = _collected({}).failures
    assert (first.title, first.attempts, first.failures, first.reason) == ("evaluate s1", 2, 1, "StageError: no")
    assert (second.title, second.attempts, second.failures) == ("evaluate s2", 2, 2)
    assert (first.done, second.done, second.reason) == (True, False, "its process died")


@pytest.mark.parametrize("correct", [[True, False, True], [0.5, np.nan, 1.0]])
def test_correctness_is_that_of_the_predictions(correct: list[float], tmp_path: Path) -> None:
    frame = pd.DataFrame({"video": list("abc"), "label": 0, "prediction": 0, "correct": correct, "failure": None})
    store = Store(tmp_path)
    store.folder("evaluate", "any").mkdir(parents=True)
    frame.to_parquet(store.folder("evaluate", "any") / "predictions.parquet")
    quick = Evaluations(store).correct("any")
    slow = replace(_collected({}), predictions=lambda identity: frame, answers=None).correct("any")
    assert quick.dtype == slow.dtype == np.float32
    np.testing.assert_array_equal(quick, slow)
    np.testing.assert_array_equal(quick, np.array(correct, np.float32))


def test_a_title_says_what_stands_for_the_data_of_the_columns() -> None:
    columns = {"UCF": SimpleNamespace(dataset="glyphs-narrow-objects")}
    suite: Any = SimpleNamespace(file=SimpleNamespace(title="Table 1", world="glyphs"), columns=columns)
    assert _title(suite) == "Table 1, in world glyphs (UCF is glyphs-narrow-objects)"
