"""Small videos for tests, written with PyAV. Frame i is one flat colour, so a decoded frame says which one it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from bench.data.datasets import Dataset
from bench.data.videos import Videos
from tests.videos import write_video

STEP = 6  # brightness between neighbouring frames; H.264 keeps flat frames within 1


def write_clip(path: Path, frames: int = 12, width: int = 64, height: int = 48, pixels: str = "yuv420p") -> Path:
    """A clip whose frame i has the brightness `i * STEP`."""
    frames_THW3 = np.stack([np.full((height, width, 3), index * STEP, np.uint8) for index in range(frames)])
    write_video(path, frames_THW3, pixels=pixels, options={"threads": "1", "crf": "10"})
    return path


def write_sound(path: Path) -> None:
    """A file with an audio stream and no video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


def write_trimmed(whole: Path, part: Path, seconds: float) -> None:
    """Copy a stream from a second on, without encoding: it starts at a key frame and hides frames by an edit list."""
    with av.open(str(whole)) as source, av.open(str(part), "w") as container:
        original: Any = source.streams.video[0]
        stream = container.add_stream_from_template(original)
        start = round(seconds / original.time_base)
        source.seek(start, stream=original)
        for packet in source.demux(video=0):
            if packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, stream
                container.mux(packet)


def shown(frames_NHWC: np.ndarray) -> list[int]:
    """Which frames of a clip these pixels are, told by their brightness."""
    return np.rint(frames_NHWC.mean((1, 2, 3)) / STEP).astype(int).tolist()  # type: ignore[no-any-return]


def listed(folder: Path, names: Sequence[str]) -> Videos:
    """The files of these names in the folder's `videos`, labelled alternately with two classes."""
    (folder / "classes.csv").write_text("id,name\n0,up\n1,down\n")
    (folder / "list.txt").write_text("".join(f"{name} {index % 2}\n" for index, name in enumerate(names)))
    fields = {"name": "small", "folder": str(folder), "root": "videos", "classes": "classes.csv"}
    dataset = Dataset.model_validate({**fields, "splits": {"train": "list.txt", "test": "list.txt"}})
    return Videos(dataset, dataset.entries("test"))


def small_videos(folder: Path, videos: int = 6, bad: tuple[int, ...] = ()) -> Videos:
    """Clips of 5, 6, 7 ... frames; files of the videos `bad` cannot be decoded."""
    names = [f"{index}.mp4" for index in range(videos)]
    for index, name in enumerate(names):
        write_clip(folder / "videos" / name, frames=5 + index)
        if index in bad:
            (folder / "videos" / name).write_bytes(b"no video")
    return listed(folder, names)
