"""Scores per trial, their summary over seeds, and how axes split a picture."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from reports.results import value_text
from tests.reports import synthetic


def _by_row(summary: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {line["row"]: {str(name): value for name, value in line.items()} for line in summary.to_dict("records")}


def test_harmonic_means_are_made_per_seed() -> None:
    results = synthetic.plain()
    scores = results.scores()
    line = scores[(scores["row"] == "mote") & (scores["seed"] == 1)].iloc[0]
    unseen = 3 / (1 / line["UCF"] + 1 / line["HMDB"] + 1 / line["K600"])
    assert line["hm_zs"] == pytest.approx(unseen)
    assert line["trade_off"] == pytest.approx(2 * line["K400"] * unseen / (line["K400"] + unseen))
    assert len(scores) == 5 * 3 + 1


def test_a_missing_target_leaves_no_harmonic_mean() -> None:
    scores = synthetic.plain().scores()
    line = scores[(scores["row"] == "adapter") & (scores["seed"] == 2)].iloc[0]
    assert not math.isnan(line["K400"])
    assert math.isnan(line["HMDB"]) and math.isnan(line["hm_zs"]) and math.isnan(line["trade_off"])


def test_summary_counts_the_seeds_that_are_there() -> None:
    lines = {line["row"]: line for line in synthetic.plain().summary().to_dict("records")}
    assert [lines["adapter"][name] for name in ("seeds", "K400_n", "HMDB_n", "hm_zs_n")] == [3, 3, 2, 2]
    assert lines["clip"]["K400_n"] == 1 and math.isnan(lines["clip"]["K400_std"])
    seeds = synthetic.plain().scores().query("row == 'mote'")["trade_off"]
    assert lines["mote"]["trade_off_mean"] == pytest.approx(seeds.mean())
    assert lines["mote"]["trade_off_std"] == pytest.approx(seeds.std(ddof=1))


def test_experts_are_kept_apart_from_their_row() -> None:
    results = synthetic.experts()
    assert results.summary()["row"].to_list() == list(synthetic.ROWS)
    assert results.summary(experts=True)["expert"].to_list() == [*(f"expert {i}" for i in range(4)), "merged"]


def test_a_text_axis_of_several_rows_makes_panels() -> None:
    results = synthetic.layered()
    facets = results.facets(results.summary(), "layers")
    assert list(facets) == ["world narrow", "world broad"]
    assert facets["world narrow"]["row"].to_list() == ["clip"] + 4 * ["dense"] + 4 * ["mote"]


def test_a_row_without_the_facet_axis_is_in_every_panel() -> None:
    results = synthetic.layered()
    table = results.table.assign(world=results.table["world"].mask(results.table["row"] == "clip", None))
    results = replace(results, table=table[~table.duplicated(["row", "world", "layers", "seed", "protocol"])])
    table = results.table.assign(point=results.table["point"].mask(results.table["row"] == "clip", ""))
    results = replace(results, table=table)
    assert all("clip" in lines["row"].to_list() for lines in results.facets(results.summary(), "layers").values())


def test_a_row_without_text_axis_stays_within_its_value_of_a_protocol_axis() -> None:
    table = synthetic.layered().table
    table = table.assign(world=table["world"].mask(table["row"] == "clip", None))
    table = table[~table.duplicated(["row", "world", "layers", "seed", "protocol"])]
    both = [table.assign(frames=frames, point=f"{frames} " + table["point"]) for frames in (4, 8)]
    axes = {"layers": "layers", "world": "world", "frames": "frames"}
    results = synthetic.suite(pd.concat(both), axes, protocol_axes=("frames",))
    facets = results.facets(results.summary(), "layers")
    titles = ["world narrow, frames 4", "world broad, frames 4", "world narrow, frames 8", "world broad, frames 8"]
    assert list(facets) == titles
    assert all(lines["row"].to_list() == ["clip"] + 4 * ["dense"] + 4 * ["mote"] for lines in facets.values())
    assert [lines["frames"].unique().tolist() for lines in facets.values()] == [[4], [4], [8], [8]]


def test_a_text_axis_of_one_row_makes_no_panels() -> None:
    results = synthetic.layered()
    results = replace(results, table=results.table[results.table["row"] == "mote"])
    assert results.facet_axes("layers") == []


def test_two_results_for_one_cell_are_refused() -> None:
    results = synthetic.plain()
    with pytest.raises(ValueError, match="two lines for"):
        replace(results, table=pd.concat([results.table, results.table.iloc[:1]]))


def test_missing_columns_are_named() -> None:
    results = synthetic.plain()
    with pytest.raises(ValueError, match="lack the columns alpha, videos"):
        replace(results, table=results.table.drop(columns="videos"), axes={"alpha": "α"})


def test_a_protocol_is_the_mean_of_its_parts() -> None:
    results = synthetic.parts(seeds=3)
    own = results.table.query("row == 'mote' and protocol == 'UCF'").pivot(index="seed", columns="part", values="top1")
    score = results.scores().query("row == 'mote'").set_index("seed")["UCF"]
    assert score.to_list() == pytest.approx(own.mean(axis=1).to_list())
    line = _by_row(results.summary())["mote"]
    assert line["UCF_std"] == pytest.approx(own.mean(axis=1).std(ddof=1))
    assert line["UCF_parts_std"] == pytest.approx(own.std(axis=1, ddof=0).mean())
    assert [line[f"{name}_parts"] for name in ("K400", "UCF", "HMDB")] == [1, 3, 10]
    assert math.isnan(line["K400_parts_std"])


def test_a_missing_part_leaves_no_mean() -> None:
    results = synthetic.parts()
    table = synthetic.missing(results.table, row="mote", part="test2")
    line = _by_row(replace(results, table=table).summary())["mote"]
    assert (line["UCF_n"], line["UCF_parts"], line["UCF_parts_missing"], line["hm_zs_n"]) == (0, 3, 1, 0)
    assert math.isnan(line["UCF_mean"]) and math.isnan(line["UCF_parts_std"])


def test_draws_of_one_record_are_one_evaluation() -> None:
    results = synthetic.parts()
    assert len(results.table) == 6 * (1 + 3 + 10 + 1) and len(results.evaluations()) == 6 * (1 + 3 + 1 + 1)


def test_a_deviating_cell_is_in_no_harmonic_mean() -> None:
    results = synthetic.deviating()
    lines, plain = _by_row(results.summary()), _by_row(synthetic.plain().summary())
    assert lines["mote"]["UCF_mean"] == plain["mote"]["UCF_mean"]
    assert (lines["mote"]["hm_zs_n"], lines["mote"]["trade_off_n"]) == (0, 0)
    assert (lines["mean"]["hm_zs_n"], lines["mean"]["trade_off_n"]) == (3, 0)
    assert lines["mote"]["UCF_deviation"] == "views.clips 1 instead of 3" and lines["mote"]["HMDB_deviation"] == ""
    assert lines["mote"]["trade_off_deviation"] == "UCF"
    alike = _by_row(results.summary(alike=True))
    assert math.isnan(alike["mote"]["UCF_mean"]) and alike["mote"]["HMDB_mean"] == lines["mote"]["HMDB_mean"]


def test_measures_are_those_that_the_roles_allow() -> None:
    assert list(synthetic.plain().measures) == ["K400", "UCF", "HMDB", "K600", "hm_zs", "trade_off"]
    assert list(synthetic.without("zero-shot").measures) == synthetic.without("zero-shot").headlines == ["K400"]
    assert synthetic.without("closed-set").headlines == ["hm_zs"]
    halves = synthetic.halves()
    titles = [measure.title for measure in halves.measures.values()]
    assert titles == [*synthetic.HALVES, "HM hmdb51", "HM ucf101"]
    assert list(halves.trade_offs) == halves.headlines


def test_the_only_pair_of_halves_has_the_plain_name() -> None:
    table = synthetic.halves().table
    only = synthetic.suite(table[table["dataset"] == "ucf101"], {"shots": "shots"})
    assert [measure.title for measure in only.trade_offs.values()] == ["HM"]
    scores = only.scores()
    base, novel = scores["ucf101-base"], scores["ucf101-novel"]
    assert scores["hm_ucf101-base_ucf101-novel"].to_list() == pytest.approx(
        (2 * base * novel / (base + novel)).to_list()
    )


def test_pairs_of_one_dataset_are_told_apart() -> None:
    table = synthetic.halves().table
    again = table[table["protocol"] == "ucf101-novel"].assign(protocol="ucf101-novel-full")
    measures = synthetic.suite(pd.concat([table, again]), {"shots": "shots"}).trade_offs.values()
    expected = ["HM hmdb51", "HM ucf101-base/ucf101-novel", "HM ucf101-base/ucf101-novel-full"]
    assert [measure.title for measure in measures] == expected


def test_each_value_of_a_protocol_axis_has_its_own_panel() -> None:
    results = synthetic.frames()
    assert results.facet_axes("frames") == ["frames"]
    facets = results.facets(results.summary(), None)
    assert {title: lines["row"].to_list() for title, lines in facets.items()} == {
        "frames 4": ["clip", "dense", "mote"],
        "frames 8": ["clip", "dense", "mote"],
    }


@pytest.mark.parametrize(
    ("value", "text"), [(4.0, "4"), (0.25, "0.25"), ("narrow", "narrow"), (True, "True"), (None, ""), (math.nan, "")]
)
def test_axis_values_in_print(value: object, text: str) -> None:
    assert value_text(value) == text
