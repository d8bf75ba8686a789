"""How fast videos are read, as a multiple of the official way: `python -m pytest tests/benchmarks/test_reading.py
--benchmark-only -s`. docs/performance.md holds the table it prints.

The official loader is written as those of the field's repositories are: frame by frame with decord, through PIL. Ours
reads the same files as they were downloaded, their prepared copies, kept frames and encoded features. All take turns,
several times, and the best pass of each counts, since other processes share the machine. The start of workers is left
out of the measurement: a pass is timed from its first batch on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from bench.care.prepare import Preparation, prepare_video
from bench.data.videos import Videos
from bench.stages.training.batches import Division, Features
from bench.suite.recipe import Execution, Training
from bench.video.loader import test_loader
from bench.video.pool import Decoding
from bench.video.source import Source
from bench.video.views import TestViews
from tests.video.clips import listed

VIEWS = TestViews(frames=8, resize=224, size=224)
REAL = Path(__file__).parents[3] / "shared" / "clips"
GENERATED = 8  # clips of 10 seconds
BATCH = 8
ROUNDS = 3
AIMS = {"prepared": 3, "kept frames": 20, "features": 200}  # multiples of the official loader

Pass = Callable[[int], Iterable[int]]  # number of clips to read -> sizes of batches as they come


# --- the official way -------------------------------------------------------------------------------------------------


class _Official(torch.utils.data.Dataset[Tensor]):
    def __init__(self, paths: list[Path], count: int) -> None:
        self.paths, self.count = paths, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        from decord import VideoReader

        reader = VideoReader(str(self.paths[index % len(self.paths)]), num_threads=1)
        places = np.arange(VIEWS.frames) * len(reader) // VIEWS.frames
        pictures = [_centre_crop(Image.fromarray(reader[int(place)].asnumpy())) for place in places]
        return torch.from_numpy(np.concatenate(pictures, axis=2)).permute(2, 0, 1).contiguous()


def _centre_crop(picture: Image.Image) -> np.ndarray:
    scale = 224 / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    return np.asarray(picture.crop((left, top, left + 224, top + 224)))


def official(paths: list[Path], workers: int) -> Pass:
    def read(count: int) -> Iterator[int]:
        for batch in DataLoader(_Official(paths, count), BATCH, num_workers=workers):
            yield len(batch)

    return read


# --- ours -------------------------------------------------------------------------------------------------------------


def videos_in(folder: Path) -> Videos:
    return listed(folder, sorted(path.name for path in (folder / "videos").iterdir()))


def own(videos: Videos, views: TestViews, decoding: Decoding) -> Pass:
    def read(count: int) -> Iterator[int]:
        order = [place % len(videos.entries) for place in range(count)]
        for batch in test_loader(videos, views, decoding, BATCH, order):
            assert not batch.failures
            yield len(batch.indices)

    return read


def features(folder: Path) -> Pass:
    """Features of 4 copies of 20,000 videos, 8 frames of 512 numbers each, as a training stage reads them."""
    if not folder.is_dir():
        folder.mkdir()
        save_file({"features": torch.zeros(20_000, 1, 8, 512)}, folder / "features.safetensors")
        table = pd.DataFrame({"label": [0] * 20_000, "failure": pd.array([None] * 20_000, dtype="string")})
        table.to_parquet(folder / "videos.parquet")
    work: Any = SimpleNamespace(inputs={"features": folder}, spec={"length": None})
    training, division = Training(batch=256), Division(Execution())

    def read(count: int) -> Iterator[int]:
        for batch in Features(work, training, division).batches(0, 0, 0):
            yield len(batch.labels_b)

    return read


# --- the files --------------------------------------------------------------------------------------------------------


def write_natural(path: Path, seed: int) -> None:
    """340 x 256, 30 frames a second for 10 s, a key frame every 250: a scene under a moving camera, things that move in
    it, and some noise. Decoding it takes as long as the real clip of this size."""
    rng = np.random.default_rng(seed)
    scene = _texture(rng, 600, 700)
    things = [(_texture(rng, 60, 60), rng.uniform(0, 200, 2), rng.uniform(-3, 3, 2)) for _ in range(6)]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", 30, {"threads": "1", "g": "250", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        for index in range(300):
            x, y = int(150 + 100 * np.sin(index / 40)), int(150 + 100 * np.cos(index / 60))
            frame_HW3 = scene[y : y + 256, x : x + 340].astype(np.int16)
            for thing, start, speed in things:
                top, left = (int(side) for side in np.abs((start + speed * index) % 392 - 196))
                frame_HW3[top : top + 60, left : left + 60] = thing
            frame_HW3 += rng.integers(-1, 2, frame_HW3.shape, np.int16)
            noisy = np.clip(frame_HW3, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
        container.mux(stream.encode())


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module", params=["generated", "real"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sets `downloaded` and `prepared`."""
    folder = tmp_path_factory.mktemp(request.param)
    downloaded, prepared = folder / "downloaded" / "videos", folder / "prepared" / "videos"
    for place in (downloaded, prepared):
        place.mkdir(parents=True)
    if request.param == "generated":
        for seed in range(GENERATED):
            write_natural(downloaded / f"{seed}.mp4", seed)
    elif REAL.is_dir():
        for clip in REAL.iterdir():
            shutil.copy(clip, downloaded)
    else:
        pytest.skip("no real clips here")
    for clip in downloaded.iterdir():
        copy = (prepared / clip.name).with_suffix(".mp4")
        prepare_video(Source(clip), copy, folder / "writing.mp4", Preparation())
    return folder


# --- the measurement --------------------------------------------------------------------------------------------------


def rate(read: Pass, count: int) -> float:
    """Clips per second from the first batch on."""
    batches = iter(read(count))
    next(batches)
    began = time.perf_counter()
    return sum(batches) / (time.perf_counter() - began)


@pytest.mark.benchmark(group="reading")
@pytest.mark.parametrize("workers", [1, 2])
def test_reading(
    benchmark: BenchmarkFixture, files: Path, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTB_CACHE", str(tmp_path))
    downloaded, prepared = videos_in(files / "downloaded"), videos_in(files / "prepared")
    paths = sorted((files / "downloaded" / "videos").iterdir())
    plain, keeping = Decoding(workers), Decoding(workers, cache_bytes=10**10, content="speed")
    passes: dict[str, tuple[Pass, int]] = {
        "official": (official(paths, workers), 48),
        "as downloaded": (own(downloaded, VIEWS, plain), 48),
        "prepared": (own(prepared, VIEWS, plain), 160),
        "kept frames": (own(downloaded, VIEWS, keeping), 2000),
        "features": (features(tmp_path / "features"), 0),
    }
    list(own(downloaded, VIEWS, keeping)(len(paths)))  # fills the cache
    rates: dict[str, list[float]] = {name: [] for name in passes}

    def measure() -> None:
        for name, (read, count) in passes.items():
            rates[name].append(rate(read, count))

    benchmark.pedantic(measure, rounds=ROUNDS)
    best = {name: max(found) for name, found in rates.items()}
    ratios = {name: found / best["official"] for name, found in best.items()}
    print(f"\n{files.name}, {workers} workers")
    for name, found in best.items():
        print(f"  {name:20} {found:10,.1f} clips/s {ratios[name]:8.1f} x")
    benchmark.extra_info.update({"clips/s": best, "ratios": ratios})
    assert all(ratios[name] >= aim for name, aim in AIMS.items())
