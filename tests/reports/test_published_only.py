"""Lines of methods that nobody can run again: appended to the tables, marked, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.published.numbers import lookup
from bench.published.pairing import Pair
from reports import alarms, beside
from reports.accuracies import accuracy_table
from reports.comparisons import comparison_tables
from reports.page import write_report
from reports.results import Results
from reports.table import TableCell
from tests.reports import synthetic


def _results(*differs: str, measures: tuple[str, ...] = ("K400",)) -> Results:
    (number,) = lookup(
        {"method": "X-Florence", "table": "Table 4", "source": "MoTE", "dataset": "Kinetics-400", "metric": "top1"}
    )
    own = tuple(Pair("", "", measure, number, differs, (), label="X-Florence") for measure in measures)
    return replace(synthetic.plain(), published=own)


def test_a_line_is_appended_and_marked() -> None:
    plain, found = accuracy_table(synthetic.plain()), accuracy_table(_results())
    assert found.rows[:-1] == plain.rows and found.said == plain.said
    column = [own.head for own in found.columns].index("K400")
    line = found.rows[-1]
    assert line[0].text == "X-Florence ‡" and line[column].text == "86.5"
    assert {cell.text for i, cell in enumerate(line) if i not in (0, column)} == {"–"}
    assert not any(cell.bold or cell.top or cell.origin or cell.missing for cell in line)
    assert any(note.startswith("‡ Published only") for note in found.notes)


def test_a_number_stands_in_one_cell_and_tells_that_it_was_measured_in_another_way() -> None:
    texts = [
        cell.text
        for cell in accuracy_table(_results("frames: 8 here, 32 published", measures=("K400", "UCF"))).rows[-1]
    ]
    assert texts.count("86.5†") == 1


def test_numbers_on_other_data_are_no_line() -> None:
    assert accuracy_table(_results("other data")).rows == accuracy_table(synthetic.plain()).rows


def test_it_stands_beside_nothing_measured_and_is_in_no_test(tmp_path: Path) -> None:
    results = _results()
    (found,) = beside.published_tables(results)
    cells = dict(zip(beside.HEADS, (cell.text for cell in found.rows[0]), strict=True))
    assert (cells["Method"], cells["Measured"], cells["Δ"]) == ("X-Florence ‡", "–", "")
    assert cells["Same protocol"] == "published only"
    assert [*alarms._above_published(results)] == []
    assert [own.rows for own in comparison_tables(results)] == [
        own.rows for own in comparison_tables(synthetic.plain())
    ]
    page = write_report(results, tmp_path / "out")
    assert "X-Florence ‡" in page.read_text(encoding="utf-8")


def test_a_row_measured_in_the_way_of_its_paper_keeps_its_means_with_a_mark() -> None:
    plain = synthetic.plain()
    deviates = plain.table["deviation"].where(
        plain.table["row"] != "mote", "fusion logit_sum instead of double_softmax"
    )
    results = replace(plain, table=plain.table.assign(deviation=deviates))
    column = [own.head for own in accuracy_table(results).columns].index("HM_ZS")

    def cell(own: Results) -> TableCell:
        return next(row[column] for row in accuracy_table(own).rows if row[0].text == "MoTE")

    kept = cell(replace(results, own_ways=frozenset({"mote"})))
    assert cell(results).text == "†" and kept.text.endswith("†") and float(kept.text[:4]) > 0
    assert not kept.bold and not kept.top
    assert results.scores(alike=True).equals(replace(results, own_ways=frozenset({"mote"})).scores(alike=True))
