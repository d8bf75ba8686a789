"""Mean-pool CLIP. Legend: B batch, T frames, D joint CLIP width, C classes."""

from __future__ import annotations

import torch
from torch import Tensor

from methods import contract
from methods.contract import Prediction, Predictor, Terms
from methods.settings import Inference


class MeanPredictor(Predictor):
    """z = mean over T of the frame features."""

    def __init__(self, logit_scale: float) -> None:
        super().__init__()
        self.logit_scale = logit_scale
        self.eval()

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        return Prediction.of(frames_BTD.mean(dim=1), classes_CD)


class Model(contract.Model):
    """Training with a single cross-entropy. MoTE's trainer without a head would weigh it 1.5: two identical passes."""

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        ce = self.cross_entropy(frames_BTD.mean(dim=1), labels_B, classes_CD)
        return {"ce": ce, "total": ce}

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> Predictor:
        return MeanPredictor(self.scale)
