"""Reports of tuned suites: the numbers at the chosen points, their intervals, and the tables of what was tried."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from bench.suite.tuning import rule
from reports.bootstrap import bootstrap
from reports.findings import findings, headline
from reports.results import ReportSettings, Results
from reports.selection import REST, selected
from reports.tuning import tuning_tables
from tests.reports.synthetic import heads, texts

VIDEOS, SEEDS = 400, 3
ROLES = {"val": "validation", "K400": "closed-set", "UCF": "zero-shot", "HMDB": "zero-shot"}
# Row -> setting -> accuracy under each protocol.
ROWS = {
    "clip": {"": (50, 50, 60, 40)},
    "mote": {"lr 0.001": (70, 70, 60, 40), "lr 0.01": (80, 80, 50, 30), "lr 0.1": (60, 60, 65, 45)},
}


@cache
def _predictions(identity: str) -> pd.DataFrame:
    top1 = float(identity.rsplit(":", 1)[1])
    generator = np.random.default_rng(sum(identity.encode()))
    correct_N = generator.permutation(np.arange(VIDEOS) < round(top1 / 100 * VIDEOS))
    videos = [f"v{number:03d}" for number in range(VIDEOS)]
    return pd.DataFrame({"video": videos, "label": 0, "prediction": 1 - correct_N.astype(int), "correct": correct_N})


def _full(rows: dict = ROWS, lost: tuple[str, ...] = ()) -> Results:
    lines = []
    for row, settings in rows.items():
        for setting, numbers in settings.items():
            for seed in range(SEEDS):
                for (protocol, role), own in zip(ROLES.items(), numbers, strict=True):
                    top1 = (own[seed] if isinstance(own, tuple) else own) + (0.5 * seed if protocol != "val" else 0)
                    identity = f"{row}:{setting}:{seed}:{protocol}:{top1}"
                    missing = any(identity.startswith(each) for each in lost)
                    lines.append(
                        {
                            **{"row": row, "label": row, "method": row, "point": setting and f"tuned {setting}"},
                            **{"seed": seed, "expert": "", "role": role, "protocol": protocol, "dataset": protocol},
                            **{"part": "", "deviation": "", "tuned": setting or None, REST: ""},
                            **{"top1": np.nan if missing else top1, "top5": 99.0, "mean_class": top1, "undecodable": 0},
                            **{"videos": VIDEOS, "identity": "" if missing else identity},
                        }
                    )
    card = {"hash": "0", "use": "", "changes": "", "fields": {}, "notes": []}
    return Results(
        suite="tuned", title="Tuned", description="", table=pd.DataFrame(lines), predictions=_predictions, probes=(),
        settings=ReportSettings(), provenance={}, axes={"tuned": "tuned"}, protocol_axes=(),
        protocols={name: dict(card) for name in ROLES},
    )  # fmt: skip


def _means(results: Results, row: str = "mote") -> dict[str, float]:
    summary = results.summary().set_index("row")
    return {name: round(float(summary[f"{name}_mean"][row]), 2) for name in results.measures if name in ROLES}


def _chosen(name: str, full: Results | None = None) -> Results:
    return selected(full or _full(), name, rule(name))


def test_each_rule_measures_at_what_its_judges_choose() -> None:
    assert _means(_chosen("source-validation")) == {"K400": 80.5, "UCF": 50.5, "HMDB": 30.5}
    assert _means(_chosen("leave-one-target-out")) == {"K400": 60.5, "UCF": 65.5, "HMDB": 45.5}
    assert _means(_chosen("oracle")) == {"K400": 80.5, "UCF": 65.5, "HMDB": 45.5}
    assert _means(_chosen("source-validation"), "clip") == {"K400": 50.5, "UCF": 60.5, "HMDB": 40.5}


def test_the_tuned_axis_and_the_protocol_that_chooses_are_no_part_of_the_results() -> None:
    results = _chosen("source-validation")
    assert results.axes == {} and set(results.table["point"]) == {""} and "val" not in results.roles
    assert [*results.measures] == ["K400", "UCF", "HMDB", "hm_zs", "trade_off"]
    assert len(results.table) == 2 * SEEDS * 3


def test_a_seed_is_measured_where_the_other_seeds_choose() -> None:
    lucky = {"mote": {"a": ((90, 50, 50), 70, 70, 70), "b": ((60, 60, 60), 40, 40, 40)}}
    results = _chosen("source-validation", _full(lucky))
    top1 = results.table[results.table["protocol"] == "UCF"].sort_values("seed")["top1"].tolist()
    assert top1 == [40.0, 70.5, 71.0]
    (table, _) = tuning_tables(results)
    assert texts(table)[0][:4] == ("mote", "2", "a", "2 of 3")


def test_a_row_that_lacks_what_it_is_chosen_by_is_missing() -> None:
    results = _chosen("source-validation", _full(lost=("mote:lr 0.1:2:val",)))
    assert np.isnan([*_means(results).values()]).all() and _means(results, "clip")["UCF"] == 60.5
    assert bootstrap(results, False).interval(("mote", "", ""), "UCF") is None
    assert "missing" in texts(next(iter(tuning_tables(results))))[0]


def test_intervals_hold_the_choice() -> None:
    clear = bootstrap(_chosen("source-validation"), False).interval(("mote", "", ""), "UCF")
    near = {"mote": {"a": (70.0, 70, 80, 60), "b": (69.5, 60, 60, 50)}}
    close = bootstrap(_chosen("source-validation", _full(near)), False).interval(("mote", "", ""), "UCF")
    assert clear is not None and close is not None
    assert clear.high - clear.low < 10 < 18 < close.high - close.low  # another point would have been chosen as well
    assert close.low < 62 and close.high > 78


def test_tables_show_what_was_tried_and_what_the_best_adds() -> None:
    results = _chosen("source-validation")
    choices, tried = tuning_tables(results)
    assert heads(choices)[:4] == ["Method", "Tried", "Chosen", "Seeds"] and len(choices.rows) == 1
    row = texts(choices)[0]
    assert row[:4] == ("mote", "3", "lr 0.01", "3 of 3")
    first = results.tuning.full.summary().set_index("point").loc["tuned lr 0.001"]  # type: ignore[union-attr]
    assert row[5] == f"{first['trade_off_mean']:.1f}"
    assert float(row[6]) == max(float(own[-1].partition(" ")[0]) for own in texts(tried) if own[0] == "mote")
    assert row[7] == f"+{float(row[6]) - float(row[4]):.1f}"
    assert len(tried.rows) == 4 and tried.section == "tuning" and "flatters" in tried.notes[-1]


def test_the_findings_say_how_the_points_were_chosen() -> None:
    assert any("source-validation chose" in own for own in findings(_chosen("source-validation")))
    assert any("flatter" in own for own in findings(_chosen("oracle")))
    assert "which flatters" in headline(_chosen("oracle")) and "flatters" not in headline(_chosen("source-validation"))
