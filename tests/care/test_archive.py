"""Archives: the same bytes from the same records, merged stores, changed archives, and what no check can find."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load, save

from bench.care.archive import LIST, Archive, merge, pack
from bench.care.verify import Verified, verify
from bench.commands.app import main
from bench.core.errors import UserError
from bench.graph.build import build_graph
from bench.graph.plan import make_plan
from bench.store.records import DamagedRecord, Store
from bench.suite.resolve import load_suite
from reports import page
from tests.care import packed

OPTIONS = ("--jobs", "0", "--workers", "0", "--device", "cpu", "--frame-cache", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite, the store `D` after a run, and its archives: whole, without weights, and its halves by seed."""
    folder = tmp_path_factory.mktemp("packed")
    suite = packed.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "FIGURES", ())
        assert main(["run", str(suite), "--store", str(folder / "D"), *OPTIONS]) == 0
    for name, *more in (("whole", "--weights"), ("light",), ("first", "seeds=[0]"), ("second", "seeds=[1]")):
        assert main(["pack", str(suite), str(folder / f"{name}.zip"), *more, "--store", str(folder / "D")]) == 0
    return folder


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Carries a command out, and gives its exit code and what it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([*map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_the_same_records_are_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(folder / "D", copy)
    for file in copy.glob("records/*/*/*"):
        file.touch()
    packed_again = tmp_path / "again.zip"
    suite = folder / "packed.yaml"
    assert main(["pack", str(suite), str(packed_again), "--weights", "--store", str(copy)]) == 0
    assert packed_again.read_bytes() == (folder / "whole.zip").read_bytes()
    names = [*packed.contents(packed_again)]
    assert names == sorted(names)


def test_two_halves_give_the_report_of_one_store_to_the_byte(
    folder: Path, tmp_path: Path, said: Callable[..., tuple[int, str]], without_figures: None
) -> None:
    halves = [folder / "second.zip", folder / "first.zip"]
    code, text = said("merge", *halves, "--store", tmp_path / "C")
    assert code == 0 and "were there" in text
    pages = []
    for store in (folder / "D", tmp_path / "C"):
        assert main(["report", str(folder / "packed.yaml"), "--store", str(store)]) == 0
        (own,) = [each for each in (store / "reports").iterdir() if not each.is_symlink()]
        files = {str(path.relative_to(own)): path.read_bytes() for path in own.rglob("*") if path.is_file()}
        pages.append({name: content for name, content in files.items() if name != ".made-of.json"})
    assert pages[0] == pages[1] and {"report.html", "results.json", "cost-estimates.csv"} <= pages[0].keys()
    assert said("merge", *halves, "--store", tmp_path / "C")[1].count(": 0 records added") == 2
    code, text = said("doctor", "--store", tmp_path / "C")
    assert code == 0 and "27 records, no problems found" in text


def test_a_bundle_has_every_record_that_its_page_names(folder: Path, tmp_path: Path, without_figures: None) -> None:
    suite, bundle = folder / "packed.yaml", tmp_path / "new" / "bundle.zip"
    assert main(["report", str(suite), "--bundle", str(bundle), "--store", str(folder / "D")]) == 0
    with ZipFile(bundle) as opened:
        opened.extractall(tmp_path / "out")
    (page,) = (tmp_path / "out/reports").glob("*/report.html")
    named = set(re.findall(r'data-record="([^"]+)"', page.read_text(encoding="utf-8")))
    assert len(named) == 24 and all((tmp_path / "out/records" / key / "record.json").is_file() for key in named)


def test_a_stage_that_reads_missing_weights_runs_again_before(folder: Path, tmp_path: Path) -> None:
    store, suite = Store.create(tmp_path / "C"), load_suite(folder / "packed.yaml")
    merge(Archive.of(folder / "light.zip"), store)
    assert not make_plan(build_graph(suite), store).todo
    mote = next(iter(store.known("train")))
    with pytest.raises(DamagedRecord, match="left out of the archive"):
        store.read("train", mote, ["weights.safetensors"])
    shutil.rmtree(next(store.root.glob("records/evaluate/*")))
    todo = make_plan(build_graph(suite), store).todo
    assert [stage.kind for stage in todo][-1] == "evaluate" and "encode" in {stage.kind for stage in todo}
    done = merge(Archive.of(folder / "whole.zip"), store)
    assert done["completed"] == 4 and done["added"] == 1
    assert not any(store.left_out(kind, own) for kind in ("train", "encode") for own in store.known(kind))
    assert not make_plan(build_graph(suite), store).todo


def test_a_run_makes_weights_that_were_left_out(folder: Path, tmp_path: Path, without_figures: None) -> None:
    store = Store.create(tmp_path / "C")
    merge(Archive.of(folder / "light.zip"), store)
    weights = {key: store.left_out("train", key) for key in store.known("train")}
    changes = ("rows.mote.inference={merge_temperature: 0.5}", "seeds=[0]")
    assert main(["run", str(folder / "packed.yaml"), *changes, "--store", str(store.root), *OPTIONS]) == 0
    made = [key for key in weights if not store.left_out("train", key)]
    assert len(made) == 1
    sums = [own.read("train", made[0])["sha256"]["weights.safetensors"] for own in (store, Store(folder / "D"))]
    assert sums[0] == sums[1]  # the same bits on the CPU


# --- changed archives -------------------------------------------------------------------------------------------------

Entries = dict[str, bytes]


def _pick(entries: Entries, draw: random.Random, end: str) -> str:
    return draw.choice([name for name in entries if name.endswith(end)])


def _record_of(name: str) -> str:
    return f"{name.rpartition('/')[0]}/record.json"


def _value(entries: Entries, draw: random.Random) -> str:
    name = _pick({name: own for name, own in entries.items() if "/evaluate/" in name}, draw, "record.json")
    record = json.loads(entries[name])
    record["result"][draw.choice(["top1", "mean_class"])] += draw.choice([-1, 1]) * draw.uniform(0.1, 20)
    entries[name] = packed.sealed(json.dumps(record).encode()) if draw.random() < 0.5 else json.dumps(record).encode()
    return name


def _replaced(entries: Entries, name: str, content: bytes, sealed: bool) -> str:
    """Change a file, and with `sealed` also what its record says of it."""
    entries[name] = content
    if sealed:
        record, file = json.loads(entries[_record_of(name)]), name.rpartition("/")[2]
        record["bytes"][file], record["sha256"][file] = len(content), hashlib.sha256(content).hexdigest()
        entries[_record_of(name)] = packed.sealed(json.dumps(record).encode())
    return name


def _prediction(entries: Entries, draw: random.Random) -> str:
    name = _pick(entries, draw, "predictions.parquet")
    table: Any = pd.read_parquet(io.BytesIO(entries[name]))
    row = draw.randrange(len(table))
    column = draw.choice(["prediction", "label", "correct"])
    old = table.loc[row, column]
    table.loc[row, column] = not old if column == "correct" and table[column].dtype == bool else (old + 1) % 3
    return _replaced(entries, name, table.to_parquet(), draw.random() < 0.5)


def _weights(entries: Entries, draw: random.Random) -> str:
    name = _pick(entries, draw, draw.choice(["weights.safetensors", "features.safetensors", "scores.safetensors"]))
    content = bytearray(entries[name])
    content[draw.randrange(len(content) // 2, len(content))] ^= 1 << draw.randrange(8)
    return _replaced(entries, name, bytes(content), draw.random() < 0.5)


def _hash(entries: Entries, draw: random.Random) -> str:
    name = _pick(entries, draw, draw.choice([LIST, "record.json"]))
    text = entries[name].decode()
    read = json.loads(text)
    old = draw.choice([*read["entries"].values()])[1] if name == LIST else read["seal"]
    digit = draw.randrange(64)
    new = old[:digit] + ("0" if old[digit] != "0" else "1") + old[digit + 1 :]
    entries[name] = text.replace(old, new).encode()
    return name


def _name(entries: Entries, draw: random.Random) -> str:
    names = [name for name in entries if name != LIST]
    a, b = draw.sample(names, 2)
    match draw.randrange(4):
        case 0:
            entries[a + "x"] = entries.pop(a)
        case 1:
            entries[a], entries[b] = entries[b], entries[a]
            if entries[a] == entries[b]:
                return _name(entries, draw)
        case 2:
            del entries[a]
        case _:
            entries[f"records/train/{'0' * 32}/record.json"] = entries[a]
            return "0" * 32
    return a


CHANGES = {"value": _value, "prediction": _prediction, "weights": _weights, "hash": _hash, "name": _name}


def _outcome(file: Path, expect: str) -> list[str]:
    """What is named of an archive; nothing if it is taken for the expected one."""
    try:
        return [*map(str, verify(Archive.of(file), expect).wrong)]
    except UserError as error:
        return [str(error)]


def test_a_hundred_of_a_hundred_changes_are_found_and_named(folder: Path, tmp_path: Path) -> None:
    whole, root = packed.contents(folder / "whole.zip"), Archive.of(folder / "whole.zip").root
    assert _outcome(folder / "whole.zip", root) == []
    missed = []
    for number in range(100):
        draw = random.Random(number)
        kind = [*CHANGES][number % len(CHANGES)]
        entries = dict(whole)
        place = CHANGES[kind](entries, draw)
        covered = draw.random() < 0.5 and place != LIST  # by a list of entries that agrees
        found = _outcome(packed.rewrite(tmp_path / "changed.zip", entries, covered), root)
        identity = place.split("/")[2] if place.count("/") == 3 else place
        if not found or not (covered or any(identity in line for line in found)):
            missed.append((number, kind, place, found))
        if covered and not any("root hash" in line and root in line for line in found):
            missed.append((number, kind, place, found))
    assert not missed


def test_every_flipped_bit_of_the_file_is_found_or_is_none_of_an_entry(folder: Path, tmp_path: Path) -> None:
    content, root = (folder / "first.zip").read_bytes(), Archive.of(folder / "first.zip").root
    whole, found = packed.contents(folder / "first.zip"), 0
    for number in range(40):
        changed, draw = bytearray(content), random.Random(number)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "flipped.zip").write_bytes(changed)
        if _outcome(tmp_path / "flipped.zip", root):
            found += 1
        else:
            assert packed.contents(tmp_path / "flipped.zip") == whole  # a date, an attribute
    assert found > 30


def _forged(folder: Path, target: Path) -> Path:
    """An archive in which every answer is right, by scores, predictions, metrics, seals and hashes that agree."""
    entries = packed.contents(folder / "whole.zip")
    for name in [name for name in entries if name.endswith("predictions.parquet")]:
        record = json.loads(entries[_record_of(name)])
        if record["spec"]["protocol"]["half"]:
            continue
        beside = name.replace("predictions.parquet", "scores.safetensors")
        table, scores = pd.read_parquet(io.BytesIO(entries[name])), load(entries[beside])
        labels_N = table["label"].to_numpy()
        cosines = scores["cosines"].copy()
        cosines[np.arange(len(labels_N)), :, labels_N] = 1.0
        scores["cosines"] = cosines
        table["prediction"], table["correct"] = labels_N, True
        record["result"] |= {"top1": 100.0, "mean_class": 100.0}
        entries[_record_of(name)] = json.dumps(record).encode()
        _replaced(entries, beside, save(scores), True)
        _replaced(entries, name, table.to_parquet(), True)
    return packed.rewrite(target, entries, listed=True)


def test_a_consistent_forgery_needs_the_root_hash_or_the_weights(
    folder: Path, tmp_path: Path, said: Callable[..., tuple[int, str]]
) -> None:
    forged = Archive.of(_forged(folder, tmp_path / "forged.zip"))
    plain = verify(forged)
    assert not plain.wrong and "found by nobody" in plain.unchecked[-1]
    (wrong,) = verify(forged, Archive.of(folder / "whole.zip").root).wrong
    assert wrong.what == "root hash"
    sampled = verify(forged, videos=20).wrong
    assert sampled and all(own.what.startswith("scores of video") for own in sampled)
    code, text = said("verify", forged.path, "--expect", "0" * 64)
    assert code == 1 and f"CONTRADICTION: entries.json: root hash: expected {'0' * 64}, found {forged.root}" in text


def test_metrics_that_are_not_those_of_the_predictions_are_named(folder: Path, tmp_path: Path) -> None:
    entries = packed.contents(folder / "light.zip")
    wanted = dict[str, str]()
    for name in [name for name in entries if "/evaluate/" in name and name.endswith("record.json")][:4]:
        record = json.loads(entries[name])
        record["result"]["top1"] += 7
        entries[name] = packed.sealed(json.dumps(record).encode())
        wanted[name] = str(record["result"]["top1"])
    found = verify(Archive.of(packed.rewrite(tmp_path / "better.zip", entries, listed=True)))
    assert {own.entry: own.found for own in found.wrong if own.what == "top1"} == wanted


def test_draws_that_are_not_those_of_the_predictions_are_named(folder: Path, tmp_path: Path) -> None:
    entries = packed.contents(folder / "light.zip")
    name = next(name for name in entries if name.endswith("record.json") and b'"draws"' in entries[name])
    record = json.loads(entries[name])
    for each in (*record["result"]["draws"], record["result"]):
        each["top1"] -= 10
    entries[name] = packed.sealed(json.dumps(record).encode())
    found = verify(Archive.of(packed.rewrite(tmp_path / "worse.zip", entries, listed=True)))
    assert [(own.entry, own.what) for own in found.wrong] == [(name, "right answers in all draws")]


def test_scores_are_those_of_the_weights_to_the_bit(folder: Path, said: Callable[..., tuple[int, str]]) -> None:
    code, text = said("verify", folder / "whole.zip", "--sample", "8")
    assert code == 0 and text.count("the same bits") == 4
    light: Verified = verify(Archive.of(folder / "light.zip"), videos=8)
    assert not light.wrong and any("weights of its training were left out" in line for line in light.unchecked)
    assert any("clip_mean" in line and "the same bits" in line for line in light.checked)  # videos are here


# --- archives that must not be trusted --------------------------------------------------------------------------------


def test_unsafe_archives_are_refused_and_write_nothing(folder: Path, tmp_path: Path) -> None:
    light = packed.contents(folder / "light.zip")
    name = next(name for name in light if name.endswith("predictions.parquet"))

    def zipped(change: Callable[[ZipFile], None], *without: str) -> Path:
        with ZipFile(tmp_path / "bad.zip", "w") as opened:
            for own, content in light.items():
                if own not in without:
                    opened.writestr(ZipInfo(own), content)
            change(opened)
        return tmp_path / "bad.zip"

    link = ZipInfo(name)
    link.external_attr = 0o120777 << 16
    deflated = ZipInfo(name)
    deflated.compress_type = ZIP_DEFLATED
    for words, change in {
        "../../evil": (lambda opened: opened.writestr("../../evil", "x"),),
        "/tmp/evil": (lambda opened: opened.writestr("/tmp/evil", "x"),),
        "a link": (lambda opened: opened.writestr(link, light[name]), name),
        "compressed": (lambda opened: opened.writestr(deflated, light[name]), name),
        "bytes": (lambda opened: opened.writestr(ZipInfo(name), light[name] + b"x"), name),
        "missing": (lambda opened: None, name),
    }.items():
        bad = zipped(*change)  # type: ignore[arg-type]
        with pytest.raises(UserError) as error:
            merge(Archive.of(bad), Store.create(tmp_path / "C"))
        assert words in str(error.value) and str(bad) in str(error.value)
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zipped(lambda opened: opened.writestr(ZipInfo(name), light[name]))
    assert any("entries of this name" in line for line in _outcome(twice, ""))
    listed = packed.rewrite(tmp_path / "outside.zip", {**light, "records/train/../../evil/x": b""}, listed=True)
    with pytest.raises(UserError, match=r"entries\.json"):
        Archive.of(listed)
    assert not (tmp_path / "C/records").exists() and not (tmp_path / "evil").exists()


def test_what_is_no_archive_is_refused(folder: Path, tmp_path: Path, said: Callable[..., tuple[int, str]]) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    for path in (tmp_path / "text.zip", tmp_path / "nowhere.zip", tmp_path):
        code, text = said("verify", path)
        assert code == 2 and str(path) in text
    assert said("verify", folder / "light.zip", "--expect", "12")[0] == 2
    code, text = said("pack", folder / "packed.yaml", tmp_path)
    assert code == 2 and f"FILE {tmp_path}: is a folder" in text
    code, text = said("report", folder / "packed.yaml", "--bundle", tmp_path / "text.zip" / "bundle.zip")
    assert code == 2 and "--bundle" in text and "text.zip" in text
    with pytest.raises(UserError, match="none of its stages"):
        pack(tmp_path / "empty.zip", "mine", Store(tmp_path), [("train", "a")], [], weights=False)
    assert not (tmp_path / "empty.zip").exists()


def test_a_changed_record_of_the_store_is_not_packed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "D", tmp_path / "D")
    file = next((tmp_path / "D/records/evaluate").glob("*/predictions.parquet"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    keys = [("evaluate", file.parent.name)]
    with pytest.raises(DamagedRecord):
        pack(tmp_path / "a.zip", "mine", Store(tmp_path / "D"), keys, [], weights=False)
    assert not (tmp_path / "a.zip").exists()
