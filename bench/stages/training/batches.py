"""A rank's shares of the batches of an epoch: features that were encoded once, or clips that are decoded anew.

Order, views and stand-ins follow from seeds named by trial, epoch and video, so they are alike for any number of ranks.

Legend: N videos, V fixed copies of each, T frames, D joint CLIP width, b videos of a rank's share of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.core.errors import StageError
from bench.core.seeds import seed_for
from bench.data.videos import opened
from bench.stages.trained import video_features
from bench.suite.recipe import Execution, Training
from bench.video.loader import train_loader
from bench.video.transforms import normalise, statistics
from methods.contract import Encoded, Model

if TYPE_CHECKING:
    from bench.stages.work import Work


@dataclass(frozen=True)
class Division:
    """Division of batches among ranks: into `shards` parts by position, of which each rank has some in turn.

    Parts differ in size by one video at most; those of a short last batch may be empty.
    """

    execution: Execution
    rank: int = 0

    @property
    def shards(self) -> range:
        """This rank's parts."""
        own = self.execution.accumulate
        return range(self.rank * own, (self.rank + 1) * own)

    def sizes(self, videos: int) -> list[int]:
        """Sizes of this rank's parts of a batch."""
        return [len(range(shard, videos, self.execution.shards)) for shard in self.shards]

    def share(self, batch: Sequence[int]) -> Sequence[int]:
        """This rank's videos of a batch."""
        before = sum(len(range(shard, len(batch), self.execution.shards)) for shard in range(self.shards.start))
        return batch[before : before + sum(self.sizes(len(batch)))]


class Batch(NamedTuple):
    """A rank's share of a batch; `videos` counts those of all ranks, `replaced` its own undecodable ones."""

    frames_b: Tensor
    labels_b: Tensor
    replaced: int
    videos: int


Share = tuple[Tensor, Tensor, int]  # frames, labels, replaced


class TrainingData(ABC):
    """The source videos of a training, in batches."""

    def __init__(self, training: Training, division: Division) -> None:
        self.training = training
        self.division = division

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def prepared(self, model: Model, frames_b: Tensor) -> Tensor:
        """What videos of a batch are blended as, and `encoded` from: normalised pixels, or stored features."""

    @abstractmethod
    def encoded(self, model: Model, frames_b: Tensor) -> Encoded:
        """What `model.encode` makes of a prepared batch."""

    @abstractmethod
    def _read(self, shares: list[Sequence[int]], seed: int, epoch: int) -> Iterator[Share]:
        """Frames and labels of a rank's shares of the batches of an epoch, none of them empty."""

    def batches(self, epoch: int, start: int, seed: int) -> Iterator[Batch]:
        """This rank's shares of the batches of an epoch, from batch `start` on."""
        order: list[int] = np.random.default_rng(seed_for("order", seed, epoch)).permutation(len(self)).tolist()
        size = self.training.batch
        end = self.training.worked_on(len(order))
        batches = [order[first : first + size] for first in range(start * size, end, size)]
        shares = [self.division.share(batch) for batch in batches]
        read = self._read([share for share in shares if share], seed, epoch)
        nothing = torch.empty(0), torch.empty(0, dtype=torch.long), 0
        for batch, share in zip(batches, shares, strict=True):
            yield Batch(*(next(read) if share else nothing), len(batch))


class Features(TrainingData):
    """Fixed copies of every video, encoded once by the frozen tower."""

    def __init__(self, work: Work, training: Training, division: Division) -> None:
        super().__init__(training, division)
        self.features_NVTD = video_features(work)
        table = pd.read_parquet(work.inputs["features"] / "videos.parquet")
        self.labels_N = torch.tensor(table["label"].to_numpy())
        self.decoded = np.flatnonzero(table["failure"].isna())
        if not len(self.decoded):
            raise StageError("no video of the training list can be decoded")
        self.length = work.spec["length"] or len(self.features_NVTD)

    def __len__(self) -> int:
        return int(self.length)

    def prepared(self, model: Model, frames_b: Tensor) -> Tensor:
        return frames_b

    def encoded(self, model: Model, frames_b: Tensor) -> Encoded:
        return frames_b

    def _read(self, shares: list[Sequence[int]], seed: int, epoch: int) -> Iterator[Share]:
        """An undecodable video is replaced by another, alike every time.

        In a list that is repeated, each repeat of a video shows another of its copies.
        """
        videos, copies = self.features_NVTD.shape[:2]
        good = set(self.decoded.tolist())
        for share in shares:
            repeats, indices = zip(*(divmod(place, videos) for place in share), strict=True)
            shown = [(epoch + repeat) % copies for repeat in repeats]
            used = [index if index in good else self._replacement(seed, epoch, index) for index in indices]
            yield self.features_NVTD[used, shown], self.labels_N[used], sum(map(int.__ne__, indices, used))

    def _replacement(self, seed: int, epoch: int, index: int) -> int:
        return int(self.decoded[seed_for("replacement", seed, epoch, index) % len(self.decoded)])


class Clips(TrainingData):
    """Clips decoded and encoded in every step, for towers that are tuned or views that are drawn afresh."""

    def __init__(self, work: Work, training: Training, division: Division) -> None:
        super().__init__(training, division)
        self.videos, self.decoding = opened(work.context), work.decoding

    def __len__(self) -> int:
        return len(self.videos)

    def prepared(self, model: Model, frames_b: Tensor) -> Tensor:
        return normalise(frames_b, *statistics(self.training.views, model.clip.spec.mean, model.clip.spec.std))

    def encoded(self, model: Model, frames_b: Tensor) -> Encoded:
        return model.encode(frames_b)

    def _read(self, shares: list[Sequence[int]], seed: int, epoch: int) -> Iterator[Share]:
        """Only the last share can be smaller than the others, so the loader's batches are the shares."""
        order = [index for share in shares for index in share]
        size = max(map(len, shares), default=0)
        for _indices, clips_bT3HW, labels_b, resampled in train_loader(
            self.videos, self.training.views, seed, epoch, order, size, self.decoding
        ):
            yield clips_bT3HW, labels_b, len(resampled)
