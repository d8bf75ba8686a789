"""Small videos for tests, written with PyAV. Frame i is one flat colour, so a decoded frame says which one it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import numpy as np

from bench.data.datasets import Dataset
from bench.data.videos import Videos
from tests.videos import write_video

try:
    import_module("torchcodec.decoders")
    READERS = ["decord", "pyav", "torchcodec"]
except (ImportError, RuntimeError):
    READERS = ["decord", "pyav"]

FRAMES = 40  # of an encoded clip unless said otherwise, so that four views show frames 0, 10, 20 and 30
STEP = 6  # brightness between neighbouring frames; H.264 keeps flat frames within 1

Write = Callable[[Path], object]


def write_clip(path: Path, frames: int = 12, width: int = 64, height: int = 48, pixels: str = "yuv420p") -> Path:
    """A clip whose frame i has the brightness `i * STEP`."""
    frames_THW3 = np.stack([np.full((height, width, 3), index * STEP, np.uint8) for index in range(frames)])
    write_video(path, frames_THW3, pixels=pixels, options={"threads": "1", "crf": "10"})
    return path


def encoded(
    codec: str, frames: int = FRAMES, size: tuple[int, int] = (64, 48), pixels: str = "yuv420p", **settings: Any
) -> Write:
    """Writes a clip of key frames 12 apart, whose frame i has the brightness `i * STEP`."""

    def write(path: Path) -> None:
        times, rotation = settings.get("times", range), settings.get("rotation", 0)
        options = {"threads": "1", "g": "12", **settings.get("options", {})}
        with av.open(str(path), "w", settings.get("container"), settings.get("muxing", {})) as container:
            stream: Any = container.add_stream(codec, rate=25, options=options)
            (stream.width, stream.height), stream.pix_fmt = size, pixels
            stream.bit_rate = 1_000_000 if codec != "libsvtav1" else 0
            stream.codec_context.time_base = Fraction(1, 1000) if "times" in settings else Fraction(1, 25)
            if rotation:
                stream.set_display_rotation(rotation)
            for index, time_ in zip(range(frames), times(frames), strict=True):
                flat_HW3 = np.full((size[1], size[0], 3), index * STEP, np.uint8)
                flat_HW3[: size[1] // 2] //= 2 if rotation else 1  # so that one sees what is up
                frame = av.VideoFrame.from_ndarray(flat_HW3, format="rgb24")
                frame.pts = time_
                container.mux(stream.encode(frame))
            container.mux(stream.encode())

    return write


def resized_inside(codec: str, larger: tuple[int, int]) -> Write:
    """A picture whose size changes in the middle."""

    def write(path: Path) -> None:
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for start, size in ((0, (64, 48)), (FRAMES // 2, larger)):
                encoder: Any = av.CodecContext.create(codec, "w")
                (encoder.width, encoder.height), encoder.pix_fmt = size, "yuv420p"
                encoder.time_base, encoder.options = Fraction(1, 25), {"threads": "1", "g": "12", "bf": "0"}
                frames = [
                    av.VideoFrame.from_ndarray(np.full((*size[::-1], 3), index * STEP, np.uint8), format="rgb24")
                    for index in range(start, start + FRAMES // 2)
                ]
                for index, frame in enumerate(frames):
                    frame.pts = start + index
                for packet in (packet for frame in [*frames, None] for packet in encoder.encode(frame)):
                    packet.stream = stream
                    container.mux(packet)

    return write


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


def plain_decode(path: Path) -> np.ndarray:
    """All frames [L,H,W,3] as FFmpeg shows them from start to end: upright, scaled to the size of the first."""
    with av.open(str(path)) as container:
        frames: list[Any] = list(container.decode(container.streams.best("video")))
    width, height = frames[0].width, frames[0].height
    sized = (frame.reformat(width, height, format="rgb24") for frame in frames)
    return np.stack([np.rot90(frame.to_ndarray(), round(frame.rotation / 90) % 4) for frame in sized])


def damage(path: Path, packets: Sequence[int]) -> None:
    """Overwrite some of the packets, numbered in the file's order, with zeros; the container stays whole."""
    with av.open(str(path)) as container:
        parts = [(packet.pos, bytes(packet)) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for place, part in (parts[number] for number in packets):
        start = data.index(part, place)  # in Matroska, the place is that of a header
        data[start : start + len(part)] = bytes(len(part))
    path.write_bytes(data)


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
