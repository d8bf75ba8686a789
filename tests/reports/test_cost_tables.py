"""Tables of costs: units, closed forms, shared profiles, trainings over seeds and what was published of them."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from math import nan
from typing import Any

import pytest

from bench.published.numbers import lookup
from bench.published.pairing import Pair
from reports.cost_tables import cost_grids
from reports.results import Results
from reports.shown import Grid, comma_separated, latex, markdown
from tests.reports import costly, synthetic


def grids(results: Results) -> dict[str, Grid]:
    return {grid.name: grid for grid in cost_grids(results)}


def line(grid: Grid, *start: str) -> dict[str, str]:
    """The texts of the row that starts so, by head."""
    (row,) = (row for row in grid.rows if row[: len(start)] == start)
    return dict(zip(grid.heads, row, strict=True))


def test_without_costs_there_are_no_tables() -> None:
    assert grids(synthetic.plain()) == {}


def test_what_there_are_numbers_for_has_a_table() -> None:
    names = ["costs", "cost-latency", "cost-modules", "cost-experts", "cost-training"]
    assert list(grids(costly.costly())) == names
    plain = replace(costly.costly(), costs=(costly.cost("dense"),), trainings=())
    assert list(grids(plain)) == ["costs", "cost-latency", "cost-modules"]


def test_parameters_and_flops_have_their_units() -> None:
    grid = grids(costly.costly())["costs"]
    mote = line(grid, "MoTE")
    assert mote["GFLOPs a view"] == "141.3" and mote["Trainable (M)"] == "111.4" and mote["Active (M)"] == "98.8"
    assert mote["GFLOPs training, a video"] == "423.9" and mote["Δ closed form (%)"] == "+0.10"
    assert "GFLOPs (2 per multiply-add)" in grid.caption
    assert line(grid, "CLIP (frozen)")["Trainable (M)"] == "0"


@pytest.mark.parametrize(
    ("counted", "closed", "text"),
    [
        (100, 100, "+0.00"),
        (99, 100, "−1.00"),
        (99_999_999, 100_000_000, "+0.00"),
        (5, 0, "–"),
        (0, 0, "+0.00"),
        (5, None, "–"),
    ],
)
def test_difference_from_the_closed_form(counted: int, closed: int | None, text: str) -> None:
    own = costly.cost("dense")
    own.result["flops"]["view"] = {"counted": counted, "closed": closed}
    assert line(grids(replace(synthetic.plain(), costs=(own,)))["costs"], "Text4Vis")["Δ closed form (%)"] == text


def test_latencies_are_one_line_each_in_milliseconds() -> None:
    grid = grids(costly.costly())["cost-latency"]
    assert len(grid.rows) == 3 * len(costly.PRICES)
    assert line(grid, "MoTE", "video", "fp32", "1") == {
        **{"Method": "MoTE", "Part": "video", "Precision": "fp32", "Batch": "1", "p50 (ms)": "231.0"},
        **{"p95 (ms)": "256.7", "Videos/s": "4.33", "Memory (MiB)": "1,024.0", "Device": "cpu (AVX512), 2 threads"},
    }


def test_modules_add_up() -> None:
    grid = grids(replace(synthetic.plain(), costs=(costly.cost("dense", gflops=200),)))["cost-modules"]
    assert [row[1:3] for row in grid.rows] == [("visual tower", "198.0"), ("head", "2.00")]
    assert sum(float(row[-1]) for row in grid.rows) == pytest.approx(100)


def test_experts_then_what_is_made_of_them() -> None:
    grid = grids(costly.costly())["cost-experts"]
    assert [row[1] for row in grid.rows] == [*(f"expert {i}" for i in range(4)), "merged", "ensemble"]
    first, merged, ensemble = (line(grid, "MoTE", name) for name in ("expert 0", "merged", "ensemble"))
    assert first["Training step (GFLOPs)"] == "0.424" and first["Parameters (M)"] == "22.3"
    assert merged["Training step (GFLOPs)"] == "–" and merged["Head, a view (GFLOPs)"] == "1.41"
    assert ensemble["Head, a view (GFLOPs)"] == "5.65" and ensemble["Parameters (M)"] == "89.1"


def test_points_that_share_a_profile_are_one_line_named_by_what_they_agree_on() -> None:
    base = synthetic.layered()
    points = base.table.loc[base.table["row"] == "mote", ["point", "layers"]].drop_duplicates()
    costs = [
        replace(costly.cost("mote", point), identity=f"{layers}") for point, layers in points.itertuples(index=False)
    ]
    rows = grids(replace(base, costs=tuple(costs)))["costs"].rows
    assert [row[1] for row in rows] == [f"temporal layers {layers}" for layers in (1, 2, 4, 6)]


def test_numbers_link_to_their_records_and_stand_unrounded_in_the_file() -> None:
    for grid in grids(costly.costly()).values():
        names = [place for place, numeric in enumerate(grid.heads.values()) if numeric]
        if grid.name != "cost-training":
            assert {(row, column) for row in range(len(grid.rows)) for column in names} <= grid.links.keys()
            assert set(grid.links.values()) <= {own.identity for own in costly.costly().costs}
        lines = list(csv.DictReader(io.StringIO(comma_separated(grid))))
        assert len(lines) == len(grid.rows)
        assert markdown(grid).count("\n| ") == len(grid.rows) + 2 and r"\toprule" in latex(grid)
    (mote,) = (own for own in grids(costly.costly())["costs"].values if own["row"] == "mote")
    assert mote["flops_view_counted"] == 141_300_000_000 and mote["identity"] == "profile-mote-"


# --- trainings -------------------------------------------------------------------------------------------------------


def _trainings(*trainings: Any, **changes: Any) -> Grid:
    return grids(replace(synthetic.plain(), trainings=trainings, **changes))["cost-training"]


def test_trainings_are_means_over_seeds() -> None:
    grid = _trainings(*(costly.training("mote", seed, hours) for seed, hours in enumerate((2.0, 2.1, 2.2))))
    mote = line(grid, "MoTE")
    assert (mote["Seeds"], mote["Devices"], mote["Device-hours"]) == ("3", "3", "6.30 ± 0.30")
    assert mote["Device-days"] == "0.263 ± 0.013"
    assert not grid.links and grid.values[0]["identities"] == "mote--0 mote--1 mote--2"
    assert grid.values[0]["device_hours_mean"] == pytest.approx(6.3)


def test_a_single_training_has_no_spread_and_links_to_its_record() -> None:
    grid = _trainings(costly.training("mote", 0, 2.0))
    assert line(grid, "MoTE")["Device-hours"] == "6.00" and set(grid.links.values()) == {"mote--0"}


def test_short_trainings_are_told_in_minutes() -> None:
    grid = _trainings(costly.training("mote", 0, 0.05))
    assert line(grid, "MoTE")["Device-minutes"] == "9.00" and grid.values[0]["device_hours_mean"] == pytest.approx(0.15)


def test_rows_that_share_a_training_are_named_on_its_line() -> None:
    grid = _trainings(costly.training("mote", sharing=("dense", "adapter")))
    assert [row[0] for row in grid.rows] == ["MoTE (also Text4Vis, ST-Adapter)"]


def test_other_devices_are_other_lines() -> None:
    first, second = costly.training("mote", 0), costly.training("mote", 1)
    assert len(_trainings(first, replace(second, device="cpu (AVX512)")).rows) == 2
    assert len(_trainings(first, replace(second, devices=1)).rows) == 2


def test_published_days_stand_beside_the_row_that_selects_them() -> None:
    (number,) = lookup({"table": "Table 7d", "metric": "gpu_days", "method": "Text4Vis"})
    pair = Pair("dense", "", "", number, (), ())
    grid = _trainings(costly.training("dense"), costly.training("mote"), published=(pair,))
    assert line(grid, "Text4Vis")["Published GPU-days"] == "4.35" and line(grid, "MoTE")["Published GPU-days"] == "–"
    (note,) = grid.notes
    assert "3x RTX 4090" in note and note.endswith("Text4Vis baseline ViT-L/14 4.35.")


def test_published_days_of_a_suites_methods_are_noted_where_none_is_selected() -> None:
    (note,) = _trainings(costly.training("mote")).notes
    assert "Table 7d" in note and all(text in note for text in ("4.35", "4.50", "4.51")) and "Text4Vis" not in note
    other = replace(synthetic.plain(), table=synthetic.plain().table.query("row == 'adapter'"))
    assert grids(replace(other, trainings=(costly.training("adapter"),)))["cost-training"].notes == ()


def test_what_was_not_measured_is_a_dash() -> None:
    own = costly.cost("dense")
    own.result["latency"] = [{**own.result["latency"][1], "memory": None, "throughput": nan}]
    row = line(grids(replace(synthetic.plain(), costs=(own,)))["cost-latency"], "Text4Vis")
    assert row["Memory (MiB)"] == row["Videos/s"] == "–"
