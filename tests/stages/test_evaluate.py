"""Half-class draws of a method whose scores depend on the list of candidates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.measure.metrics import half_classes
from bench.stages.evaluate import DRAWS, _halves, _scores
from methods.contract import Prediction, Predictor

CLASSES, VIDEOS = 6, 24


class Relative(Predictor):
    """Cosines of the mean frame with classes from which the mean of all candidates is taken."""

    looks_at_classes = True

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        self.asked = [*getattr(self, "asked", []), len(classes_CD)]
        video_BD = F.normalize(frames_BTD.mean(dim=1), dim=-1)
        return Prediction(video_BD @ (classes_CD - classes_CD.mean(dim=0)).T, torch.ones(len(frames_BTD)))


def test_it_is_run_anew_with_the_classes_of_each_draw() -> None:
    generator = torch.Generator().manual_seed(0)
    features_NVTD = torch.randn(VIDEOS, 2, 3, 8, generator=generator)
    texts_CD = F.normalize(torch.randn(CLASSES, 8, generator=generator), dim=-1)
    labels_N, failed_N = np.arange(VIDEOS) % CLASSES, np.zeros(VIDEOS, bool)
    failed_N[0] = True
    work: Any = SimpleNamespace(
        compute=SimpleNamespace(device="cpu"),
        progress=lambda *told: None,
        spec={"protocol": {"fusion": "cos_mean", "half": "text4vis"}},
    )
    predictor = Relative()
    cosines_NVC, norms_NV = _scores(work, predictor, features_NVTD, texts_CD)
    draws, correct_N = _halves(work, predictor, features_NVTD, texts_CD, cosines_NVC, norms_NV, labels_N, failed_N)
    assert predictor.asked == [CLASSES] + [CLASSES // 2] * DRAWS
    right = np.zeros((DRAWS, VIDEOS))
    for draw, numbers in enumerate(draws):
        ids = sorted(half_classes(CLASSES, draw))
        kept = [n for n in range(VIDEOS) if labels_N[n] in ids]
        chosen_CD = texts_CD[ids] - texts_CD[ids].mean(dim=0)
        for n in kept:
            scores_C = (F.normalize(features_NVTD[n].mean(dim=1), dim=-1) @ chosen_CD.T).mean(dim=0)
            right[draw, n] = ids[int(scores_C.argmax())] == labels_N[n] and not failed_N[n]
        assert numbers["videos"] == len(kept)
        np.testing.assert_allclose(numbers["top1"], 100 * right[draw, kept].mean())
    drawn_N = np.array([sum(label in half_classes(CLASSES, draw) for draw in range(DRAWS)) for label in labels_N])
    np.testing.assert_allclose(correct_N, right.sum(axis=0) / drawn_N)
