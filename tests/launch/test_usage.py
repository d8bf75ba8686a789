"""What stages asked of Slurm and what they used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.commands.display import picture
from bench.launch import scheduler
from bench.launch.launches import Launch
from bench.launch.states import launch_status
from bench.launch.usage import Usage, usage
from bench.store.records import Store
from bench.suite.resources import Resources
from bench.suite.yaml_lines import load_value
from reports.collect import collect_usage
from reports.costs import usage_tables
from tests.launch.launched import launched, stage
from tests.reports.synthetic import plain

GIGABYTE = 2**30


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Two trainings with a limit of an hour, one of two ranks on a node, one tried twice, and texts not begun."""
    monkeypatch.setattr(scheduler, "jobs", lambda users=(): {})
    hour = {"time": 60, "cpus": 4, "memory": 8192}
    ranks = stage("b", tasks=4, resources={**hour, "nodes": 2, "memory": None})
    made = launched(Store.create(tmp_path), stage("t", kind="texts"), stage("a", resources=hour), ranks)
    for name, memory, compute in (("a", 1, 60.0), ("a", 2, 700.0), ("b", 3, 10.0)):
        made.store.log("start", "train", name, memory_asked=4096)
        made.store.log("end", "train", name, startup=20.0, compute=compute, memory=memory * GIGABYTE)
    return made


def test_usage_is_that_of_the_largest_attempt_of_a_kind(launch: Launch) -> None:
    two_ranks_on_a_node = 2 * 3 * 1024.0
    assert usage(launch, launch.store.events()) == [Usage("train", 60, 720.0, 8192, two_ranks_on_a_node, 4)]


def test_the_suggestion_can_be_pasted(launch: Launch) -> None:
    (train,) = usage(launch, launch.store.events())
    read = load_value("{" + train.suggestion.strip() + "}", "here")
    assert Resources(**read["train"]) == Resources(time=30, memory=8192)  # twice 12 minutes; 1.3 times 6 GB


def test_what_a_job_uses_beside_its_slots_counts_once(tmp_path: Path) -> None:
    made = launched(Store.create(tmp_path), stage("a", resources={"time": 60, "cpus": 2, "slots": 2}))
    made.store.log("start", "train", "a")
    made.store.log("end", "train", "a", startup=1.0, compute=1.0, memory=2 * GIGABYTE, overhead=GIGABYTE)
    (train,) = usage(made, made.store.events())
    assert train.peak == 5 * 1024.0 and "memory: 7G" in train.suggestion


def test_status_shows_it_when_the_launch_has_ended_or_all_stages_are_listed(launch: Launch) -> None:
    def shown(every: bool) -> bool:
        return "resources:" in map(str, picture(launch_status(launch), every, full=False))

    assert (shown(every=False), shown(every=True)) == (False, True)
    launch.end("complete")
    assert shown(every=False)


def test_a_report_shows_it_of_the_last_launch_on_slurm(launch: Launch) -> None:
    found = collect_usage("tiny", launch.store)
    assert found == usage(launch, launch.store.events()) and collect_usage("other", launch.store) == []
    (table,) = usage_tables(replace(plain(), usage=tuple(found)))
    (row,) = table.rows
    assert [cell.text for cell in row] == ["train", "60", "12.0", "8.00", "6.00", "train: {time: 0:30:00, memory: 8G}"]


def test_what_failed_or_did_no_work_suggests_nothing(launch: Launch) -> None:
    before = usage(launch, launch.store.events())
    lazy, greedy = {"startup": 9e5, "memory": 90 * GIGABYTE}, {"startup": 20.0, "compute": 9e5, "memory": 90 * GIGABYTE}
    for event, measured in (("failure", greedy), ("death", greedy), ("interrupted", lazy)):
        launch.store.log("start", "train", "a", memory_asked=4096)
        launch.store.log(event, "train", "a", reason="a bug", **measured)
    assert usage(launch, launch.store.events()) == before
    launch.store.log("interrupted", "train", "a", reason="its time limit", done=3, startup=20.0, compute=1000.0)
    launch.store.log("failure", "train", "a", reason="MemoryError", compute=1.0, memory=9 * GIGABYTE)
    (train,) = usage(launch, launch.store.events())
    assert (train.longest, train.peak) == (1020.0, 9 * 1024.0)
