"""Videos for tests, written with PyAV."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

CLASSES = ("star rising", "star falling", "moon rising")


# Plain settings: x264's look-ahead and its threads change bytes now and then, and with them all that is computed later.
ENCODER = {"preset": "ultrafast", "threads": "1"}


def write_video(
    path: Path,
    frames_THW3: np.ndarray,
    codec: str = "libx264",
    fps: int = 8,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> None:
    """Encode uint8 RGB frames, as H.264 unless said otherwise; with the default options, the same bytes every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or (ENCODER if codec == "libx264" else {}))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames_THW3.shape[1:3]
        stream.pix_fmt = pixels
        for frame in frames_THW3:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def noise(seed: int, frames: int = 6, size: int = 64) -> np.ndarray:
    """Frames [T, H, W, 3] of smooth noise, another picture for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (frames, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)


def write_tiny_dataset(folder: Path, train: int = 12, test: int = 6) -> None:
    """Videos of three classes with lists `train.txt` and `test.txt` and `classes.csv`."""
    (folder / "classes.csv").write_text("id,name\n" + "".join(f"{n},{name}\n" for n, name in enumerate(CLASSES)))
    for split, count in (("train", train), ("test", test)):
        lines = [f"{split}/{n}.mp4 {n % len(CLASSES)}\n" for n in range(count)]
        (folder / f"{split}.txt").write_text("".join(lines))
        for n in range(count):
            write_video(folder / f"{split}/{n}.mp4", noise(n + 1000 * (split == "test")))
