"""Time and memory of looking after datasets: `python -m pytest tests/benchmarks/test_doctor.py --benchmark-only -s`."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from bench.video.reader import Video
from bench.video.source import Source

WORKERS = 2
SUITE = """\
title: Many videos
datasets:
  many: {root: videos, classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: glyphs-narrow}
protocols:
  one: {role: zero-shot, dataset: glyphs-narrow, split: validation}
rows:
  clip_mean: {method: clip_mean}
"""


def write_video(path: Path, width: int, height: int, frames: int) -> Path:
    """Soft shapes that move by a pixel or two from frame to frame."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    large_HW3 = np.asarray(Image.fromarray(noise).resize((width + 120, height + 60), Image.Resampling.BICUBIC))
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            shown = np.ascontiguousarray(large_HW3[index % 60 :, 2 * index % 120 :][:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_many(folder: Path, count: int) -> dict[str, int]:
    """A dataset of copies of a few videos, each with bytes of its own; how often each problem is planted."""
    (folder / "videos").mkdir(parents=True)
    sizes = [(340, 256, 100), (320, 240, 75), (256, 340, 50), (426, 240, 60)]
    bases = [write_video(folder / f"{index}.mp4", *size).read_bytes() for index, size in enumerate(sizes)]
    planted: Counter[str] = Counter()
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for index in range(count):
        name, data = f"{index:05d}.mp4", bases[index % len(bases)]
        data += (16).to_bytes(4, "big") + b"free" + index.to_bytes(8, "big")
        lists["train" if index % 4 else "test"].append(name)
        match index % 50:
            case 10:
                data, kind = data[: len(data) * 7 // 10] + name.encode(), "truncated"
            case 20:
                data, kind = b"no video " + name.encode(), "undecodable"
            case 30:
                data, kind = b"", "empty"
            case 41:
                lists["test"].append(name)
                kind = "leak by path"
            case _:
                kind = ""
        planted[kind] += 1
        (folder / "videos" / name).write_bytes(data)
    for split, names in lists.items():
        (folder / f"{split}.txt").write_text("".join(f"{name} 0\n" for name in names))
    (folder / "classes.csv").write_text("id,name\n0,moving\n")
    (folder / "many.yaml").write_text(SUITE)
    del planted[""]
    return dict(planted)


def command(folder: Path, *arguments: str) -> tuple[float, float, float, str]:
    """Run a data command: (seconds, MB of all its processes at their peak, MB of the parent alone, what it printed)."""
    code = (
        "import sys, typer; from bench.commands import data as data_commands; app = typer.Typer(); "
        "app.command()(data_commands.doctor); app.command()(data_commands.prepare); app()"
    )
    fixed = ["--suite", str(folder / "many.yaml"), "--workers", str(WORKERS)]
    environment = {**os.environ, "VTB_CACHE": str(folder / "cache")}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, *fixed], env=environment, stdout=subprocess.PIPE, text=True
    )
    whole = parent = 0.0
    while process.poll() is None:
        sizes = {pid: proportional_megabytes(pid) for pid in family(process.pid)}
        whole, parent = max(whole, sum(sizes.values())), max(parent, sizes.get(process.pid, 0.0))
        time.sleep(0.1)
    assert process.stdout is not None
    return time.monotonic() - started, whole, parent, process.stdout.read()


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def proportional_megabytes(pid: int) -> float:
    """Memory of a process, pages that several share counted in parts (PSS)."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if (found := re.search(r"^Pss:\s+(\d+) kB", rollup, re.M)) else 0.0


@pytest.mark.benchmark(group="doctor")
def test_examining_many_videos(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    lines, peaks = ["videos  run     seconds  videos/s  MB parent  MB all processes"], {}
    counts = {count: write_many(tmp_path / str(count), count) for count in (250, 1000)}

    def examine(count: int, run: str, *options: str) -> None:
        folder = tmp_path / str(count)
        seconds, whole, parent, _ = command(folder, "doctor", "many", "--out", str(folder / "out"), *options)
        peaks[count, run] = whole
        lines.append(f"{count:6}  {run:6}  {seconds:7.1f}  {count / seconds:8.0f}  {parent:9.0f}  {whole:16.0f}")
        with open(folder / "out" / "doctor.csv", newline="") as file:
            found = Counter(row["problem"] for row in csv.DictReader(file) if row["problem"])
        assert found == counts[count]

    def all_runs() -> None:
        for count in counts:
            examine(count, "light")
            examine(count, "again")
            examine(count, "full", "--full")

    benchmark.pedantic(all_runs, rounds=1)
    print("\n" + "\n".join(lines))
    for run in ("light", "again", "full"):
        assert peaks[1000, run] < 1.25 * peaks[250, run]  # four times the videos


@pytest.mark.benchmark(group="prepare")
def test_preparing_videos(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    names = [f"{index}.mp4" for index in range(8)]
    data = write_video(tmp_path / "base.mp4", 1280, 720, 250).read_bytes()
    for name in names:
        (tmp_path / "videos" / name).write_bytes(data)
    (tmp_path / "train.txt").write_text("".join(f"{name} 0\n" for name in names))
    (tmp_path / "test.txt").write_text(f"{names[0]} 0\n")
    (tmp_path / "classes.csv").write_text("id,name\n0,moving\n")
    (tmp_path / "many.yaml").write_text(SUITE)
    measured = []

    def prepare() -> None:
        measured.append(command(tmp_path, "prepare", "many", str(tmp_path / "copy")))

    benchmark.pedantic(prepare, rounds=1)
    seconds, whole, parent, _ = measured[0]
    before, after = (clip_milliseconds(tmp_path / folder / names[0]) for folder in ("videos", "copy"))
    sizes = [(tmp_path / folder / names[0]).stat().st_size / 1e6 for folder in ("videos", "copy")]
    print(f"\n{len(names)} videos of 250 frames, 1280x720: {seconds:.1f} s, {whole:.0f} MB, parent {parent:.0f} MB")
    print(
        f"a clip of 8 spread frames: {before:.0f} ms before, {after:.1f} ms after; {sizes[0]:.1f} and {sizes[1]:.1f} MB"
    )
    assert after < before


def clip_milliseconds(path: Path) -> float:
    """Median time of opening a video and reading 8 frames of it."""
    times = []
    for _ in range(9):
        started = time.perf_counter()
        video = Video(Source(path))
        video.frames(np.linspace(0, len(video) - 1, 8).astype(int))
        times.append(1e3 * (time.perf_counter() - started))
    return float(np.median(times))
