"""Garbage: what is removed, what stays, and that running stages lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from bench.commands.store import gc
from bench.core.errors import UserError
from bench.store import garbage
from bench.store.garbage import DAY, GONE, MANY, Garbage, find, remove
from bench.store.records import Store

NOW = time.time()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store.create(tmp_path / "store")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def put(path: Path, days: float, text: str = "content", read: float | None = None) -> Path:
    """A file that was written so many days ago, and read then too unless told; its folder looks as old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (NOW - (days if read is None else read) * DAY, NOW - days * DAY))
    os.utime(path.parent, (NOW, NOW - days * DAY))
    return path


def record(store: Store, identity: str, kind: str = "train") -> None:
    with store.writing(kind, identity, {"result": 1}):
        pass


def event(store: Store, identity: str, days: float) -> None:
    """An event of so many days ago."""
    line = json.dumps({"time": NOW - days * DAY, "event": "start", "kind": "train", "identity": identity})
    put(store.root / "attempts" / f"host-{identity}.jsonl", days, line + "\n")


def tree(folder: Path) -> dict[str, tuple[int, float]]:
    """Size and modification time of everything below a folder."""
    found = {str(path): path.lstat() for path in sorted(folder.rglob("*"))}
    return {name: (status.st_size, status.st_mtime) for name, status in found.items()}


def found(store: Store, cache: Path, days: float = 30) -> list[Garbage]:
    return list(find(store, cache, days, NOW))


def paths(store: Store, cache: Path, days: float = 30) -> set[str]:
    """Paths of the garbage, relative to the folder of store and cache."""
    return {str(item.path.relative_to(cache.parent)) for item in found(store, cache, days)}


def clean(store: Store, cache: Path) -> list[str]:
    """Remove what can go; why some of it stays."""
    return [why for _, why in remove(find(store, cache, 30, NOW)) if why]


# --- classes ----------------------------------------------------------------------------------------------------------


def test_a_store_and_a_cache_that_are_not_there_hold_no_garbage(tmp_path: Path) -> None:
    assert found(Store.create(tmp_path / "none"), tmp_path / "neither") == []


def test_the_folder_of_a_record_that_was_interrupted_goes_after_a_day(store: Store, cache: Path) -> None:
    put(store.root / "writing" / "abc-12345678" / "weights.bin", 1.1, "12345")
    put(store.root / "writing" / "xyz-12345678" / "weights.bin", 0.9)
    (item,) = found(store, cache)
    assert (item.path.name, item.bytes) == ("abc-12345678", 5)


@pytest.mark.parametrize("sign", ["event", "progress", "claim"])
def test_the_folder_of_a_record_stays_while_its_stage_gives_signs_of_life(store: Store, cache: Path, sign: str) -> None:
    """A stage opens its folder at its start and fills it at its end."""
    put(store.root / "writing" / "abc-12345678" / "weights.bin", 3)
    if sign == "event":
        event(store, "abc", 0.5)
    elif sign == "progress":
        put(store.root / "running" / "train-abc.json", 0.5)
    else:
        put(store.root / "claims" / "train-abc.1.json", 0.5)
    assert paths(store, cache) == set()


def test_the_empty_folder_of_a_silent_stage_stays_as_long_as_a_checkpoint(store: Store, cache: Path) -> None:
    for name, days in (("abc-12345678", 29), ("xyz-12345678", 31)):
        folder = store.root / "writing" / name
        folder.mkdir(parents=True)
        os.utime(folder, (NOW, NOW - days * DAY))
    assert paths(store, cache) == {"store/writing/xyz-12345678"}


def test_the_checkpoint_of_a_finished_stage_goes_at_once(store: Store, cache: Path) -> None:
    record(store, "abc")
    put(store.checkpoint("train", "abc") / "training.pt", 0)
    put(store.checkpoint("encode", "abc") / "shard.safetensors", 0)
    assert paths(store, cache) == {"store/checkpoints/train/abc"}


def test_the_checkpoint_of_an_unfinished_stage_goes_when_nothing_touched_it_for_long(store: Store, cache: Path) -> None:
    put(store.checkpoint("train", "old") / "training.pt", 31)
    put(store.checkpoint("train", "new") / "training.pt", 29)
    for sign in ("logged", "running", "claimed"):
        put(store.checkpoint("train", sign) / "training.pt", 31)
    event(store, "logged", 29)
    put(store.root / "running" / "train-running.json", 0.5)
    put(store.root / "claims" / "train-claimed.2.json", 29)
    assert paths(store, cache) == {"store/checkpoints/train/old"}
    assert paths(store, cache, days=32) == set()


def test_progress_goes_after_a_day_of_silence(store: Store, cache: Path) -> None:
    put(store.root / "running" / "train-abc.json", 1.1)
    put(store.root / "running" / "train-xyz.json", 0.9)
    assert paths(store, cache) == {"store/running/train-abc.json"}


def test_claims_go_with_the_record_or_when_all_of_a_stage_are_old(store: Store, cache: Path) -> None:
    record(store, "done")
    for name, days in {
        "train-done.1": 3, "train-done.2": 0,
        "train-old.9": 32, "train-old.10": 31,
        "train-again.1": 40, "train-again.2": 29,
        "train-new.1": 29, "evaluate-done.1": 1,
    }.items():  # fmt: skip
        put(store.root / "claims" / f"{name}.json", days)
    names = [item.path.name.removesuffix(".json") for item in found(store, cache)]
    assert names == ["train-done.1", "train-done.2", "train-old.9", "train-old.10"]


def launch(store: Store, name: str, ended: float | None, jobs: float) -> None:
    folder = store.root / "launches" / name
    put(folder / "jobs" / "1_0_submitted.pkl", jobs)
    put(folder / "jobs" / "1_0_log.out", jobs)
    for kept in ("orders.jsonl", "launch.json", "jobs.jsonl", "tiny.yaml"):
        put(folder / kept, 40)
    if ended is not None:
        put(folder / "ended.json", ended)


def test_only_what_tells_its_history_stays_of_a_launch_that_ended_long_ago(store: Store, cache: Path) -> None:
    launch(store, "old", ended=31, jobs=31)
    launch(store, "recent", ended=29, jobs=31)
    launch(store, "outlived", ended=31, jobs=29)
    launch(store, "unended", ended=None, jobs=60)
    folder = "store/launches"
    assert paths(store, cache) == {
        f"{folder}/old/jobs",
        f"{folder}/old/orders.jsonl",
        f"{folder}/outlived/orders.jsonl",
    }
    assert clean(store, cache) == []
    left = {path.name for path in (store.root / "launches" / "old").iterdir()}
    assert left == {"ended.json", "launch.json", "jobs.jsonl", "tiny.yaml"}


def frames(cache: Path, name: str, written: float, read: float) -> None:
    put(cache / "frames" / name / "host-1-2.frames", written)
    put(cache / "frames" / name / "host-1-2.jsonl", written, read=read)


def test_decoded_frames_go_when_neither_read_nor_written_for_long(store: Store, cache: Path) -> None:
    frames(cache, "unread", written=60, read=31)
    frames(cache, "read", written=60, read=29)
    frames(cache, "written", written=29, read=31)
    put(cache / "frames" / "lock", 60)
    assert paths(store, cache) == {"cache/frames/unread"}


def test_frames_stay_beside_running_stages_where_reading_leaves_no_trace(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        f_flag = os.ST_NOATIME

    monkeypatch.setattr(os, "statvfs", lambda path: Silent)
    frames(cache, "unread", written=60, read=31)
    (item,) = found(store, cache)
    assert item.reason == "not written for 30 days"
    put(store.root / "running" / "train-abc.json", 0.5)
    assert found(store, cache) == []


def test_worlds_hashes_and_prepared_copies_stay(store: Store, cache: Path) -> None:
    put(cache / "glyphs-narrow-0123456789ab" / "source" / "train" / "die_rising" / "000.mp4", 400)
    put(cache / "content" / "ucf101-01234567.jsonl", 400)
    put(cache / "prepared" / "prepared.json", 400)
    record(store, "abc")
    put(store.folder("train", "abc") / "record.json", 400)
    put(store.root / "reports" / "tiny" / "index.html", 400)
    assert found(store, cache) == []


def test_temporary_files_go_after_a_day(store: Store, cache: Path) -> None:
    for folder in ("store/running", "store/claims", "store/launches/one", "cache", "cache/content"):
        put(cache.parent / folder / "old.json.0a1b.tmp", 1.1)
        put(cache.parent / folder / "new.json.0a1b.tmp", 0.9)
    put(store.root / "claims" / ".0a1b", 1.1)
    put(store.root / "claims" / ".2c3d", 0.9)
    assert {Path(path).name for path in paths(store, cache)} == {"old.json.0a1b.tmp", ".0a1b"}
    assert len(paths(store, cache)) == 6


# --- logs -------------------------------------------------------------------------------------------------------------


def test_few_logs_stay_as_they_are(store: Store, cache: Path) -> None:
    for number in range(MANY - 1):
        event(store, str(number), 3 - number / MANY)
    event(store, "new", 0.5)
    assert found(store, cache) == []


def test_many_logs_become_one_with_the_same_events(store: Store, cache: Path) -> None:
    for number in range(MANY):
        event(store, str(number), 5 - number / MANY)
    event(store, "new", 0.5)
    with open(store.root / "attempts" / "host-3.jsonl", "ab") as torn:
        torn.write(b'{"time": 1.0, "eve')
    os.utime(store.root / "attempts" / "host-3.jsonl", (NOW, NOW - 2 * DAY))
    before = store.events()
    assert clean(store, cache) == []
    names = sorted(path.name for path in (store.root / "attempts").iterdir())
    assert len(names) == 2 and names[0] == "host-new.jsonl" and names[1].startswith("merged-")
    assert store.events() == before and len(before) == MANY + 1


@pytest.mark.parametrize("moment", ["before the common log", "before the first goes", "midway"])
def test_a_merge_that_is_killed_loses_and_doubles_nothing(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    for number in range(MANY):
        event(store, str(number), 3 - number / MANY)
    before = store.events()
    unlink, left = Path.unlink, 0 if moment == "before the first goes" else 10

    def killed(path: Path, *others: object) -> None:
        nonlocal left
        if left == 0 or moment == "before the common log":
            raise KeyboardInterrupt
        left -= 1
        unlink(path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if moment == "before the common log":
            patched.setattr(garbage, "write_atomically", killed)
        else:
            patched.setattr(Path, "unlink", killed)
        clean(store, cache)
    assert store.events() == before
    for number in range(MANY):
        event(store, str(MANY + number), 1.9 - number / MANY / 2)
    assert clean(store, cache) == []
    assert [event["identity"] for event in store.events()][:MANY] == [event["identity"] for event in before]
    assert len(store.events()) == 2 * MANY


def test_a_process_that_logs_after_its_log_was_merged_begins_another(store: Store, cache: Path) -> None:
    store.log("start", "train", "abc")
    (own,) = (store.root / "attempts").iterdir()
    os.utime(own, (NOW, NOW - 2 * DAY))
    for number in range(MANY):
        event(store, str(number), 3 - number / MANY)
    assert clean(store, cache) == [] and not own.exists()
    store.log("end", "train", "abc")
    assert [event["event"] for event in store.events() if event["identity"] == "abc"] == ["start", "end"]


def test_a_line_that_is_written_while_its_log_is_merged_stays(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer had the file open when it was renamed, and writes after it was read."""
    for number in range(MANY):
        event(store, str(number), 3 - number / MANY)
    write, logged = garbage.write_atomically, {"time": NOW, "event": "end", "identity": "5"}
    before = store.events()
    with open(store.root / "attempts" / "host-5.jsonl", "ab", buffering=0) as writer:

        def late(path: Path, data: bytes) -> None:
            write(path, data)
            writer.write(json.dumps(logged).encode() + b"\n")

        monkeypatch.setattr(garbage, "write_atomically", late)
        assert clean(store, cache) == []
    assert store.events() == [*before, logged]


# --- removing ---------------------------------------------------------------------------------------------------------


def litter(store: Store, cache: Path) -> None:
    """Garbage of every kind."""
    record(store, "done")
    put(store.root / "writing" / "abc-12345678" / "weights.bin", 40)
    put(store.checkpoint("train", "done") / "training.pt", 0)
    put(store.checkpoint("train", "old") / "training.pt", 40)
    put(store.root / "running" / "train-abc.json", 40)
    put(store.root / "running" / "train-abc.json.1.tmp", 40)
    put(store.root / "claims" / "train-old.1.json", 40)
    launch(store, "old", ended=40, jobs=40)
    frames(cache, "unread", written=60, read=40)
    for number in range(MANY):
        event(store, str(number), 40)


def test_what_is_found_goes_and_the_rest_stays(store: Store, cache: Path) -> None:
    litter(store, cache)
    going = {item.path for item in found(store, cache)}
    before = set(cache.parent.rglob("*"))
    assert clean(store, cache) == []
    below = {path for path in before if path in going or going & set(path.parents)}
    after = set(cache.parent.rglob("*"))
    assert {path for path in after if not path.name.startswith("merged-")} == before - below
    assert found(store, cache) == []


def test_looking_changes_nothing(store: Store, cache: Path) -> None:
    litter(store, cache)
    before = tree(cache.parent)
    assert {item.kind for item in found(store, cache)} == {
        "unfinished record",
        "checkpoint",
        "progress",
        "claim",
        "files of jobs",
        "decoded frames",
        "temporary file",
        "small log",
    }
    assert tree(cache.parent) == before


def test_a_folder_is_never_seen_half_empty(store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = store.checkpoint("train", "old")
    put(checkpoint / "training.pt", 40)
    seen: list[bool] = []
    monkeypatch.setattr(shutil, "rmtree", lambda path: seen.append(checkpoint.exists()))
    assert clean(store, cache) == []
    assert seen == [False]


def test_what_a_killed_removal_left_goes_next_time(store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    litter(store, cache)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda path: None)
        clean(store, cache)
    halves = list(cache.parent.rglob(f"{GONE}*"))
    assert len(halves) == 5
    assert clean(store, cache) == []
    assert not [path for path in halves if path.exists()]


def test_links_are_neither_followed_nor_removed(store: Store, cache: Path, tmp_path: Path) -> None:
    outside = put(tmp_path / "outside" / "abc" / "training.pt", 400)
    for place in ("checkpoints/train/abc", "writing/abc-12345678", "launches/one"):
        (store.root / place).parent.mkdir(parents=True, exist_ok=True)
        (store.root / place).symlink_to(outside.parent)
    (store.root / "claims").symlink_to(outside.parent)
    cache.mkdir()
    (cache / "frames").symlink_to(tmp_path / "outside")
    assert found(store, cache) == []


def test_a_link_within_goes_without_its_target(store: Store, cache: Path, tmp_path: Path) -> None:
    outside = put(tmp_path / "outside" / "weights.bin", 400)
    checkpoint = store.checkpoint("train", "done")
    put(checkpoint / "training.pt", 0)
    (checkpoint / "link").symlink_to(outside.parent)
    record(store, "done")
    checkpoint.mkdir(parents=True)
    (checkpoint / "link").symlink_to(outside.parent)
    assert clean(store, cache) == []
    assert outside.exists() and not checkpoint.exists()


def test_what_cannot_be_removed_is_reported_and_stops_nothing(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store.checkpoint("train", "old") / "training.pt", 40)
    claim = put(store.root / "claims" / "train-old.1.json", 40)

    def refused(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refused)
    assert clean(store, cache) == [f"{store.checkpoint('train', 'old')}: Permission denied"]
    assert not claim.exists()


def test_two_that_remove_at_once_get_along(store: Store, cache: Path) -> None:
    litter(store, cache)
    before = [event for event in store.events() if event["kind"] == "train"]
    twice = [list(find(store, cache, 30, NOW)) for _ in range(2)]
    assert [why for found in twice for _, why in remove(found) if why] == []
    assert [event for event in store.events() if event["kind"] == "train"] == before


def test_a_live_writer_loses_nothing(store: Store, cache: Path) -> None:
    """A process logs, reports progress and finishes stages in a store whose other files are removed again and again."""
    context = get_context("fork")
    ended = context.Event()
    writer = context.Process(target=_write, args=(store, ended))
    writer.start()
    rounds = 0
    while not ended.is_set() or rounds == 0:
        litter_again(store, rounds)
        assert clean(store, cache) == []
        rounds += 1
    writer.join()
    assert writer.exitcode == 0
    assert store.known("evaluate") == {f"stage{n}" for n in range(100)}
    own = [event["identity"] for event in store.events() if event["event"] == "end"]
    assert own == [f"stage{n}" for n in range(100)]
    old = [event for event in store.events() if event["event"] == "start" and event["identity"].isdecimal()]
    assert len(old) == rounds * MANY


def litter_again(store: Store, turn: int) -> None:
    put(store.checkpoint("train", f"old{turn}") / "training.pt", 40)
    put(store.root / "claims" / f"train-old{turn}.1.json", 40)
    for number in range(MANY):
        event(store, str(turn * MANY + number), 40)


def _write(store: Store, ended: object) -> None:
    try:
        for number in range(100):
            identity = f"stage{number}"
            store.log("start", "evaluate", identity)
            checkpoint = store.checkpoint("evaluate", identity)
            checkpoint.mkdir(parents=True)
            (checkpoint / "shard").write_text("kept")
            with store.writing("evaluate", identity, {"result": number}) as folder:
                store.report_progress("evaluate", identity, {"done": number})
                (folder / "scores").write_text((checkpoint / "shard").read_text())
            store.report_progress("evaluate", identity, None)
            store.log("end", "evaluate", identity)
    finally:
        ended.set()  # type: ignore[attr-defined]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().out


def test_a_dry_run_says_what_would_go_and_changes_nothing(store: Store, cache: Path, said: Callable[[], str]) -> None:
    litter(store, cache)
    before = tree(cache.parent)
    gc(store.root, cache, dry_run=True, paths=True)
    printed = said()
    assert tree(cache.parent) == before
    assert "would be removed" in printed and str(store.checkpoint("train", "old")) in printed
    assert "small log" in printed and "in all" in printed


def test_the_command_removes_and_gives_sizes(store: Store, cache: Path, said: Callable[[], str]) -> None:
    put(store.checkpoint("train", "old") / "training.pt", 40, "x" * 1_234_567)
    put(store.checkpoint("train", "older") / "training.pt", 50, "x" * 1_000_000)
    gc(store.root, cache)
    words = said().replace("│", " ").split()
    assert words[:1] == ["removed"]
    assert " ".join(words).count("checkpoint 2 2.2 MB untouched for 30 days") == 1
    gc(store.root, cache)
    assert said() == "nothing to remove\n"


def test_the_cache_is_found_as_elsewhere(
    store: Store, cache: Path, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames(cache, "unread", written=60, read=40)
    monkeypatch.setenv("VTB_CACHE", str(cache))
    gc(store.root, dry_run=True)
    assert "decoded frames" in said()


def test_a_store_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        gc(tmp_path / "none")


# --- code -------------------------------------------------------------------------------------------------------------


def test_code_that_no_launch_has_is_removed_after_a_day(store: Store, cache: Path) -> None:
    for name in ("kept", "old", "new"):
        put(store.root / "code" / name / "run_suite.py", 0.5 if name == "new" else 2)
    launch = put(store.root / "launches" / "a" / "launch.json", 90, json.dumps({"code": "kept"}))
    put(store.root / "launches" / "b" / "launch.json", 90, json.dumps({}))
    assert [item.path.name for item in find(store, cache, 30, NOW)] == ["old"]
    launch.write_text("torn")  # nobody knows what it has
    assert not [*find(store, cache, 30, NOW)]
