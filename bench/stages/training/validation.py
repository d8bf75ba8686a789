"""Validation: single-view closed-set accuracy of a model in training, on a split of its source.

Legend: N videos, T frames, D joint CLIP width, C classes, b videos decoded together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.data.videos import opened
from bench.stages.training.ranks import Ranks
from bench.suite.recipe import Training
from bench.video.loader import test_loader
from bench.video.transforms import normalise, statistics
from bench.video.views import TestViews
from methods.contract import Model
from methods.settings import Inference

if TYPE_CHECKING:
    from bench.stages.work import Work

BATCH = 16


class Validation:
    """The validation split; rank r of n measures videos r, r + n and so on. Undecodable videos count as wrong."""

    def __init__(self, work: Work, training: Training, ranks: Ranks, inference: Inference) -> None:
        self.ranks, self.inference, self.device = ranks, inference, work.compute.device
        self.videos = opened({**work.context, "selection": work.context["validation"], "length": None})
        self.decoding = replace(work.decoding, content=work.spec["validation"], cache_bytes=0)
        shown = training.views
        self.views = TestViews(
            frames=shown.frames, resize=shown.size, size=shown.size, decoder=shown.decoder, normalise=shown.normalise
        )

    @torch.no_grad()
    def accuracy(self, model: Model, classes_CD: Tensor) -> float:
        """Top-1 in percent of the model, deployed as it is now; leaves no trace on the training."""
        predictor = model.deploy(self.inference, classes_CD).eval()
        mean, std = statistics(self.views, model.clip.spec.mean, model.clip.spec.std)
        own = range(self.ranks.rank, len(self.videos), self.ranks.size)
        right = 0
        model.eval()
        for indices, pixels_b1T3HW, failures in test_loader(self.videos, self.views, self.decoding, BATCH, own):
            encoded = model.encode(normalise(pixels_b1T3HW[:, 0].to(self.device), mean, std))
            guesses_b = predictor(encoded, classes_CD).cosines_BC.argmax(dim=-1).tolist()
            failed = {index for index, _ in failures}
            right += sum(
                guess == self.videos.entries[index].label and index not in failed
                for index, guess in zip(indices, guesses_b, strict=True)
            )
        model.train()
        return 100 * sum(self.ranks.gather(right)) / len(self.videos)
