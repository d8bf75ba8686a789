"""Reading videos: one open file, frames by index, and one kind of error for everything that can go wrong.

Cut AVI and Matroska files, which decoders take for shorter videos, are known by the size that their header declares
(RIFF and EBML, RFC 8794); cut MP4 files by their number of frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import SEEK_END, PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from bench.core.errors import UserError
from bench.video.decoders import DECODERS, Pictures, decoder_named, known_decoder

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DECODERS", "Source", "Video", "VideoError", "inside", "known_decoder", "open_video", "refuse_escape"]


class VideoError(Exception):
    """A video that cannot be decoded: `path` and a one-line `reason`."""

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Source(NamedTuple):
    """What an entry of a list names: a video file, a part of one, or a folder of extracted frames."""

    path: Path
    span: tuple[float, float] | None = None  # seconds from the first frame; frames outside do not exist for the reader
    frames: str = ""  # name of the frame files such as "img_{:05d}.jpg", where `path` is a folder
    first: int = 1  # number of the first frame file


def open_video(source: Source, decoder: str = "decord") -> Video:
    """The open video, in the process that reads it: readers do not survive a fork.

    Raises VideoError if it is missing, empty, cut, damaged or holds no frames; UserError for an unknown decoder.
    """
    return Video(source, decoder)


class Video:
    """An open video; see `open_video`. `rate` is its frames per second."""

    def __init__(self, source: Source, decoder: str) -> None:
        self.path = Path(source.path)
        opener = Pictures if source.frames else decoder_named(decoder)
        if not source.frames:
            _require_whole(self.path)
        with self._blaming():
            self._decoder = opener(source)
            self.rate = float(self._decoder.rate)
            self._first, self._stop = self._range(source.span)
        if len(self) == 0:
            raise VideoError(self.path, "no frames" if source.span is None else f"no frames in {_seconds(source.span)}")

    def __len__(self) -> int:
        """Number of frames."""
        return self._stop - self._first

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """RGB frames [N,H,W,3] uint8 in the order asked for; indices may repeat. Raises VideoError."""
        import numpy as np

        unique, places = np.unique(indices, return_inverse=True)
        if unique[0] < 0 or unique[-1] >= len(self):
            raise VideoError(self.path, f"no frame {unique[-1]} among {len(self)}")
        with self._blaming():
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
    def _blaming(self) -> Iterator[None]:
        """What a decoder raises is the video's failure, except that the decoder itself cannot be used."""
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
        raise VideoError(path, f"cut file: {size} bytes where its header declares {declared}")


def _declared_bytes(head: bytes) -> int:
    """Size of an AVI or Matroska file by its header; 0 for other files and where a live writer left it open."""
    if head[:4] == b"RIFF" and head[4:8] != b"\xff" * 4:
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] == b"\x1aE\xdf\xa3":
        segment = sum(_ebml_size(head, 4))
        if head[segment : segment + 4] == b"\x18S\x80g":
            return sum(_ebml_size(head, segment + 4))
    return 0


def _ebml_size(head: bytes, at: int) -> tuple[int, int]:
    """(where an element's data start, their size, 0 if unknown) from its variable-length size field."""
    width = 9 - int.from_bytes(head[at : at + 1], "big").bit_length()
    unknown = (1 << 7 * width) - 1
    size = int.from_bytes(head[at : at + width], "big") & unknown
    return at + width, 0 if size == unknown else size


def _seconds(span: tuple[float, float]) -> str:
    return f"seconds {span[0]:g} to {span[1]:g}"


def _reason(error: Exception) -> str:
    """One line of a decoder's message, which is a page with times, places in its source and a stack trace."""
    text = getattr(error, "strerror", None) or str(error)  # without the number and the path, which is said already
    line = (text.strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"\[[\d:]+\] \S+:\d+: |^.*\.cpp:\d+, ", "", line)[:200]


def refuse_escape(relative: str, where: str) -> None:
    """Raises UserError, naming `where`, for a listed path that is absolute or climbs with `..`; touches no disk."""
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"path '{relative}' leads out of the dataset's root",
            where=where,
            hint="paths are relative to the root and stay inside it",
        )


def inside(root: Path, relative: str, where: str = "") -> Path:
    """The file `relative` under `root`, which may itself be a symbolic link.

    Raises UserError, naming `where` (list file and line), for a path that leaves the root, also through a link in it.
    """
    refuse_escape(relative, where)
    if not (root / relative).resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"path '{relative}' leads out of the dataset's root through a symbolic link",
            where=where,
            hint="make the root the link, or copy the videos",
        )
    return root / relative
