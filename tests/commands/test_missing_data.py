"""What `plan` says of videos that are not there or may not be read, and that `run` refuses before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.commands.app import main
from tests.errors import says

SUITE = """
title: videos that are not there
datasets:
  one: {root: one, classes: classes.csv, splits: {train: all.txt, test: all.txt, few: few.txt}%s}
  two: {root: two, classes: classes.csv, splits: {test: all.txt}}
recipe: {source: %s, epochs: 1, split: train}
protocols:
  a: {role: zero-shot, dataset: one, split: %s}
  b: {role: zero-shot, dataset: two, split: test}
rows: {row: {label: Row, method: %s}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "classes.csv").write_text("id,name\n0,playing\n1,running\n")
    (tmp_path / "all.txt").write_text("a.mp4 0\nb.mp4 1\nc.mp4 1\n")
    (tmp_path / "few.txt").write_text("num_frames,file,label\n9,a.mp4,0\n9,b.mp4,1\n")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for video in "abc":
            (tmp_path / name / f"{video}.mp4").write_text(name + video)
    return tmp_path


def told(
    capsys: pytest.CaptureFixture[str], folder: Path, code: int, more: str = "", split: str = "test", **row: str
) -> str:
    """What `plan` prints, after `run` has been refused with the same words, or would not be."""
    suite, method = folder / "suite.yaml", row.get("method", "clip_mean")
    suite.write_text(SUITE % (more, row.get("source", "glyphs-narrow"), split, method))
    assert main(["plan", str(suite), "--store", str(folder / "runs")]) == code
    printed = capsys.readouterr().out
    if code:
        assert main(["run", str(suite), "--store", str(folder / "runs"), "--jobs", "0"]) == code
        error = capsys.readouterr().err
        missing = [line for line in printed.splitlines() if line.startswith("data missing: ")]
        assert missing and all(line.removeprefix("data missing: ").partition(": ")[2] in error for line in missing)
    else:
        assert "data missing: " not in printed
    assert not (folder / "runs").exists()
    return printed


def test_all_that_is_missing_is_counted_in_one_message(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, folder, 0)
    for video in (folder / "one").iterdir():
        video.unlink()
    (folder / "two" / "b.mp4").unlink()
    printed = told(capsys, folder, 2)
    says(printed, "3 of 3 videos of one/test are not there", "'a.mp4'", folder / "one" / "a.mp4", "known_bad")
    says(printed, "1 of 3 videos of two/test are not there", "'b.mp4'", folder / "two" / "b.mp4", "doctor two")


def test_a_dataset_that_is_not_there_is_only_stated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, folder, 0)
    for name in ("two", "few.txt"):
        (folder / name).rename(folder / f"no {name}")
    arguments = [str(folder / "suite.yaml"), "--store", str(folder / "runs")]
    assert main(["plan", *arguments]) == 0
    says(capsys.readouterr().out, "data missing: two: root of dataset 'two' not found")
    (folder / "one" / "a.mp4").unlink()
    assert main(["plan", *arguments, "--stages"]) == 2
    says(capsys.readouterr().out, "data missing: one: 1 of 3", "data missing: two: root", "data missing evaluate")


def test_declared_videos_are_excused_in_tests_and_trainings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "one" / "c.mp4").unlink()
    says(told(capsys, folder, 2), "1 of 3 videos of one/test")
    told(capsys, folder, 0, ", known_bad: [c.mp4]")
    told(capsys, folder, 0, split="few")
    training = {"method": "dense_temporal", "source": "one", "split": "few"}
    says(told(capsys, folder, 2, **training), "1 of 3 videos of one/train")
    told(capsys, folder, 0, ", known_bad: [c.mp4]", **training)


def test_links_and_pipes_are_told_before_anything_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "blobs").mkdir()
    (folder / "one" / "a.mp4").rename(folder / "blobs" / "aa")
    (folder / "one" / "a.mp4").symlink_to("../blobs/aa")
    (folder / "two" / "a.mp4").unlink()
    os.mkfifo(folder / "two" / "a.mp4")
    (folder / "two" / "b.mp4").unlink()
    (folder / "two" / "b.mp4").symlink_to("/dev/zero")
    printed = told(capsys, folder, 2)
    says(printed, "1 of 3 videos of one/test lead out", f"to {folder}/blobs/aa", f"links: {{follow: [{folder}/blobs]}}")
    says(printed, "1 of 3 videos of two/test cannot be read", "a named pipe", "1 of 3 videos of two/test lead out")
    assert "[/dev]" not in printed
    assert "videos of one/test" not in told(capsys, folder, 2, ", links: {follow: blobs}")
    (folder / "two" / "c.mp4").unlink()
    (folder / "two" / "c.mp4").symlink_to("../blobs/aa")
    says(told(capsys, folder, 2, ", links: {follow: blobs}"), "to /dev/zero", f"follow: [{folder}/blobs]")


def test_columns_are_said_out_loud(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "classes.csv").write_text("playing\nrunning\n")
    printed = told(capsys, folder, 0, split="few")
    says(printed, "note: one/few: read as frames, path, label")
    assert printed.count("note: one: classes read as one name a line") == 1
