"""Suites with some of their rows: what stays, what goes with the rows, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.published.pairing import pairs
from bench.suite.resolve import SUITES, load_suite
from bench.suite.subset import selection
from bench.suite.trial import Suite
from tests.errors import refused
from tests.suites import write_suite

MORE = """\
  late: {method: mote, config: {layers: 1, num_experts: 2}, init_from: mote, protocols: [new-verbs],
         axes: {recipe.lr: [1.0e-3, 2.0e-3]}}
  broken: {method: none such}
report:
  profile: {rows: [dense]}
  join: lr
  experts_protocol: new-verbs
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_suite(tmp_path, ("report:\n", MORE))


def rows(file: Path, *overrides: str) -> Suite:
    return load_suite(file, overrides)


def test_options_become_overrides() -> None:
    assert selection("a, on", "c,d") == ["rows=[a, 'on']", "rows.c=null", "rows.d=null"]
    assert selection(None, "") == []
    for empty in ("", " , "):
        with refused("names no row", where="--rows"):
            selection(empty, "")


def test_rows_that_are_left_out_are_not_even_validated(file: Path) -> None:
    with refused("none such"):
        rows(file)
    assert [*rows(file, "rows.broken=null").file.rows] == ["clip_mean", "dense", "mote", "mote_no_tfm", "late"]
    assert [*rows(file, "rows=[mote, clip_mean]", "rows.mote=null").file.rows] == ["clip_mean"]


def test_what_refers_to_them_goes_with_them(file: Path) -> None:
    whole = rows(file, "rows.broken=null").file.report
    assert whole.profile and whole.join == "lr" and whole.reference == "clip_mean"
    report = rows(file, "rows=[mote, mote_no_tfm]").file.report
    assert (report.reference, report.compare, report.profile, report.join) == (None, [], None, None)
    assert report.experts == ["mote"] and report.experts_protocol == "new-verbs"
    report = rows(file, "rows=[dense]").file.report
    assert report.experts == [] and report.experts_protocol is None and report.profile is not None


def test_protocols_without_rows_go(file: Path) -> None:
    text = file.read_text().replace("rows:\n", "axes: {protocols.closed-set.views.frames: [2, 4]}\nrows:\n", 1)
    file.write_text(text.replace("init_from: mote, ", ""))
    suite = rows(file, "rows=[late]")
    assert [*suite.file.protocols] == ["new-verbs"] and not suite.file.axes and len(suite.trials) == 4


def test_published_numbers_of_rows_that_are_left_out_go() -> None:
    """Those without a row stay unless the rows are named that stay."""
    suite = load_suite(SUITES / "mote-table4.yaml", ("rows.mote=null",))
    named = {own.row for own in suite.file.report.published}
    assert "mote" not in named and {"", "vificlip"} <= named
    for name, row in (("mote-table4", "mote"), ("few-shot-table", "clip")):
        suite = load_suite(SUITES / f"{name}.yaml", (f"rows=[{row}]",))
        assert {own.row for own in suite.file.report.published} == {row}
        pairs(suite)


@pytest.mark.parametrize(
    ("override", "named", "hint"),
    [
        ("rows=[dens]", ["dens"], "dense"),
        ("rows.moat=null", ["moat"], "mote"),
        ("rows=[]", ["no row"], ""),
        ("rows=[late]", ["late", "mote"], "keep 'mote'"),
        ("rows.mote=null", ["late", "mote"], "leave out 'late' too"),
    ],
)
def test_what_cannot_be_left_out(file: Path, override: str, named: list[str], hint: str) -> None:
    with refused(*named, where=f"override {override}", hint=hint):
        rows(file, override)


def test_a_row_that_is_left_out_cannot_be_overridden(file: Path) -> None:
    with refused("dense", where="override rows.dense.config.layers=2"):
        rows(file, "rows=[mote]", "rows.dense.config.layers=2")


def test_settings_that_only_rows_read_which_are_left_out_give_no_note(file: Path) -> None:
    assert rows(file, "rows=[clip_mean]").notes == ()


def test_an_override_of_a_row_that_is_not_there_names_the_one_that_was_meant(tmp_path: Path) -> None:
    file = write_suite(tmp_path)
    with refused("dens", where="override rows.dens.config.layers=2", hint="did you mean 'dense'?"):
        rows(file, "rows.dens.config.layers=2")
    assert "denser" in rows(file, "rows.denser={method: dense_temporal, config: {layers: 2}}").file.rows
    for given in ("rows.new={metod: mote}", "rows.new.metod=mote"):
        with refused("metod", hint="did you mean 'method'?"):
            rows(file, given)


def test_misspelt_keys_of_entries_of_lists_get_suggestions(tmp_path: Path) -> None:
    with refused("rwo", allowed=["row", "where"], hint="did you mean 'row'?"):
        rows(write_suite(tmp_path), "report.published=[{rwo: dense, where: {table: 1}}]")
