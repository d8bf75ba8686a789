"""The store: a record is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.files import write_atomically
from bench.records import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def write(store: Store, identity: str = "abc", text: str = "hello") -> None:
    with store.writing("train", identity, record := {"result": None}) as folder:
        (folder / "weights.bin").write_text(text)
        record["result"] = {"loss": 1.0}  # type: ignore[assignment]


def test_a_record_holds_result_and_sizes(store: Store) -> None:
    write(store)
    record = store.read("train", "abc")
    assert record["result"] == {"loss": 1.0}
    assert record["bytes"] == {"weights.bin": 5}
    assert store.known("train") == {"abc"}
    assert not store.done("evaluate", "abc")


def test_a_failing_writer_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError), store.writing("train", "abc", {}) as folder:
        (folder / "weights.bin").write_text("half")
        raise RuntimeError
    assert not store.done("train", "abc")
    assert not list((store.root / "writing").iterdir())


def test_the_first_of_two_writers_wins(store: Store) -> None:
    with store.writing("train", "abc", {"result": 1}) as folder:
        (folder / "file").write_text("first to start")
        write(store)
    assert store.read("train", "abc")["result"] == {"loss": 1.0}


def test_a_record_removes_its_checkpoint(store: Store) -> None:
    store.checkpoint("train", "abc").mkdir(parents=True)
    write(store)
    assert not store.checkpoint("train", "abc").exists()


def test_damage_is_noticed(store: Store) -> None:
    write(store)
    (store.folder("train", "abc") / "weights.bin").write_text("short")
    (store.folder("train", "abc") / "weights.bin").write_text("longer")
    with pytest.raises(UserError, match=r"weights\.bin: 6 bytes, recorded were 5"):
        store.read("train", "abc")


def test_a_record_under_the_wrong_identity_is_refused(store: Store) -> None:
    write(store)
    store.folder("train", "abc").rename(store.folder("train", "xyz"))
    with pytest.raises(UserError, match="holds the record of train abc"):
        store.read("train", "xyz")


def test_the_log_appends(store: Store) -> None:
    store.log("start", "train", "abc")
    store.log("failure", "train", "abc", reason="two\nlines")
    lines = [json.loads(line) for line in (store.root / "attempts.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "failure"]


def test_write_atomically_replaces(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"old")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
