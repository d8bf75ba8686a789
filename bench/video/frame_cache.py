"""Bounded cache of decoded and resized frames, before crops and augmentation, so that a video is decoded once.

An entry is a set of frames of one video in a shard, a file of raw pixels that one process writes and all processes map
into memory. An entry's line in the index of its shard is written after its pixels are on disk, so a killed process
leaves no invalid entry. The folder's name is a hash of the videos' content, the decoder, the resize, and the code and
libraries that produce the pixels; after any change of these, old frames are not found. Entries are never removed:
delete the folder to free the space.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.core.files import append_json, appended_json, cache_dir
from bench.core.identity import digest, source_fingerprint
from bench.video.reader import Video
from bench.video.source import VideoError
from bench.video.views import TestViews, TrainViews

if TYPE_CHECKING:
    from bench.video.pool import Decoding

LONGEST = 1000  # largest number of frames of a video that is kept whole, as the time limit of one video covers them all
CHUNK = 32  # frames decoded and resized together
PACKAGES = ("av", "decord", "pillow", "torch", "torchcodec", "torchvision")

SIDE = 256  # assumed short side of frames that are not resized
ASPECT = 4 / 3  # assumed width / height for the estimate
LENGTH = 300  # assumed frames of a video for the estimate


def estimate(views: TestViews | TrainViews, videos: int) -> int:
    """Bytes of the cached frames of this many videos, assuming 4:3 pictures and 300 frames in videos kept whole.

    Only frames in the views are kept, except for training views that are drawn anew in every epoch.
    """
    resize = views.resize or SIDE
    height, width = (resize, resize * ASPECT) if isinstance(resize, int) else resize
    clips = views.clips if isinstance(views, TestViews) else views.copies
    return videos * (views.frames * clips or LENGTH) * round(height * width) * 3


def frame_cache(views: TestViews | TrainViews, decoding: Decoding) -> FrameCache | None:
    """The frame cache of a list's videos, None if it is off or the list's content is unknown."""
    if not decoding.cache_bytes or not decoding.content:
        return None
    module = views.decoder.partition(":")[0] if ":" in views.decoder else "bench.video.decoders"
    made_by = source_fingerprint("bench.video.transforms", "bench.video.reader", module)
    key = digest([decoding.content, views.decoder, views.resize, made_by, [_version(name) for name in PACKAGES]])
    fresh = isinstance(views, TrainViews) and views.copies == 0
    return FrameCache(cache_dir() / "frames" / key, decoding.cache_bytes, views.resize, fresh)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class _CachedFrames(NamedTuple):
    """Frames `numbers` (None: all) of a video with `length` frames, stored at the byte `offset` of a shard."""

    shard: Path
    offset: int
    numbers: list[int] | None
    length: int
    rate: float
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.length if self.numbers is None else len(self.numbers), 3, self.height, self.width

    @property
    def bytes(self) -> int:
        return prod(self.shape)

    def places(self, indices: np.ndarray) -> np.ndarray | None:
        """Positions of the wanted frames in the entry, None if one is missing."""
        if self.numbers is None:
            return indices
        places = np.searchsorted(self.numbers, indices).clip(max=len(self.numbers) - 1)
        return places if (np.asarray(self.numbers)[places] == indices).all() else None


@dataclass
class FrameCache:
    """Frames by the name of their video. `limit` bounds the bytes of the parent folder, which all caches share.

    With `whole`, all frames of a video are kept when it is read, else only the requested ones. A copy that is pickled
    for a worker has its own shard.
    """

    folder: Path
    limit: int
    resize: int | tuple[int, int] | None
    whole: bool = False
    full: bool = field(default=False, init=False)

    def video(self, name: str, opened: Callable[[], Video]) -> CachedVideo:
        """The video with resized frames; `opened` opens its file if frames are not in the cache."""
        return CachedVideo(self, name, opened)

    @cached_property
    def entries(self) -> dict[str, list[_CachedFrames]]:
        """Entries of earlier processes; entries with missing pixels are skipped."""
        found: dict[str, list[_CachedFrames]] = {}
        for index in sorted(self.folder.glob("*.jsonl")):
            shard = index.with_suffix(".frames")
            size = shard.stat().st_size if shard.is_file() else 0
            for line in (line for line in appended_json(index) if line.keys() == {"name", "entry"}):
                entry = _CachedFrames(**{**line["entry"], "shard": shard})
                if entry.offset + entry.bytes <= size:
                    found.setdefault(line["name"], []).append(entry)
        return found

    def pixels(self, entry: _CachedFrames) -> np.ndarray:
        """Frames [N,3,h,w] of an entry, memory-mapped copy-on-write."""
        mapped = self._maps.get(entry.shard)
        if mapped is None or len(mapped) < entry.offset + entry.bytes:
            mapped = self._maps[entry.shard] = np.memmap(entry.shard, np.uint8, "c")
        return np.asarray(mapped[entry.offset : entry.offset + entry.bytes]).reshape(entry.shape)

    def keep(
        self, name: str, numbers: list[int] | None, video: Video, chunks: Iterable[np.ndarray]
    ) -> _CachedFrames | None:
        """Write frames, given in chunks [n,3,h,w]; None if there is no space. Raises VideoError if `chunks` does."""
        if self.full:
            return None
        chunks = iter(chunks)
        first = next(chunks)
        entry = _CachedFrames(self._shard, 0, numbers, len(video), video.rate, *first.shape[2:])
        try:
            with self._allocated(entry.bytes) as offset:
                if offset is None:
                    self.full = True
                    return None
                entry = entry._replace(offset=offset)
                self._write(offset, first, chunks)
            append_json(self._shard.with_suffix(".jsonl"), {"name": name, "entry": {**entry._asdict(), "shard": None}})
        except OSError:  # the disk is full, or the file system has no locks
            self.full = True
            return None
        self.entries.setdefault(name, []).append(entry)
        return entry

    @cached_property
    def _maps(self) -> dict[Path, np.ndarray]:
        return {}

    @cached_property
    def _shard(self) -> Path:
        return self.folder / f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.frames"

    def _write(self, offset: int, first: np.ndarray, rest: Iterator[np.ndarray]) -> None:
        with open(self._shard, "r+b") as file:
            file.seek(offset)
            file.write(first.data)
            for chunk in rest:
                file.write(chunk.data)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _allocated(self, size: int) -> Iterator[int | None]:
        """Offset of allocated bytes in this process's shard, None beyond the limit; released on an exception."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder.parent / "lock"):
            used = sum(shard.stat().st_size for shard in self.folder.parent.glob("*/*.frames"))
            offset = self._shard.stat().st_size if self._shard.is_file() else 0
            if used + size > self.limit:
                offset = -1
            else:
                with open(self._shard, "ab") as file:
                    file.truncate(offset + size)
        try:
            yield None if offset < 0 else offset
        except BaseException:
            os.truncate(self._shard, offset)
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("folder", "limit", "resize", "whole", "full")}


class CachedVideo:
    """A video whose frames come from the cache; frames that are not there are decoded and added."""

    def __init__(self, cache: FrameCache, name: str, opened: Callable[[], Video]) -> None:
        self._cache, self._name, self._opened = cache, name, opened
        self._entries = cache.entries.get(name, [])

    @cached_property
    def _video(self) -> Video:
        return self._opened()

    def __len__(self) -> int:
        return self._entries[0].length if self._entries else len(self._video)

    @property
    def rate(self) -> float:
        return self._entries[0].rate if self._entries else self._video.rate

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """Resized frames [N,h,w,3] uint8; raises VideoError as the video does."""
        return self._frames(indices).transpose(0, 2, 3, 1)  # stored with channels first, as crops need them

    def _frames(self, indices: np.ndarray) -> np.ndarray:
        for entry in self._entries:
            if (places := entry.places(indices)) is not None:
                return _picked(self._cache.pixels(entry), places)
        if self._cache.whole and (whole := self._kept_whole()):
            return _picked(self._cache.pixels(whole), indices)
        numbers, places = np.unique(indices, return_inverse=True)
        frames = self._resized(numbers)
        if not self._cache.whole:
            self._cache.keep(self._name, numbers.tolist(), self._video, [frames])
        return _picked(frames, places)

    def _kept_whole(self) -> _CachedFrames | None:
        """Add all frames; None if they are too many, or if a frame (perhaps one never used) cannot be decoded."""
        if len(self) > LONGEST:
            return None
        parts = np.split(np.arange(len(self)), range(CHUNK, len(self), CHUNK))
        try:
            return self._cache.keep(self._name, None, self._video, map(self._resized, parts))
        except VideoError:
            return None

    def _resized(self, numbers: np.ndarray) -> np.ndarray:
        from bench.video.transforms import resized  # not at import, because planning does not import torch

        return resized(self._video.frames(numbers), self._cache.resize).contiguous().numpy()


def _picked(frames: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Frames at these positions, without a copy if they are consecutive."""
    consecutive = (np.diff(places) == 1).all()
    picked: np.ndarray = frames[places[0] : places[-1] + 1] if consecutive else frames[places]
    return picked


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Exclusive lock on a file, for processes on one machine or on all that share the file system."""
    import fcntl

    with open(file, "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
