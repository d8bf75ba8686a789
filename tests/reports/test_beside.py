"""Published beside measured: the rendered table against golden files, when a difference is printed, and the page.

`python -m tests.reports.test_beside` writes the golden files anew; read their diff before keeping it.
"""

from __future__ import annotations

import io
from dataclasses import replace
from math import nan
from pathlib import Path

import pandas as pd
import pytest

from reports import beside, table
from reports.accuracies import Score
from reports.page import write_report
from reports.results import Results
from reports.table import Table
from tests.reports import synthetic

GOLDEN = Path(__file__).parents[1] / "golden"
RENDERED = {"md": table.markdown, "tex": table.latex}


def _table(results: Results | None = None) -> Table:
    (found,) = beside.published_tables(results or synthetic.published())
    return found


def _column(head: str) -> list[str]:
    return [row[list(beside.HEADS).index(head)] for row in synthetic.texts(_table())]


@pytest.mark.parametrize("kind", RENDERED)
def test_rendering_is_golden(kind: str) -> None:
    assert RENDERED[kind](_table()) == (GOLDEN / f"table-published.{kind}").read_text(encoding="utf-8")


def test_a_difference_needs_the_same_protocol_and_all_seeds() -> None:
    same = ["yes", "yes", "as far as stated", "views: 1x1 here, 3x1 published", "other data", "as far as stated"]
    assert _column("Same protocol") == [*same, "not compared", "yes", "other data"]
    assert [bool(text) for text in _column("Δ")] == [True, True, True, False, False, True, False, False, False]
    assert _column("Measured")[-2].endswith("(2 of 3)") and _column("Measured")[-1] == "–"


def test_a_number_is_reproduced_within_the_tolerance_or_both_spreads() -> None:
    verdicts = ["differs", "differs", "differs", *["cannot be compared"] * 2, "differs", "cannot be compared", "", ""]
    assert _column("Verdict") == verdicts
    results = synthetic.published()
    pair, other = results.published[1], results.published[0]  # 88.7 with a spread of 0.6, and one without
    plain = replace(other, number=other.number._replace(value="88.7"))
    for mean, std, of, said in (
        (88.2, 0.0, plain, "reproduced"),
        (88.19, 0.0, plain, "differs"),
        (87.7, 0.4, pair, "reproduced"),
        (87.69, 0.4, pair, "differs"),
        (89.7, nan, pair, "differs"),
        (89.3, nan, pair, "reproduced"),
    ):
        assert beside.verdict(of, Score(mean, std, 3, 3), results) == said, (mean, std)
    loose = replace(results, settings=replace(results.settings, tolerance=2.0))
    assert beside.verdict(pair, Score(86.7, 0.4, 3, 3), loose) == "reproduced"


def test_differences_are_rounded_after_subtraction() -> None:
    mean = synthetic.published().scores().query("row == 'mote'")["UCF"].mean()
    assert _column("Δ")[1] == f"{mean - 88.7:+.1f}".replace("-", "−")


def test_caveats_are_notes_that_lines_share() -> None:
    notes = _table().notes
    assert len(set(notes)) == len(notes) and "[1] reproduced by MoTE: n/a (own result)" in notes
    assert _column("Source")[:2] == ["MoTE, Table 4 [1, 2, 3]", "MoTE, Table 3 [1, 4]"]


def test_csv_has_every_column_of_the_file() -> None:
    lines = pd.read_csv(io.StringIO(table.comma_separated(_table())), dtype=str, keep_default_na=False)
    assert lines["published_value"].to_list() == [
        *("86.8", "88.7", "87.5", "61.4", "78.4", "80.1", "85.8", "51.5", "2.9")
    ]
    assert lines.loc[0, "measured_n"] == "3" and lines.loc[8, "measured_n"] == ""
    assert lines.loc[2, "not_stated"] == "frames; views"


def test_a_suite_without_selectors_has_no_such_table() -> None:
    assert list(beside.published_tables(synthetic.plain())) == []


def test_a_harmonic_mean_that_is_not_there_is_missing() -> None:
    results = synthetic.published()
    results = replace(results, table=synthetic.missing(results.table, row="mote", protocol="UCF"))
    rows = synthetic.texts(_table(results))
    assert [row[2] for row in rows[:6]].count("missing") == 3
    assert rows[5][1:5] == ("Trade-off", "missing", "80.1", "")


def test_the_page_shows_it_and_its_files_are_there(tmp_path: Path) -> None:
    page = write_report(synthetic.published(), tmp_path / "out")
    text = page.read_text(encoding="utf-8").split('id="published"')[1].split("<h2")[0]
    assert (
        text.count("<tr>") == 1 + 9 and "85.8 (2nd hand)" in text and "<td>views: 1x1 here, 3x1 published</td>" in text
    )
    assert "R&amp;D &lt;script&gt;" in text and "<li>[1] " in text
    assert {path.name for path in page.parent.glob("published.*")} == {
        f"published.{kind}" for kind in ("csv", "md", "tex")
    }


def test_a_line_of_an_axis_has_its_values() -> None:
    pair = replace(synthetic.published().published[0], row="mote", point="layers=4, world=narrow")
    table = _table(replace(synthetic.layered(), published=(pair,)))
    assert table.rows[0][0].text == "MoTE, temporal layers 4, world narrow"


def test_a_measured_number_leads_to_one_of_its_records() -> None:
    origins = [row[2].origin for row in _table().rows]
    assert {n for n, origin in enumerate(origins) if origin} == {
        0,
        1,
        2,
        3,
        4,
        6,
        7,
    }  # no harmonic mean, nor what is not here
    assert str(origins[1]).startswith("mote:::0:UCF")


if __name__ == "__main__":
    for kind, render in RENDERED.items():
        (GOLDEN / f"table-published.{kind}").write_text(render(_table()), encoding="utf-8")
