"""VidPrism's objective and what it deploys (arXiv 2605.28229; official code where the two differ).

Legend: B batch, T frames, E experts, D joint CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models.clip import Clip
from methods import contract, settings
from methods.contract import cosines
from methods.vidprism.config import Config, Inference
from methods.vidprism.head import Head
from methods.vidprism.losses import DIVERSITY, balance
from methods.vidprism.predictor import VidPrismPredictor

FROZEN_BY_MISTAKE = ("transformer", "positional_embedding")  # parts of names that the official `fix_text` freezes


class Model(contract.Model):
    """Classification with rank, balance, diversity and contrastive terms of constant weights."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.head = Head(self.width, config)
        if config.freeze_blocks:
            for name, parameter in clip.visual.named_parameters():
                if any(part in name for part in FROZEN_BY_MISTAKE):
                    parameter.requires_grad_(False)

    def bind_classes(self, classes: int) -> None:
        self.head.bind_classes(classes)

    def unused_parameters(self) -> set[str]:
        """Scores of streams that never interact, pairs behind closed gates, terms without weight, and CLIP's scale.

        The scale is a weight of the official checkpoint, but its linear classifier has none and with class texts it
        stays CLIP's.
        """
        config = self.config
        resting = ["head.dynamic_interaction.", "clip.logit_scale"]
        if not config.rank_weight:
            resting.append("head.pooling_layers.")
        if config.rates[0] == config.keep:  # nothing is merged
            resting.append("head.pooling_layers.0.")
        if len(config.rates) == 1:  # a single stream may be a single token, which is read out whatever its weight
            resting.append("head.mote.readout_gate.")
        if config.classifier == "linear" and not config.contrastive_weight:
            resting.append("head.projection_head.")
        trainable = (name for name, parameter in self.named_parameters() if parameter.requires_grad)
        return {name for name in trainable if name.startswith(tuple(resting))}

    def expert_parameters(self) -> Sequence[Mapping[str, Tensor]]:
        experts = list(self.head.mote.experts) if self.config.experts else []
        return [{f"layer 0.{name}": own for name, own in expert.named_parameters()} for expert in experts]

    # --- training -----------------------------------------------------------------------------------------------------

    def loss(
        self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        config, (_, _, read, rank) = self.config, self.head(frames_BTD, ranked=self.config.rank_weight > 0)
        cosines_BC = None
        if config.classifier == "text" or config.contrastive_weight:
            cosines_BC = cosines(self.head.projection_head(read.video_BD), classes_CD)
        if config.classifier == "linear":
            logits_BC = self.head.logits(read.video_BD)
        else:
            assert cosines_BC is not None
            logits_BC = self.clip.logit_scale.exp().detach() * cosines_BC
        ce = F.cross_entropy(logits_BC, labels_B)
        terms: dict[str, tuple[float, Tensor]] = {"ce": (1.0, ce)}
        if config.rank_weight and config.aggregation == "guided":
            terms["rank"] = (config.rank_weight, rank)
        if config.gate_weight:
            terms["gate"] = (config.gate_weight, balance(read.shares_BE))
        if config.diversity != "off" and config.diversity_weight:
            terms["diversity"] = (config.diversity_weight, DIVERSITY[config.diversity](read.summaries_BED))
        if config.contrastive_weight:
            assert cosines_BC is not None
            terms["contrastive"] = (config.contrastive_weight, F.cross_entropy(cosines_BC, labels_B))
        total = torch.stack([weight * term for weight, term in terms.values()]).sum()
        return {name: term for name, (_, term) in terms.items()} | {"total": total}

    # --- test ---------------------------------------------------------------------------------------------------------

    def deploy(self, inference: settings.Inference, source_classes_CD: Tensor) -> VidPrismPredictor:
        assert isinstance(inference, Inference)
        self.config.check(inference)
        return VidPrismPredictor(self.head, self.deployed_scale(inference), inference)
