"""Decoders: the pixels that FFmpeg shows, and a reason from every file that is no whole video."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from bench.core.errors import UserError
from bench.video.decoders import known_decoder
from bench.video.reader import Video
from bench.video.source import Source, VideoError
from tests.errors import says
from tests.video.clips import READERS, STEP, shown, write_clip

# 2 to 72: widths whose rows FFmpeg pads, or nearly; then sizes of real datasets, and odd ones.
SIZES = [
    (2, 2),
    (16, 16),
    (24, 20),
    (40, 30),
    (48, 48),
    (50, 50),
    (72, 64),
    (100, 60),
    (144, 96),
    (202, 360),
    (340, 256),
    (426, 240),
    (51, 49),
    (65, 33),
]


def opened(path: Path, decoder: str = "decord") -> Video:
    return Video(Source(path), decoder)


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_are_those_of_another_decoder(tmp_path: Path, width: int, height: int, decoder: str) -> None:
    path = tmp_path / "noise.mp4"
    pictures = np.random.default_rng(0).integers(0, 256, (6, height, width, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p" if width % 2 else "yuv420p"
        for picture_HW3 in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HW3, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        wanted = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    own = opened(path, decoder).frames(np.array([0, 3, 5]))
    assert own.shape == (3, height, width, 3) and own.dtype == np.uint8
    assert np.abs(own.astype(int) - wanted[[0, 3, 5]]).max() <= 1


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize("width", [48, 64])
def test_frames_come_in_the_order_asked_for(tmp_path: Path, width: int, decoder: str) -> None:
    video = opened(write_clip(tmp_path / "clip.mp4", frames=12, width=width), decoder)
    assert len(video) == 12
    assert shown(video.frames(np.array([7, 0, 7, 11, 3]))) == [7, 0, 7, 11, 3]
    assert shown(video.frames(np.array([1]))) == [1]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])


def damaged(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10] + bytes(len(data) - len(data) * 6 // 10))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def written_over(path: Path) -> None:
    path.write_text("no video\n" * 99)


def only_the_start_of_a_header(path: Path) -> None:
    path.write_bytes(b"\x1aE\xdf\xa3")


DAMAGE: list[Callable[[Path], None]] = [
    truncated,
    damaged,
    Path.unlink,
    emptied,
    written_over,
    only_the_start_of_a_header,
]


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_every_failure_is_a_video_error(tmp_path: Path, damage: Callable[[Path], None], decoder: str) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=40)
    damage(path)
    with pytest.raises(VideoError) as caught:
        opened(path, decoder).frames(np.arange(40))
    assert caught.value.path == path
    reason = caught.value.reason
    assert reason and "\n" not in reason and "/src/" not in reason


@pytest.mark.parametrize("name", ["clip.avi", "clip.mkv"])
def test_a_cut_file_is_no_shorter_video(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, frames=40)
    assert len(opened(path)) == 40
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VideoError, match="cut file"):
        opened(path)


def test_a_file_of_a_live_writer_declares_no_size(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", frames=9)
    data = path.read_bytes()
    at = data.index(b"\x18S\x80g") + 4
    path.write_bytes(data[:at] + b"\x01" + b"\xff" * 7 + data[at + 8 :])
    assert len(opened(path)) == 9


def test_a_frame_that_is_not_there_is_a_video_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError):
        opened(write_clip(tmp_path / "clip.mp4", frames=3)).frames(np.array([3]))


def test_a_folder_of_frames_is_a_video(tmp_path: Path) -> None:
    for index in range(3, 9):
        flat_HW3 = np.full((20, 30, 3), index * STEP, np.uint8)
        Image.fromarray(flat_HW3).save(tmp_path / f"img_{index:05d}.png")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "img_last.png").touch()
    source = Source(tmp_path, frames="img_{:05d}.png", first=3)
    video = Video(source)
    assert len(video) == 6 and video.rate == 30
    assert shown(video.frames(np.array([0, 5, 2, 2]))) == [3, 8, 5, 5]
    with pytest.raises(VideoError, match="no times"):
        Video(source._replace(span=(0, 1)))
    (tmp_path / "img_00005.png").write_bytes(b"no picture")
    assert shown(Video(source).frames(np.array([1, 3]))) == [4, 6]
    with pytest.raises(VideoError, match="identify"):
        Video(source).frames(np.array([1, 2]))


@pytest.mark.parametrize(
    ("files", "first", "told"),
    [
        ([0, 1, 2], 1, ["begins at 0", "say first: 0"]),
        ([1, 2, 3], 0, ["begins at 1", "say first: 1", "img_00000.jpg"]),
        ([101, 102], 1, ["begins at 101", "say first: 101"]),
        ([1, 2, 4, 5, 9], 1, ["a gap", "img_00003.jpg"]),
        ([0, 1, 3], 0, ["a gap", "img_00002.jpg"]),
        (["img_1.jpg", "img_2.jpg"], 1, ["img_1.jpg", "img_{:05d}.jpg", "img_00001.jpg"]),
        ([1, 2, "img_2.jpg"], 1, ["img_2.jpg", "img_00002.jpg"]),
        (["frame_00001.jpg", "img_00001.png"], 1, ["no frames", "img_{:05d}.jpg"]),
        ([], 1, ["no frames"]),
    ],
)
def test_numbers_of_frame_files_are_checked_when_a_folder_is_opened(
    tmp_path: Path, files: list[int | str], first: int, told: list[str]
) -> None:
    for file in files:
        Image.new("RGB", (8, 8)).save(tmp_path / (f"img_{file:05d}.jpg" if isinstance(file, int) else file))
    with pytest.raises(VideoError) as caught:
        Video(Source(tmp_path, frames="img_{:05d}.jpg", first=first))
    says(caught.value.reason, *told)


def test_frame_files_of_another_size_are_scaled_to_the_first(tmp_path: Path) -> None:
    for number, size in enumerate([(30, 20), (60, 10), (30, 20)]):
        Image.new("RGB", size, (number * STEP,) * 3).save(tmp_path / f"{number}.png")
    video = Video(Source(tmp_path, frames="{}.png", first=0))
    for indices in ([0, 1, 2], [1], [1, 2]):
        frames_NHW3 = video.frames(np.array(indices))
        assert frames_NHW3.shape[1:] == (20, 30, 3) and shown(frames_NHW3) == indices


class Gray:
    """A decoder as somebody may write one."""

    rate = 5.0

    def __init__(self, source: Source) -> None:
        if source.path.stem == "odd":
            raise KeyError("frames")

    def __len__(self) -> int:
        return 10

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return np.broadcast_to(indices[:, None, None, None] * STEP, (len(indices), 4, 6, 3)).astype(np.uint8)

    def times(self) -> np.ndarray:
        return np.arange(10) / self.rate


def test_a_decoder_of_ones_own(tmp_path: Path) -> None:
    name = f"{__name__}:Gray"
    assert known_decoder(name) == name
    path = write_clip(tmp_path / "clip.mp4")
    video = Video(Source(path, span=(1, 2)), name)
    assert len(video) == 5 and video.rate == 5 and shown(video.frames(np.array([4, 0]))) == [9, 5]
    with pytest.raises(VideoError, match="frames"):
        opened(write_clip(tmp_path / "odd.mp4"), name)


@pytest.mark.parametrize("name", ["decor", "torchcodec2", "module:", ":Class", "a module:Class", ""])
def test_an_unknown_decoder_is_the_users_mistake(name: str) -> None:
    with pytest.raises(UserError, match="unknown decoder"):
        known_decoder(name)


@pytest.mark.parametrize("name", ["no_such_module:Class", "bench.video.reader:NoSuchClass"])
def test_a_decoder_that_cannot_be_imported_is_the_users_mistake(tmp_path: Path, name: str) -> None:
    assert known_decoder(name) == name
    with pytest.raises(UserError, match="cannot be imported"):
        opened(write_clip(tmp_path / "clip.mp4"), name)


def test_torchcodec_shows_the_same_frames(tmp_path: Path) -> None:
    try:
        import_module("torchcodec.decoders")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchcodec: {str(error).strip().splitlines()[0]}")
    path = write_clip(tmp_path / "clip.mp4", frames=20)
    indices = np.array([7, 0, 7, 11, 3])
    video = opened(path, "torchcodec")
    assert len(video) == 20 and video.rate == 8
    assert np.abs(video.frames(indices).astype(int) - opened(path).frames(indices)).max() <= 1
    assert shown(Video(Source(path, span=(0.5, 1)), "torchcodec").frames(np.arange(4))) == [4, 5, 6, 7]


def test_sound_alone_and_folders_are_video_errors(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for path in (tmp_path / "sound.mp4", tmp_path):
        with pytest.raises(VideoError):
            opened(path)
