"""A bounded cache of decoded frames, resized and not yet cropped or augmented, so that a video is decoded once.

An entry holds frames of one video in a shard, a file of raw pixels that one process writes and all map into memory. The
line that names an entry in the shard's index is written after its pixels are on disk, so a killed process leaves no
false entry. The folder's name is a hash of the videos' content, the decoder, the resize and the code and libraries that
make the pixels: whatever changes, old frames are not found. Nothing is ever removed: delete the folder to free the
space.
"""

from __future__ import annotations

import json
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

from bench.core.files import cache_dir
from bench.core.identity import digest, source_fingerprint
from bench.video.reader import Video
from bench.video.source import VideoError
from bench.video.views import TestViews, TrainViews

if TYPE_CHECKING:
    from bench.video.pool import Decoding

LONGEST = 1000  # frames of a video that is kept whole; all are decoded at once, within the limit of one video
CHUNK = 32  # frames decoded and resized together
PACKAGES = ("av", "decord", "pillow", "torch", "torchcodec", "torchvision")

ASPECT = 4 / 3  # for the estimate: width by height
LENGTH = 300  # for the estimate: frames of a video


def estimate(views: TestViews | TrainViews, videos: int) -> int:
    """Bytes that the frames of so many videos take, assuming 4:3 pictures and, where videos are kept whole, 300 frames.

    No more than the views show is kept, except for training views that are drawn afresh in every epoch.
    """
    height, width = (views.resize, views.resize * ASPECT) if isinstance(views.resize, int) else views.resize
    clips = views.clips if isinstance(views, TestViews) else views.copies
    return videos * (views.frames * clips or LENGTH) * round(height * width) * 3


def frame_cache(views: TestViews | TrainViews, decoding: Decoding) -> FrameCache | None:
    """The cache of the frames of some list's videos, None if it is off or the list has no known content."""
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


class _Entry(NamedTuple):
    """Frames `numbers` of a video of `length` frames, all of them if None, in bytes `offset`... of a shard."""

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
        """Where in the entry the wanted frames lie, None if it lacks one."""
        if self.numbers is None:
            return indices
        places = np.searchsorted(self.numbers, indices).clip(max=len(self.numbers) - 1)
        return places if (np.asarray(self.numbers)[places] == indices).all() else None


@dataclass
class FrameCache:
    """Frames by the name of their video. `limit` bounds the bytes of the folder above, which all caches share.

    `whole` keeps all frames of a video that is read, else those that are asked for. Sent to a worker it is a fresh one,
    with a shard of its own.
    """

    folder: Path
    limit: int
    resize: int | tuple[int, int]
    whole: bool = False
    full: bool = field(default=False, init=False)

    def video(self, name: str, opened: Callable[[], Video]) -> KeptVideo:
        """Like the open video, with resized frames; the file is opened only for frames that are not kept."""
        return KeptVideo(self, name, opened)

    @cached_property
    def entries(self) -> dict[str, list[_Entry]]:
        """What earlier processes have kept; lines that are torn and pixels that are missing are passed over."""
        found: dict[str, list[_Entry]] = {}
        for index in sorted(self.folder.glob("*.jsonl")):
            shard = index.with_suffix(".frames")
            size = shard.stat().st_size if shard.is_file() else 0
            for name, entry in _lines(index, shard):
                if entry.offset + entry.bytes <= size:
                    found.setdefault(name, []).append(entry)
        return found

    def pixels(self, entry: _Entry) -> np.ndarray:
        """The frames of an entry [N,3,h,w], mapped and not read; writing to them changes the copy in memory."""
        mapped = self._maps.get(entry.shard)
        if mapped is None or len(mapped) < entry.offset + entry.bytes:
            mapped = self._maps[entry.shard] = np.memmap(entry.shard, np.uint8, "c")
        return np.asarray(mapped[entry.offset : entry.offset + entry.bytes]).reshape(entry.shape)

    def keep(self, name: str, numbers: list[int] | None, video: Video, chunks: Iterable[np.ndarray]) -> _Entry | None:
        """Write frames, given in chunks [n,3,h,w]; None if there is no room. Raises VideoError if `chunks` does."""
        if self.full:
            return None
        chunks = iter(chunks)
        first = next(chunks)
        entry = _Entry(self._shard, 0, numbers, len(video), video.rate, *first.shape[2:])
        try:
            with self._room(entry.bytes) as offset:
                if offset is None:
                    self.full = True
                    return None
                entry = entry._replace(offset=offset)
                self._write(offset, first, chunks)
            line = json.dumps({"name": name, **entry._asdict(), "shard": None})
            _append(self._shard.with_suffix(".jsonl"), f"{line}\n".encode())
        except OSError:  # a full disk, or a file system without locks
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
    def _room(self, size: int) -> Iterator[int | None]:
        """Where in this process's shard to write so many bytes, None if the limit forbids it; given back on failure."""
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


class KeptVideo:
    """A video whose frames come from the cache, and go into it where it lacks them."""

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
        return self._frames(indices).transpose(0, 2, 3, 1)  # kept channels first, as crops are wanted

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

    def _kept_whole(self) -> _Entry | None:
        """All frames kept; None if they are too many, or if some frame that nobody may ask for cannot be decoded."""
        if len(self) > LONGEST:
            return None
        parts = np.split(np.arange(len(self)), range(CHUNK, len(self), CHUNK))
        try:
            return self._cache.keep(self._name, None, self._video, map(self._resized, parts))
        except VideoError:
            return None

    def _resized(self, numbers: np.ndarray) -> np.ndarray:
        from bench.video.transforms import resized  # here, so that plans do without torch

        return resized(self._video.frames(numbers), self._cache.resize).contiguous().numpy()


def _picked(frames: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Frames at these places, without a copy where they follow each other."""
    follow = (np.diff(places) == 1).all()
    picked: np.ndarray = frames[places[0] : places[-1] + 1] if follow else frames[places]
    return picked


def _lines(index: Path, shard: Path) -> Iterator[tuple[str, _Entry]]:
    for line in index.read_bytes().splitlines():
        try:
            fields = json.loads(line)
            yield fields.pop("name"), _Entry(**{**fields, "shard": shard})
        except (ValueError, TypeError, KeyError, AttributeError):  # torn by the end of its writer
            continue


def _append(file: Path, line: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process at a time, on one machine or on all that share the file system."""
    import fcntl

    with open(file, "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
