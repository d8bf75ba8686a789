"""Decoders: each opens one video and returns its frames by number.

decord numbers frames by counting packets from the key frame to which it seeks. For videos with open groups of pictures,
edit lists or packets without presentation times it returns wrong frames without an error (docs/robust_reading.md). PyAV
finds frames by their presentation time. Therefore the packets are scanned first, which takes 2 ms, and PyAV reads the
videos that decord would read wrongly.

A user's own decoder is a class with the interface of `Decoder`, given as `module:Class`.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bench.core.errors import UserError, unknown

if TYPE_CHECKING:
    import numpy as np

    from bench.video.source import Source

TIMED = ("mov", "matroska", "flv")  # containers with a presentation time in every packet; FFmpeg invents those of AVI
RATE = 30.0  # frames per second of files without a declared rate and of folders of extracted frames
TAIL = 2  # final frames that a container may count but no decoder returns; the last decoded frame replaces them


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

    If the container has no times, frames are counted from the start. Rotated videos are turned upright. `plain` is true
    if decord finds the same frames.
    """

    def __init__(self, source: Source) -> None:
        self._path = str(source.path)
        self._open()
        self.rate = float(self._video.average_rate or RATE)
        self._timed = self._container.format.name.startswith(TIMED)
        self.plain = self._timed and _eight_bits(self._video) and _codec(self._video) != "av1"  # decord lacks AV1
        packets = self._scan()
        self._order = sorted(packets) if self._timed else packets  # in presentation order
        self._numbers = {packet.pts: number for number, packet in enumerate(self._order)}
        self._keys = [number for number, packet in enumerate(self._order) if packet.key and self._timed]
        self._next: int | None = None  # number of the frame that is decoded next, None before the first seek
        self._last: Any = None  # the frame decoded last

    def __len__(self) -> int:
        return len(self._order)

    def jumps(self, indices: np.ndarray) -> bool:
        """True if there is a key frame between the first and the last of these frames."""
        return bisect_right(self._keys, indices[0]) < bisect_right(self._keys, indices[-1])

    def times(self) -> np.ndarray:
        import numpy as np

        if not self._timed:
            return np.arange(len(self)) / self.rate
        pts_L = np.array([packet.pts for packet in self._order])
        return (pts_L - pts_L[0]) * float(self._video.time_base)  # type: ignore[no-any-return]

    def frames(self, indices: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.stack([self._pixels(self._frame(int(index))) for index in indices])

    def _scan(self) -> list[_Packet]:
        """Packets of shown frames in the file's order; also sets `plain` and `_timed`."""
        packets: list[_Packet] = []
        key, hidden = None, 0
        for packet in self._container.demux(self._video):
            if packet.size == 0:
                continue
            if packet.is_discard or _never_shown(self._video, packet):
                hidden += 1
                continue
            if packet.pts is None:
                self._timed = False
            pts = 0 if packet.pts is None else packet.pts
            key = pts if packet.is_keyframe else key
            self.plain &= key is not None and pts >= key  # else an open group: a frame shown before its key frame
            packets.append(_Packet(pts, packet.is_keyframe))
        if len(packets) + hidden + TAIL < self._video.frames:
            raise ValueError(f"cut file: {len(packets)} frames, but its header declares {self._video.frames}")
        self._timed &= len({packet.pts for packet in packets}) == len(packets)
        self.plain &= self._timed and not hidden
        return packets

    def _frame(self, index: int) -> Any:
        """The frame with this number. If decoding from the last key frame fails, it starts from an earlier one."""
        keys = [0, *self._keys[: bisect_right(self._keys, index)]]
        if self._next is not None and keys[-1] <= self._next <= index and (frame := self._decoded_to(index)):
            return frame
        for start in (keys[-1], keys[-2:][0], None):
            self._enter(start)
            if frame := self._decoded_to(index):
                return frame
        if self._last is not None and len(self) - TAIL <= index:
            return self._last
        raise ValueError(f"frame {index} of {len(self)} is missing")

    def _enter(self, start: int | None) -> None:
        """Start decoding at key frame number `start`, or reopen the file and start at its beginning."""
        if start is None or not self._timed:
            self._open()
        else:
            self._container.seek(self._order[start].pts, stream=self._video)
        self._decoded: Iterator[Any] = self._container.decode(self._video)
        self._next, self._last = start or 0, None

    def _decoded_to(self, index: int) -> Any:
        """The frame with this number, None if the decoder skips it."""
        for frame in self._decoded:
            number = self._numbers.get(frame.pts) if self._timed else self._next
            if number is not None:
                self._next, self._last = number + 1, frame
                if number >= index:
                    return frame if number == index else None
        return None

    def _pixels(self, frame: Any) -> np.ndarray:
        """RGB [H,W,3], rotated by the display matrix in steps of 90 degrees."""
        import numpy as np

        pixels_HW3 = self._converter.reformat(frame, format="rgb24").to_ndarray()
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
        self._video.codec_context.thread_count = 1


def _codec(video: Any) -> str:
    return str(video.codec_context.codec.canonical_name)


def _eight_bits(video: Any) -> bool:
    """True if pixels have 8 bits. decord converts deeper ones with differences of up to 28 levels to today's FFmpeg."""
    if video.codec_context.format is None:
        raise ValueError("no picture can be decoded")
    return all(component.bits <= 8 for component in video.codec_context.format.components)


def _never_shown(video: Any, packet: Any) -> bool:
    """True if a packet is an alternative reference frame of VP8: the fifth bit marks shown frames (RFC 6386, 9.1)."""
    return _codec(video) == "vp8" and not memoryview(packet)[0] & 0x10


# --- decord -----------------------------------------------------------------------------------------------------------


class _Decord:
    """decord with one `get_batch` per clip, for files in which it finds the same frames as PyAV.

    decord restarts its threads at every seek to another key frame, which takes longer than PyAV takes to decode a few
    frames. Both return the same bits, so decord reads only clips inside one group of pictures.
    """

    def __init__(self, source: Source, exact: Pyav) -> None:
        self._path, self._exact = source.path, exact
        self.rate, self.times = exact.rate, exact.times

    def __len__(self) -> int:
        return len(self._exact)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        from decord import DECORDError

        if self._exact.jumps(indices):
            return self._exact.frames(indices)
        try:
            return self._reader.get_batch(indices).asnumpy()  # type: ignore[no-any-return]
        except DECORDError as error:
            # It cannot batch frames rotated by 90 degrees, nor rows that FFmpeg pads (width 48 or 72).
            if "size must exactly match" not in str(error):
                raise
            return self._exact.frames(indices)

    @cached_property
    def _reader(self) -> Any:
        from decord import VideoReader

        return VideoReader(str(self._path), num_threads=1)


def _decord(source: Source) -> Decoder:
    exact = Pyav(source)
    return _Decord(source, exact) if exact.plain else exact


# --- torchcodec -------------------------------------------------------------------------------------------------------


class _Torchcodec:
    """torchcodec in its exact mode; needs torchcodec and FFmpeg's libraries."""

    def __init__(self, source: Source) -> None:
        try:
            VideoDecoder = import_module("torchcodec.decoders").VideoDecoder
        except (ImportError, RuntimeError) as error:  # it loads FFmpeg at import
            raise UserError(
                f"decoder 'torchcodec' cannot be loaded: {str(error).strip().splitlines()[0]}",
                hint="install torchcodec and FFmpeg's shared libraries, or use another decoder",
            ) from error
        self._source = source
        self._reader: Any = VideoDecoder(str(source.path), dimension_order="NHWC", num_ffmpeg_threads=1)
        self.rate = float(self._reader.metadata.average_fps or RATE)

    def __len__(self) -> int:
        return len(self._reader)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return self._reader.get_frames_at(indices.tolist()).data.numpy()  # type: ignore[no-any-return]

    def times(self) -> np.ndarray:
        return Pyav(self._source).times()


# --- folders of extracted frames --------------------------------------------------------------------------------------


class FrameFolder:
    """A folder of frame files. A missing file between the others is an error and is not replaced by another frame."""

    rate = RATE

    def __init__(self, source: Source) -> None:
        self._source = source
        before, _, rest = source.frames.partition("{")
        name = re.compile(re.escape(before) + r"\d+" + re.escape(rest.partition("}")[2]))
        self._length = sum(bool(name.fullmatch(file)) for file in os.listdir(source.path))

    def __len__(self) -> int:
        return self._length

    def frames(self, indices: np.ndarray) -> np.ndarray:
        import numpy as np
        from PIL import Image

        def picture(index: int) -> np.ndarray:
            with Image.open(self._source.path / self._source.frames.format(index + self._source.first)) as opened:
                return np.asarray(opened.convert("RGB"))

        return np.stack([picture(int(index)) for index in indices])

    def times(self) -> np.ndarray:
        raise ValueError("a folder of frames has no times, so no part of it can be read by seconds")


DECODERS: dict[str, Callable[[Source], Decoder]] = {"decord": _decord, "pyav": Pyav, "torchcodec": _Torchcodec}
