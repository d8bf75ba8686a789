"""Open videos: frames by index, and `VideoError` for everything that can go wrong.

Decoders read a truncated AVI or Matroska file as a shorter video, so its size is compared with the size that its header
declares (RIFF and EBML, RFC 8794). Truncated MP4 files are detected by their number of frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import SEEK_END
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.errors import UserError
from bench.video.decoders import FrameFolder, decoder_named
from bench.video.source import Source, VideoError

if TYPE_CHECKING:
    import numpy as np


class Video:
    """A video, opened in the process that reads it; readers do not survive a fork. `rate` is in frames per second.

    Raises VideoError if it is missing, empty, truncated, damaged or without frames; UserError for an unknown decoder.
    """

    def __init__(self, source: Source, decoder: str = "decord") -> None:
        self.path = Path(source.path)
        opener = FrameFolder if source.frames else decoder_named(decoder)
        if not source.frames:
            _require_whole(self.path)
        with self._video_errors():
            self._decoder = opener(source)
            self.rate = float(self._decoder.rate)
            self._first, self._stop = self._range(source.span)
        if len(self) == 0:
            raise VideoError(self.path, "no frames" if source.span is None else f"no frames in {_seconds(source.span)}")

    def __len__(self) -> int:
        """Number of frames."""
        return self._stop - self._first

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """RGB frames [N,H,W,3] uint8 in the order of `indices`, which may repeat. Raises VideoError."""
        import numpy as np

        unique, places = np.unique(indices, return_inverse=True)
        if unique[0] < 0 or unique[-1] >= len(self):
            raise VideoError(self.path, f"no frame {unique[-1]} among {len(self)}")
        with self._video_errors():
            frames = self._decoder.frames(unique + self._first)
            return frames if len(unique) == len(indices) and (places[1:] > places[:-1]).all() else frames[places]

    def _range(self, span: tuple[float, float] | None) -> tuple[int, int]:
        """(first frame, end) of the frames whose time lies in [start, end)."""
        import numpy as np

        if span is None:
            return 0, len(self._decoder)
        first, stop = np.searchsorted(self._decoder.times(), span)
        return int(first), int(stop)

    @contextmanager
    def _video_errors(self) -> Iterator[None]:
        """Raise the decoder's exceptions as VideoError, except for a UserError about the decoder itself."""
        try:
            yield
        except (VideoError, UserError):
            raise
        except Exception as error:
            raise VideoError(self.path, _reason(error)) from error


def _require_whole(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            declared, size = _declared_bytes(file.read(128)), file.seek(0, SEEK_END)
    except OSError as error:
        raise VideoError(path, error.strerror or type(error).__name__) from error
    if size == 0:
        raise VideoError(path, "empty file")
    if size < declared:
        raise VideoError(path, f"cut file: {size} bytes, but its header declares {declared}")


def _declared_bytes(head: bytes) -> int:
    """Size of an AVI or Matroska file by its header; 0 for other files and for unknown sizes of live recordings."""
    if head[:4] == b"RIFF" and head[4:8] != b"\xff" * 4:
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] == b"\x1aE\xdf\xa3":
        segment = sum(_ebml_size(head, 4))
        if head[segment : segment + 4] == b"\x18S\x80g":
            return sum(_ebml_size(head, segment + 4))
    return 0


def _ebml_size(head: bytes, at: int) -> tuple[int, int]:
    """(offset of an element's data, their size or 0 if unknown) from its variable-length size field."""
    width = 9 - int.from_bytes(head[at : at + 1], "big").bit_length()
    unknown = (1 << 7 * width) - 1
    size = int.from_bytes(head[at : at + width], "big") & unknown
    return at + width, 0 if size == unknown else size


def _seconds(span: tuple[float, float]) -> str:
    return f"seconds {span[0]:g} to {span[1]:g}"


def _reason(error: Exception) -> str:
    """First line of a decoder's message, without times, source positions and stack trace."""
    text = getattr(error, "strerror", None) or str(error)  # strerror lacks the error number and the path
    line = (text.strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"\[[\d:]+\] \S+:\d+: |^.*\.cpp:\d+, ", "", line)[:200]
