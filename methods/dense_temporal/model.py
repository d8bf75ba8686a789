"""Dense temporal transformer. Legend: B batch, T frames, D joint CLIP width, C classes."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from bench.models.clip import Clip
from methods import contract
from methods.blocks import TemporalPredictor, TemporalTransformer
from methods.contract import Terms
from methods.costs import temporal_heads
from methods.dense_temporal.config import Config
from methods.settings import Inference


class Model(contract.Model):
    """z = mean over T of e + h(e), one cross-entropy."""

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.head = TemporalTransformer(self.width, temporal_heads(clip.spec), config.layers)

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        ce = self.cross_entropy((frames_BTD + self.head(frames_BTD)).mean(dim=1), labels_B, classes_CD)
        return {"ce": ce, "total": ce}

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> TemporalPredictor:
        return TemporalPredictor(deepcopy(self.head), self.scale)
