"""Frame features that the harness' own tower made, declared as datasets: the numbers are those of the videos."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from bench.commands.app import main
from bench.suite.resolve import load_suite
from tests.integration.test_miniature import write_dataset

SUITE = """\
title: Features
datasets:
  known: {root: ., classes: train.csv, splits: {train: train.txt, test: seen.txt}}
  new: {root: ., classes: unseen.csv, splits: {test: unseen.txt}}
recipe: {source: known, templates: glyphs, views: {frames: 4, copies: 2}, batch: 8, epochs: 2, lr: 2.0e-3}
protocol: {templates: glyphs, views: {frames: 4}}
protocols:
  closed-set: {role: closed-set, dataset: known}
  zero-shot: {role: zero-shot, dataset: new, views: {clips: 2, crops: 3}}
rows:
  dense: {method: dense_temporal, config: {layers: 1}}
  mote: {method: mote, config: {layers: 1, num_experts: 2}}
"""
VIDEOS = SUITE[SUITE.index("  known") : SUITE.index("recipe")]
FEATURES = """\
  known:
    root: files
    classes: train.csv
    splits: {test: seen.txt}
    features:
      backbone: glyph-vit
      pretrained: builtin
      splits:
        train: {files: train.npz, views: {frames: 4, copies: 2}}
        test: {files: known.safetensors, views: {frames: 4}}
  new:
    root: files
    classes: files/new.csv
    features:
      backbone: glyph-vit
      pretrained: builtin
      splits: {test: {files: new.npz, views: {frames: 4, clips: 2, crops: 3}}}
"""


def example(start: str) -> str:
    """A piece of code in the document, by its first words."""
    text = (Path(__file__).parents[2] / "docs" / "add_a_dataset.md").read_text()
    pieces: list[str] = re.findall(r"```\w*\n(.*?)```", text, re.S)
    return next(own for own in pieces if own.startswith(start))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two suites of the same rows, one on clips and one on features of them, both run."""
    place = tmp_path_factory.mktemp("features")
    for name, subset, split, clips in (("train", "source", "train", 2), ("seen", "source", "validation", 1)):
        write_dataset(place, name, subset, split, clips)
    write_dataset(place, "unseen", "verbs", "test", 1)
    (place / "videos.yaml").write_text(SUITE)
    assert main(["run", str(place / "videos.yaml"), "--store", str(place / "videos"), "--jobs", "0"]) == 0
    (place / "export.py").write_text(example("# export.py"))
    subprocess.run([sys.executable, place / "export.py", place / "videos", place / "files"], check=True)
    with np.load(place / "files" / "known.npz") as seen:
        single = {name.removesuffix(".mp4"): own[0] for name, own in zip(seen["names"], seen["features"], strict=True)}
    save_file(single, place / "files" / "known.safetensors")
    (place / "features.yaml").write_text(SUITE.replace(VIDEOS, FEATURES))
    assert main(["run", str(place / "features.yaml"), "--store", str(place / "taken"), "--jobs", "0"]) == 0
    return place


def results(store: Path) -> dict[str, Any]:
    """The bits of every training, and the numbers and bits of every evaluation, by title."""
    found: dict[str, Any] = {}
    for record in [*store.glob("records/train/*"), *store.glob("records/evaluate/*")]:
        about = json.loads((record / "record.json").read_text())
        files = [record / name for name in ("weights.safetensors", "scores.safetensors", "predictions.parquet")]
        found[about["title"]] = about["result"].get("top1"), [own.read_bytes() for own in files if own.exists()]
    return found


def test_trainings_and_answers_are_those_on_videos_to_the_bit(folder: Path) -> None:
    videos, taken = results(folder / "videos"), results(folder / "taken")
    assert len(videos) == 6 and videos == taken
    assert len({own[0] for own in videos.values()}) > 2


def test_the_stage_says_what_the_features_claim_to_be(folder: Path) -> None:
    for record in (folder / "taken").glob("records/encode/*"):
        about = json.loads((record / "record.json").read_text())
        assert "claimed to be those of glyph-vit (builtin), 4 frames" in about["result"]["origin"]
        assert {"bench.stages.stored_features", "bench.data.feature_files"} <= set(about["source"])
        assert not {"bench.stages.encode", "bench.video.decoders"} & set(about["source"])


def test_the_page_says_of_both_source_and_target_that_features_are_claimed(folder: Path) -> None:
    page = next((folder / "taken" / "reports").glob("*/report.html")).read_text()
    assert "known/train: features from train.npz, claimed to be those of glyph-vit (builtin)" in page
    assert "new/test: features from new.npz" in page and "not computed here" in page


def test_the_suite_in_the_document_is_one(tmp_path: Path) -> None:
    (tmp_path / "features.yaml").write_text(example("# features.yaml"))
    suite = load_suite(tmp_path / "features.yaml")
    assert [trial.row for trial in suite.trials] == ["clip_mean", "dense"] and not suite.problems
    assert suite.datasets["own"].splits.keys() == {"train", "validation"}


def test_a_page_of_videos_says_nothing_of_features(folder: Path) -> None:
    assert "not computed here" not in next((folder / "videos" / "reports").glob("*/report.html")).read_text()


def test_exchanged_files_are_other_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def to_run() -> list[str]:
        """Kind and title of the stages without a record."""
        plan = ["plan", str(folder / "features.yaml"), "--store", str(folder / "taken"), "--stages"]
        assert main(plan) == 0
        lines = [line.split(maxsplit=4) for line in capsys.readouterr().out.splitlines() if line.startswith("to run ")]
        return [f"{kind}: {title}" for _, _, kind, _, title in lines]

    assert not to_run()
    file = folder / "files" / "new.npz"
    before = file.read_bytes()
    with np.load(file) as own:
        arrays = {**own}
    arrays["features"][0] += 1
    try:
        np.savez(file, **arrays)
        assert sorted(to_run()) == [
            "encode: take over features of new/test",
            "evaluate: evaluate dense seed 0 on zero-shot",
            "evaluate: evaluate mote seed 0 on zero-shot",
        ]
    finally:
        file.write_bytes(before)


def test_fewer_copies_and_frames_are_cut_out(folder: Path) -> None:
    changed = SUITE.replace(VIDEOS, FEATURES).replace("{frames: 4, copies: 2}, batch", "{frames: 4, copies: 1}, batch")
    changed = changed.replace("protocol: {templates: glyphs, views: {frames: 4}}", "protocol: {templates: glyphs}")
    changed = changed.replace(
        "{role: closed-set, dataset: known}", "{role: closed-set, dataset: known, views: {frames: 2}}"
    )
    changed = changed.replace("views: {clips: 2, crops: 3}}", "views: {frames: 4, clips: 2, crops: 3}}")
    (folder / "cut.yaml").write_text(changed)
    assert main(["run", str(folder / "cut.yaml"), "--store", str(folder / "cut"), "--jobs", "0"]) == 0
    found = {}
    for record in (folder / "cut").glob("records/encode/*"):
        title = json.loads((record / "record.json").read_text())["title"]
        found[title] = (
            load_file(record / "features.safetensors")["features"],
            pd.read_parquet(record / "videos.parquet"),
        )
    with np.load(folder / "files" / "train.npz") as train:
        assert np.array_equal(found["take over features of known/train"][0], train["features"][:, :1])
        assert found["take over features of known/train"][1]["label"].tolist() == train["labels"].tolist()
    with np.load(folder / "files" / "known.npz") as seen:
        assert np.array_equal(found["take over features of known/test"][0], seen["features"][:, :, ::2])


def test_doctor_reads_every_feature(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert main(["doctor", "known", "--suite", "features.yaml"]) == 0
    said = capsys.readouterr().out
    assert "test: features from known.safetensors, claimed" in said and "36 videos, 36 examined now" in said
    file = folder / "files" / "new.npz"
    before = file.read_bytes()
    with np.load(file) as own:
        arrays = {**own}
    arrays["features"][3, 0, 0, 0] = np.nan
    arrays["features"][5] = arrays["features"][4]
    try:
        np.savez(file, **arrays)
        assert main(["doctor", "new", "--suite", "features.yaml"]) == 1
        said = capsys.readouterr().out
        assert "problem: undecodable: 1" in said and "new.npz: 'unseen/3.mp4' has numbers that are not finite" in said
        assert "warning: duplicate: 1" in said
        assert (folder / "doctor" / "new" / "known_bad.txt").read_text() == "unseen/3.mp4\n"
    finally:
        file.write_bytes(before)
