"""The store: a record is whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError, fault_of_machine
from bench.core.files import write_atomically
from bench.store import records
from bench.store.records import DamagedRecord, MissingStore, Store
from tests.errors import refused


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


MISTYPED = [
    b'{"time": 6, "event": "failed", "kind": 3}',
    b'{"time": 6, "event": "failed", "identity": []}',
    b'{"time": 6, "event": "end", "job": {}}',
    b'{"time": 6, "event": "interrupted", "done": "1"}',
]


def write(store: Store, identity: str = "abc", text: str = "hello") -> None:
    with store.writing("train", identity, record := {"result": None}) as folder:
        (folder / "weights.bin").write_text(text)
        record["result"] = {"loss": 1.0}  # type: ignore[assignment]


def write_log(path: Path, *times: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"time": time, "event": "note", "identity": "abc"}) + "\n" for time in times))


def log_many(store: Store, identity: str) -> None:
    for n in range(100):
        store.log("note", "train", identity, n=n)


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
    with pytest.raises(UserError, match=r"weights\.bin: .*6 bytes.* 5"):
        store.read("train", "abc")


def test_a_record_under_the_wrong_identity_is_refused(store: Store) -> None:
    write(store)
    store.folder("train", "abc").rename(store.folder("train", "xyz"))
    with pytest.raises(UserError, match="holds the record of train abc"):
        store.read("train", "xyz")


def test_the_log_appends(store: Store) -> None:
    store.log("start", "train", "abc")
    store.log("failure", "train", "abc", reason="two\nlines")
    assert [(event["event"], event.get("reason")) for event in store.events()] == [
        ("start", None),
        ("failure", "two\nlines"),
    ]


def test_a_log_is_named_by_its_host_process_and_job(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    store.log("start", "train", "abc")
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    store.log("start", "train", "abc")
    own = f"{socket.gethostname()}-{os.getpid()}"
    assert {path.name for path in (store.root / "attempts").iterdir()} == {f"{own}.jsonl", f"{own}-123.jsonl"}


def test_a_store_without_a_log_has_no_events(store: Store) -> None:
    assert store.events() == []


def test_events_of_all_logs_come_by_time_and_the_older_common_log_counts(store: Store) -> None:
    write_log(store.root / "attempts.jsonl", 2.0, 5.0)
    write_log(store.root / "attempts" / "b-1.jsonl", 4.0, 1.0)
    write_log(store.root / "attempts" / "a-1-77.jsonl", 3.0)
    write_log(store.root / "attempts" / "a-1.jsonl.tmp", 6.0)
    assert [event["time"] for event in store.events()] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_events_of_the_same_time_keep_the_order_of_their_log(store: Store) -> None:
    log = store.root / "attempts" / "a-1.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps({"time": 1.0, "event": name}) + "\n" for name in ("start", "note", "end")))
    assert [event["event"] for event in store.events()] == ["start", "note", "end"]


@pytest.mark.parametrize(
    "torn", [b'{"time": 1.5, "event": "sta', b'{"time": 1.5, "reason": "\xe2\x80', b"7", b"{}", b"\0\0\0", *MISTYPED]
)
def test_a_line_that_is_cut_off_or_strange_is_passed_over(store: Store, torn: bytes) -> None:
    log = store.root / "attempts" / "a-1.jsonl"
    write_log(log, 1.0, 2.0)
    with open(log, "ab") as file:
        file.write(torn)
    assert [event["time"] for event in store.events()] == [1.0, 2.0]


def test_a_line_that_is_cut_off_spoils_none_that_follows(store: Store) -> None:
    store.log("start", "train", "abc")
    (log,) = (store.root / "attempts").iterdir()
    with open(log, "ab") as file:
        file.write(b'{"time": 1.0, "eve')
    store.log("end", "train", "abc")
    assert [event["event"] for event in store.events()] == ["start", "end"]


def test_an_event_in_two_logs_counts_once(store: Store) -> None:
    write_log(store.root / "attempts" / "a-1.jsonl", 1.0, 2.0)
    write_log(store.root / "attempts" / "merged.jsonl", 1.0, 2.0, 3.0)
    assert [event["time"] for event in store.events()] == [1.0, 2.0, 3.0]


def test_a_log_that_is_merged_while_events_are_read_is_found_in_the_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, merged = store.root / "attempts" / "a-1.jsonl", store.root / "attempts" / "merged.jsonl"
    write_log(first, 1.0)
    listed = Store._log_files

    def late(store: Store) -> list[str]:
        files = listed(store)
        if first.exists():
            first.rename(merged)
        return files

    monkeypatch.setattr(Store, "_log_files", late)
    assert [event["time"] for event in store.events()] == [1.0]


def test_processes_that_log_at_once_lose_nothing(store: Store) -> None:
    context = get_context("fork")
    writers = [context.Process(target=log_many, args=(store, f"stage{n}")) for n in range(4)]
    for writer in writers:
        writer.start()
    log_many(store, "own")
    for writer in writers:
        writer.join()
    events = store.events()
    assert len(list((store.root / "attempts").iterdir())) == 5
    for identity in ("own", *(f"stage{n}" for n in range(4))):
        assert [event["n"] for event in events if event["identity"] == identity] == list(range(100))


def test_events_of_thousands_of_processes_are_read_in_less_than_a_second_of_a_core(store: Store) -> None:
    for number in range(2000):
        write_log(store.root / "attempts" / f"host-{number}.jsonl", *(number + n / 10 for n in range(10)))
    started = time.process_time()
    assert len(store.events()) == 20_000
    assert time.process_time() - started < 1.0  # a tenth of that on an idle machine


def test_write_atomically_replaces(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"old")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "file", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(tmp_path / "file", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_writers_of_one_number_on_two_machines_do_not_share_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writes the whole file between this one's writing and its rename."""
    rename = os.replace

    def other_first(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", rename)
        write_atomically(tmp_path / "file", b"other")
        rename(source, target)

    monkeypatch.setattr(os, "replace", other_first)
    write_atomically(tmp_path / "file", b"own")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"own"}


# --- damage -----------------------------------------------------------------------------------------------------------


def test_equal_size_is_not_enough_where_a_file_is_read(store: Store) -> None:
    write(store)
    (store.folder("train", "abc") / "weights.bin").write_text("hallo")
    assert store.done("train", "abc")
    with refused(store.folder("train", "abc") / "weights.bin", "bytes", hint="delete", kind=DamagedRecord):
        store.read("train", "abc", ["weights.bin"])
    assert store.find("train", "abc", None) is None


def test_a_file_is_hashed_once_while_it_stays_as_it_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store)
    read, whole = list[Path](), records.file_sha256

    def noted(path: Path) -> str:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(records, "file_sha256", noted)
    for _ in range(3):
        store.read("train", "abc", None)
    assert len(read) == 1
    os.utime(store.folder("train", "abc") / "weights.bin", (1, 1))
    store.read("train", "abc", None)
    assert len(read) == 2


def changed(path: Path, content: bytes) -> None:
    path.write_bytes(content.replace(b'"loss": 1.0', b'"loss": 2.0'))


def partly(path: Path, content: bytes) -> None:
    """A record without a seal, as older versions wrote it, that lacks its costs."""
    path.write_text(json.dumps({**OLD, "cost": None}))


def folder(path: Path, content: bytes) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path, content: bytes) -> None:
    path.unlink()
    os.mkfifo(path)


OLD: dict[str, Any] = {name: {} for name in ("spec", "context", "inputs", "result", "cost", "provenance", "sha256")}
OLD |= {"schema": 1, "kind": "train", "identity": "abc", "title": "old", "bytes": {"weights.bin": 5}}
OLD |= {"sha256": {"weights.bin": hashlib.sha256(b"hello").hexdigest()}, "context": {"execution": {"processes": 1}}}
OLD |= {"cost": {"flops": 1.0, "seconds": 1}, "provenance": {"versions": {"torch": "2"}, "device": "cpu"}}
DAMAGES: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "cut off": (lambda path, content: path.write_bytes(content[:-9]), "not JSON"),
    "empty": (lambda path, content: path.write_bytes(b""), "empty"),
    "a list": (lambda path, content: path.write_bytes(b"[]"), "no record"),
    "foreign": (lambda path, content: path.write_bytes(b'{"name": 1}'), "no record"),
    "latin1": (lambda path, content: path.write_bytes(b'{"title": "\xe9"}'), "not JSON"),
    "deeply nested": (lambda path, content: path.write_bytes(b"[" * 100_000), "not JSON"),
    "missing": (lambda path, content: path.unlink(), "missing"),
    "a folder": (folder, "missing"),
    "a pipe": (pipe, "empty"),
    "other numbers": (changed, "changed"),
    "incomplete": (partly, "cost"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_named_and_counts_as_none(
    store: Store, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(store)
    path = store.folder("train", "abc") / "record.json"
    act, says = DAMAGES[damage]
    act(path, path.read_bytes())
    with refused(path, says, hint="delete", kind=DamagedRecord):
        store.read("train", "abc")
    assert not store.done("train", "abc") and store.known("train") == {"abc"}
    assert str(path) in caplog.text


def test_a_stray_file_in_the_place_of_a_record_is_named(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    place = store.folder("train", "abc")
    place.parent.mkdir(parents=True)
    place.write_text("notes")
    assert store.find("train", "abc") is None and str(place) in caplog.text
    assert store.mend("train", "abc") and not place.exists()


def test_strays_are_no_records(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    write(store)
    for name in ("notes.txt", ".nfs000", "plain"):
        store.folder("train", name).write_text("mine")
    for name in ("Copy of abc", "empty"):
        store.folder("train", name).mkdir()
    assert store.known("train") == {"abc", "empty"}
    assert store.find("train", "empty") is None and not caplog.text
    write(store, "empty")
    assert store.done("train", "empty")


def test_records_without_a_seal_are_read(store: Store) -> None:
    write(store)
    (store.folder("train", "abc") / "record.json").write_text(json.dumps(OLD))
    assert store.read("train", "abc")["title"] == "old"


@pytest.mark.parametrize(
    ("field", "content", "named"),
    [
        ("cost", {}, "cost.flops"),
        ("cost", {"flops": "1", "seconds": 1}, "cost.flops"),
        ("provenance", {"device": "cpu"}, "provenance.versions"),
        ("context", {}, "context.execution"),
        ("inputs", {"texts": ["texts"]}, "inputs"),
        ("inputs", {"texts": {"texts": 1}}, "inputs"),
        ("bytes", {"weights.bin": "5"}, "bytes"),
        ("sha256", {"weights.bin": None}, "sha256"),
    ],
)
def test_a_record_without_a_seal_needs_what_readers_use(store: Store, field: str, content: object, named: str) -> None:
    write(store)
    path = store.folder("train", "abc") / "record.json"
    path.write_text(json.dumps({**OLD, field: content}))
    with refused(path, named, hint="delete", kind=DamagedRecord):
        store.read("train", "abc")


def test_a_record_of_a_newer_version_stays_as_it_is(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    write(store)
    path = store.folder("train", "abc") / "record.json"
    path.write_text(content := json.dumps({**json.loads(path.read_bytes()), "schema": 2}))
    assert not store.done("train", "abc")
    assert str(path) in caplog.text and "update" in caplog.text and "delete" not in caplog.text
    with refused(path, "schema 2", hint="another store") as caught:
        store.mend("train", "abc")
    assert not isinstance(caught.value, DamagedRecord)
    write(store)  # drops its own record
    assert path.read_text() == content


def test_a_file_that_a_record_does_not_list_is_not_read(store: Store) -> None:
    write(store)
    folder = store.folder("train", "abc")
    (folder / "features.safetensors").write_bytes(b"garbage")
    with refused(folder / "features.safetensors", "list", kind=DamagedRecord):
        store.read("train", "abc", ["features.safetensors"])
    assert store.read("train", "abc", None)  # a stray file beside those of a sealed record
    (folder / "record.json").write_text(json.dumps({**OLD, "bytes": {}, "sha256": {}}))
    assert store.read("train", "abc")
    with refused(folder / "features.safetensors", "list", kind=DamagedRecord):
        store.read("train", "abc", None)
    (folder / "record.json").write_text(json.dumps({**OLD, "sha256": {}}))
    with refused(folder / "record.json", "sha256", kind=DamagedRecord):
        store.read("train", "abc")


def test_an_evaluation_without_a_seal_needs_its_accuracies(store: Store) -> None:
    path = store.folder("evaluate", "abc") / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**OLD, "kind": "evaluate", "result": {"top1": "99"}}))
    with refused(path, "result.top1", "result.videos", kind=DamagedRecord):
        store.read("evaluate", "abc")


def test_what_cannot_be_read_is_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store)

    def denied(*_arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(records, "_open_at_once", denied)
    with refused("record.json", "Permission denied"):
        store.mend("train", "abc")
    assert store.known("train") == {"abc"}


def test_a_damaged_record_is_moved_aside_and_made_again(store: Store) -> None:
    write(store)
    assert not store.mend("train", "abc")
    (store.folder("train", "abc") / "weights.bin").write_text("hallo")
    assert store.mend("train", "abc") and store.known("train") == set()
    (aside,) = (store.root / "damaged").iterdir()
    assert (aside / "weights.bin").read_text() == "hallo"
    write(store)
    assert not store.mend("train", "abc") and store.mend("train", "none")


def test_a_record_is_on_the_disk_before_it_has_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    done, fsync, rename = list[str](), os.fsync, os.rename

    def renaming(*names: Path) -> None:
        done.append("rename")
        rename(*names)

    def noted(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.partition(".")[0])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", renaming)
    write(store)
    assert done.index("weights") < done.index("rename") and done.index("record") < done.index("rename")
    assert done[-1] == "train"


@pytest.mark.parametrize("line", [b'{"time": 1e400, "event": "end", "identity": "a"}', b'{"time": 1.5, "event": 7}'])
def test_lines_that_are_no_events_are_passed_over(store: Store, line: bytes) -> None:
    write_log(store.root / "attempts" / "a-1.jsonl", 1.0)
    with open(store.root / "attempts" / "a-1.jsonl", "ab") as file:
        file.write(line)
    (store.root / "attempts" / "folder.jsonl").mkdir()
    assert [event["time"] for event in store.events()] == [1.0]


@pytest.mark.parametrize("text", ["", "[]", '{"done": "x", "total": 3, "started": 1}', '{"done": 1}'])
def test_progress_that_cannot_be_read_is_none(store: Store, text: str) -> None:
    (store.root / "running").mkdir(parents=True)
    (store.root / "running" / "train-abc.json").write_text(text)
    assert store.progress("train", "abc") is None


def test_a_store_of_before_markers_gets_one_from_a_command_and_is_refused_by_all_else(tmp_path: Path) -> None:
    (tmp_path / "records" / "train").mkdir(parents=True)
    with pytest.raises(MissingStore) as error:
        Store(tmp_path).log("start", "train", "a")
    assert fault_of_machine(error.value) == f"{tmp_path}: the store is not there (no store.json); is its disk mounted?"
    store = Store.create(tmp_path)
    before = (tmp_path / "store.json").read_bytes()
    store.log("start", "train", "a")
    assert len(Store.create(tmp_path).events()) == 1 and (tmp_path / "store.json").read_bytes() == before


def test_events_of_one_stage_are_those_of_its_identity(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    for identity in ("a1", "b2", "a1"):
        store.log("start", "train", identity)
    assert [event["identity"] for event in store.events("a1")] == ["a1", "a1"]
