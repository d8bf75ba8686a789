"""AdaptFormer: bottlenecks beside the feed-forward networks of CLIP's frozen visual tower; frames do not meet.

Title: AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition (NeurIPS 2022).
Paper: arXiv 2205.13535. Official code: github.com/ShoufaChen/AdaptFormer, MIT licence. From the paper: no output of the
official modules has been compared, and there are no published numbers with CLIP as it is used here.
Left out: its own tower, a masked autoencoder of videos, and the recipe for it (SGD); training the last norm; the batch
norm in front of its linear layer.
"""

from __future__ import annotations

from typing import Literal

from bench.core.identity import Count
from bench.models.backbones import Backbone
from methods import heads
from methods.costs import Cost, feed_forward
from methods.heads import Share
from methods.presets import CLEAN_TRAINING, Preset
from methods.settings import Inference, Positive

__all__ = ["Config", "Inference"]


class Config(heads.Config):
    """Place and form of the adapters."""

    width: Count = 64
    """channels of the bottleneck (AdaptFormer, paper)"""
    scale: Positive = 0.1
    """weight of an adapter's output (AdaptFormer, paper)"""
    form: Literal["parallel", "sequential"] = "parallel"
    """input of an adapter: that of the feed-forward network before its norm, or the network's output (AdaptFormer,
    ablation)"""
    inner_dropout: Share = 0.1
    """dropout inside the bottleneck, in training (AdaptFormer, code)"""

    @property
    def interpolates(self) -> bool:
        """Always: `clip_alpha` scales what adapters add, so that 0 is CLIP (this project)."""
        return True

    def inside_cost(self, backbone: Backbone, frames: int) -> Cost:
        adapter = feed_forward(backbone.vision_width, self.width, frames * backbone.vision_tokens)
        return backbone.vision_layers * adapter + self.left_out(backbone, frames)


# With CLIP there is no official recipe: rate, decay and length are those of AIM, the adapter nearest to it.
PRESETS: dict[str, Preset] = {
    "clean": {
        "inference": {"clip_alpha": 1.0},
        "recipe": {**CLEAN_TRAINING, "epochs": 30, "lr": 3e-4, "weight_decay": 0.05, "schedule": "cosine"},
    }
}
