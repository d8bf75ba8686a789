"""Batches of decoded views: of test videos, of fixed copies of training videos, and of an epoch of training.

What a video looks like follows from its index and named seeds alone, so any number of workers gives the same bits.
Workers never inherit an open reader: they come from a fork server that has opened none.

Legend: b videos, V views (crops x clips, crop outermost), T frames, S side.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from bench.data.datasets import Dataset
from bench.data.sampling import test_indices, train_indices
from bench.data.transforms import test_views, train_view
from bench.data.video import Video, VideoError
from bench.data.views import TestViews, TrainViews
from bench.errors import StageError
from bench.seeds import seed_for

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
    dataset: Dataset, split: str, views: TestViews, workers: int, batch: int, indices: Sequence[int] | None = None
) -> Iterable[ViewBatch]:
    """Batches of a split's test views, or of the videos `indices`, in order. Failing videos are tried twice."""
    return _view_loader(_ViewVideos(dataset, split, _TestDraw(views)), indices, batch, workers)


test_loader.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it where it is imported


def copies_loader(
    dataset: Dataset, split: str, views: TrainViews, workers: int, batch: int, indices: Sequence[int] | None = None
) -> Iterable[ViewBatch]:
    """As `test_loader`, of all fixed copies of training videos; they are the same for every trial seed."""
    return _view_loader(_ViewVideos(dataset, split, _CopiesDraw(views)), indices, batch, workers)


def train_loader(
    dataset: Dataset,
    split: str,
    views: TrainViews,
    seed: int,
    epoch: int,
    order: Sequence[int],
    batch: int,
    workers: int,
) -> Iterable[TrainBatch]:
    """Batches of the training videos `order`, the rest of an epoch, whose views depend on seed, epoch and index alone.

    With fixed copies, epoch e shows copy e mod N. A failing video is tried twice and then replaced by another of the
    split. Raises StageError if hardly any video can be decoded.
    """
    return _loader(_TrainVideos(dataset, split, _TrainDraw(views, seed, epoch)), order, batch, workers, _train_batch)


# --- what is drawn from a video ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _TestDraw:
    views: TestViews

    @property
    def shape(self) -> tuple[int, ...]:
        return self.views.count, self.views.frames, 3, self.views.size, self.views.size

    def __call__(self, video: Video, index: int) -> Tensor:
        indices_KT = test_indices(self.views, len(video))
        crops = test_views(video.frames(indices_KT.ravel()), self.views)
        return crops.reshape(self.shape)


@dataclass(frozen=True)
class _CopiesDraw:
    views: TrainViews

    @property
    def shape(self) -> tuple[int, ...]:
        return self.views.copies, self.views.frames, 3, self.views.size, self.views.size

    def __call__(self, video: Video, index: int) -> Tensor:
        return _drawn(video, self.views, [seed_for("copy", copy, index) for copy in range(self.views.copies)])


@dataclass(frozen=True)
class _TrainDraw:
    views: TrainViews
    seed: int
    epoch: int

    def __call__(self, video: Video, index: int) -> Tensor:
        copies = self.views.copies
        fixed, fresh = ("copy", self.epoch % max(1, copies), index), ("sample", self.seed, self.epoch, index)
        return _drawn(video, self.views, [seed_for(*(fixed if copies else fresh))])[0]


def _drawn(video: Video, views: TrainViews, seeds: list[int]) -> Tensor:
    """One training view per seed, [V,T,3,S,S]; the video is decoded once for all of them."""
    generators = [np.random.default_rng(seed) for seed in seeds]
    indices_VT = np.stack([train_indices(views, len(video), rng) for rng in generators])
    frames = video.frames(indices_VT.ravel())
    clips = frames.reshape(*indices_VT.shape, *frames.shape[1:])
    return torch.stack([train_view(clip, views, rng) for clip, rng in zip(clips, generators, strict=True)])


# --- how videos become batches ----------------------------------------------------------------------------------------


class _ViewVideos(torch_data.Dataset[tuple[int, Tensor, str | None]]):
    """Views by index: (index, pixels, None or why it failed)."""

    def __init__(self, dataset: Dataset, split: str, draw: _TestDraw | _CopiesDraw) -> None:
        self.dataset, self.entries, self.draw = dataset, dataset.entries(split), draw

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[int, Tensor, str | None]:
        try:
            return index, _read(self.dataset.path(self.entries[index].path), self.draw, index), None
        except VideoError as error:
            return index, torch.zeros(self.draw.shape, dtype=torch.uint8), error.reason


class _TrainVideos(torch_data.Dataset[tuple[int, Tensor, int, int]]):
    """Training views by index: (index delivered, pixels, label, index asked for)."""

    def __init__(self, dataset: Dataset, split: str, draw: _TrainDraw) -> None:
        self.dataset, self.entries, self.draw = dataset, dataset.entries(split), draw

    def __getitem__(self, index: int) -> tuple[int, Tensor, int, int]:
        chosen = index
        for attempt in range(TRIES):
            path, label = self.entries[chosen]
            try:
                return chosen, _read(self.dataset.path(path), self.draw, chosen), label, index
            except VideoError as error:
                reason = str(error)
            chosen = seed_for("replacement", self.draw.seed, self.draw.epoch, index, attempt) % len(self.entries)
        raise StageError(f"{TRIES} training videos in a row cannot be decoded, the last is {reason}")


def _read(path: Path, draw: Callable[[Video, int], Tensor], index: int) -> Tensor:
    """The views of a video. A first failure may be the file system's, so there is a second try."""
    try:
        return draw(Video(path), index)
    except VideoError:
        return draw(Video(path), index)


def _view_batch(items: list[tuple[int, Tensor, str | None]]) -> ViewBatch:
    indices, pixels, reasons = zip(*items, strict=True)
    failures = [(index, reason) for index, reason in zip(indices, reasons, strict=True) if reason is not None]
    return ViewBatch(list(indices), torch.stack(pixels), failures)


def _train_batch(items: list[tuple[int, Tensor, int, int]]) -> TrainBatch:
    indices, pixels, labels, asked = zip(*items, strict=True)
    resampled = [wanted for index, wanted in zip(indices, asked, strict=True) if index != wanted]
    return TrainBatch(list(indices), torch.stack(pixels), torch.tensor(labels), resampled)


def _view_loader(videos: _ViewVideos, indices: Sequence[int] | None, batch: int, workers: int) -> Iterable[ViewBatch]:
    return _loader(videos, range(len(videos)) if indices is None else indices, batch, workers, _view_batch)


def _loader(
    videos: torch_data.Dataset[Any], order: Sequence[int], batch: int, workers: int, collate: Callable[[list[Any]], Any]
) -> torch_data.DataLoader[Any]:
    context = None
    if workers:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # torch is imported once, not by every worker of every epoch
    return torch_data.DataLoader(
        videos,
        batch_size=batch,
        sampler=order,
        num_workers=workers,
        collate_fn=collate,
        multiprocessing_context=context,
        generator=torch.Generator(),
    )  # its own: a pass draws from torch's otherwise
