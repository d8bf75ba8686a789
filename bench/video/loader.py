"""Batches of decoded views: of test videos, of fixed copies of training videos, and of an epoch of training.

What a video looks like follows from its index and named seeds alone, so any number of workers gives the same bits.
Decoding happens in watched workers (`pool`): a video that hangs or crashes its decoder is one that cannot be decoded.

Legend: b videos, V views (crops x clips, crop outermost), T frames, S side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import StageError
from bench.core.seeds import seed_for
from bench.video.frame_cache import FrameCache, KeptVideo, frame_cache
from bench.video.pool import Decoding, Done, Lost, Pool
from bench.video.reader import Video, open_video
from bench.video.sampling import test_indices, train_indices
from bench.video.source import Sample, Samples, VideoError
from bench.video.transforms import augmented, crop_views, resized
from bench.video.views import TestViews, TrainViews

TRIES = 20  # training videos tried for one place; that many failures in a row are no accident


class ViewBatch(NamedTuple):
    """Views to measure; a video that cannot be decoded is all zeros and named with the reason."""

    indices: list[int]
    pixels_bVT3SS: Tensor  # uint8
    failures: list[tuple[int, str]]


class TrainBatch(NamedTuple):
    """Clips to learn from; `indices` are the videos delivered, `resampled` those that others stand in for."""

    indices: list[int]
    pixels_bT3SS: Tensor  # uint8
    labels_b: Tensor
    resampled: list[int]


def test_loader(
    videos: Samples, views: TestViews, decoding: Decoding, batch: int, indices: Sequence[int] | None = None
) -> Iterator[ViewBatch]:
    """Batches of the test views of all videos, or of the videos `indices`, in order. Failing videos are tried twice."""
    return _view_batches(videos, _TestDraw(views), decoding, batch, indices)


test_loader.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it where it is imported


def copies_loader(
    videos: Samples, views: TrainViews, decoding: Decoding, batch: int, indices: Sequence[int] | None = None
) -> Iterator[ViewBatch]:
    """As `test_loader`, of all fixed copies of training videos; they are the same for every trial seed."""
    return _view_batches(videos, _CopiesDraw(views), decoding, batch, indices)


def train_loader(
    videos: Samples,
    views: TrainViews,
    seed: int,
    epoch: int,
    order: Sequence[int],
    batch: int,
    decoding: Decoding,
) -> Iterator[TrainBatch]:
    """Batches of the training videos `order`, the rest of an epoch, whose views depend on seed, epoch and index alone.

    With fixed copies, epoch e shows copy e mod N. A failing video is tried twice and then replaced by another; one that
    had its decoder killed is replaced at once. Raises StageError if hardly any video can be decoded.
    """

    def instead(job: _Job, result: Read) -> _Job | None:
        if isinstance(result, np.ndarray):
            return None
        if job.attempt + 1 == TRIES:
            reason = f"{job.sample.source.path}: {result.reason}"
            raise StageError(f"{TRIES} training videos in a row cannot be decoded, the last is {reason}")
        other = seed_for("replacement", seed, epoch, job.asked, job.attempt) % len(videos)
        return replace(_job(videos, other), asked=job.asked, attempt=job.attempt + 1)

    for part in _read(videos, _TrainDraw(views, seed, epoch), decoding, batch, order, instead):
        jobs = [job for job, _ in part]
        yield TrainBatch(
            [job.index for job in jobs],
            torch.from_numpy(np.stack([read for _, read in part if isinstance(read, np.ndarray)])),
            torch.tensor([job.sample.label for job in jobs]),
            [job.asked for job in jobs if job.asked != job.index],
        )


# --- what is drawn from a video ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _TestDraw:
    views: TestViews

    def __call__(self, video: Video | KeptVideo, index: int) -> Tensor:
        indices_KT = test_indices(self.views, len(video), video.rate, seed_for("views", index))
        frames_T3HW = resized(video.frames(indices_KT.ravel()), self.views.resize)
        views_CM3SS = crop_views(frames_T3HW, self.views)  # C crops, M frames of all clips
        return views_CM3SS.reshape(-1, *indices_KT.shape[1:], *views_CM3SS.shape[2:])


@dataclass(frozen=True)
class _CopiesDraw:
    views: TrainViews

    def __call__(self, video: Video | KeptVideo, index: int) -> Tensor:
        return _drawn(video, self.views, [seed_for("copy", copy, index) for copy in range(self.views.copies)])


@dataclass(frozen=True)
class _TrainDraw:
    views: TrainViews
    seed: int
    epoch: int

    def __call__(self, video: Video | KeptVideo, index: int) -> Tensor:
        copies = self.views.copies
        fixed, fresh = ("copy", self.epoch % max(1, copies), index), ("sample", self.seed, self.epoch, index)
        return _drawn(video, self.views, [seed_for(*(fixed if copies else fresh))])[0]


def _drawn(video: Video | KeptVideo, views: TrainViews, seeds: list[int]) -> Tensor:
    """One training view per seed, [V,T,3,S,S]; the video is decoded once for all of them."""
    generators = [np.random.default_rng(seed) for seed in seeds]
    indices_VT = np.stack([train_indices(views, len(video), rng, video.rate) for rng in generators])
    clips_VT3HW = resized(video.frames(indices_VT.ravel()), views.resize).unflatten(0, indices_VT.shape)
    return torch.stack([augmented(clip, views, rng) for clip, rng in zip(clips_VT3HW, generators, strict=True)])


# --- how videos become batches ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One video to read. `asked` is the index for which it stands in, after so many attempts with others."""

    sample: Sample
    index: int
    asked: int
    attempt: int = 0


class _Failure(NamedTuple):
    reason: str


Read = np.ndarray | _Failure | Lost


@dataclass(frozen=True)
class _Reader:
    """Reads one video in a worker. A first failure may be the file system's, so there is a second try."""

    draw: _TestDraw | _CopiesDraw | _TrainDraw
    cache: FrameCache | None

    def __call__(self, job: _Job) -> Read:
        for _ in range(2):
            try:
                return np.ascontiguousarray(self.draw(self._video(job), job.index))
            except VideoError as error:
                reason = error.reason
        return _Failure(reason)

    def _video(self, job: _Job) -> Video | KeptVideo:
        opened = partial(open_video, job.sample.source, self.draw.views.decoder)
        return opened() if self.cache is None else self.cache.video(job.sample.name, opened)


def _job(videos: Samples, index: int) -> _Job:
    return _Job(videos[index], index, index)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _read(
    videos: Samples,
    draw: _TestDraw | _CopiesDraw | _TrainDraw,
    decoding: Decoding,
    batch: int,
    order: Iterable[int],
    instead: Callable[[_Job, Read], _Job | None] = lambda job, read: None,
) -> Iterator[list[Done[_Job, Read]]]:
    """What was read, in batches; one batch is read while the consumer works on another."""
    done = Pool(decoding.workers, decoding.seconds, decoding.note).run(
        _Reader(draw, frame_cache(draw.views, decoding)),
        (_job(videos, index) for index in order),
        ahead=batch,
        name=attrgetter("sample.name"),
        instead=instead,
        prepare=_one_thread,
    )
    with closing(done):
        while part := list(islice(done, batch)):
            yield part


def _view_batches(
    videos: Samples,
    draw: _TestDraw | _CopiesDraw,
    decoding: Decoding,
    batch: int,
    indices: Iterable[int] | None,
) -> Iterator[ViewBatch]:
    count = draw.views.count if isinstance(draw.views, TestViews) else draw.views.copies
    shape = count, draw.views.frames, 3, draw.views.size, draw.views.size
    for part in _read(videos, draw, decoding, batch, range(len(videos)) if indices is None else indices):
        pixels_bVT3SS = np.zeros((len(part), *shape), np.uint8)  # by numpy, whose huge pages are ready much sooner
        failures: list[tuple[int, str]] = []
        for place, (job, read) in enumerate(part):
            if isinstance(read, np.ndarray):
                pixels_bVT3SS[place] = read
            else:
                failures.append((job.index, read.reason))
        yield ViewBatch([job.index for job, _ in part], torch.from_numpy(pixels_bVT3SS), failures)
