"""Batches of decoded views: of test videos, of fixed copies of training videos, and of a training epoch.

The views of a video depend only on its index and named seeds, so any number of workers returns the same bits. Videos
are decoded in a supervised worker pool: one that hangs or crashes its decoder counts as a video that cannot be decoded.

Legend: b videos, V views (crops x clips, crop outermost), T frames, S side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import StageError
from bench.core.seeds import seed_for
from bench.video.frame_cache import CachedVideo, FrameCache, frame_cache
from bench.video.pool import Decoding, Finished, Pool, WorkerLost
from bench.video.reader import Video
from bench.video.sampling import test_indices, train_indices
from bench.video.source import Sample, Samples, VideoError
from bench.video.transforms import augmented, crop_views, resized
from bench.video.views import TestViews, TrainViews

TRIES = 20  # training videos tried for one place in a batch


class ViewBatch(NamedTuple):
    """Views to measure. A video that cannot be decoded is all zeros; `failures` holds its index and the reason."""

    indices: list[int]
    pixels_bVT3SS: Tensor  # uint8
    failures: list[tuple[int, str]]


class TrainBatch(NamedTuple):
    """Clips to train on; `indices` are the videos in the batch, `resampled` those that were replaced by others."""

    indices: list[int]
    pixels_bT3SS: Tensor  # uint8
    labels_b: Tensor
    resampled: list[int]


def test_loader(
    videos: Samples, views: TestViews, decoding: Decoding, batch: int, indices: Sequence[int] | None = None
) -> Iterator[ViewBatch]:
    """Batches of the test views of all videos or of the videos `indices`, in order. Failing videos are tried twice."""
    return _view_batches(videos, partial(_test_views, views), views, decoding, batch, indices)


test_loader.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it where it is imported


def copies_loader(
    videos: Samples, views: TrainViews, decoding: Decoding, batch: int, indices: Sequence[int] | None = None
) -> Iterator[ViewBatch]:
    """Batches of all fixed copies of training videos, as by `test_loader`; the same for every trial seed."""
    return _view_batches(videos, partial(_copies, views), views, decoding, batch, indices)


def train_loader(
    videos: Samples, views: TrainViews, seed: int, epoch: int, order: Sequence[int], batch: int, decoding: Decoding
) -> Iterator[TrainBatch]:
    """Batches of the training videos `order` of one epoch; views depend only on seed, epoch and index.

    With fixed copies, epoch e uses copy e mod N. A failing video is tried twice and then replaced by another; a video
    whose worker was lost is replaced at once. Raises StageError if hardly any video can be decoded.
    """

    def replacement(task: _ReadTask, result: ReadResult) -> _ReadTask | None:
        if isinstance(result, np.ndarray):
            return None
        if task.attempt + 1 == TRIES:
            reason = f"{task.sample.source.path}: {result.reason}"
            raise StageError(f"{TRIES} training videos in a row cannot be decoded, the last is {reason}")
        other = seed_for("replacement", seed, epoch, task.asked, task.attempt) % len(videos)
        return _ReadTask(videos[other], other, task.asked, task.attempt + 1)

    for part in _read(videos, partial(_train_view, views, seed, epoch), views, decoding, batch, order, replacement):
        tasks = [task for task, _ in part]
        yield TrainBatch(
            [task.index for task in tasks],
            torch.from_numpy(np.stack([clip_T3SS for _, clip_T3SS in part if isinstance(clip_T3SS, np.ndarray)])),
            torch.tensor([task.sample.label for task in tasks]),
            [task.asked for task in tasks if task.asked != task.index],
        )


# --- views drawn from a video -----------------------------------------------------------------------------------------

Draw = Callable[[Video | CachedVideo, int], Tensor]  # (video, its index) -> pixels of its views


def _test_views(views: TestViews, video: Video | CachedVideo, index: int) -> Tensor:
    indices_KT = test_indices(views, len(video), video.rate, seed_for("views", index))
    frames_T3HW = resized(video.frames(indices_KT.ravel()), views.resize)
    views_CM3SS = crop_views(frames_T3HW, views)  # C crops, M frames of all clips
    return views_CM3SS.reshape(-1, *indices_KT.shape[1:], *views_CM3SS.shape[2:])


def _copies(views: TrainViews, video: Video | CachedVideo, index: int) -> Tensor:
    return _drawn(video, views, [seed_for("copy", copy, index) for copy in range(views.copies)])


def _train_view(views: TrainViews, seed: int, epoch: int, video: Video | CachedVideo, index: int) -> Tensor:
    fixed, new = ("copy", epoch % max(1, views.copies), index), ("sample", seed, epoch, index)
    return _drawn(video, views, [seed_for(*(fixed if views.copies else new))])[0]


def _drawn(video: Video | CachedVideo, views: TrainViews, seeds: list[int]) -> Tensor:
    """One training view per seed, [V,T,3,S,S]; the video is decoded once for all of them."""
    generators = [np.random.default_rng(seed) for seed in seeds]
    indices_VT = np.stack([train_indices(views, len(video), rng, video.rate) for rng in generators])
    clips_VT3HW = resized(video.frames(indices_VT.ravel()), views.resize).unflatten(0, indices_VT.shape)
    return torch.stack([augmented(clip, views, rng) for clip, rng in zip(clips_VT3HW, generators, strict=True)])


# --- reading in workers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ReadTask:
    """One video to read. `asked` is the index of the video that it replaces, else its own."""

    sample: Sample
    index: int
    asked: int
    attempt: int = 0


ReadResult = np.ndarray | VideoError | WorkerLost


@dataclass(frozen=True)
class _Reader:
    """Reads one video in a worker. It tries twice, because the first failure may come from the file system."""

    draw: Draw
    decoder: str
    cache: FrameCache | None

    def __call__(self, task: _ReadTask) -> ReadResult:
        for _ in range(2):
            try:
                return np.ascontiguousarray(self.draw(self._video(task), task.index))
            except VideoError as error:
                failure = error
        return failure

    def _video(self, task: _ReadTask) -> Video | CachedVideo:
        opened = partial(Video, task.sample.source, self.decoder)
        return opened() if self.cache is None else self.cache.video(task.sample.name, opened)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _read(
    videos: Samples,
    draw: Draw,
    views: TestViews | TrainViews,
    decoding: Decoding,
    batch: int,
    order: Iterable[int],
    replacement: Callable[[_ReadTask, ReadResult], _ReadTask | None] = lambda task, result: None,
) -> Iterator[list[Finished[_ReadTask, ReadResult]]]:
    """Results in batches; a batch is read while the consumer works on the one before."""
    finished = Pool(decoding.workers, decoding.seconds, decoding.note).run(
        _Reader(draw, views.decoder, frame_cache(views, decoding)),
        (_ReadTask(videos[index], index, index) for index in order),
        ahead=batch,
        name=attrgetter("sample.name"),
        replacement=replacement,
        prepare=_one_thread,
    )
    with closing(finished):
        while part := list(islice(finished, batch)):
            yield part


def _view_batches(
    videos: Samples,
    draw: Draw,
    views: TestViews | TrainViews,
    decoding: Decoding,
    batch: int,
    indices: Iterable[int] | None,
) -> Iterator[ViewBatch]:
    shape = views.count, views.frames, 3, views.size, views.size
    for part in _read(videos, draw, views, decoding, batch, range(len(videos)) if indices is None else indices):
        pixels_bVT3SS = np.zeros((len(part), *shape), np.uint8)  # numpy allocates huge pages, much faster than torch
        failures: list[tuple[int, str]] = []
        for place, (task, result) in enumerate(part):
            if isinstance(result, np.ndarray):
                pixels_bVT3SS[place] = result
            else:
                failures.append((task.index, result.reason))
        yield ViewBatch([task.index for task, _ in part], torch.from_numpy(pixels_bVT3SS), failures)
