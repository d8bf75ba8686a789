"""What every kind of odd or broken video comes to; docs/robust_reading.md shows it as a table.

All videos of a decoder are read in one pass of watched workers, as a measurement reads them.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from bench.data.videos import Videos
from bench.video.decoders import Pyav
from bench.video.loader import test_loader
from bench.video.pool import Decoding
from bench.video.reader import Video
from bench.video.source import Source, VideoError
from bench.video.views import TestViews
from tests.video.clips import STEP, listed, shown, write_clip, write_sound, write_trimmed

REAL = Path(__file__).parents[3] / "shared" / "clips"
CLIPS = sorted(REAL.iterdir()) if REAL.is_dir() else []
VIEWS = TestViews(frames=4, resize=16, size=16)
DECODERS = ("decord", "pyav")
FRAMES = 40  # of every clip unless said otherwise, so that four views show frames 0, 10, 20 and 30

Write = Callable[[Path], object]


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


def uneven(frames: int) -> Iterator[int]:
    """Milliseconds of frames that are 20, 40 or 100 apart."""
    moment = 3000
    for index in range(frames):
        yield moment
        moment += (20, 40, 100)[index % 3]


def cut(codec: str, suffix: str) -> Write:
    """A file whose end is missing; MP4 with its table of contents in front."""

    def write(path: Path) -> None:
        whole = path.with_name(f"whole{suffix}")
        encoded(codec, muxing={"movflags": "faststart"} if suffix == ".mp4" else {})(whole)
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 8 // 10])

    return write


def cut_without_contents(path: Path) -> None:
    """MP4 with its table of contents at the end, which is missing."""
    encoded("libx264", container="mp4")(path)
    path.write_bytes(path.read_bytes()[:-500])


def trimmed(path: Path) -> None:
    whole = path.with_name("whole.mp4")
    encoded("libx264")(whole)
    write_trimmed(whole, path, 0.8)


def damaged(path: Path) -> None:
    """The second half of the file's bytes are zeros."""
    encoded("libx264", options={"x264-params": "keyint=4"}, size=(128, 96))(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


OPEN_GROUPS = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
B_FRAMES = {"bf": "2"}
WHOLE = [0, 10, 20, 30]  # the frames that four views of 40 show

READABLE: dict[str, tuple[Write, list[int]]] = {
    "one_frame.mp4": (encoded("libx264", 1), [0, 0, 0, 0]),
    "variable_rate.mp4": (encoded("libx264", times=uneven), WHOLE),
    "variable_rate.mkv": (encoded("libx264", times=uneven), WHOLE),
    "odd_size.mp4": (encoded("libx264", size=(51, 49), pixels="yuv444p"), WHOLE),
    "width_48.mp4": (encoded("libx264", size=(48, 48)), WHOLE),
    "width_72.avi": (encoded("mpeg4", size=(72, 64)), WHOLE),
    "width_72.mp4": (encoded("libx264", size=(72, 64)), WHOLE),
    "ten_bit.mp4": (encoded("libx264", pixels="yuv420p10le"), WHOLE),
    "vp8.webm": (encoded("libvpx"), WHOLE),
    "vp8_hidden_frames.webm": (encoded("libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16"}), WHOLE),
    "vp9.webm": (encoded("libvpx-vp9"), WHOLE),
    "av1.mp4": (encoded("libsvtav1", size=(64, 64)), WHOLE),
    "hevc.mp4": (encoded("libx265", options={"x265-params": "log-level=none:keyint=12:open-gop=1"}), WHOLE),
    "mp4_content.avi": (encoded("libx264", container="mp4"), WHOLE),
    "mp4_content.txt": (encoded("libx264", container="mp4"), WHOLE),
    "open_groups.mp4": (encoded("libx264", options=OPEN_GROUPS), WHOLE),
    "open_groups.mkv": (encoded("libx264", options=OPEN_GROUPS), WHOLE),
    "trimmed.mp4": (trimmed, [20, 25, 30, 35]),
    "h264.avi": (encoded("libx264"), WHOLE),
    "b_frames.avi": (encoded("mpeg4", options=B_FRAMES), WHOLE),
    "b_frames.mp4": (encoded("mpeg4", options=B_FRAMES), WHOLE),
    "b_frames.mpg": (encoded("mpeg2video", options=B_FRAMES), WHOLE),
    "transport.ts": (encoded("libx264"), WHOLE),
}
UNREADABLE: dict[str, tuple[Write, str]] = {
    "missing.mp4": (lambda path: None, "No such file"),
    "empty.mp4": (Path.touch, "empty file"),
    "folder.mp4": (Path.mkdir, "Is a directory"),
    "text.mp4": (lambda path: path.write_text("no video\n" * 99), "Invalid data"),
    "sound_alone.mp4": (write_sound, "no video stream"),
    "cut.mp4": (cut("libx264", ".mp4"), "cut file"),
    "cut_without_contents.mp4": (cut_without_contents, "End of file"),
    "cut.avi": (cut("mpeg4", ".avi"), "cut file"),
    "cut.mkv": (cut("libx264", ".mkv"), "cut file"),
    "cut.webm": (cut("libvpx", ".webm"), "cut file"),
    "damaged.mp4": (damaged, "Invalid data"),
}


def read(videos: Videos, decoder: str, seconds: float = 30) -> tuple[dict[str, Any], list[str]]:
    """(name -> frames shown or reason, notes) of a pass over all videos."""
    notes: list[str] = []
    views = VIEWS.model_copy(update={"decoder": decoder})
    (batch,) = test_loader(videos, views, Decoding(2, seconds, note=notes.append), len(videos))
    names = [entry.name for entry in videos.entries]
    found: dict[str, Any] = {
        name: shown(clip_TSS3.numpy())
        for name, clip_TSS3 in zip(names, batch.pixels_bVT3SS[:, 0].permute(0, 1, 3, 4, 2), strict=True)
    }
    for index, reason in batch.failures:
        assert not batch.pixels_bVT3SS[index].any()
        found[names[index]] = reason
    return found, notes


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Videos:
    folder = tmp_path_factory.mktemp("odd")
    for name, (write, _) in {**READABLE, **UNREADABLE}.items():
        own = folder / "written" / name
        own.mkdir(parents=True)
        write(own / name)
        (folder / "videos").mkdir(exist_ok=True)
        if (own / name).exists():
            (own / name).rename(folder / "videos" / name)
    return listed(folder, [*READABLE, *UNREADABLE])


@pytest.fixture(scope="module", params=DECODERS)
def outcome(videos: Videos, request: pytest.FixtureRequest) -> dict[str, Any]:
    found, notes = read(videos, request.param)
    assert not notes, "a decoder died or was killed"
    return found


@pytest.mark.parametrize("name", READABLE)
def test_odd_videos_show_the_right_frames(outcome: dict[str, Any], name: str) -> None:
    assert outcome[name] == READABLE[name][1]


@pytest.mark.parametrize("name", UNREADABLE)
def test_broken_videos_fail_with_a_reason(outcome: dict[str, Any], name: str) -> None:
    assert UNREADABLE[name][1] in outcome[name] and "\n" not in outcome[name]


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.parametrize("decoder", DECODERS)
def test_frames_and_their_order_do_not_depend_on_how_they_are_asked_for(
    videos: Videos, decoder: str, name: str
) -> None:
    path = videos.dataset.location() / name
    with av.open(str(path)) as container:
        every = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    rng = np.random.default_rng(0)
    video = Video(Source(path), decoder)
    assert len(video) == len(every) and video.rate == Video(Source(path), "pyav").rate
    for _ in range(8):
        indices = rng.integers(len(video), size=5)
        assert np.array_equal(video.frames(indices), every[indices])


@pytest.mark.parametrize("rotation", [90, 180, -90])
@pytest.mark.parametrize("size", [(128, 96), (96, 96), (48, 64)])
def test_rotated_videos_are_shown_upright_by_all_decoders(tmp_path: Path, rotation: int, size: tuple[int, int]) -> None:
    encoded("libx264", size=size, rotation=rotation)(tmp_path / "turned.mp4")
    one, other = (Video(Source(tmp_path / "turned.mp4"), decoder).frames(np.array([30])) for decoder in DECODERS)
    assert np.array_equal(one, other)
    assert one.shape[1:3] == (size if rotation % 180 else size[::-1])
    (picture_HW3,) = one
    for _ in range(rotation // 90 % 4):  # back to what was encoded, whose upper half is dark
        picture_HW3 = np.rot90(picture_HW3, -1)
    height = len(picture_HW3)
    assert picture_HW3[: height // 4].mean() < 100 < picture_HW3[-height // 4 :].mean()


# --- decoders that hang or crash --------------------------------------------------------------------------------------


class Sleeping(Pyav):
    """A decoder that never comes back from one of the files."""

    def __init__(self, source: Source) -> None:
        if source.path.stem == "bad":
            time.sleep(600)
        super().__init__(source)


class Crashing(Pyav):
    """A decoder that one of the files crashes."""

    def __init__(self, source: Source) -> None:
        if source.path.stem == "bad":
            os.kill(os.getpid(), signal.SIGSEGV)
        super().__init__(source)


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [
        ("decord", "the decoder took longer than 3 s and was killed"),  # a FIFO that nobody writes to
        ("pyav", "the decoder took longer than 3 s and was killed"),
        (f"{__name__}:Sleeping", "the decoder took longer than 3 s and was killed"),
        (f"{__name__}:Crashing", "the decoder died of SIGSEGV"),
    ],
)
def test_a_decoder_that_hangs_or_crashes_costs_one_video_and_one_line(
    tmp_path: Path, decoder: str, reason: str
) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / "videos" / name, FRAMES)
    if decoder in DECODERS:
        os.mkfifo(tmp_path / "videos" / "bad.mp4")
    else:
        write_clip(tmp_path / "videos" / "bad.mp4")
    found, notes = read(listed(tmp_path, ["a.mp4", "bad.mp4", "b.mp4"]), decoder, seconds=3)
    assert found == {"a.mp4": WHOLE, "bad.mp4": reason, "b.mp4": WHOLE}
    assert notes == [f"bad.mp4: {reason}"]


# --- real clips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_real_clips_have_the_same_frames_in_all_decoders(clip: Path) -> None:
    one, other = (Video(Source(clip), decoder) for decoder in DECODERS)
    indices = np.arange(8) * len(one) // 8
    assert len(one) == len(other) and one.rate == other.rate
    assert np.array_equal(one.frames(indices), other.frames(indices))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_real_clips_that_are_cut_fail_and_renamed_ones_do_not(tmp_path: Path, clip: Path, decoder: str) -> None:
    data = clip.read_bytes()
    (tmp_path / "cut").write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(VideoError):
        Video(Source(tmp_path / "cut"), decoder)
    (tmp_path / "clip.txt").write_bytes(data)
    assert len(Video(Source(tmp_path / "clip.txt"), decoder)) == len(Video(Source(clip), decoder))
