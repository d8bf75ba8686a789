"""Small videos for tests, written with PyAV. Frame i is one flat colour, so a decoded frame says which one it is."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from bench.data.datasets import Dataset
from bench.data.lists import Split

STEP = 6  # brightness between neighbouring frames; H.264 keeps flat frames within 1


def write_clip(path: Path, frames: int = 12, width: int = 64, height: int = 48, pixels: str = "yuv420p") -> Path:
    """A clip whose frame i has the brightness `i * STEP`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream("libx264", rate=8, options={"threads": "1", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for index in range(frames):
            flat_HW3 = np.full((height, width, 3), index * STEP, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(flat_HW3, format="rgb24")))
        container.mux(stream.encode())
    return path


def shown(frames_NHWC: np.ndarray) -> list[int]:
    """Which frames of a clip these pixels are, told by their brightness."""
    return np.rint(frames_NHWC.mean((1, 2, 3)) / STEP).astype(int).tolist()  # type: ignore[no-any-return]


def small_dataset(folder: Path, videos: int = 6, bad: tuple[int, ...] = ()) -> Dataset:
    """A dataset of clips of 5, 6, 7 ... frames in two classes; files of the videos `bad` are no videos."""
    names = [f"{index}.mp4" for index in range(videos)]
    for index, name in enumerate(names):
        write_clip(folder / "videos" / name, frames=5 + index)
        if index in bad:
            (folder / "videos" / name).write_bytes(b"no video")
    (folder / "classes.csv").write_text("id,name\n0,up\n1,down\n")
    (folder / "list.txt").write_text("".join(f"{name} {index % 2}\n" for index, name in enumerate(names)))
    return Dataset(
        name="small",
        folder=str(folder),
        root="videos",
        classes="classes.csv",
        splits={name: Split(list=("list.txt",)) for name in ("train", "test")},
    )
