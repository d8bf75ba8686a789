"""Pooling by several queries in torch.

Legend: B batch, T frames, D joint CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attention_pool.model import PoolPredictor, pooled
from torch import Tensor, nn

from bench.models.clip import Clip
from expert_pool.config import Config, Inference
from methods import contract, settings
from methods.contract import Predictor, Terms


class Model(contract.Model):
    """Cross-entropy of the video as the drawn query pools it."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        new = clip.logit_scale.new_empty(self.width)
        self.queries = nn.ParameterList(nn.init.normal_(new.clone(), std=0.02) for _ in range(config.queries))
        self.counts = {"drawn": torch.zeros(config.queries, dtype=torch.int64)}

    def expert_parameters(self) -> Sequence[Mapping[str, Tensor]]:
        return [{"layer 0.query": query_D} for query_D in self.queries]

    def unused_parameters(self) -> set[str]:
        return {f"queries.{n}" for n in range(self.config.queries)}

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        drawn = int(torch.randint(self.config.queries, (), generator=generator))
        self.counts["drawn"][drawn] += 1
        ce = self.cross_entropy(pooled(frames_BTD, self.queries[drawn], 1.0), labels_B, classes_CD)
        return {"ce": ce, "total": ce}

    def deploy(self, inference: settings.Inference, source_classes_CD: Tensor) -> Predictor:
        assert isinstance(inference, Inference)
        chosen = list(self.queries) if inference.expert is None else [self.queries[inference.expert]]
        return PoolPredictor(torch.stack(chosen).mean(dim=0), 1.0, self.scale)
