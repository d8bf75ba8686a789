"""Sources of videos, and the error that names a video."""

from __future__ import annotations

import os
import re
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


def frame_numbers(source: Source) -> list[int]:
    """Sorted numbers of a folder's frame files. Raises ValueError if they contradict `frames` or `first`.

    Also if one is no regular file, or a link to one: reading it might never end.
    """
    before, _, rest = source.frames.partition("{")
    pattern = re.compile(re.escape(before) + r" *(\d+)" + re.escape(rest.partition("}")[2]))
    with os.scandir(source.path) as entries:
        matches = [(entry, match) for entry in entries if (match := pattern.fullmatch(entry.name))]
    found = {entry.name: int(match[1]) for entry, match in matches}
    if not found:
        raise ValueError(f"no frames: no file is named like {source.frames}")
    for file, number in sorted(found.items()):
        if file != source.frames.format(number):
            raise ValueError(f"{file} is not named like {source.frames}: that would be {source.frames.format(number)}")
    if other := min((entry.name for entry, _ in matches if not entry.is_file()), default=""):
        raise ValueError(f"{other} is not a regular file")
    lowest, first = min(found.values()), source.first
    if lowest < first:
        raise ValueError(f"begins at {lowest}; say first: {lowest}, not {first}")
    if lowest > first:
        raise ValueError(f"begins at {lowest}; say first: {lowest}, or add {source.frames.format(first)}")
    return sorted(found.values())


class Sample(NamedTuple):
    """A video of a list: its name there, its source, and its class id."""

    name: str
    source: Source
    label: int


class Samples(Protocol):
    """Videos by their index in a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...
