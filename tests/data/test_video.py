from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from bench.data.video import Video, VideoError, inside
from bench.errors import UserError
from tests.data.clips import shown, write_clip

# 2 to 72: widths whose rows decord hands over with padding, or nearly; then sizes of real datasets, and odd ones.
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


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_are_those_of_another_decoder(tmp_path: Path, width: int, height: int) -> None:
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
    own = Video(path).frames(np.array([0, 3, 5]))
    assert own.shape == (3, height, width, 3) and own.dtype == np.uint8
    assert np.abs(own.astype(int) - wanted[[0, 3, 5]]).max() <= 1


@pytest.mark.parametrize("width", [48, 64])
def test_frames_come_in_the_order_asked_for(tmp_path: Path, width: int) -> None:
    video = Video(write_clip(tmp_path / "clip.mp4", frames=12, width=width))
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


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_failure_is_a_video_error(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=40)
    damage(path)
    with pytest.raises(VideoError) as caught:
        Video(path).frames(np.arange(40))
    assert caught.value.path == path
    reason = caught.value.reason
    assert reason and "\n" not in reason and "/src/" not in reason


@pytest.mark.parametrize("name", ["clip.avi", "clip.mkv"])
def test_a_cut_file_is_no_shorter_video(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, frames=40)
    assert len(Video(path)) == 40
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VideoError, match="cut file"):
        Video(path)


def test_a_file_of_a_live_writer_declares_no_size(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", frames=9)
    data = path.read_bytes()
    at = data.index(b"\x18S\x80g") + 4
    path.write_bytes(data[:at] + b"\x01" + b"\xff" * 7 + data[at + 8 :])
    assert len(Video(path)) == 9


def test_a_frame_that_is_not_there_is_a_video_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError):
        Video(write_clip(tmp_path / "clip.mp4", frames=3)).frames(np.array([3]))


def test_sound_alone_and_folders_are_video_errors(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for path in (tmp_path / "sound.mp4", tmp_path):
        with pytest.raises(VideoError):
            Video(path)


@pytest.mark.parametrize("relative", ["/etc/passwd", "../secret.mp4", "a/../../secret.mp4", "link/secret.mp4"])
def test_paths_stay_inside_the_root(tmp_path: Path, relative: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"list.txt:7: .*leads out"):
        inside(tmp_path / "root", relative, "list.txt:7")


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "disk" / "a" / "clip.mp4")
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    assert inside(tmp_path / "root", "a/clip.mp4").samefile(clip)
