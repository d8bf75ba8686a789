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
WORK: Any = SimpleNamespace(
    compute=SimpleNamespace(device="cpu"),
    progress=lambda *told: None,
    spec={"protocol": {"fusion": "cos_mean", "half": "text4vis"}},
)


class Relative(Predictor):
    """Cosines of the mean frame with classes from which the mean of all candidates is taken."""

    looks_at_classes = True

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        self.asked = [*getattr(self, "asked", []), len(classes_CD)]
        video_BD = F.normalize(frames_BTD.mean(dim=1), dim=-1)
        return Prediction(video_BD @ (classes_CD - classes_CD.mean(dim=0)).T, torch.ones(len(frames_BTD)))


class Paired(Relative):
    """Refuses frames that came without what was encoded with them."""

    def forward(self, frames_BTD: Any, classes_CD: Tensor) -> Prediction:
        assert torch.equal(frames_BTD["negated"], -frames_BTD["frames"])
        return super().forward(frames_BTD["frames"], classes_CD)


def test_what_is_encoded_beside_frames_is_drawn_with_them() -> None:
    generator = torch.Generator().manual_seed(0)
    frames_NVTD = torch.randn(VIDEOS, 2, 3, 8, generator=generator)
    texts_CD = F.normalize(torch.randn(CLASSES, 8, generator=generator), dim=-1)
    labels_N, failed_N = np.arange(VIDEOS) % CLASSES, np.zeros(VIDEOS, bool)
    answers = []
    for predictor, features in (Relative(), frames_NVTD), (Paired(), {"frames": frames_NVTD, "negated": -frames_NVTD}):
        scores = _scores(WORK, predictor, features, texts_CD)
        answers.append(_halves(WORK, predictor, features, texts_CD, *scores, labels_N, failed_N)[0])
    assert answers[0] == answers[1]


def test_it_is_run_anew_with_the_classes_of_each_draw() -> None:
    generator = torch.Generator().manual_seed(0)
    features_NVTD = torch.randn(VIDEOS, 2, 3, 8, generator=generator)
    texts_CD = F.normalize(torch.randn(CLASSES, 8, generator=generator), dim=-1)
    labels_N, failed_N = np.arange(VIDEOS) % CLASSES, np.zeros(VIDEOS, bool)
    failed_N[0] = True
    predictor = Relative()
    cosines_NVC, norms_NV = _scores(WORK, predictor, features_NVTD, texts_CD)
    draws, correct_N = _halves(WORK, predictor, features_NVTD, texts_CD, cosines_NVC, norms_NV, labels_N, failed_N)
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
