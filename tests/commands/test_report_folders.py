"""Where reports lie: a shipped suite as it is under its name, every other one with its identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.commands import options
from bench.commands.options import report_name, write_suite_report
from bench.store.records import Store
from bench.suite.resolve import SUITES, load_suite
from tests.reports import synthetic

QUICK = SUITES / "quickstart.yaml"


def name(*overrides: str, path: Path = QUICK) -> str:
    return report_name(load_suite(path, overrides))


def test_a_shipped_suite_as_it_is_has_its_name_and_overrides_have_their_own() -> None:
    assert name() == name("seeds=[0,1,2]") == "quickstart"  # the override says what the suite says
    others = [name("seeds=[0]"), name("recipe.epochs=1"), name("title=Mine"), name("report.reference=dense")]
    assert len(set(others)) == 4 and all(own.startswith("quickstart-") and len(own) == 19 for own in others)
    assert name("seeds=[0]") == others[0] and name("recipe.epochs=1", "seeds=[0]") not in others


def test_another_file_of_that_name_is_another_suite_and_layout_does_not_count(tmp_path: Path) -> None:
    text, copy = QUICK.read_text(encoding="utf-8"), tmp_path / "quickstart.yaml"
    copy.write_text("# mine\n" + text.replace("{frames: 8, copies: 2}", "{copies: 2, frames: 8}"), encoding="utf-8")
    assert name(path=copy) == "quickstart"
    copy.write_text(text.replace("epochs: 30", "epochs: 3"), encoding="utf-8")
    assert name(path=copy) == name("recipe.epochs=3") != "quickstart"
    copy.rename(tmp_path / "mine.yaml")
    assert name(path=tmp_path / "mine.yaml") == name("recipe.epochs=3").replace("quickstart", "mine")


def test_rows_of_one_label_have_their_ids_behind_it() -> None:
    labels = {trial.row: trial.label for trial in load_suite(QUICK, ("rows.dense.label=MoTE",)).trials}
    assert (labels["dense"], labels["mote"], labels["text4vis"]) == ("MoTE (dense)", "MoTE (mote)", "Text4Vis")


def test_no_report_replaces_another_and_the_link_leads_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def page(results: Any, out: Path) -> Path:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").write_text(out.name)
        return out / "report.html"

    monkeypatch.setattr("reports.page.write_report", page)
    monkeypatch.setattr("reports.collect.collect", lambda *given: synthetic.plain())
    monkeypatch.setattr("reports.alarms.alarms", lambda results: ("all rows tied: x",))
    (tmp_path / "mine.yaml").write_bytes(QUICK.read_bytes())
    reports, names = tmp_path / "runs" / "reports", []
    for path, *overrides in (
        (QUICK,),
        (QUICK, "seeds=[0]"),
        (tmp_path / "mine.yaml",),
        (tmp_path / "mine.yaml", "seeds=[0]"),
    ):
        suite = load_suite(path, tuple(overrides))
        assert write_suite_report(suite, None, Store.create(tmp_path / "runs"), {}) == 1  # type: ignore[arg-type]
        names.append(report_name(suite))
        assert f"{names[-1]}/report.html" in (said := capsys.readouterr()).out and "alarm: all rows tied: x" in said.err
    assert len(set(names)) == 4 and {own.name for own in reports.iterdir()} == {*names, "mine"}
    assert [(reports / own / "report.html").read_text() for own in names] == names
    assert (reports / "mine" / "report.html").read_text() == names[-1]
    assert options.report_name(load_suite(QUICK)) == "quickstart"
