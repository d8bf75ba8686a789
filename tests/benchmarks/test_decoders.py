"""decord by itself, decord as it is checked here, and PyAV: `python -m pytest tests/benchmarks/test_decoders.py -s
--benchmark-only`.

Frames of files of several kinds, each asked for alone; and the time to open a file and read 8 frames inside one group
of pictures, where decord does not have to jump. docs/robust_reading.md holds the tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.video.reader import Video
from bench.video.source import Source
from tests.benchmarks.test_reading import write_natural
from tests.video.clips import Write, encoded, plain_decode
from tests.video.test_robustness import B_FRAMES, fragmented

ROUNDS = 5
FILES: dict[str, Write] = {
    "plain.mp4": encoded("libx264", options={"bf": "3"}),
    "dash.mp4": fragmented("empty_moov+dash", 500, bf="3"),
    "dash, one group.mp4": fragmented("empty_moov+dash", 500, bf="3", g="1000"),
    "fragmented.mp4": fragmented("frag_keyframe+empty_moov", 500, bf="3"),
    "b_frames.flv": encoded("libx264", options=B_FRAMES),
    "live.webm": encoded("libvpx", muxing={"live": "1"}),
}


Frames = Callable[[np.ndarray], np.ndarray]


def by_decord(path: Path) -> Frames:
    from decord import VideoReader

    reader = VideoReader(str(path), num_threads=1)
    return lambda indices: reader.get_batch(indices).asnumpy()


def checked(path: Path) -> Frames:
    return Video(Source(path)).frames


def by_pyav(path: Path) -> Frames:
    return Video(Source(path), "pyav").frames


def wrong(opened: Callable[[Path], Frames], path: Path) -> str:
    """How many frames come out wrong, each asked for alone after the last one, or the refusal."""
    every, found = plain_decode(path), 0
    try:
        frames = opened(path)
        for index, right_HW3 in enumerate(every):
            frames(np.array([len(every) - 1]))
            found += not np.array_equal(frames(np.array([index]))[0], right_HW3)
    except Exception as error:
        return type(error).__name__
    return f"{found} of {len(every)}"


def times(path: Path) -> tuple[float, float]:
    """Largest difference of decord's and PyAV's times of a frame: from the first frame on, and absolutely."""
    from decord import VideoReader

    exact = Video(Source(path), "pyav")._decoder
    own_L, decord_L = exact.presented(), VideoReader(str(path)).get_frame_timestamp(np.arange(len(exact)))[:, 0]  # type: ignore[attr-defined]
    return float(np.abs(own_L - own_L[0] - decord_L + decord_L[0]).max()), float(np.abs(own_L - decord_L).max())


@pytest.mark.benchmark(group="decoders")
def test_decord_against_the_exact_reader(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    from decord import VideoReader

    print()
    for name, write in FILES.items():
        write(tmp_path / name)
        told = (
            ""
            if "live" in name
            else "times differ by {:.0e} from the first on, {:.0e} absolutely".format(*times(tmp_path / name))
        )
        print(f"  {name:22} decord wrong: {wrong(by_decord, tmp_path / name):12} {told}")
        assert wrong(checked, tmp_path / name) == wrong(by_pyav, tmp_path / name) == "0 of 40"
    write_natural(tmp_path / "natural.mp4", 0)
    indices = np.linspace(0, 240, 8).astype(int)
    ways = {"decord by itself": by_decord, "checked": checked, "pyav": by_pyav}
    best = dict.fromkeys(ways, 99.0)

    def measure() -> None:
        for name, opened in ways.items():
            began = time.perf_counter()
            opened(tmp_path / "natural.mp4")(indices)
            best[name] = min(best[name], time.perf_counter() - began)

    benchmark.pedantic(measure, rounds=ROUNDS)
    reader = VideoReader(str(tmp_path / "natural.mp4"), num_threads=1)
    began = time.perf_counter()
    reader.get_frame_timestamp(range(len(reader)))
    print(f"  table of times of {len(reader)} frames: {1000 * (time.perf_counter() - began):.1f} ms")
    print("  8 frames of one group: " + ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in best.items()))
