"""`doctor --store`: everything that is wrong in a store is named with its place and what to do; nothing is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.commands.app import main
from bench.stages import checkpoint
from bench.store.records import Store
from tests.errors import says
from tests.launch.launched import launched, stage

RESULT = {"videos": 4, "undecodable": 1, "top1": 50.0, "mean_class": 50.0, "top5": None}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A sound store: texts, an evaluation on them, a checkpoint, a launch and its log."""
    store = Store.create(tmp_path / "runs")
    with store.writing("texts", "tt", {"inputs": {}}) as folder:
        (folder / "classes.safetensors").write_bytes(b"features")
    evaluate(store, "ee", RESULT)
    for kind, identity, file in (("train", "uu", "training.pt"), ("encode", "ff", "shard-00000000.pt")):
        checkpoint.save(store.inside("checkpoints", kind) / identity / file, {"step": 1})
    store.log("start", "train", "uu")
    store.report_progress("train", "uu", {"started": 1.0, "done": 1, "total": 2, "unit": "steps"})
    launched(store, stage("uu")).end("incomplete")
    return store


def evaluate(store: Store, identity: str, result: dict[str, Any], **columns: list[Any]) -> None:
    answers = {"label": [0, 0, 1, 1], "prediction": [0, 1, 1, 1], "correct": [True, False, True, False]}
    table = pd.DataFrame({**answers, "failure": [None, None, None, "no video"], **columns})
    with store.writing("evaluate", identity, {"inputs": {"texts": ["texts", "tt"]}, "result": result}) as folder:
        table.to_parquet(folder / "predictions.parquet")


def examined(store: Store, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and output of the command, which leaves the store as it is."""
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    code = main(["doctor", "--store", str(store.root)])
    assert before == {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_sound_store_has_no_problems(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = examined(store, capsys)
    assert code == 0
    says(said, "2 records", "no problems")


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("records/texts/tt/record.json", b"[]"),
        ("records/texts/tt/classes.safetensors", b"FEATURES"),
        ("records/evaluate/ee/predictions.parquet", b""),
        ("records/evaluate/ee/notes.txt", b"mine"),
        ("records/notes.txt", b"mine"),
        ("records/train/notes.txt", b"mine"),
        ("records/train/.nfs000", b"mine"),
        ("records/texts/Copy of tt/record.json", b"{}"),
        ("checkpoints/train/uu/training.pt", b"garbage"),
        ("checkpoints/encode/ff/shard-00000000.pt", b""),
        ("checkpoints/encode/ff/notes.txt", b"mine"),
        ("claims/notes.txt", b"mine"),
        ("claims/train-uu.1.json", b"[]"),
        ("claims/train-uu.1.json", b""),
        ("claims/train-uu.1.json/notes.txt", b""),
        ("running/train-uu.json", b"[1]"),
        ("attempts/bad.jsonl", bytes(range(1, 200))),
        ("attempts/bad.jsonl", b'{"time": 6, "event": "end", "identity": []}\n'),
        ("attempts/bad.jsonl/notes.txt", b""),
        ("running/notes.txt", b"mine"),
        ("attempts/notes.txt", b"mine"),
        ("launches/notes.txt", b"mine"),
        ("launches/LAUNCH/launch.json", b"[]"),
        ("launches/LAUNCH/ended.json", b"[]"),
        ("launches/LAUNCH/jobs.jsonl", b"garbage"),
        ("notes.txt", b"mine"),
    ],
)
def test_each_fault_is_named_once_with_what_to_do(
    store: Store, place: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (launch,) = (store.root / "launches").iterdir()
    path = store.root / place.replace("LAUNCH", launch.name)
    inside = not path.parent.is_dir()  # of a stray folder, which is named itself
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    code, said = examined(store, capsys)
    assert code == 1 and said.count(str(path.parent if inside else path)) == 1
    says(said, "1 problem", "delete")


@pytest.mark.parametrize(
    ("result", "columns", "named"),
    [
        ({**RESULT, "top1": 75.0}, {}, "top1 75.0"),
        ({**RESULT, "mean_class": 75.0}, {}, "mean_class 75.0"),
        ({**RESULT, "videos": 5}, {}, "videos 5"),
        ({**RESULT, "undecodable": 0}, {}, "undecodable 0"),
        (RESULT, {"correct": [True, True, False, False]}, "wrong answers"),
        (RESULT, {"correct": [False, False, True, True]}, "wrong answers"),
        ({"videos": 4}, {}, "lacks undecodable"),
        ({**RESULT, "draws": [], "videos": 5}, {}, "videos 5"),
    ],
)
def test_accuracies_are_those_of_the_predictions(
    store: Store, result: dict[str, Any], columns: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(store, "other", result, **columns)
    code, said = examined(store, capsys)
    assert code == 1
    says(said, store.folder("evaluate", "other"), named, "1 problem")


def test_what_killed_processes_leave_is_no_fault(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (store.root / "attempts" / "cut.jsonl").write_bytes(b'{"time": 1.0, "event": "start"}\n{"time": 1.0, "eve')
    (store.root / "claims").mkdir(exist_ok=True)
    (store.root / "claims" / "train-uu.1.json").write_text('{"launch": "one"}')
    assert examined(store, capsys)[0] == 0


def test_an_empty_folder_is_no_record(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (place := store.folder("train", "empty")).mkdir(parents=True)
    code, said = examined(store, capsys)
    assert code == 1 and said.count(str(place)) == 1
    says(said, "1 problem", "not part of a store")


def test_records_without_inputs_are_counted_and_no_fault(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    folder = store.folder("texts", "tt")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    code, said = examined(store, capsys)
    assert code == 0
    says(said, "1 record with inputs that have no record")


def test_older_records_are_examined_by_their_predictions(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """They have no seal, so that a changed number shows there alone."""
    path = store.folder("evaluate", "ee") / "record.json"
    record = json.loads(path.read_text())
    del record["seal"]
    record |= {"title": "old", "spec": {}, "context": {}}
    record |= {"cost": {"flops": 1.0, "seconds": 1.0}, "provenance": {"versions": {}}}
    path.write_text(json.dumps(record))
    assert examined(store, capsys)[0] == 0
    path.write_text(json.dumps({**record, "result": {**RESULT, "top1": 51.0}}))
    code, said = examined(store, capsys)
    assert code == 1
    says(said, path.parent, "top1 51.0", "1 problem")
    assert not store.done("evaluate", "ee") and store.mend("evaluate", "ee")  # a run makes it again


def test_a_dataset_or_a_store_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 2
    says(capsys.readouterr().err, "DATASET", "--store")
    assert main(["doctor", "glyphs-narrow", "--store", str(tmp_path)]) == 2
    assert main(["doctor", "--store", str(tmp_path), "--full"]) == 2
    assert main(["doctor", "--store", str(tmp_path / "none")]) == 2
    says(capsys.readouterr().err, tmp_path / "none")
