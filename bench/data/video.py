"""Reading videos with decord: one open file, frames by index, and one kind of error for everything that can go wrong.

Cut AVI and Matroska files, which decoders take for shorter videos, are known by the size that their header declares
(RIFF and EBML, RFC 8794). decord itself refuses cut MP4 files.
"""

from __future__ import annotations

import re
from os import SEEK_END, PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bench.errors import UserError

if TYPE_CHECKING:
    import numpy as np


class VideoError(Exception):
    """A video that cannot be decoded: `path` and a one-line `reason`."""

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Video:
    """An open video. Open it in the process that reads it: decord's readers do not survive a fork.

    Raises VideoError if the file is missing, empty, cut, damaged or holds no frames.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        from decord import DECORDError, VideoReader  # here, so that lists can be read without a decoder

        self.path = Path(path)
        _require_whole(self.path)
        try:
            self._reader = VideoReader(str(path), num_threads=1)
        except (DECORDError, RuntimeError) as error:
            raise VideoError(path, _reason(error)) from error
        if len(self) == 0:
            raise VideoError(path, "no frames")

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._reader)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """RGB frames [N,H,W,3] uint8 in the order asked for; indices may repeat. Raises VideoError."""
        import numpy as np
        from decord import DECORDError

        unique, places = np.unique(indices, return_inverse=True)
        try:
            return self._decoded(unique)[places]
        except (DECORDError, RuntimeError, IndexError) as error:
            raise VideoError(self.path, _reason(error)) from error

    def _decoded(self, indices: np.ndarray) -> np.ndarray:
        """Frames at increasing indices.

        decord cannot batch widths below 96 whose rows FFmpeg pads to a whole number of pixels (2 to 16, 24, 48, 72): it
        takes the padding for more channels. Read one by one they come with it, and it can be cut off exactly.
        """
        import numpy as np
        from decord import DECORDError

        try:
            return self._reader.get_batch(indices).asnumpy()  # type: ignore[no-any-return]
        except DECORDError as error:
            if "size must exactly match" not in str(error):
                raise
        padded = np.stack([self._reader[int(index)].asnumpy() for index in indices])
        count, height, width, _ = padded.shape
        return padded.reshape(count, height, -1)[:, :, : 3 * width].reshape(count, height, width, 3)


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


def _reason(error: Exception) -> str:
    """One line of a decoder's message, which is a page with times, places in its source and a stack trace."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", line)[:200]


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
