"""Commands on a launch whose code is kept: `retry`, `report SUITE@LAUNCH`, `why LAUNCH`, what `run` says of it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.commands import suites
from bench.commands.app import main
from bench.core.errors import UserError
from bench.core.words import typed
from bench.graph.build import Graph
from bench.launch import code
from bench.launch.launches import Launch, create
from bench.store.provenance import provenance
from bench.store.records import Store
from tests.errors import says
from tests.launch.launched import stage
from tests.suites import write_suite


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def launched(store: Store, **about: Any) -> Launch:
    """A launch that has ended without its only stage, under code that gives it another identity."""
    where = {name: [*map(str, own)] for name, own in code.places().items()}
    known = {"code": code.freeze(store), "places": where, "sources": [["train", ["bench.stages.train"], "older"]]}
    file = store.root / "tiny.yaml"
    file.write_text("title: Tiny")
    given = {"suite": "tiny", "on": "local", "file": str(file), "folder": "/", "overrides": []}
    launch = create(store, {**given, "provenance": provenance(), **known, **about}, [stage("left")])
    launch.suite_file.write_text("title: Tiny")
    launch.end("cancelled")
    return launch


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    status = main([*arguments])
    return status, " ".join("".join(capsys.readouterr()).split())


def test_retry_needs_the_packages_and_the_code_of_then(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("retry", "--store", str(store.root))
    launch = launched(store)
    (launch.folder / "ended.json").unlink()
    status, text = said(capsys, *arguments)
    assert status == 2 and "it is going on" in text
    launch.end("cancelled")
    assert launch.code
    shutil.rmtree(launch.code)
    status, text = said(capsys, *arguments)
    assert status == 2 and "its code is not in the store" in text
    says(text, f"cd / && {typed(launch.about['file'])} --on local --store {store.root}")  # of older code
    launched(store, code="gone", command="python run_suite.py tiny.yaml --on slurm --site s.yaml --workers 4")
    says(said(capsys, *arguments)[1], "cd / && python run_suite.py tiny.yaml --on slurm --site s.yaml --workers 4")
    launched(store, provenance={"versions": {"torch": "1.0.0", "numpy": "1.0.0"}})
    status, text = said(capsys, *arguments)
    assert status == 2 and "torch 1.0.0 then, 2." in text and "numpy" not in text


def test_a_launch_keeps_the_command_that_made_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list[str]()

    def stop(about: dict[str, Any], graph: Graph, records: Store) -> str:
        kept.append(about["command"])
        raise UserError("enough")

    monkeypatch.setattr(suites, "_unfinished", stop)
    arguments = [str(write_suite(store.root)), "--store", str(store.root), "--workers", "4", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["bin/run_suite.py", *arguments])
    assert main(arguments) == 2
    assert kept[0].endswith(f" bin/run_suite.py {' '.join(arguments)}")


def test_why_of_one_launch_says_what_changed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    launch = launched(store)
    status, text = said(capsys, "why", launch.name, "--store", str(store.root))
    assert (status, text) == (
        0,
        f"the checkout has the code of launch {launch.name} other identities, so other records: train",
    )


def test_a_report_of_a_launch_takes_nothing_but_its_name(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    launch, at = launched(store), ("--store", str(store.root))
    status, text = said(capsys, "report", f"other@{launch.name}", *at)
    assert status == 2 and "is a launch of suite 'tiny'" in text
    for name in ("", "tiny", "some/tiny.yaml"):
        status, text = said(capsys, "report", f"{name}@{launch.name}", "seeds=[0]", *at)
        assert status == 2 and "has its own overrides and plugins" in text
    status, text = said(capsys, "report", "tiny@20000101", *at)
    assert status == 2 and "unknown launch or suite '20000101'" in text


def test_a_run_finds_the_launch_that_older_code_left_unfinished(store: Store) -> None:
    launch = launched(store)
    about, graph = dict(launch.about), Graph()
    assert suites._unfinished(about, graph, store) == launch.name
    assert suites._unfinished({**about, "overrides": ["seeds=[1]"]}, graph, store) == ""
    (launch.folder / "ended.json").unlink()  # it is going on
    assert suites._unfinished(about, graph, store) == ""
    launch.end("cancelled")
    launch.suite_file.write_text("title: Another")
    assert suites._unfinished(about, graph, store) == ""
    same = launched(store, sources=[])
    assert suites._unfinished(dict(same.about), graph, store) == ""


def test_doctor_names_a_copy_of_code_that_was_changed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    launch = launched(store)
    (store.root / "tiny.yaml").unlink()
    assert said(capsys, "doctor", "--store", str(store.root))[0] == 0
    assert launch.code
    (launch.code / "run_suite.py").write_text("")
    status, text = said(capsys, "doctor", "--store", str(store.root))
    assert status == 1 and "the copy of code was changed, or is gone" in text
