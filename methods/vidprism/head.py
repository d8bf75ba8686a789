"""VidPrism's head: frames to streams, interaction, experts, one vector (arXiv 2605.28229, official code).

Its state dict has the names of official checkpoints. Features come in un-normalised: their norms rank frames.
Legend: B batch, T frames, L tokens of a stream, E experts, D joint CLIP width, C classes.
"""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from methods.vidprism.config import Config
from methods.vidprism.experts import Experts, Read
from methods.vidprism.interaction import Interaction
from methods.vidprism.merging import PlainMerging, RankGuidedMerging


class Trace(NamedTuple):
    """What happens to a batch on its way through the head."""

    sampled: list[Tensor]  # streams [B, L, D] as merged
    interacted: list[Tensor]  # and after they took over from each other
    read: Read
    rank: Tensor  # rank loss; 0 unless asked for


class Head(nn.Module):
    """Everything between the frame features and the logits. `bind_classes` adds the linear classifier."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.width, self.config = width, config
        self.asked: int | None = None  # the expert that is left in a deployed copy; none: all
        guided = config.aggregation == "guided"
        self.pooling_layers = nn.ModuleList(
            RankGuidedMerging(width, rate, config) if guided else PlainMerging(rate, config) for rate in config.rates
        )
        if config.interaction != "none":
            self.dynamic_interaction = Interaction(width, config)
        self.mote = Experts(width, config)
        norm = [nn.LayerNorm(width)] if config.classifier == "text" else []
        self.projection_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), *norm)

    def bind_classes(self, classes: int) -> None:
        if self.config.classifier == "linear":
            self.head = nn.Linear(self.width, classes)

    def forward(self, frames_BTD: Tensor, ranked: bool = False) -> Trace:
        """Of frames [B, T, D]; `ranked` asks for the rank loss. Raises ValueError where T does not fit the rates."""
        self.config.lengths(frames_BTD.shape[1])
        merged = [pool(frames_BTD, ranked) for pool in self.pooling_layers]
        sampled = [stream.tokens_BLD for stream in merged]
        interacted = self.dynamic_interaction(sampled) if self.config.interaction != "none" else sampled
        rank = torch.stack([stream.divergence for stream in merged]).mean()
        asked = interacted if self.asked is None else [interacted[self.asked]]
        return Trace(sampled, interacted, self.mote(asked), rank)

    def logits(self, video_BD: Tensor) -> Tensor:
        """[B, C] of the linear classifier. Raises RuntimeError where the number of classes was never told."""
        if not hasattr(self, "head"):
            raise RuntimeError("the linear classifier has no classes yet: Model.bind_classes was not called")
        logits_BC: Tensor = self.head(video_BD)
        return logits_BC

    def deployed(self, expert: int | None) -> Head:
        """A copy of what the test needs; with a number, of a single expert's."""
        deployed = deepcopy(self)
        if self.config.interaction != "none":
            deployed.dynamic_interaction.without_idle_parts()
        if self.config.classifier == "linear":
            del deployed.projection_head
        if expert is not None:
            deployed.asked, deployed.mote.experts = expert, nn.ModuleList([deployed.mote.experts[expert]])
        return deployed
