"""Sources of videos, and the error that names a video."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import NamedTuple, Protocol


class VideoError(Exception):
    """A video that cannot be decoded: `path` and a one-line `reason`."""

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Source(NamedTuple):
    """A video file, a part of one, or a folder of extracted frames."""

    path: Path
    span: tuple[float, float] | None = None  # seconds from the first frame; the reader hides frames outside
    frames: str = ""  # name of the frame files such as "img_{:05d}.jpg", if `path` is a folder
    first: int = 1  # number of the first frame file


class Sample(NamedTuple):
    """A video of a list: its name there, its source, and its class id."""

    name: str
    source: Source
    label: int


class Samples(Protocol):
    """Videos by their index in a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...
