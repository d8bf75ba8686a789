from __future__ import annotations

from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.launch.launches import JobArray, find_launch, launch_folders, launches, open_launch
from bench.store.records import Store
from tests.errors import refused
from tests.launch.launched import finish, launched, stage


def test_a_launch_reads_back_as_it_was_made(tmp_path: Path) -> None:
    first = stage("a", seconds=2.5)
    launch = launched(Store.create(tmp_path), first, stage("b", first, kind="evaluate", tasks=1))
    launch.add(JobArray("7", "tiny-train", [[0], [1]], 0.0, 1.0))
    opened = open_launch(launch.folder)
    assert opened == launch
    assert opened.arrays() == [JobArray("7", "tiny-train", [[0], [1]], 0.0, 1.0)]
    assert list(opened.arrays()[0].jobs()) == ["7_0", "7_1"]
    assert opened.orders([1])[1].identity == "b"
    assert opened.store == Store.create(tmp_path)


def test_a_single_job_has_no_index() -> None:
    assert JobArray("7", "tiny-train", [[0, 1]], 0.0, 1.0).jobs() == {"7": [0, 1]}


def test_what_lacks_a_record_is_said_by_records_alone(tmp_path: Path) -> None:
    launch = launched(Store.create(tmp_path), stage("a"), stage("b"))
    finish(launch.store, launch.stages[0])
    launch.end("complete")
    assert launch.missing() == [1]


def test_launches_are_found_by_suite_by_id_and_by_age(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    older, other = launched(store, stage("a")), launched(store, stage("a"), suite="two-words")
    within_a_second = [launched(store, stage("a"), suite=suite).folder for suite in "cbabc"]
    assert launch_folders(store) == [older.folder, other.folder, *within_a_second]
    assert find_launch(store, "two-words") == other
    assert find_launch(store, "suites/two-words.yaml") == other
    assert find_launch(store, older.name) == older
    with pytest.raises(UserError, match="did you mean 'two-words'"):
        find_launch(store, "two-word")
    with pytest.raises(UserError, match="no launches"):
        find_launch(Store.create(tmp_path / "other"))


def test_an_end_can_be_taken_back(tmp_path: Path) -> None:
    launch = launched(Store.create(tmp_path), stage("a"))
    assert launch.ended() is None
    launch.end("incomplete", ["a"])
    ended = launch.ended()
    assert ended is not None
    assert (ended["state"], ended["failed"]) == ("incomplete", ["a"])
    launch.reopen()
    assert launch.ended() is None


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"", b"[]", b"\xe9", b'{"stages": []}', b'{"stages": [1], "suite": "tiny"}'])
def test_a_damaged_launch_is_named_and_passed_over(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.create(tmp_path)
    older, newest = launched(store, stage("a")), launched(store, stage("a"))
    (newest.folder / "launch.json").write_bytes(text)
    assert find_launch(store) == find_launch(store, "tiny") == older
    assert list(launches(store)) == [older]
    assert str(newest.folder / "launch.json") in caplog.text
    with refused(newest.folder / "launch.json", hint="delete"):
        open_launch(newest.folder)


def test_a_line_that_a_full_disk_has_torn_costs_no_other(tmp_path: Path) -> None:
    launch, array = launched(Store.create(tmp_path), stage("a")), JobArray("7", "tiny-train", [[0]], 0.0, 1.0)
    (launch.folder / "jobs.jsonl").write_bytes(b'{"job": "6", "na')
    launch.add(array)
    launch.add(array)
    assert launch.arrays() == [array, array]


def test_lines_and_ends_that_are_damaged_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    launch, array = launched(Store.create(tmp_path), stage("a")), JobArray("7", "tiny-train", [[0]], 0.0, 1.0)
    (launch.folder / "jobs.jsonl").write_bytes(b'\xe9\n[]\n{"job": 7}\n')
    launch.add(array)
    (launch.folder / "ended.json").write_text('{"time": "never"}')
    assert (launch.arrays(), launch.ended()) == ([array], None)
    assert all(f"jobs.jsonl:{line}:" in caplog.text for line in (1, 2, 3)) and "ended.json" in caplog.text
    (launch.folder / "orders.jsonl").write_bytes(b"garbage")
    with refused(launch.folder / "orders.jsonl", hint="delete"):
        launch.orders([0])
