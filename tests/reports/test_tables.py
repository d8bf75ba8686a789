"""The rendered tables against golden files, and which cells may be bold.

`python -m tests.reports.test_tables` writes the golden files anew; read their diff before keeping it.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from reports import tables
from reports.tables import Cell
from tests.reports import synthetic

GOLDEN = Path(__file__).parents[1] / "golden"
SUITES = ("plain", "layered", "parts", "deviating", "halves")
RENDERED = {"md": tables.markdown, "tex": tables.latex}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("kind", RENDERED)
def test_rendering_is_golden(suite: str, kind: str) -> None:
    text = RENDERED[kind](tables.harmonic_mean_table(getattr(synthetic, suite)()))
    assert text == (GOLDEN / f"table-{suite}.{kind}").read_text(encoding="utf-8")


def test_csv_holds_the_unrounded_summary() -> None:
    results = synthetic.plain()
    read = pd.read_csv(io.StringIO(tables.csv(results)), keep_default_na=True)
    assert read["trade_off_mean"].to_numpy() == pytest.approx(results.summary()["trade_off_mean"].to_numpy())


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell(74.25, 0.31, 3, 3), "74.2 ± 0.3"),
        (Cell(74.25, float("nan"), 1, 1), "74.2"),
        (Cell(74.25, 0.31, 2, 3), "74.2 ± 0.3 (2 of 3)"),
        (Cell(float("nan"), float("nan"), 0, 3), "missing"),
        (Cell(float("nan"), float("nan"), 0, 3, derived=True), ""),
        (Cell(float("nan"), float("nan"), 0, 0), "–"),
        (Cell(float("nan"), float("nan"), 0, 1, parts=3, parts_missing=1), "2 of 3 parts"),
        (Cell(float("nan"), float("nan"), 0, 2, parts=3, parts_missing=5), "1 of 6 parts"),
        (Cell(float("nan"), float("nan"), 0, 1, parts=3, parts_missing=3), "missing"),
        (Cell(74.25, 0.31, 3, 3, deviates=True), "74.2 ± 0.3†"),
        (Cell(float("nan"), float("nan"), 0, 3, derived=True, deviates=True), "†"),
    ],
)
def test_cell_text(cell: Cell, text: str) -> None:
    assert cell.text() == text


def _bold(table: pd.DataFrame) -> list[str]:
    lines = tables.harmonic_mean_table(synthetic.suite(table)).lines
    return [line.names[0] for line in lines if line.cells[0].best]


def _top(table: pd.DataFrame) -> list[str]:
    lines = tables.harmonic_mean_table(synthetic.suite(table)).lines
    return [line.names[0] for line in lines if line.cells[0].top]


def _closed(**top1: float) -> pd.DataFrame:
    return pd.DataFrame([synthetic.line(row, {}, 0, "K400", value) for row, value in top1.items()])


def test_ties_after_rounding_are_all_bold() -> None:
    table = _closed(mean=40.0, dense=80.0, mote=80.0)
    table["top1"] = [40.0, 80.02, 79.98]
    assert _bold(table) == ["Text4Vis", "MoTE"]
    assert _top(table) == ["Text4Vis", "MoTE"]


def test_what_is_not_significantly_below_the_best_is_bold_and_the_best_stands_out() -> None:
    table = _closed(clip=40.0, mean=73.0, dense=76.0, mote=80.0)
    assert _bold(table) == ["Mean pooling", "Text4Vis", "MoTE"]  # 200 videos
    assert _top(table) == ["MoTE"]


def test_seeds_that_scatter_make_ties() -> None:
    closed = _closed(mean=60.0, dense=80.0)
    assert _bold(closed) == ["Text4Vis"]
    scatter = [closed.assign(seed=seed, top1=closed["top1"] + shift) for seed, shift in enumerate((-15, 0, 15))]
    assert _bold(pd.concat(scatter)) == ["Mean pooling", "Text4Vis"]


def test_intervals_are_in_the_file_and_under_the_pointer() -> None:
    results = synthetic.plain()
    read = pd.read_csv(io.StringIO(tables.csv(results)))
    line, cell = read.iloc[3], tables.harmonic_mean_table(results).lines[3].cells[-1]
    assert line["trade_off_low"] < line["trade_off_mean"] < line["trade_off_high"]
    shown = f"95 % interval {line['trade_off_low']:.1f}–{line['trade_off_high']:.1f} over 200 videos and 3 seeds"
    assert cell.interval_text == shown


def test_few_seeds_and_single_runs_carry_a_warning() -> None:
    few, single = (tables.harmonic_mean_table(results).caption for results in (synthetic.joined(), synthetic.parts()))
    assert "Caution, n = 3 seeds" in few and "as little as 85 %" in few
    assert "Caution" not in single and "One run: every row" in single
    ten = pd.concat([_closed(mean=60.0, dense=80.0).assign(seed=seed, top1=60.0 + seed) for seed in range(10)])
    assert "Caution" not in tables.harmonic_mean_table(synthetic.suite(ten)).caption


def test_incomplete_cells_do_not_compete() -> None:
    table = pd.concat([_closed(mean=40.0, dense=75.0, mote=90.0), _closed(mote=90.0).assign(seed=1, top1=float("nan"))])
    assert _bold(table) == ["Text4Vis"]


def test_a_cell_without_competitor_is_not_bold() -> None:
    assert _bold(_closed(mote=90.0)) == []


def test_best_is_per_facet() -> None:
    lines = tables.harmonic_mean_table(synthetic.layered()).lines
    best = [line.names[:3] for line in lines if line.cells[-1].top]
    assert best == [("MoTE", "6", "narrow"), ("MoTE", "6", "broad")]


def test_a_protocol_that_a_row_never_had_is_not_missing() -> None:
    results = synthetic.plain()
    class_bound = (results.table["row"] == "mean") & (results.table["role"] == "zero-shot")
    lines = tables.harmonic_mean_table(replace(results, table=results.table[~class_bound])).lines
    assert [cell.text() for cell in lines[1].cells[1:]] == 5 * ["–"]


def test_one_seed_shows_the_spread_of_its_parts_and_says_so() -> None:
    results = synthetic.parts()
    table = tables.harmonic_mean_table(results)
    ucf, mote = [*table.measures].index("UCF"), next(line for line in table.lines if line.names[0] == "MoTE")
    parts = results.table.query("row == 'mote' and protocol == 'UCF'")["top1"]
    assert mote.cells[ucf].text() == f"{parts.mean():.1f} ± {parts.std(ddof=0):.1f}"
    assert table.conditions[ucf] == ("zero-shot", "3 splits of 200 videos", "± over 3 splits", "population s.d.")
    assert table.conditions[[*table.measures].index("HMDB")][2] == "± over 10 draws"
    assert "±" not in mote.cells[0].text()


def test_several_seeds_show_the_spread_of_the_seeds() -> None:
    results = synthetic.parts(seeds=3)
    table = tables.harmonic_mean_table(results)
    ucf, mote = [*table.measures].index("UCF"), next(line for line in table.lines if line.names[0] == "MoTE")
    assert mote.cells[ucf].std == results.scores().query("row == 'mote'")["UCF"].std(ddof=1)
    assert table.conditions[ucf][2] == "1 seed: ± over 3 splits"  # CLIP has one


def test_a_deviating_cell_is_marked_never_bold_and_explained() -> None:
    table = tables.harmonic_mean_table(synthetic.deviating())
    marked = [(line.names[0], cell.text()[-1]) for line in table.lines for cell in line.cells if cell.deviates]
    assert marked == [("Mean pooling", "†")] * 2 + [("MoTE", "†")] * 3
    assert not any(cell.best for line in table.lines for cell in line.cells if cell.deviates)
    assert table.notes == ("Mean pooling (K400): views.frames 2 instead of 8", "MoTE (UCF): views.clips 1 instead of 3")
    assert r"70.8 $\pm$ 0.4$^\dagger$" in tables.latex(table) and "\n\n† MoTE (UCF)" in tables.markdown(table)


def test_equal_deviations_of_a_row_are_one_note() -> None:
    results = synthetic.joined()
    deviation = (
        (results.table["row"] == "mote") & (results.table["alpha"] > 0.7) & (results.table["role"] == "zero-shot")
    )
    table = results.table.assign(deviation=deviation.map({True: "views.clips 1 instead of 3", False: ""}))
    notes = tables.harmonic_mean_table(replace(results, table=table)).notes
    assert notes == ("MoTE, α 0.8; α 1 (UCF, HMDB, K600): views.clips 1 instead of 3",)


def test_a_column_of_several_protocols_names_none() -> None:
    assert set(tables.harmonic_mean_table(synthetic.frames()).hashes) == {""}
    best = [line.names[:2] for line in tables.harmonic_mean_table(synthetic.frames()).lines if line.cells[-1].top]
    assert best == [("MoTE", "4"), ("MoTE", "8")]


if __name__ == "__main__":
    for suite in SUITES:
        for kind, render in RENDERED.items():
            text = render(tables.harmonic_mean_table(getattr(synthetic, suite)()))
            (GOLDEN / f"table-{suite}.{kind}").write_text(text, encoding="utf-8")


def test_columns_that_no_line_has_are_left_out() -> None:
    rows, experts = synthetic.plain(), synthetic.experts()
    halves = synthetic.halves().table.drop(columns="shots")
    both = synthetic.suite(pd.concat([experts.table, halves], ignore_index=True), experts.axes)
    assert "HM" in " ".join(tables.harmonic_mean_table(both).measures.values())
    table = tables.harmonic_mean_table(both, experts=True)
    assert table.measures == tables.harmonic_mean_table(rows).measures
    assert "base" not in table.caption
    assert all(len(line.cells) == len(table.measures) for line in table.lines)
