"""Every kind of damage is planted and found; what did not change is not looked at again."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.care import doctor
from bench.care.doctor import disjoint_pairs, examine
from bench.commands.app import main
from bench.data.datasets import Dataset
from bench.video.decoders import DECODERS, Pyav
from bench.video.reader import Video
from bench.video.source import Source, VideoError
from tests.errors import says
from tests.video.clips import damage, encoded, resized_inside, write_clip, write_sound, write_trimmed

SUITE = """\
title: A small set
datasets:
  small:
    root: videos
    classes: classes.csv
    MORE
recipe: {source: glyphs-narrow}
protocols:
  one: {role: zero-shot, dataset: glyphs-narrow, split: validation}
rows:
  clip_mean: {method: clip_mean}
"""


class Trap(Pyav):
    """A decoder that hangs or ends its process, by the name of the file."""

    def __init__(self, source: Source) -> None:
        if source.path.stem == "hangs":
            time.sleep(99)
        if source.path.stem == "crashes":
            os._exit(7)
        super().__init__(source)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips that tests copy, since encoding takes longer than copying."""
    folder = tmp_path_factory.mktemp("clips")
    for name in ("clip.mp4", "clip.avi", "clip.mkv", "clip.mov"):
        write_clip(folder / name, frames=40)
    write_sound(folder / "sound.mp4")
    return folder


class Small:
    """A dataset in a folder: `put` adds a video with bytes of its own, `run` examines it as the command does."""

    def __init__(self, folder: Path, clips: Path) -> None:
        self.folder, self.clips = folder, clips
        self.lists: dict[str, list[str]] = {}
        self.more = ""

    def put(self, path: str, label: int = 0, *splits: str, data: bytes | None = None) -> Path:
        file = self.folder / "videos" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.clip(path) if data is None else data)
        self.name(path, label, *splits)
        return file

    def name(self, path: str, label: int = 0, *splits: str) -> None:
        for split in splits or ("test",):
            self.lists.setdefault(split, []).append(f"{path} {label}\n")

    def clip(self, path: str) -> bytes:
        """A sound clip with an empty box of its own at the end."""
        data = (self.clips / f"clip{Path(path).suffix}").read_bytes()
        mark = path.encode()
        return data + (len(mark) + 8).to_bytes(4, "big") + b"free" + mark if path.endswith(".mp4") else data

    def run(self, *options: str) -> int:
        (self.folder / "videos").mkdir(exist_ok=True)
        (self.folder / "classes.csv").write_text("id,name\n0,Jump Rope\n1,HandstandPushups\n")
        for split, lines in self.lists.items():
            (self.folder / f"{split}.txt").write_text("".join(lines))
        splits = ", ".join(f"{split}: {split}.txt" for split in self.lists)
        more = (f"    splits: {{{splits}}}\n" if splits else "") + self.more
        (self.folder / "small.yaml").write_text(SUITE.replace("    MORE\n", more))
        fixed = ["--suite", str(self.folder / "small.yaml"), "--out", str(self.folder / "out"), "--workers", "0"]
        return main(["doctor", "small", *fixed, *options])

    def rows(self) -> dict[str, dict[str, str]]:
        with open(self.folder / "out" / "doctor.csv", newline="") as file:
            return {row["path"]: row for row in csv.DictReader(file)}

    def problems(self) -> dict[str, str]:
        return {path: row["problem"] for path, row in self.rows().items() if row["problem"]}

    def known_bad(self) -> list[str]:
        return (self.folder / "out" / "known_bad.txt").read_text().splitlines()


@pytest.fixture
def small(tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "cache"))
    return Small(tmp_path, clips)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are examined; with --workers 0, that is."""
    seen: list[str] = []

    def watched(source: Source, decoder: str, full: bool) -> object:
        seen.append(source.path.name)
        return examine(source, decoder, full)

    monkeypatch.setattr(doctor, "examine", watched)
    return seen


def test_a_sound_dataset(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    small.put("Jump Rope/a.mp4", 0, "test", "full")
    small.put("Jump Rope/b.mkv", 0, "full")
    small.put("c.avi", 1, "test", "full")
    assert small.run("--workers", "2") == 0
    assert small.problems() == {} and small.known_bad() == []
    row = small.rows()["Jump Rope/a.mp4"]
    assert row["splits"] == "test; full" and row["label"] == "0" and len(row["sha256"]) == 64
    measured = [row[name] for name in ("frames", "width", "height", "fps", "seconds", "codec")]
    assert measured == ["40", "64", "48", "8.0", "5.0", "h264"]
    assert "no problems found" in capsys.readouterr().out


def cut(data: bytes) -> bytes:
    return data[: len(data) * 7 // 10]


def zeros_inside(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(len(data) // 2)


DAMAGE: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("cut.mp4", cut, "truncated"),
    ("cut before its index.mov", cut, "truncated"),
    ("cut.avi", cut, "truncated"),
    ("cut.mkv", cut, "truncated"),
    ("last byte.mkv", lambda data: data[:-1], "truncated"),
    ("zeros.mkv", zeros_inside, "truncated"),
    ("zeros.mp4", zeros_inside, "undecodable"),
    ("empty.mp4", lambda data: b"", "empty"),
    ("text.mp4", lambda data: b"no video\n" * 99, "undecodable"),
]


def test_every_kind_of_damage_is_found(small: Small, clips: Path) -> None:
    for path, damaged, _ in DAMAGE:
        small.put(path, data=damaged(small.clip(path)))
    small.put("sound.mp4", data=(clips / "sound.mp4").read_bytes())
    small.name("gone.mp4")
    (small.folder / "other.mp4").write_bytes(b"")
    small.put("link.mp4").unlink()
    (small.folder / "videos" / "link.mp4").symlink_to(small.folder / "other.mp4")
    small.put("sound one.mp4")
    assert small.run() == 1
    expected = {path: kind for path, _, kind in DAMAGE}
    expected |= {"sound.mp4": "audio only", "gone.mp4": "missing", "link.mp4": "outside the root"}
    assert small.problems() == expected
    assert small.known_bad() == [path for path in expected if path != "link.mp4"]  # known_bad excuses no link
    assert all("\n" not in row["reason"] for row in small.rows().values())


def test_a_clip_cut_without_encoding_is_whole(small: Small, clips: Path) -> None:
    """Its header counts frames that its edit list hides."""
    target = small.put("part.mp4")
    write_trimmed(clips / "clip.mp4", target, 1)
    assert small.run("--full") == 0
    assert small.rows()["part.mp4"]["frames"] == "32"


def test_decoders_that_hang_or_crash_cost_one_file_each(small: Small) -> None:
    for name in ("hangs.mp4", "a.mp4", "crashes.mp4", "b.mp4"):
        small.put(name)
    started = time.monotonic()
    assert small.run("--workers", "1", "--decoder", f"{__name__}:Trap", "--seconds", "3") == 1
    assert time.monotonic() - started < 60
    assert small.problems() == {"hangs.mp4": "stuck", "crashes.mp4": "stuck"}


def test_a_declared_problem_is_none(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    small.put("text.mp4", data=b"no video")
    small.put("fine.mp4")
    assert small.run() == 1
    (small.folder / "known_bad.txt").write_text("\n".join([*small.known_bad(), "fine.mp4"]))
    small.more = "    known_bad: known_bad.txt\n"
    assert small.run() == 0
    assert small.problems() == {"text.mp4": "undecodable", "fine.mp4": "needless known_bad"}
    assert "known_bad: undecodable: 1" in capsys.readouterr().out


def test_labels_that_contradict_the_path(small: Small) -> None:
    small.put("jump_rope/a.mp4", 1)
    small.put("v_HandStandPushups_g01_c02.mp4", 0)
    small.put("handstand pushups/batch 3/b.mp4", 1)
    small.put("something else/c.mp4", 1)
    small.put("d.mp4", 0, "one")
    small.name("d.mp4", 1, "two")
    assert small.run() == 1
    wrong = dict.fromkeys(["jump_rope/a.mp4", "v_HandStandPushups_g01_c02.mp4", "d.mp4"], "class mismatch")
    assert small.problems() == wrong
    says(small.rows()["jump_rope/a.mp4"]["reason"], "label 1", "'HandstandPushups'", "'Jump Rope'")
    assert small.known_bad() == []


def test_leaks_by_path_and_by_content(small: Small) -> None:
    small.put("shared.mp4", 0, "train", "test")
    twin = small.clip("shared twin.mp4")
    small.put("one.mp4", 0, "train", data=twin)
    small.put("two.mp4", 0, "test", data=twin)
    small.put("three.mp4", 0, "test", data=twin)
    assert small.run() == 1
    assert small.problems() == {
        "shared.mp4": "leak by path",
        "two.mp4": "leak by content; duplicate",
        "three.mp4": "leak by content; duplicate",
    }
    says(small.rows()["two.mp4"]["reason"], "in test", "one.mp4 in train")


def test_duplicates_alone_are_a_warning(small: Small) -> None:
    small.put("one.mp4", 0, "test", data=small.clip("same.mp4"))
    small.put("two.mp4", 0, "test", data=small.clip("same.mp4"))
    assert small.run() == 0
    assert small.problems() == {"two.mp4": "duplicate"}


def test_counts_that_differ_are_a_warning(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    small.put("one.mp4")
    assert small.run() == 0
    says(capsys.readouterr().out, "no videos", "1 of the 2 classes")


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train", "validation", "test"], [("train", "validation"), ("train", "test")]),
        (["train1", "test1", "train2", "test2"], [("train1", "test1"), ("train2", "test2")]),
        (["train_shots", "test2"], [("train_shots", "test2")]),
        (["full", "test"], []),
    ],
)
def test_pairs_of_lists_that_must_not_share(splits: list[str], expected: list[tuple[str, str]]) -> None:
    fields = {"name": "x", "root": "x", "classes": "x", "splits": dict.fromkeys(splits, "x")}
    assert disjoint_pairs(Dataset.model_validate(fields), splits) == expected
    declared = Dataset.model_validate({**fields, "disjoint": [splits[:2]]})
    assert disjoint_pairs(declared, splits) == [tuple(splits[:2])]
    assert disjoint_pairs(declared, splits[:1]) == []


def test_a_second_run_looks_at_nothing_and_a_changed_file_is_looked_at_again(
    small: Small, looked_at: list[str]
) -> None:
    for name in ("a.mp4", "b.mp4"):
        small.put(name, 0, "one", "two")
    bad = small.put("bad.mp4", data=b"no video")
    assert small.run() == 1
    assert sorted(looked_at) == ["a.mp4", "b.mp4", "bad.mp4"]
    looked_at.clear()
    assert small.run() == 1 and looked_at == []
    bad.write_bytes(small.clip("bad.mp4"))
    assert small.run() == 0 and looked_at == ["bad.mp4"]


def test_a_full_examination_looks_again_and_serves_a_light_one(small: Small, looked_at: list[str]) -> None:
    small.put("a.mp4")
    for options, times in ((), 1), (["--full"], 2), ([], 2), (["--full"], 2), (["--decoder", "pyav"], 3):
        assert small.run(*options) == 0
        assert len(looked_at) == times


def test_an_interrupted_run_is_resumed(small: Small, looked_at: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        small.put(name)
    watched = doctor.examine

    def interrupted(source: Source, decoder: str, full: bool) -> object:
        if source.path.name == "c.mp4":
            raise KeyboardInterrupt
        return watched(source, decoder, full)

    monkeypatch.setattr(doctor, "examine", interrupted)
    assert small.run() == 130  # as Ctrl-C ends a command
    assert looked_at == ["a.mp4", "b.mp4"]
    monkeypatch.setattr(doctor, "examine", watched)
    assert small.run() == 0
    assert looked_at == ["a.mp4", "b.mp4", "c.mp4"]


def test_only_a_full_examination_sees_a_flaw_between_the_places(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flawed(Pyav):
        def frames(self, indices: np.ndarray) -> np.ndarray:
            if 7 in indices:
                raise ValueError("frame 7 is damaged")
            return super().frames(indices)

    monkeypatch.setitem(DECODERS, "decord", Flawed)
    small.put("a.mp4")
    assert small.run() == 0
    assert small.run("--full") == 1
    assert "frame 7 is damaged" in small.rows()["a.mp4"]["reason"]


def test_a_full_examination_reads_in_pieces(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHUNK_BYTES", 3 * 64 * 48 * 3)
    check, _ = examine(Source(small.put("a.mp4")), "decord", full=True)
    assert (check.problem, check.frames) == ("", 40)


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor", "smal"],
        ["doctor", "small", "--split", "tset"],
        ["doctor", "small", "--decoder", "decrod"],
        ["doctor", "ucf101"],
    ],
)
def test_wrong_input_ends_with_2(
    small: Small, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VTB_DATA", raising=False)
    small.put("a.mp4")
    assert small.run() == 0
    assert main([*arguments, "--suite", str(small.folder / "small.yaml")]) == 2
    assert "error: " in capsys.readouterr().err


def test_parts_of_videos_that_the_file_does_not_have(small: Small) -> None:
    annotated = {"label": "Jump Rope", "segment": [1.0, 4.0]}, {"label": "HandstandPushups", "segment": [5.5, 9.0]}
    videos = {"abc": {"subset": "validation", "annotations": annotated}}
    (small.folder / "net.json").write_text(json.dumps({"database": videos}))
    small.put("v_abc.mp4")
    small.lists = {}
    small.more = "    splits: {test: {list: net.json, format: activitynet-instances, select: validation}}\n"
    assert small.run() == 1
    assert list(small.problems().values()) == ["span outside"]
    says(next(iter(small.rows().values()))["reason"], "v_abc.mp4@5.5-9", "5 s")


def test_a_file_that_two_lists_name_differently_is_one(small: Small, looked_at: list[str]) -> None:
    small.put("all/a.mp4", 0, "train")
    small.name("a.mp4", 0, "test")
    small.more = '    places: ["{path}", "all/{path}"]\n'
    assert small.run() == 1
    assert looked_at == ["a.mp4"] and small.problems() == {"all/a.mp4; a.mp4": "leak by path"}


def test_folders_of_frames(small: Small) -> None:
    for name in ("a", "gap"):
        folder = small.folder / "videos" / name
        folder.mkdir(parents=True)
        for number in range(1, 7):
            Image.new("RGB", (32, 24)).save(folder / f"img_{number:05d}.jpg")
        small.name(name)
    (folder / "img_00003.jpg").rename(folder / "img_00009.jpg")
    small.more = "    frames: img_{:05d}.jpg\n"
    assert small.run() == 1
    assert small.problems() == {"gap": "undecodable"} and "img_00003.jpg" in small.rows()["gap"]["reason"]
    row = small.rows()["a"]
    assert (row["frames"], row["codec"], len(row["sha256"])) == ("6", "frame files", 64)


def test_frame_files_numbered_otherwise_than_declared_are_the_declarations_fault(
    small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    """Doctor does not list the videos as bad."""
    for name in ("red", "blue"):
        folder = small.folder / "videos" / name
        folder.mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (32, 24), name).save(folder / f"img_{number:05d}.jpg")
        small.name(name)
    small.more = "    frames: img_{:05d}.jpg\n"
    assert small.run() == 2
    says(capsys.readouterr().err, "dataset 'small'", "begins at 0", "say first: 0")
    assert not (small.folder / "out").exists()
    small.more += "    first: 0\n"
    assert small.run("--full") == 0 and small.problems() == {}


# --- light, full and a measurement agree ------------------------------------------------------------------------------


def shown_in_a_run(small: Small, name: str) -> bool:
    """Whether a measurement can use the video, if its views are the frames that a light examination decodes."""
    source = Source(small.folder / "videos" / name)
    try:
        video = Video(source)
        video.frames(np.linspace(0, len(video) - 1, doctor.PLACES).astype(int))
    except VideoError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "packets", "light", "full"),
    [
        ("whole.mp4", [], True, True),
        ("between.mp4", [21], True, False),
        ("at a place.mp4", [19], False, False),
        ("several.mkv", [9, 10, 11], False, False),
        ("at the end.mkv", [39], False, False),
    ],
)
def test_examinations_and_a_run_agree_about_damaged_frames(
    small: Small, name: str, packets: list[int], light: bool, full: bool
) -> None:
    encoded("libx264", options={"bf": "0"})(small.put(name, data=b""))
    damage(small.folder / "videos" / name, packets)  # packet i is frame i: there are no B-frames
    assert (small.run() == 0) == shown_in_a_run(small, name) == light
    assert (small.run("--full") == 0) == full


@pytest.mark.parametrize("codec", ["libvpx", "libx264"])
def test_examinations_and_a_run_agree_about_a_size_that_changes(small: Small, codec: str) -> None:
    name = {"libvpx": "resized.webm", "libx264": "resized.ts"}[codec]
    resized_inside(codec, (96, 80))(small.put(name, data=b""))
    assert small.run() == 0 and small.run("--full") == 0 and shown_in_a_run(small, name)
    assert (small.rows()[name]["width"], small.rows()[name]["height"]) == ("64", "48")


def test_a_recording_without_a_duration_is_sound(small: Small) -> None:
    encoded("libvpx", muxing={"live": "1"})(small.put("live.webm", data=b""))
    assert small.run() == 0 and small.run("--full") == 0 and shown_in_a_run(small, "live.webm")
