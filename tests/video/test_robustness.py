"""Every kind of odd or broken video and what it comes to; docs/robust_reading.md shows it as a table.

All videos of a decoder are read in one pass of watched workers, as a measurement reads them.
"""

import os
import signal
import time
from collections.abc import Iterator
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
from tests.video.clips import (
    FRAMES,
    READERS,
    STEP,
    Write,
    damage,
    encoded,
    listed,
    plain_decode,
    resized_inside,
    shown,
    write_clip,
    write_sound,
    write_trimmed,
)

REAL = Path(__file__).parents[3] / "shared" / "clips"
CLIPS = sorted(REAL.iterdir()) if REAL.is_dir() else []
VIEWS = TestViews(frames=4, resize=16, size=16)


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


def shown_in_part(path: Path) -> None:
    """The edit list ends after the first half of the frames."""
    encoded("libx264")(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12  # after version, flags and number of entries
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") // 2).to_bytes(4, "big")
    path.write_bytes(data)


def two_streams(path: Path) -> None:
    """FFmpeg plays the first of two video streams that are alike."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("libx264", 25, {"threads": "1", "g": "12"}) for _ in range(2)]
        for stream, width in zip(streams, (64, 32), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
        for index in range(FRAMES):
            for stream, shade in zip(streams, (index * STEP, 90), strict=True):
                flat_HW3 = np.full((48, stream.width, 3), shade, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(flat_HW3, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())


def damaged(path: Path) -> None:
    """The second half of the file's bytes are zeros."""
    encoded("libx264", options={"x264-params": "keyint=4"}, size=(128, 96))(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


OPEN_GROUPS = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
INTRA_REFRESH = {"x264-params": "intra-refresh=1:keyint=12:bframes=0:scenecut=0"}
B_FRAMES = {"bf": "2"}


def fragmented(flags: str, milliseconds: int, **options: str) -> Write:
    muxing = {"movflags": flags, "frag_duration": str(milliseconds * 1000)}
    return encoded("libx264", muxing=muxing, options=options)


WHOLE = [0, 10, 20, 30]  # the frames that four views of 40 show

READABLE: dict[str, tuple[Write, list[int]]] = {
    "plain.mp4": (encoded("libx264"), WHOLE),
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
    "shown_in_part.mp4": (shown_in_part, [0, 5, 10, 15]),
    "h264.avi": (encoded("libx264"), WHOLE),
    "b_frames.avi": (encoded("mpeg4", options=B_FRAMES), WHOLE),
    "b_frames.mp4": (encoded("mpeg4", options=B_FRAMES), WHOLE),
    "b_frames.mpg": (encoded("mpeg2video", options=B_FRAMES), WHOLE),
    "transport.ts": (encoded("libx264"), WHOLE),
    "fragmented.mp4": (fragmented("frag_keyframe+empty_moov", 500), WHOLE),
    "fragmented_b_frames.mp4": (fragmented("frag_keyframe+empty_moov", 500, bf="3"), WHOLE),
    "fragmented_moof.mp4": (fragmented("empty_moov+default_base_moof", 2000, bf="3"), WHOLE),
    "dash.mp4": (fragmented("empty_moov+dash", 100), WHOLE),
    "dash_b_frames_100.mp4": (fragmented("empty_moov+dash", 100, bf="3"), WHOLE),
    "dash_b_frames_500.mp4": (fragmented("empty_moov+dash", 500, bf="3"), WHOLE),
    "dash_one_group.mp4": (fragmented("empty_moov+dash", 500, bf="3", g="1000"), WHOLE),
    "segment_index.mp4": (fragmented("empty_moov+default_base_moof+global_sidx", 100, bf="3"), WHOLE),
    "b_frames.flv": (encoded("libx264", options=B_FRAMES), WHOLE),
    "b_frames.mov": (encoded("mpeg4", options=B_FRAMES), WHOLE),
    "live_vp8.webm": (encoded("libvpx", muxing={"live": "1"}), WHOLE),
    "live_vp9.webm": (encoded("libvpx-vp9", muxing={"live": "1"}), WHOLE),
    "live_vp9_one_group.webm": (encoded("libvpx-vp9", muxing={"live": "1"}, options={"g": "1000"}), WHOLE),
    "live.mkv": (encoded("libx264", muxing={"live": "1"}, options=B_FRAMES), WHOLE),
    "ten_bit_b_frames.mkv": (encoded("libx264", pixels="yuv420p10le", options=B_FRAMES), WHOLE),
    "two_streams.mkv": (two_streams, WHOLE),
    "two_streams.mp4": (two_streams, WHOLE),
    "intra_refresh.mp4": (encoded("libx264", options=INTRA_REFRESH), WHOLE),
    "larger_inside.mp4": (resized_inside("libx264", (96, 80)), WHOLE),
    "same_size_inside.mp4": (resized_inside("libx264", (64, 48)), WHOLE),
    "larger_inside.webm": (resized_inside("libvpx", (96, 80)), WHOLE),
    "smaller_inside.ts": (resized_inside("libx264", (32, 24)), WHOLE),
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


@pytest.fixture(scope="module", params=READERS)
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


def questions(length: int) -> Iterator[list[int]]:
    """Frames to ask for: each alone, neighbours, sets inside a group of 12 and across groups, in any order."""
    rng = np.random.default_rng(0)
    yield from ([index] for index in range(length))
    for _ in range(8):
        start = int(rng.integers(length))
        inside = np.arange(start, min(start + int(rng.integers(2, 10)), length))
        yield from (inside.tolist(), inside[::-2].tolist(), rng.integers(length, size=5).tolist())
    yield [length - 1, 0, length // 2]
    yield list(range(length))


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.parametrize("decoder", READERS)
def test_every_frame_is_that_of_a_plain_decode(videos: Videos, decoder: str, name: str) -> None:
    path = videos.dataset.location() / name
    every, video = plain_decode(path), Video(Source(path), decoder)
    assert len(video) == len(every) and video.rate == Video(Source(path), "pyav").rate
    for number, indices in enumerate(questions(len(video))):
        if number % 7 == 0:
            video = Video(Source(path), decoder)
        difference = np.abs(video.frames(np.array(indices)).astype(int) - every[indices]).max()
        assert difference <= (0 if decoder == "pyav" else 2), indices  # another FFmpeg may round otherwise


@pytest.mark.parametrize(
    ("name", "indices", "reads"),
    [
        ("plain.mp4", [1, 3, 8], True),
        ("plain.mp4", [1, 13], False),  # over two groups of pictures
        ("dash_b_frames_500.mp4", [1, 3, 8], False),  # decord gives its frames other times
        ("open_groups.mp4", [13, 15], False),
        ("two_streams.mp4", [1, 3, 8], False),
        ("same_size_inside.mp4", [1, 3, 8], False),
        ("vp9.webm", [1, 3, 8], False),
    ],
)
def test_decord_reads_where_it_is_known_to_be_exact(
    videos: Videos, monkeypatch: pytest.MonkeyPatch, name: str, indices: list[int], reads: bool
) -> None:
    import decord

    asked = list[int]()
    batch = decord.VideoReader.get_batch

    def counted(own: object, at: np.ndarray) -> object:
        asked.extend(at)
        return batch(own, at)

    monkeypatch.setattr(decord.VideoReader, "get_batch", counted)
    Video(Source(videos.dataset.location() / name)).frames(np.array(indices))
    assert (asked[1:] == indices) == reads and asked[:1] in ([], [0])  # the first frame is compared


@pytest.mark.parametrize("options", ["tff=1", "crop-rect=4,2,8,6"])
def test_decord_is_left_out_where_it_converts_otherwise(tmp_path: Path, options: str) -> None:
    encoded("libx264", options={"x264-params": options})(tmp_path / "odd.mp4")
    found, every = Video(Source(tmp_path / "odd.mp4")), plain_decode(tmp_path / "odd.mp4")
    assert all(np.array_equal(found.frames(np.array(indices)), every[indices]) for indices in questions(FRAMES))


def test_what_decord_refuses_is_read_by_pyav(videos: Videos, monkeypatch: pytest.MonkeyPatch) -> None:
    import decord

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("whatever it says")

    path, indices = videos.dataset.location() / "plain.mp4", np.array([1, 3, 8])
    expected = plain_decode(path)[indices]
    for method in ("get_batch", "get_frame_timestamp"):
        with monkeypatch.context() as patch:
            patch.setattr(decord.VideoReader, method, refuse)
            assert np.array_equal(Video(Source(path)).frames(indices), expected)


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("one_group.mp4", encoded("libx264", options={"g": "1000", "bf": "0"})),
        ("groups.mkv", encoded("libx264", options=B_FRAMES)),
        ("open_groups.mp4", encoded("libx264", options=OPEN_GROUPS)),
        ("groups.webm", encoded("libvpx-vp9")),
        ("counted.avi", encoded("mpeg4")),
    ],
)
def test_whether_a_frame_can_be_shown_depends_on_it_alone(
    tmp_path: Path, decoder: str, name: str, write: Write
) -> None:
    write(tmp_path / name)
    damage(tmp_path / name, [12, 21, 22])  # a key frame and two others

    def found(video: Video, indices: list[int]) -> np.ndarray | None:
        try:
            return video.frames(np.array(indices))
        except VideoError:
            return None

    source = Source(tmp_path / name)
    alone = [found(Video(source, decoder), [index]) for index in range(FRAMES)]
    assert 0 < sum(frame is None for frame in alone) < FRAMES
    right = [frame is None or shown(frame) == [index] for index, frame in enumerate(alone)]
    assert all(right), "a frame that builds on a damaged one"
    video = Video(source, decoder)
    for indices in questions(FRAMES):
        together, each = found(video, indices), [alone[index] for index in indices]
        assert (together is None) == any(frame is None for frame in each), indices
        assert together is None or np.array_equal(
            together, np.concatenate([frame for frame in each if frame is not None])
        )


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize("rotation", [90, 180, -90])
@pytest.mark.parametrize("size", [(128, 96), (96, 96), (48, 64)])
def test_rotated_videos_are_shown_upright_by_all_decoders(
    tmp_path: Path, rotation: int, size: tuple[int, int], decoder: str
) -> None:
    encoded("libx264", size=size, rotation=rotation)(tmp_path / "turned.mp4")
    picture_HW3 = Video(Source(tmp_path / "turned.mp4"), decoder).frames(np.array([30]))[0]
    assert np.array_equal(picture_HW3, plain_decode(tmp_path / "turned.mp4")[30])
    assert picture_HW3.shape[:2] == (size if rotation % 180 else size[::-1])
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
        ("pyav", "the decoder took longer than 3 s and was killed"),  # a FIFO that nobody writes to
        (f"{__name__}:Sleeping", "the decoder took longer than 3 s and was killed"),
        (f"{__name__}:Crashing", "the decoder died of SIGSEGV"),
    ],
)
def test_a_decoder_that_hangs_or_crashes_costs_one_video_and_one_line(
    tmp_path: Path, decoder: str, reason: str
) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / "videos" / name, FRAMES)
    if decoder == "pyav":
        os.mkfifo(tmp_path / "videos" / "bad.mp4")
    else:
        write_clip(tmp_path / "videos" / "bad.mp4")
    found, notes = read(listed(tmp_path, ["a.mp4", "bad.mp4", "b.mp4"]), decoder, seconds=3)
    assert found == {"a.mp4": WHOLE, "bad.mp4": reason, "b.mp4": WHOLE}
    assert notes == [f"bad.mp4: {reason}"]


# --- real clips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_real_clips_have_the_frames_of_a_plain_decode(clip: Path, decoder: str) -> None:
    every, video = plain_decode(clip), Video(Source(clip), decoder)
    indices = np.arange(8) * len(video) // 8
    assert len(video) == len(every)
    assert np.array_equal(video.frames(indices), every[indices])


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_real_clips_that_are_cut_fail_and_renamed_ones_do_not(tmp_path: Path, clip: Path, decoder: str) -> None:
    data = clip.read_bytes()
    (tmp_path / "cut").write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(VideoError):
        Video(Source(tmp_path / "cut"), decoder)
    (tmp_path / "clip.txt").write_bytes(data)
    assert len(Video(Source(tmp_path / "clip.txt"), decoder)) == len(Video(Source(clip), decoder))
