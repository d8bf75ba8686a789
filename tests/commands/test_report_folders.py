"""Where reports lie: a shipped suite as it is under its name, every other one with its identity."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.commands import reporting
from bench.commands.reporting import report_name, write_suite_report
from bench.graph.build import Graph
from bench.store.records import Store
from bench.suite.resolve import SUITES, load_suite
from tests.launch.launched import launched, stage
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
        assert write_suite_report(suite, Graph(), Store.create(tmp_path / "runs"), {}) == 1
        names.append(report_name(suite))
        assert f"{names[-1]}/report.html" in (said := capsys.readouterr()).out and "alarm: all rows tied: x" in said.err
    assert len(set(names)) == 4 and {own.name for own in reports.iterdir()} == {*names, "mine"}
    assert [(reports / own / "report.html").read_text() for own in names] == names
    assert (reports / "mine" / "report.html").read_text() == names[-1]
    assert reporting.report_name(load_suite(QUICK)) == "quickstart"


# --- a report that holds ----------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Asks for the report of a suite with one stage; returns how often it was written so far."""
    monkeypatch.setattr("reports.collect.collect", lambda *given: synthetic.plain())
    monkeypatch.setattr("reports.alarms.alarms", lambda results: ["all rows tied: x"])
    times = list[Path]()

    def page(results: Any, out: Path) -> None:
        times.append(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").write_text(str(len(times)))
        (out / "revisions").mkdir(exist_ok=True)
        (out / "revisions/a.csv").touch()

    monkeypatch.setattr("reports.page.write_report", page)
    store, graph = Store.create(tmp_path / "runs"), Graph()
    graph.stages["a"] = SimpleNamespace(key=("train", "a"), identity="a", title="train", missing="")  # type: ignore[assignment]

    def ask(*overrides: str, **origin: Any) -> int:
        assert write_suite_report(load_suite(QUICK, overrides), graph, store, origin) == 1
        return len(times)

    return ask


def _renamed(file: Path, key: str) -> None:
    file.write_text(file.read_text().replace(f'"{key}"', '"other"'))


def test_a_report_that_holds_is_left_and_its_alarms_are_said(
    written: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [written(), written(), written()] == [1, 1, 1]
    assert capsys.readouterr().err.count("alarm: all rows tied: x") == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda store: (store / "reports/quickstart/report.html").unlink(),
        lambda store: (store / "reports/quickstart/report.html").write_text("mine"),
        lambda store: (store / "reports/quickstart/.made-of.json").write_text("{"),
        lambda store: (store / "reports/quickstart/.made-of.json").write_text('{"files": 3}'),
        lambda store: _renamed(store / "reports/quickstart/.made-of.json", "alarms"),
        lambda store: _renamed(store / "reports/quickstart/.made-of.json", "about"),
        lambda store: (store / "reports/quickstart/revisions/a.csv").unlink(),
        lambda store: Store(store).log("failure", "train", "a", reason="x"),
    ],
)
def test_a_report_whose_files_or_stages_have_changed_is_written_again(
    change: Callable[[Path], object], written: Callable[..., int], tmp_path: Path
) -> None:
    written()
    change(tmp_path / "runs")
    assert [written(), written()] == [2, 2]


def test_so_is_one_of_a_record_that_came_or_was_damaged_of_other_packages_code_or_words(
    written: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written()
    with Store(tmp_path / "runs").writing("train", "a", {}) as out:
        (out / "weights").write_bytes(b"w")
    assert [written(), written()] == [2, 2]
    Store(tmp_path / "runs").log("failure", "train", "b", reason="of another suite")
    assert written() == 2
    (Store(tmp_path / "runs").folder("train", "a") / "weights").write_bytes(b"v")
    assert written() == 3
    assert [written(versions={"numpy": "9"}), written(versions={"numpy": "9"})] == [4, 4]
    assert [written(revision="b", versions={"numpy": "9"}), written(versions={"numpy": "9"})] == [5, 6]
    assert written("rows.mote.label=Mine") == 7
    assert [written(), written()] == [8, 8]
    monkeypatch.setattr(reporting, "fingerprint", lambda: "other")
    assert [written(), written()] == [9, 9]


def test_a_kept_report_says_of_its_launch_what_holds_now(
    written: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = launched(Store(tmp_path / "runs"), stage("b"))
    moved = ["1 file, e.g. reports/page.py"]
    monkeypatch.setattr(reporting, "moved_on", lambda of: moved[0] if of == launch else "")
    assert [written(launch=launch.name), written(launch=launch.name), written()] == [1, 1, 1]
    moved[0] = ""
    assert [written(), written(), written(launch=launch.name)] == [2, 2, 2]
    shutil.rmtree(launch.folder)
    assert [written(), written()] == [3, 3]


def test_the_link_leads_to_a_report_also_if_that_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: Callable[..., int]
) -> None:
    suite, others = tmp_path / "mine.yaml", ("seeds=[0]", "seeds=[1]")
    suite.write_bytes(QUICK.read_bytes())
    store = Store.create(tmp_path / "runs")
    for override, times in ((others[0], 1), (others[1], 2), (others[0], 2)):
        write_suite_report(load_suite(suite, (override,)), Graph(), store, {})
        assert (tmp_path / "runs/reports/mine/report.html").read_text() in ("1", "2")
        assert (tmp_path / "runs/reports/mine").readlink().name == report_name(load_suite(suite, (override,))), times
