"""The rendered tables against golden files, and which cells may be bold.

`python -m tests.reports.test_accuracies` writes the golden files anew; read their diff before keeping it.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from reports.accuracies import Score, accuracy_table, score
from reports.table import Table, TableCell, comma_separated, latex, markdown
from tests.reports import synthetic
from tests.reports.synthetic import heads

GOLDEN = Path(__file__).parents[1] / "golden"
SUITES = ("plain", "layered", "parts", "deviating", "halves")
RENDERED = {"md": markdown, "tex": latex}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("kind", RENDERED)
def test_rendering_is_golden(suite: str, kind: str) -> None:
    text = RENDERED[kind](accuracy_table(getattr(synthetic, suite)()))
    assert text == (GOLDEN / f"table-{suite}.{kind}").read_text(encoding="utf-8")


def test_csv_holds_the_unrounded_summary() -> None:
    results = synthetic.plain()
    read = pd.read_csv(io.StringIO(comma_separated(accuracy_table(results))), keep_default_na=True)
    assert read["trade_off_mean"].to_numpy() == pytest.approx(results.summary()["trade_off_mean"].to_numpy())


@pytest.mark.parametrize(
    ("own", "text"),
    [
        (Score(74.25, 0.31, 3, 3), "74.2 ± 0.3"),
        (Score(74.25, float("nan"), 1, 1), "74.2"),
        (Score(74.25, 0.31, 2, 3), "74.2 ± 0.3 (2 of 3)"),
        (Score(float("nan"), float("nan"), 0, 3), "missing"),
        (Score(float("nan"), float("nan"), 0, 3, derived=True), ""),
        (Score(float("nan"), float("nan"), 0, 0), "–"),
        (Score(float("nan"), float("nan"), 0, 1, parts=3, parts_missing=1), "2 of 3 parts"),
        (Score(float("nan"), float("nan"), 0, 2, parts=3, parts_missing=5), "1 of 6 parts"),
        (Score(float("nan"), float("nan"), 0, 1, parts=3, parts_missing=3), "missing"),
        (Score(74.25, 0.31, 3, 3, deviates=True), "74.2 ± 0.3†"),
        (Score(float("nan"), float("nan"), 0, 3, derived=True, deviates=True), "†"),
    ],
)
def test_text_of_a_score(own: Score, text: str) -> None:
    assert own.text == text


def _numbers(table: Table, row: int) -> tuple[TableCell, ...]:
    """The cells of the measures."""
    return table.rows[row][heads(table).index("Seeds") + 1 :]


def _marked(table: pd.DataFrame, mark: str) -> list[str]:
    """The methods whose first number is marked as `bold` or `top`."""
    found = accuracy_table(synthetic.suite(table))
    return [row[0].text for n, row in enumerate(found.rows) if getattr(_numbers(found, n)[0], mark)]


def _closed(**top1: float) -> pd.DataFrame:
    return pd.DataFrame([synthetic.line(row, {}, 0, "K400", value) for row, value in top1.items()])


def test_ties_after_rounding_are_all_marked() -> None:
    table = _closed(mean=40.0, dense=80.0, mote=80.0)
    table["top1"] = [40.0, 80.02, 79.98]
    assert _marked(table, "bold") == ["Text4Vis", "MoTE"]
    assert _marked(table, "top") == ["Text4Vis", "MoTE"]


def test_nothing_is_marked_where_everything_ties() -> None:
    assert _marked(_closed(mean=80.0, dense=80.0, mote=80.0), "bold") == []
    assert _marked(_closed(mean=80.0, dense=80.0), "top") == []


def test_an_interval_of_a_perfect_row_has_a_width() -> None:
    found = accuracy_table(synthetic.suite(_closed(mean=0.0, mote=100.0)))
    assert [_numbers(found, n)[0].title.split(" over ")[0] for n in (0, 1)] == [
        "95 % interval 0.0–1.9", "95 % interval 98.1–100.0"
    ]  # fmt: skip


def test_what_is_not_significantly_below_the_best_is_bold_and_the_best_stands_out() -> None:
    table = _closed(clip=40.0, mean=73.0, dense=76.0, mote=80.0)
    assert _marked(table, "bold") == ["Mean pooling", "Text4Vis", "MoTE"]  # 200 videos
    assert _marked(table, "top") == ["MoTE"]


def test_seeds_that_scatter_make_ties() -> None:
    closed = _closed(mean=60.0, dense=80.0)
    assert _marked(closed, "bold") == ["Text4Vis"]
    scatter = [closed.assign(seed=seed, top1=closed["top1"] + shift) for seed, shift in enumerate((-15, 0, 15))]
    assert _marked(pd.concat(scatter), "bold") == ["Mean pooling", "Text4Vis"]


def test_intervals_are_in_the_file_and_below_the_numbers() -> None:
    results = synthetic.plain()
    read = pd.read_csv(io.StringIO(comma_separated(accuracy_table(results))))
    line, cell = read.iloc[3], accuracy_table(results).rows[3][-1]
    assert line["trade_off_low"] < line["trade_off_mean"] < line["trade_off_high"]
    shown = f"95 % interval {line['trade_off_low']:.1f}–{line['trade_off_high']:.1f} over 200 videos and 3 seeds"
    assert cell.title == shown and cell.small in shown and "–" in cell.small


def test_few_seeds_and_single_runs_carry_a_warning() -> None:
    few, single = (accuracy_table(results).said for results in (synthetic.joined(), synthetic.parts()))
    assert "Caution, n = 3 seeds" in few and "as little as 86 %" in few
    assert "Caution" not in single and "One run: every row" in single
    ten = pd.concat([_closed(mean=60.0, dense=80.0).assign(seed=seed, top1=60.0 + seed) for seed in range(10)])
    assert "Caution" not in accuracy_table(synthetic.suite(ten)).said


def test_incomplete_cells_do_not_compete() -> None:
    table = pd.concat([_closed(mean=40.0, dense=75.0, mote=90.0), _closed(mote=90.0).assign(seed=1, top1=float("nan"))])
    assert _marked(table, "bold") == ["Text4Vis"]


def test_a_cell_without_competitor_is_not_marked() -> None:
    assert _marked(_closed(mote=90.0), "bold") == []


def test_best_is_per_facet() -> None:
    best = [tuple(cell.text for cell in row[:3]) for row in accuracy_table(synthetic.layered()).rows if row[-1].top]
    assert best == [("MoTE", "6", "narrow"), ("MoTE", "6", "broad")]


def test_a_protocol_that_a_row_never_had_is_not_missing() -> None:
    results = synthetic.plain()
    class_bound = (results.table["row"] == "mean") & (results.table["role"] == "zero-shot")
    table = accuracy_table(replace(results, table=results.table[~class_bound]))
    assert [cell.text for cell in _numbers(table, 1)[1:]] == 5 * ["–"]


def test_one_seed_shows_the_spread_of_its_parts_and_says_so() -> None:
    results = synthetic.parts()
    table = accuracy_table(results)
    ucf, mote = heads(table).index("UCF"), next(row for row in table.rows if row[0].text == "MoTE")
    parts = results.table.query("row == 'mote' and protocol == 'UCF'")["top1"]
    assert mote[ucf].text == f"{parts.mean():.1f} ± {parts.std(ddof=0):.1f}"
    below = ("zero-shot", "3 splits of 200 videos", "± over 3 splits", "population s.d.")
    assert table.columns[ucf].below == below
    assert table.columns[heads(table).index("HMDB")].below[2] == "± over 10 draws"
    assert "±" not in mote[heads(table).index("K400")].text


def test_several_seeds_show_the_spread_of_the_seeds() -> None:
    results = synthetic.parts(seeds=3)
    line = next(line for _, line in results.summary().iterrows() if line["row"] == "mote")
    assert score(line, "UCF", results).std == results.scores().query("row == 'mote'")["UCF"].std(ddof=1)
    table = accuracy_table(results)
    assert table.columns[heads(table).index("UCF")].below[2] == "1 seed: ± over 3 splits"  # CLIP has one


def test_a_deviating_cell_is_marked_never_bold_and_explained() -> None:
    table = accuracy_table(synthetic.deviating())
    marked = [(row[0].text, cell.bold) for row in table.rows for cell in row if cell.text.endswith("†")]
    assert marked == [("Mean pooling", False)] * 2 + [("MoTE", False)] * 3
    first, second = "Mean pooling (K400): views.frames 2 instead of 8", "MoTE (UCF): views.clips 1 instead of 3"
    assert table.notes == (f"† {first}", f"† {second}")
    assert r"70.8 $\pm$ 0.4$^\dagger$" in latex(table) and "\n\n† MoTE (UCF)" in markdown(table)


def test_equal_deviations_of_a_row_are_one_note() -> None:
    results = synthetic.joined()
    deviation = (
        (results.table["row"] == "mote") & (results.table["alpha"] > 0.7) & (results.table["role"] == "zero-shot")
    )
    table = results.table.assign(deviation=deviation.map({True: "views.clips 1 instead of 3", False: ""}))
    notes = accuracy_table(replace(results, table=table)).notes
    assert notes == ("† MoTE, α 0.8; α 1 (UCF, HMDB, K600): views.clips 1 instead of 3",)


def test_a_column_of_several_protocols_names_none() -> None:
    table = accuracy_table(synthetic.frames())
    assert {column.title for column in table.columns} == {""} and not table.protocols
    best = [tuple(cell.text for cell in row[:2]) for row in table.rows if row[-1].top]
    assert best == [("MoTE", "4"), ("MoTE", "8")]


def test_columns_that_no_line_has_are_left_out() -> None:
    rows, experts = synthetic.plain(), synthetic.experts()
    halves = synthetic.halves().table.drop(columns="shots")
    both = synthetic.suite(pd.concat([experts.table, halves], ignore_index=True), experts.axes)
    assert "HM" in " ".join(heads(accuracy_table(both)))
    table = accuracy_table(both, experts=True)
    assert [head for head in heads(table) if head != "Expert"] == heads(accuracy_table(rows))
    assert "base" not in table.caption
    assert all(len(row) == len(table.columns) for row in table.rows)


if __name__ == "__main__":
    for suite in SUITES:
        for kind, render in RENDERED.items():
            text = render(accuracy_table(getattr(synthetic, suite)()))
            (GOLDEN / f"table-{suite}.{kind}").write_text(text, encoding="utf-8")


def test_the_caption_says_which_videos_come_in_groups_and_where_none_are_declared() -> None:
    base = synthetic.plain()
    assert "group" not in accuracy_table(base).said
    results = replace(base, groups={"k400": "(.*)", "ucf": r"(v\d+)\d", "hmdb": {}})
    caption = accuracy_table(results).said
    assert "such as one film, together: 200 videos in 20 groups (UCF)." in caption
    assert "No groups of videos are declared for HMDB, K600: each video counts as independent" in caption
