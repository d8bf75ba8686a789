"""Attention pooling in torch.

Legend: B batch, T frames, D joint CLIP width, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention_pool.config import Config
from bench.models.clip import Clip
from methods import contract
from methods.contract import Prediction, Predictor, Terms
from methods.settings import Inference


def pooled(frames_BTD: Tensor, query_D: Tensor, temperature: float) -> Tensor:
    """Video embeddings [B, D]: frames weighted by a softmax over their products with the query."""
    scores_BT1 = frames_BTD @ query_D[:, None] / temperature
    video_BD: Tensor = (scores_BT1.softmax(dim=1).mT @ frames_BTD)[:, 0]
    return video_BD


class PoolPredictor(Predictor):
    """Pooling by the frozen query."""

    def __init__(self, query_D: Tensor, temperature: float, logit_scale: float) -> None:
        super().__init__()
        self.query_D = nn.Parameter(query_D.detach().clone(), requires_grad=False)
        self.temperature, self.logit_scale = temperature, logit_scale
        self.eval()

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        return Prediction.of(pooled(frames_BTD, self.query_D, self.temperature), classes_CD)


class Model(contract.Model):
    """Cross-entropy of the pooled video with the class texts."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.query_D = nn.Parameter(nn.init.normal_(clip.logit_scale.new_empty(self.width), std=0.02))

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        video_BD = pooled(frames_BTD, self.query_D, self.config.temperature)
        ce = self.cross_entropy(video_BD, labels_B, classes_CD)
        return {"ce": ce, "total": ce}

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> Predictor:
        return PoolPredictor(self.query_D, self.config.temperature, self.scale)
