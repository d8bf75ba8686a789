"""Two suites as one: what becomes one column and what does not, who is tested against whom, what became worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.commands.app import main
from bench.commands.store import compare
from bench.store.records import Store
from reports import bootstrap
from reports.compare import Change, changes, merge, regression_tables, sentences
from reports.comparisons import comparisons
from reports.facts import Cost, Subject, TrainingCost
from reports.results import Results
from reports.snapshot import save
from tests.reports import synthetic

NAMES = ("before", "after")


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of accuracies are quick."""
    monkeypatch.setattr(bootstrap, "DRAWS", 100)


def of(rows: Mapping[str, float], seeds: int = 2, **more: Any) -> Results:
    """Rows of these closed-set accuracies; zero-shot ones are alike. Every seed has videos of its own answers."""
    lines = [
        synthetic.line(row, {}, seed, protocol, top1 if protocol == "K400" else 50.0)
        for row, top1 in rows.items()
        for seed in range(seeds)
        for protocol in ("K400", "UCF")
    ]
    return replace(synthetic.suite(pd.DataFrame(lines), reference=next(iter(rows))), **more)


def with_protocol(results: Results, name: str, **fields: Any) -> Results:
    return replace(results, protocols={**results.protocols, name: {**results.protocols[name], **fields}})


def test_rows_of_both_are_pairs_and_the_first_is_what_is_compared_with() -> None:
    merged = merge(of({"mean": 70, "dense": 80}), of({"dense": 81, "mote": 82}), NAMES)
    assert list(merged.labels.values()) == ["A: Mean pooling", "A: Text4Vis", "B: Text4Vis", "B: MoTE"]
    assert merged.settings.compare == (("B: dense", "A: dense"),)
    assert merged.sides["B: dense"] == "Text4Vis" and merged.sides["A: mean"] == "Mean pooling"
    assert merged.settings.reference == "A: mean" and merged.title == "before against after"
    assert merged.description.split(". ")[1:] == ["Only A has Mean pooling", "Only B has MoTE."]
    (test, *_) = [test for test in comparisons(merged) if test.role == "closed-set"]
    assert (test.a, test.b) == ("B: Text4Vis", "A: Text4Vis") and test.difference == pytest.approx(1.0)
    assert set(merged.provenance) == {"A", "B"}


def test_the_first_lines_say_which_rule_chose_the_settings_of_a_tuned_side() -> None:
    how = "Of 9 settings of each tuned row, source-validation chose: the best under val."
    tuned = of({"mean": 70}, provenance={"settings": how})
    assert f"differences are B − A. A: {how}" in merge(tuned, of({"mean": 70}), NAMES).description
    assert f"B: {how}" in merge(of({"mean": 70}), tuned, NAMES).description
    assert "settings" not in merge(of({"mean": 70}), of({"mean": 70}), NAMES).description


def _other_videos(results: Results) -> Results:
    def predictions(identity: str) -> pd.DataFrame:
        found = synthetic.predictions(identity)
        return found.assign(video="other " + found["video"]) if ":K400:" in identity else found

    return replace(results, predictions=predictions)


@pytest.mark.parametrize(
    "change",
    [lambda results: with_protocol(results, "K400", hash="deadbeef"), _other_videos],
    ids=["other protocol", "other videos"],
)
def test_columns_that_mean_something_else_are_kept_apart(change: Any) -> None:
    merged = merge(of({"mote": 80}), change(of({"mote": 70})), NAMES)
    assert set(merged.roles) == {"K400 (A)", "K400 (B)", "UCF"} and set(merged.protocols) == set(merged.roles)
    assert "not compared: K400." in merged.description
    assert {test.protocol for test in comparisons(merged)} & {"K400 (A)", "K400 (B)"} == set()


def test_an_axis_over_protocols_that_only_one_has_keeps_all_columns_apart() -> None:
    merged = merge(synthetic.frames(), of({"mote": 80}), NAMES)
    assert {"K400 (A)", "K400 (B)", "UCF (A)", "UCF (B)", "HMDB", "K600"} == set(merged.roles)
    assert merged.protocol_axes == ("frames",)


def test_each_side_answers_from_its_own_store() -> None:
    def answering(top1: float, correct: float) -> Results:
        table = pd.DataFrame({"video": [0], "label": [0], "prediction": [0], "correct": [correct]})
        return replace(of({"mote": top1}), predictions=lambda _: table)

    merged = merge(answering(80, 0.25), answering(81, 0.5), NAMES)
    lines = merged.table[merged.table["protocol"] == "K400"]
    found = {
        (row[:1], float(merged.correct(identity)[0]))
        for row, identity in zip(lines["row"], lines["identity"], strict=True)
    }
    assert found == {("A", 0.25), ("B", 0.5)}


# ---------------------------------------------------------------------------------------------------------------------
# What became worse


def found(a: Results, b: Results, what: str = "") -> list[Change]:
    return [change for change in changes(merge(a, b, NAMES)) if what in change.what]


def test_accuracies() -> None:
    after = {"mote": 60.0, "dense": 79.5, "mean": 80.0, "adapter": 95.0}
    compared = found(of(dict.fromkeys(after, 80.0)), of(after), "closed-set")
    assert [(change.row, change.worse) for change in compared] == [
        *(("MoTE", True), ("Text4Vis", False), ("Mean pooling", False), ("ST-Adapter", False))
    ]
    assert [(change.a, change.b) for change in compared] == [
        (pytest.approx(80), pytest.approx(b)) for b in after.values()
    ]


def test_missing_results_are_not_compared() -> None:
    gone = of({"mote": 80})
    empty = {"top1": np.nan, "top5": np.nan, "mean_class": np.nan, "videos": np.nan, "identity": ""}
    gone = replace(
        gone,
        table=gone.table.assign(
            **{n: gone.table[n].mask(gone.table["protocol"] == "K400", v) for n, v in empty.items()}
        ),
    )
    (change,) = found(of({"mote": 80}), gone, "closed-set")
    assert change.skipped == "results are missing" and not change.worse


def profile(row: str, p50: float, device: str = "Xeon", threads: int = 1, batch: int = 1) -> Cost:
    entry = {"part": "video", "precision": "fp32", "batch": batch, "p50": p50, "throughput": batch / p50}
    subject = Subject(row, synthetic.ROWS[row][0], "", "c")
    return Cost(subject, {"latency": [entry]}, {"device": device, "threads": threads})


def training(
    row: str, seconds: float, seed: int = 0, device: str = "Xeon", sharing: tuple[str, ...] = ()
) -> TrainingCost:
    return TrainingCost(Subject(row, synthetic.ROWS[row][0], "", f"t{row}{seed}", seed), seconds, 1, device, sharing)


@pytest.fixture(scope="module")
def times() -> dict[tuple[str, str], Change]:
    """Changes of times, by row and quantity; accuracies are left out."""
    rows = dict.fromkeys(synthetic.ROWS, 80.0)
    a = of(
        rows,
        costs=tuple(profile(row, 0.2) for row in rows),
        trainings=(  # the last one is listed under the first row that uses it
            *(training("clip", 10, seed) for seed in (0, 1)),
            *(training("mean", 10, seed) for seed in (0, 1)),
            *(training("dense", 10), training("mote", 10, sharing=("adapter",))),
        ),
    )
    b = of(
        rows,
        costs=(
            *(profile("clip", 0.25), profile("mean", 0.215), profile("dense", 0.1), profile("mote", 0.25, batch=8)),
            *(profile("adapter", 9.0, device="Arm"), profile("hostile", 9.0, threads=8)),
        ),
        trainings=(
            *(training("clip", 10), training("clip", 14, seed=1), training("mean", 11)),
            *(training("dense", 99, device="H200"), training("adapter", 10.5)),
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.compare.comparisons", lambda results: [])
        return {(change.row, change.what.split(" of ")[0]): change for change in changes(merge(a, b, NAMES))}


@pytest.mark.parametrize(
    ("row", "what", "a", "b", "worse"),
    [
        ("clip", "latency", 200, 250, True),
        ("clip", "throughput", 5, 4, True),
        ("mean", "latency", 200, 215, False),
        ("mean", "throughput", 5, 1 / 0.215, False),
        ("dense", "latency", 200, 100, False),
        ("clip", "training", 10, 12, True),
        ("mean", "training", 10, 11, False),  # of the seed that both have
        ("adapter", "training", 10, 10.5, False),
    ],
)
def test_times(times: dict[tuple[str, str], Change], row: str, what: str, a: float, b: float, worse: bool) -> None:
    change = times[synthetic.ROWS[row][0], what]
    assert (change.a, change.b, change.worse) == (pytest.approx(a), pytest.approx(b), worse) and not change.skipped


@pytest.mark.parametrize(
    ("row", "what", "why"),
    [
        ("adapter", "latency and throughput", "other device (Xeon, 1 threads in A, Arm, 1 threads in B)"),
        ("hostile", "latency and throughput", "other device (Xeon, 1 threads in A, Xeon, 8 threads in B)"),
        ("dense", "training", "other device (1 × Xeon in A, 1 × H200 in B)"),
    ],
)
def test_times_of_other_devices_are_not_compared(
    times: dict[tuple[str, str], Change], row: str, what: str, why: str
) -> None:
    change = times[synthetic.ROWS[row][0], what]
    assert change.skipped == why and not change.worse


def test_other_batches_and_trainings_of_one_side_are_left_out(times: dict[tuple[str, str], Change]) -> None:
    assert not [what for row, what in times if row == "MoTE"]


def test_what_is_worse_is_told_and_listed() -> None:
    a = of({"mote": 80, "dense": 70}, costs=(profile("mote", 0.2),), trainings=(training("mote", 10),))
    merged = merge(
        a,
        of({"mote": 60, "dense": 70}, costs=(profile("mote", 0.4),), trainings=(training("mote", 10, device="H200"),)),
        NAMES,
    )
    (table,) = regression_tables(merged)
    rows = synthetic.texts(table)
    assert [row[:2] for row in rows[-3:]] == [
        ("MoTE", "latency of video, fp32, batch 1"),
        ("MoTE", "throughput of video, fp32, batch 1"),
        ("MoTE", "training"),
    ]
    assert ("MoTE", "closed-set top-1, K400", "80.0 %", "60.0 %", "−20.0 points") in [row[:5] for row in rows]
    assert rows[-3][2:5] == ("200.0 ms", "400.0 ms", "+100.0 %") and table.section == "significance"
    assert table.values is not None and table.values["a"].to_list()[-3] == pytest.approx(200)
    told = sentences(merged)
    assert (
        told[0].startswith("Regressions from A to B: ")
        and "Worse: MoTE, closed-set top-1, K400: 80.0 % → 60.0 % (−20.0 points)." in told
    )
    assert told[-1] == "1 not compared: other device (1 × Xeon in A, 1 × H200 in B)."


def test_other_results_have_no_regressions() -> None:
    assert (list(regression_tables(synthetic.plain())), sentences(synthetic.plain())) == ([], [])


# ---------------------------------------------------------------------------------------------------------------------
# The command


def evaluated(root: Path, suite: str, accuracies: Mapping[str, float], revision: str) -> None:
    """A report's snapshot in a store, with the predictions of its evaluations."""
    results = of(accuracies)
    store = Store.create(root)
    with store.writing("texts", "names", {"context": {"class_names": ["star", "heart"]}}):
        pass
    for identity in set(results.table["identity"]):
        with store.writing("evaluate", identity, {"inputs": {"texts": ["texts", "names"]}}) as folder:
            synthetic.predictions(identity).to_parquet(folder / "predictions.parquet")
    provenance = {**synthetic.PROVENANCE, "revision": revision, "store": str(root)}
    save(replace(results, suite=suite, provenance=provenance), root / "reports" / suite)


def test_the_command_writes_the_page_and_says_what_became_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tmp_path, "one", {"mote": 80}, "a" * 40)
    evaluated(tmp_path, "one", {"mote": 60}, "b" * 40)
    compare("one@aaaaaaa", "one", None, tmp_path, False)
    assert "Worse: MoTE, closed-set top-1, K400: 80.0 % → 60.0 %" in capsys.readouterr().out
    page = (tmp_path / "reports" / "compare-one-aaaaaaa-one" / "report.html").read_text(encoding="utf-8")
    assert "one@aaaaaaa against one" in page and "B: MoTE" in page


@pytest.mark.parametrize(("a", "b", "code"), [("one@aaaaaaa", "one", 1), ("one", "one@aaaaaaa", 0)])
def test_the_command_fails_on_regressions_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a: str, b: str, code: int
) -> None:
    evaluated(tmp_path, "one", {"mote": 80}, "a" * 40)
    evaluated(tmp_path, "one", {"mote": 60}, "b" * 40)
    monkeypatch.setattr("reports.page.write_report", lambda results, folder: folder)
    arguments = ["compare", a, b, "--store", str(tmp_path)]
    assert (main(arguments), main([*arguments, "--fail-on-regression"])) == (0, code)


def test_the_command_names_what_can_be_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evaluated(tmp_path, "one", {"mote": 80}, "a" * 40)
    assert main(["compare", "one", "two", "--store", str(tmp_path)]) == 2
    assert "allowed: one, one@aaaaaaa" in capfd.readouterr().err
