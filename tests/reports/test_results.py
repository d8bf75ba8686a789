"""Scores per trial, their summary over seeds, and how axes split a picture."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest

from reports.results import value_text
from tests.reports import synthetic


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


@pytest.mark.parametrize(
    ("value", "text"), [(4.0, "4"), (0.25, "0.25"), ("narrow", "narrow"), (True, "True"), (None, ""), (math.nan, "")]
)
def test_axis_values_in_print(value: object, text: str) -> None:
    assert value_text(value) == text
