"""What only one suite needs of a store: shared records and launches of others stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.commands.app import main
from bench.graph.build import build_graph
from bench.launch import removal
from bench.launch.launches import LaunchData, PlannedStage, create
from bench.launch.removal import needless
from bench.store.records import Store
from bench.suite.resolve import load_suite
from tests.errors import refused
from tests.suites import write_suite


class Launched:
    """A store with a record for every stage of suites, as if each had been launched; what is there is cached."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.create(folder / "runs")
        self.file = write_suite(folder)

    def launch(self, *overrides: str, code: str = "now") -> dict[str, set[str]]:
        """Identities of the suite's stages, by kind."""
        graph = build_graph(load_suite(self.file, overrides))
        todo = [stage for stage in graph.stages.values() if not self.store.done(*stage.key)]
        for stage in todo:
            inputs = {name: list(other.key) for name, other in stage.inputs.items()}
            with self.store.writing(*stage.key, {"title": stage.title, "inputs": inputs}):
                pass
        about: LaunchData = {
            "suite": "small",
            "on": "local",
            "file": str(self.file.resolve()),
            "folder": "/",
            "code": code,
        }
        about |= {"overrides": [*overrides], "cached": len(graph.stages) - len(todo)}
        launch = create(self.store, about, [PlannedStage.of(stage, 1.0) for stage in todo], suite=self.file)
        launch.end("complete")
        found: dict[str, set[str]] = {}
        for stage in graph.stages.values():
            found.setdefault(stage.kind, set()).add(stage.identity)
        return found

    def removable(self, *overrides: str) -> dict[str, set[str]]:
        suite = load_suite(self.file, overrides)
        found: dict[str, set[str]] = {}
        for item in needless(suite, self.file, build_graph(suite), self.store):
            found.setdefault(item.path.parent.name if item.kind == "record" else item.kind, set()).add(item.path.name)
        return found


@pytest.fixture
def launched(tmp_path: Path) -> Launched:
    return Launched(tmp_path)


def test_a_suite_alone_in_its_store_needs_all_of_it(launched: Launched) -> None:
    stages = launched.launch()
    found = launched.removable()
    assert len(found.pop("launch")) == 1 and found == stages


def test_records_that_another_suite_needs_stay(launched: Launched) -> None:
    whole = launched.launch()
    part = launched.launch("rows=[clip_mean, dense]")  # all of it was there already
    found = launched.removable()
    assert found["train"] == whole["train"] - part["train"] and found["train"]
    assert "encode" not in found and "texts" not in found
    only_own = launched.removable("rows=[clip_mean, dense]")
    assert [*only_own] == ["launch"]


def test_stages_of_older_code_go_unless_another_launch_may_have_found_them(launched: Launched) -> None:
    launched.launch()
    with launched.store.writing("train", "older", {"title": "older", "inputs": {}}):
        pass
    stage = PlannedStage("train", "older", "older", (), 1.0)
    about = {"suite": "small", "on": "local", "file": str(launched.file.resolve()), "folder": "/", "overrides": []}
    create(launched.store, {**about, "code": "then"}, [stage], suite=launched.file).end("complete")
    assert "older" in launched.removable()["train"]
    other = {**about, "code": "then", "overrides": ["seeds=[5]"], "cached": 1}
    create(launched.store, other, [], suite=launched.file).end("complete")
    assert "older" not in launched.removable()["train"]


def test_it_is_refused_while_a_launch_goes_on_or_cannot_be_read(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched.launch()
    launched.launch("seeds=[5]")
    (other,) = [one for one in removal.launches(launched.store) if one.about["overrides"]]
    other.suite_file.write_text("rows: nonsense")
    with refused(where=other.name, hint="delete"):
        launched.removable()
    (own,) = [one for one in removal.launches(launched.store) if not one.about["overrides"]]
    own.reopen()
    with refused("going on", where=own.name, hint="cancel"):
        launched.removable()


def test_the_command_shows_first_and_removes_when_told(launched: Launched, capsys: pytest.CaptureFixture[str]) -> None:
    stages = launched.launch()
    command = ["remove", str(launched.file), "--store", str(launched.store.root)]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "--yes" in said.out and "merged" not in said.err and launched.store.known("train") == stages["train"]
    assert main([*command, "--yes"]) == 0
    assert not any(launched.store.known(kind) for kind in stages)
    assert not [*(launched.store.root / "launches").iterdir()]
    assert main(command) == 0
    assert "nothing to remove" in capsys.readouterr().out
    (launched.store.root / "merged/20260101-000000-small-1").mkdir(parents=True)
    (launched.store.root / "merged/20260101-000000-small-1/launch.json").write_text("{}")
    assert main(command) == 0
    said = capsys.readouterr()
    assert "merged (1) are not looked at" in said.err + said.out
    assert main(["remove", "quickstart", "--store", "/none"]) == 2
