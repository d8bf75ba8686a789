"""Decoders: each opens one video and returns its frames by number.

Frame i is the i-th that FFmpeg shows when it plays the file. PyAV finds it by its presentation time, whatever other
frames are asked for. decord 0.6 and torchcodec number frames in ways of their own, and in files of many kinds they show
others without an error (docs/robust_reading.md). So whether they are exact is checked for each file, and PyAV reads
what they would show wrongly or refuse.

A user's own decoder is a class with the interface of `Decoder`, given as `module:Class`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bench.core.errors import UserError, unknown
from bench.video.source import Source, frame_numbers

if TYPE_CHECKING:
    import numpy as np

TIMED = ("mov", "matroska", "flv")  # containers with a presentation time in every packet; FFmpeg invents those of AVI
RATE = 30.0  # frames per second of files without a declared rate and of folders of extracted frames
TAIL = 2  # final frames that a container may count but no decoder returns; the last decoded frame replaces them
TOLERANCE = 1e-3  # seconds by which two decoders' times of one frame may differ; neighbours are further apart


class Decoder(Protocol):
    """One open video, opened in the process that reads it. Any exception counts as a failure of the video."""

    rate: float  # frames per second

    def __init__(self, source: Source) -> None: ...

    def __len__(self) -> int:
        """Number of frames."""

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """RGB frames [N,H,W,3] uint8 at increasing indices below the length."""

    def times(self) -> np.ndarray:
        """Seconds from the first frame to each frame, [L]; used for lists with parts of videos."""


def known_decoder(name: str) -> str:
    """Return the name. Raises UserError if it is neither shipped nor `module:Class`; imports nothing."""
    module, _, attribute = name.partition(":")
    if name not in DECODERS and not (attribute.isidentifier() and all(map(str.isidentifier, module.split(".")))):
        raise unknown("decoder", name, [*DECODERS, "module:Class"])
    return name


def decoder_named(name: str) -> Callable[[Source], Decoder]:
    """The function that opens a source. Raises UserError for an unknown name or a class that cannot be imported."""
    if known_decoder(name) in DECODERS:
        return DECODERS[name]
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise UserError(f"decoder '{name}' cannot be imported: {error}") from error


# --- PyAV -------------------------------------------------------------------------------------------------------------


class _Packet(NamedTuple):
    """A packet whose frame is shown, with presentation time `pts` in the stream's time base."""

    pts: int
    key: bool


class Pyav:
    """PyAV: seeks to the key frame before a wanted frame and decodes until a frame has the wanted time.

    If the container has no times, frames are counted from the start. A damaged packet makes its frame and those after
    it, up to the next key frame, errors. Rotated videos are turned upright. If the size of the picture changes, all
    frames are scaled to the size of the first.

    `plain` is true for MP4 with one stream of 8-bit H.264, in closed groups of pictures whose frames are all shown.
    Where H.264 in MP4 brings parameters within its packets, as clips in a row do, decoding starts at the first frame.
    """

    def __init__(self, source: Source) -> None:
        self._path = str(source.path)
        self._open()
        self.rate = float(self._video.average_rate or RATE)
        self._declared = self._video.codec_context.width, self._video.codec_context.height
        self.timed = self._container.format.name.startswith(TIMED)
        self._in_mp4 = self._container.format.name.startswith("mov") and self._video.codec_context.name == "h264"
        self.plain = self._in_mp4 and _eight_bits(self._video) and len(self._container.streams.video) == 1
        packets = self._scan()
        if packets and self._video.codec_context.format is None:
            raise ValueError("no picture can be decoded")
        self._order = sorted(packets) if self.timed else packets  # in presentation order
        self._places = {packet.pts: place for place, packet in enumerate(packets)}  # in the file's order
        self._numbers = {packet.pts: number for number, packet in enumerate(self._order)}
        keys = (number for number, packet in enumerate(self._order) if packet.key)
        self._keys = list(keys) if self.timed and not self._changing else []
        self._group, self._next = -1, 0  # key frame of the group that is being decoded, and number of the next frame
        self._last: Any = None  # the frame decoded last
        self._error: Exception | None = None  # of the last damaged packet since the seek
        self._damaged: list[int] = []  # places of damaged packets since the seek

    def __len__(self) -> int:
        return len(self._order)

    def times(self) -> np.ndarray:
        import numpy as np

        if not self.timed:
            return np.arange(len(self)) / self.rate
        seconds_L = self.presented()
        return seconds_L - seconds_L[0]  # type: ignore[no-any-return]

    def presented(self) -> np.ndarray:
        """Presentation times of all frames in seconds, [L]."""
        import numpy as np

        return np.array([packet.pts for packet in self._order]) * float(self._video.time_base)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        import numpy as np

        _ = self._size  # decodes the first frame before the others, so that decoding goes on from there
        return np.stack([self._pixels(self._frame(int(index))) for index in indices])

    def _scan(self) -> list[_Packet]:
        """Packets of shown frames in the file's order; also sets `timed`, `plain` and `_changing`.

        Raises ValueError if the end is missing.
        """
        packets: list[_Packet] = []
        key: int | None = None
        self._changing = False
        count, start, end = 0, 0, 0
        declared_seconds = declared_duration(self._video) if self.timed else 0
        for packet in self._container.demux(self._video):
            if packet.size == 0:
                continue
            count += 1
            if packet.pts is not None:
                start, end = min(start, packet.pts), max(end, packet.pts + (packet.duration or 0))
            self._changing = self._changing or (self._in_mp4 and _holds_parameters(packet))
            if packet.is_discard or _never_shown(self._video, packet):
                continue
            if packet.pts is None:
                self.timed = False
            pts = 0 if packet.pts is None else packet.pts
            key = pts if packet.is_keyframe else key
            self.plain &= key is not None and pts >= key  # else an open group: a frame shown before its key frame
            packets.append(_Packet(pts, packet.is_keyframe))
        if count + TAIL < self._video.frames and (stored := self._stored()) + TAIL < self._video.frames:
            raise ValueError(f"cut file: {stored} frames, but its header declares {self._video.frames}")
        seconds = float((end - start) * self._video.time_base)  # Matroska counts from zero, also if frames begin later
        if packets and seconds < 0.95 * declared_seconds - 0.5:  # containers round durations
            raise ValueError(f"cut file: {seconds:.1f} seconds, but its header declares {declared_seconds:.1f}")
        self.timed &= len({packet.pts for packet in packets}) == len(packets)
        self.plain &= self.timed and len(packets) == count and not self._changing
        return packets

    def _stored(self) -> int:
        """Number of packets with those that an edit list hides, which the header counts as well."""
        import av

        with av.open(self._path, options={"ignore_editlist": "1"}, metadata_errors="ignore") as container:
            return sum(packet.size > 0 for packet in container.demux(container.streams.best("video")))

    def _frame(self, index: int) -> Any:
        """The frame with this number. If decoding from the last key frame fails, it starts from an earlier one."""
        keys = self._keys_before(index)
        if self._group == keys[-1] and self._next <= index and (frame := self._decoded_to(index)):
            return frame
        self._group = keys[-1]
        for start in (keys[-1], keys[-2:][0], None):
            self._enter(start)
            if frame := self._decoded_to(index):
                return frame
        if self._error is None and self._last is not None and len(self) - TAIL <= index:
            return self._last
        raise ValueError(f"frame {index} of {len(self)} is missing" + (f": {self._error}" if self._error else ""))

    def alone(self, indices: np.ndarray) -> bool:
        """True if these frames lie in one group of pictures that can be decoded by itself."""
        keys = self._keys_before(int(indices[-1]))
        return keys[-1] <= indices[0] and (keys[-1] == 0 or self.can_start_before(keys[-1]))

    def _keys_before(self, index: int) -> list[int]:
        return [0, *self._keys[: bisect_right(self._keys, index)]]

    def can_start_before(self, index: int) -> bool:
        """True if the last key frame up to this frame can be decoded by itself, unlike those of intra refresh."""
        self._group = key = self._keys_before(index)[-1]
        self._enter(key)
        return self._decoded_to(key) is not None

    def _enter(self, start: int | None) -> None:
        """Start decoding at key frame number `start`, or reopen the file and start at its beginning."""
        if not start or not self.timed or start < self._next:
            self._open()  # a decoder that has gone further keeps what it met on the way
        if start and self.timed:
            self._container.seek(self._order[start].pts, stream=self._video)
        self._decoded = self._decode()
        self._next, self._last, self._error, self._damaged = start or 0, None, None, []
        self._entry = start if start is not None and self.timed else inf

    def _decode(self) -> Iterator[Any]:
        """Frames from here on. Frames that are counted end at a damaged packet, since the count would be wrong."""
        from av import FFmpegError

        place = 0
        for packet in self._container.demux(self._video):
            place = self._places.get(packet.pts, place)
            try:
                yield from packet.decode()
            except FFmpegError as error:
                self._error = error
                self._damaged.append(place)
                if not self.timed:
                    return

    def _is_whole(self, index: int) -> bool:
        """True if no packet from the frame's key frame on to its own, in the file's order, is damaged."""
        if not self._damaged:
            return True
        first, last = (self._places[self._order[number].pts] for number in (self._keys_before(index)[-1], index))
        return not any(first <= place <= last for place in self._damaged)

    def _decoded_to(self, index: int) -> Any:
        """The frame with this number, None if the decoder skips it or its key frame, as in periodic intra refresh."""
        for frame in self._decoded:
            number = self._numbers.get(frame.pts) if self.timed else self._next
            if number is not None:
                if number > self._entry:
                    return None
                self._entry = inf if number == self._entry else self._entry
                self._next, self._last = number + 1, frame
                if number >= index:
                    return frame if number == index and self._is_whole(index) else None
        return None

    @cached_property
    def first(self) -> Any:
        """The first frame as FFmpeg gives it."""
        return self._frame(0)

    @cached_property
    def _size(self) -> tuple[int, int]:
        """Width and height of the first frame as it is stored, or as declared if it cannot be decoded."""
        try:
            return self.first.width, self.first.height
        except ValueError:
            return self._declared

    def _pixels(self, frame: Any) -> np.ndarray:
        """RGB [H,W,3], rotated by the display matrix in steps of 90 degrees."""
        import numpy as np

        width, height = self._size
        pixels_HW3 = self._converter.reformat(frame, width, height, format="rgb24").to_ndarray()
        return np.rot90(pixels_HW3, round(frame.rotation / 90) % 4)

    @cached_property
    def _converter(self) -> Any:
        """One converter for all frames: building its tables takes longer than converting a picture."""
        from av.video.reformatter import VideoReformatter

        return VideoReformatter()

    def _open(self) -> None:
        import av

        self._container: Any = av.open(self._path, metadata_errors="ignore")
        self._video: Any = self._container.streams.best("video")
        if self._video is None:
            raise ValueError("no video stream")
        if self._video.codec_context is None:
            raise ValueError("no decoder for its codec")
        self._video.codec_context.thread_count = 1


def _eight_bits(video: Any) -> bool:
    context = video.codec_context
    return context.format is not None and all(component.bits <= 8 for component in context.format.components)


def _holds_parameters(packet: Any) -> bool:
    """True if a packet of H.264 in MP4 has parameter sets, NAL units 7 and 8 (ISO/IEC 14496-15, 5.3.2)."""
    data, at = memoryview(packet), 0
    while at + 4 < len(data):
        if data[at + 4] & 0x1F in (7, 8):
            return True
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return False


def declared_duration(video: Any) -> float:
    """Seconds of a video stream by its header, 0 if unknown. In Matroska it is a tag such as 00:00:02.400000000."""
    if video.duration:
        return float(video.duration * video.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):([\d.]+)", video.metadata.get("DURATION", ""))
    return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else 0.0


def _never_shown(video: Any, packet: Any) -> bool:
    """True if a packet is an alternative reference frame of VP8: the fifth bit marks shown frames (RFC 6386, 9.1)."""
    return video.codec_context.codec.canonical_name == "vp8" and not memoryview(packet)[0] & 0x10


# --- decord -----------------------------------------------------------------------------------------------------------


class _Decord:
    """decord, for clips in one group of pictures of plain files in which it gives frames PyAV's times.

    PyAV reads all else. In other codecs than H.264, decord shows other frames behind a damaged packet, without an
    error; and it restarts its threads at every jump to another key frame, which takes longer than PyAV takes to decode
    a few frames.
    """

    def __init__(self, source: Source) -> None:
        self._path, self._exact = source.path, Pyav(source)
        self.rate, self.times = self._exact.rate, self._exact.times

    def __len__(self) -> int:
        return len(self._exact)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        if self._exact.plain and self._exact.alone(indices) and self._reader:
            try:
                return self._reader.get_batch(indices).asnumpy()  # type: ignore[no-any-return]
            except Exception:  # whatever it refuses: the exact reader decides whether these frames can be shown
                pass
        return self._exact.frames(indices)

    @cached_property
    def _reader(self) -> Any:
        """decord's reader; None if it refuses the file, or gives frames other times or the first one other pixels.

        It converts interlaced pictures and some colours otherwise, and leaves out the cropping of the header.
        """
        import numpy as np
        from decord import VideoReader

        try:
            reader = VideoReader(str(self._path), num_threads=1)
            begin_L, presented_L = reader.get_frame_timestamp(range(len(reader)))[:, 0], self._exact.presented()
            alike = len(begin_L) == len(presented_L) and np.abs(begin_L - presented_L).max() < TOLERANCE
            alike &= np.array_equal(reader.get_batch([0]).asnumpy(), self._exact.frames(np.array([0])))
            return reader if alike and not self._exact.first.interlaced_frame else None
        except Exception:
            return None


# --- torchcodec -------------------------------------------------------------------------------------------------------


class _Torchcodec:
    """torchcodec in its exact mode, for frames that it gives the time and size that PyAV gives them; else PyAV reads.

    Needs torchcodec and FFmpeg's libraries.
    """

    def __init__(self, source: Source) -> None:
        try:
            VideoDecoder = import_module("torchcodec.decoders").VideoDecoder
        except (ImportError, RuntimeError) as error:  # it loads FFmpeg at import
            raise UserError(
                f"decoder 'torchcodec' cannot be loaded: {str(error).strip().splitlines()[0]}",
                hint="install torchcodec and FFmpeg's shared libraries, or use another decoder",
            ) from error
        self._open = lambda: VideoDecoder(str(source.path), dimension_order="NHWC", num_ffmpeg_threads=1)
        self._exact = Pyav(source)
        self.rate, self.times = self._exact.rate, self._exact.times

    def __len__(self) -> int:
        return len(self._exact)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        import numpy as np

        try:
            batch = self._reader.get_frames_at(indices.tolist())
            late_N = np.abs(batch.pts_seconds.numpy() - self._exact.presented()[indices])
            alike = self._exact.timed and late_N.max() < TOLERANCE and batch.data.shape[1:3] == self._shape
            if alike and all(map(self._exact.can_start_before, indices.tolist())):
                return batch.data.numpy()  # type: ignore[no-any-return]
        except Exception:  # whatever it refuses: the exact reader decides whether these frames can be shown
            pass
        return self._exact.frames(indices)

    @cached_property
    def _reader(self) -> Any:
        return self._open()

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        import numpy as np

        return self._exact.frames(np.array([0])).shape[1:3]


# --- folders of extracted frames --------------------------------------------------------------------------------------


class FrameFolder:
    """A folder of frame files. A missing file between the others is an error and is not replaced by another frame.

    Pictures of another size are scaled to the size of the first.
    """

    rate = RATE

    def __init__(self, source: Source) -> None:
        self._source = source
        numbers = frame_numbers(source)
        self._length = len(numbers)
        if (gap := next((number for number, after in pairwise(numbers) if after > number + 1), None)) is not None:
            raise ValueError(f"a gap: there is no {source.frames.format(gap + 1)}")

    def __len__(self) -> int:
        return self._length

    def frames(self, indices: np.ndarray) -> np.ndarray:
        import numpy as np
        from PIL import Image

        def picture(index: int) -> Image.Image:
            return Image.open(self._source.path / self._source.frames.format(index + self._source.first))

        def pixels(index: int) -> np.ndarray:
            with picture(index) as opened:
                return np.asarray(opened.convert("RGB").resize(size))

        with picture(0) as first:
            size = first.size
        return np.stack([pixels(int(index)) for index in indices])

    def times(self) -> np.ndarray:
        raise ValueError("a folder of frames has no times, so no part of it can be read by seconds")


DECODERS: dict[str, Callable[[Source], Decoder]] = {"decord": _Decord, "pyav": Pyav, "torchcodec": _Torchcodec}
