"""Copies show the same frames under the same paths; what was made is kept, and what is wrong leaves no file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from bench.care import doctor, prepare
from bench.care.prepare import Preparation, prepare_video
from bench.commands.app import main
from bench.core.errors import UserError
from bench.data.datasets import Dataset, dataset
from bench.data.videos import source_of
from bench.suite.resolve import load_suite
from bench.video.reader import Video
from bench.video.source import Source, VideoError
from tests.errors import says
from tests.imports import imported_by
from tests.video.clips import STEP, shown, write_clip
from tests.videos import write_video

SUITE = """\
title: A small set
datasets:
  small: {root: videos, classes: classes.csv, splits: {test: list.txt}, known_bad: [KNOWN]}
recipe: {source: glyphs-narrow}
protocols:
  one: {role: zero-shot, dataset: glyphs-narrow, split: validation}
rows:
  clip_mean: {method: clip_mean}
"""
PATHS = ["a.mp4", "deep/b b.avi", "c.mkv", "d.webm", "e.mov"]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The suite file of a dataset of five videos of 300 pixels and 5, 6, 7 ... frames."""
    monkeypatch.setenv("VTB_CACHE", str(tmp_path / "cache"))
    for index, path in enumerate(PATHS):
        made = write_clip(tmp_path / "made.mkv", frames=5 + index, width=320, height=300)
        (tmp_path / "videos" / path).parent.mkdir(parents=True, exist_ok=True)
        made.rename(tmp_path / "videos" / path)
    (tmp_path / "classes.csv").write_text("id,name\n0,up\n")
    (tmp_path / "list.txt").write_text("".join(f"{path} 0\n" for path in PATHS))
    return declare(tmp_path, "")


def declare(folder: Path, known_bad: str) -> Path:
    (folder / "small.yaml").write_text(SUITE.replace("KNOWN", known_bad))
    return folder / "small.yaml"


def run(suite: Path, *options: str) -> int:
    target = str(suite.parent / "copy")
    return main(["prepare", "small", target, "--suite", str(suite), "--workers", "0", *options])


def made(suite: Path) -> dict[str, int]:
    """Modification times of the copies."""
    copy = suite.parent / "copy"
    return {path: (copy / path).stat().st_mtime_ns for path in PATHS if (copy / path).exists()}


def stream_facts(path: Path) -> tuple[str, str, int, list[int]]:
    """(container, codec, audio streams, numbers of the key frames) of a file."""
    with av.open(str(path)) as container:
        keys = [number for number, frame in enumerate(container.decode(video=0)) if frame.key_frame]
        stream = container.streams.video[0]
        assert not stream.codec_context.has_b_frames and stream.codec_context.pix_fmt == "yuv420p"
        return container.format.name, stream.codec_context.name, len(container.streams.audio), keys


def test_the_lists_keep_working(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(small) == 0
    printed = capsys.readouterr().out
    copy = small.parent / "copy"
    line = f"datasets: {{small: {{root: {copy}}}}}"
    assert line in printed
    assert json.loads((copy / "prepared.json").read_text())["short_side"] == 256
    original, prepared = load_suite(small).datasets["small"], small.read_text().replace("root: videos", "root: copy")
    small.write_text(prepared)
    again = load_suite(small).datasets["small"]
    for index, entry in enumerate(again.entries("test")):
        video = Video(source_of(again, entry))
        frames = video.frames(np.arange(len(video)))
        assert shown(frames) == list(range(5 + index)) and frames.shape[1:] == (256, 274, 3)
        assert video.rate == Video(source_of(original, entry)).rate == 8
    assert [path.name for path in copy.iterdir() if path.name.startswith(".")] == [".lock"]


def test_copies_are_mp4_by_content_and_key_frames_follow_the_setting(small: Path) -> None:
    assert run(small, "--gop", "3") == 0
    found = {path: stream_facts(small.parent / "copy" / path) for path in PATHS}
    assert {facts[0].split(",")[0] for facts in found.values()} == {"mov"}  # FFmpeg's name of the family
    for index, (_, codec, sounds, keys) in enumerate(found.values()):
        assert (codec, sounds, keys) == ("h264", 0, list(range(0, 5 + index, 3)))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (256, 342)),
        (1080, 1920, (256, 456)),
        (640, 480, (342, 256)),
        (720, 406, (454, 256)),
        (256, 340, (256, 340)),
        (257, 999, (256, 996)),
        (100, 60, (100, 60)),
        (51, 49, (50, 48)),
        (1, 9, (2, 8)),
    ],
)
def test_sizes(height: int, width: int, expected: tuple[int, int]) -> None:
    assert Preparation().size(height, width) == expected


def uneven(path: Path) -> Path:
    """Frames of different duration, some of them shown from frames before and after."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=100, options={"bf": "3", "crf": "10", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(24):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index * STEP, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index * index, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turned(path: Path) -> Path:
    """A clip with a bright left half whose header says that it is shown turned by a quarter."""
    picture_HW3 = np.zeros((48, 64, 3), np.uint8)
    picture_HW3[:, :32] = 200
    write_video(path, np.stack(9 * [picture_HW3]))
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    quarter = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]
    data[matrix : matrix + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in quarter)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("chunk_bytes", [1, 5 * 64 * 48 * 3, 1 << 26])
def test_frame_k_is_frame_k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(doctor, "CHUNK_BYTES", chunk_bytes)
    source = Source(uneven(tmp_path / "uneven.mp4"))
    facts = prepare_video(source, tmp_path / "copy.mp4", tmp_path / "writing", Preparation())
    copy = Video(Source(tmp_path / "copy.mp4"))
    assert facts["frames"] == len(copy) == 24
    assert shown(copy.frames(np.arange(24))) == shown(Video(source).frames(np.arange(24))) == list(range(24))
    assert copy.rate == pytest.approx(Video(source).rate, rel=0.01)


def test_a_turned_video_is_written_as_it_is_shown(tmp_path: Path) -> None:
    source = Source(turned(tmp_path / "turned.mp4"))
    prepare_video(source, tmp_path / "copy.mp4", tmp_path / "writing", Preparation())
    wanted, found = (Video(one).frames(np.array([4])) for one in (source, Source(tmp_path / "copy.mp4")))
    assert wanted.shape == found.shape == (1, 64, 48, 3)
    assert np.abs(wanted.astype(int) - found).mean() < 3


@pytest.mark.parametrize("crf", [18, 28])
def test_noise_stays_within_the_tolerance(tmp_path: Path, crf: int) -> None:
    frames_THW3 = np.random.default_rng(0).integers(0, 256, (9, 64, 96, 3), np.uint8)
    write_video(tmp_path / "noise.mkv", frames_THW3, "ffv1", pixels="bgr0")
    prepare_video(Source(tmp_path / "noise.mkv"), tmp_path / "copy.mkv", tmp_path / "w", Preparation(crf=crf))


def test_a_second_run_makes_nothing_and_a_changed_source_is_made_again(small: Path) -> None:
    assert run(small) == 0
    before = made(small)
    write_clip(small.parent / "videos" / "a.mp4", frames=3)
    (small.parent / "copy" / "c.mkv").unlink()
    with open(small.parent / "copy" / "prepared.jsonl", "ab") as log:
        log.write(b'\n{"file": "a.mp4", "sour')  # a kill in the middle of a line
    assert run(small) == 0
    after = made(small)
    assert {path for path in PATHS if after[path] != before[path]} == {"a.mp4", "c.mkv"}
    assert len(Video(Source(small.parent / "copy" / "a.mp4"))) == 3
    assert run(small) == 0 and made(small) == after


SLOW = """\
import sys, time
from pathlib import Path
from bench.care import prepare
from bench.commands.data import prepare as command
verify = prepare._verify
def slow(writing, *rest):
    print(writing, flush=True)
    time.sleep(60 if "c.mkv" in str(writing) else 0)
    verify(writing, *rest)
prepare._verify = slow
command("small", Path(sys.argv[1]), suite=sys.argv[2], workers=0)
"""


def test_a_kill_leaves_no_half_video(small: Path) -> None:
    copy = small.parent / "copy"
    arguments = [sys.executable, "-c", SLOW, str(copy), str(small)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    next(line for line in process.stdout if "c.mkv" in line)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = made(small)
    assert list(before) == PATHS[:2] and (copy / ".partial" / "c.mkv").exists()
    assert run(small) == 0
    assert {path: made(small)[path] for path in before} == before
    assert list(made(small)) == PATHS and not (copy / ".partial").exists()


def test_workers_that_hang_cost_one_video(small: Path) -> None:
    source = small.parent / "videos" / "c.mkv"
    source.unlink()
    os.mkfifo(source)  # opening it waits for a writer that never comes
    started = time.monotonic()
    assert run(small, "--workers", "1", "--seconds", "3") == 1
    assert time.monotonic() - started < 60
    assert list(made(small)) == [path for path in PATHS if path != "c.mkv"]


def test_another_preparation_is_refused(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(small) == 0
    assert run(small, "--gop", "4") == 2
    says(capsys.readouterr().err, "short_side 256, gop 8, crf 18", "gop 4")


def test_undecodable_videos_are_listed_and_left_out(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small.parent / "videos" / "a.mp4").write_bytes(b"no video")
    (small.parent / "videos" / "c.mkv").unlink()
    assert run(small) == 1
    printed = capsys.readouterr().out
    says(printed, "left out: a.mp4: ", "c.mkv: No such file")
    assert list(made(small)) == ["deep/b b.avi", "d.webm", "e.mov"]
    assert run(declare(small.parent, "a.mp4, c.mkv")) == 0
    says(capsys.readouterr().out, "left out", "known_bad", ": a.mp4")


@pytest.mark.parametrize("fault", ["frames", "pixels"])
def test_a_copy_that_shows_other_frames_is_deleted(
    small: Path, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encode = prepare._encode

    def wrong(source: Source, *rest: object) -> object:
        kept = encode(source, *rest)  # type: ignore[arg-type]
        if source.path.name != "a.mp4":
            return kept
        if fault == "frames":
            return kept._replace(frames=kept.frames + 1)
        return kept._replace(pixels={index: 255 - pixels for index, pixels in kept.pixels.items()})

    monkeypatch.setattr(prepare, "_encode", wrong)
    assert run(small) == 1
    assert "left out: a.mp4: " in capsys.readouterr().out
    assert list(made(small)) == PATHS[1:]
    monkeypatch.undo()
    assert run(small) == 0 and list(made(small)) == PATHS


def test_a_full_disk_ends_the_command(small: Path) -> None:
    with pytest.raises(UserError, match="disk is full"):
        prepare._encode(Source(small.parent / "videos" / "a.mp4"), Path("/dev/full"), Preparation())


def test_a_small_disk_is_warned_of(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    assert run(small) == 0
    says(capsys.readouterr().err, "0.0 GB")


@pytest.mark.parametrize("target", ["videos", "videos/copy", "."])
def test_the_originals_are_safe(small: Path, target: str) -> None:
    before = sorted((small.parent / "videos").rglob("*"))
    assert main(["prepare", "small", str(small.parent / target), "--suite", str(small)]) == 2
    assert sorted((small.parent / "videos").rglob("*")) == before


def test_a_folder_of_other_things_is_refused(small: Path) -> None:
    (small.parent / "copy").mkdir()
    (small.parent / "copy" / "thesis.tex").write_text("")
    assert run(small) == 2


def test_two_processes_do_not_share_a_target(small: Path) -> None:
    with prepare.PreparedFolder(small.parent / "copy", Preparation()):
        assert run(small) == 2
    assert run(small) == 0


def test_embedded_videos_and_frame_files_are_refused(tmp_path: Path) -> None:
    fields = {"name": "x", "root": "x", "classes": "x", "splits": {"test": "x"}, "frames": "img_{:05d}.jpg"}
    frames = Dataset.model_validate(fields)
    for data in (dataset("glyphs-narrow", {}), frames):
        with pytest.raises(UserError, match="no "):
            prepare.refuse(data, tmp_path / "copy")


def test_a_source_that_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError):
        prepare_video(Source(tmp_path / "text.mp4"), tmp_path / "c" / "a.mp4", tmp_path / "w" / "a", Preparation())
    assert not list((tmp_path / "c").iterdir()) and not list((tmp_path / "w").iterdir())


def test_the_commands_import_no_torch() -> None:
    code = "from bench.commands import data; from bench.care import doctor, prepare"
    assert imported_by(code).isdisjoint({"torch", "av", "decord", "PIL"})
