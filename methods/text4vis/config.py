"""Text4Vis: a six-layer temporal transformer and a frozen classifier of CLIP's text embeddings.

Title: Revisiting Classifier: Transferring Vision-Language Models for Video Recognition.
Paper: arXiv 2207.01297 (AAAI 2023). Official code: github.com/whwu95/Text4Vis, MIT licence.
The model is `dense_temporal` at the depth that Text4Vis uses. Left out: classifiers other than text, temporal modelling
inside the tower, and the contrastive trainer.
"""

from __future__ import annotations

from pydantic import Field

from methods.dense_temporal import config as dense
from methods.presets import CLEAN_TRAINING, Preset
from methods.settings import Inference

__all__ = ["Config", "Inference"]


class Config(dense.Config):
    """Depth of the head."""

    layers: dense.Layers = Field(default=6, description="temporal layers; 6 for every backbone (official code)")


# Its test also resizes the short side to 256 where a frame is 224 wide; the named protocols `text4vis/...` have that.
PRESETS: dict[str, Preset] = {
    "official": {
        "config": {"tower": "tuned", "layers": 6},
        "inference": {"clip_alpha": 1.0},
        "recipe": {
            "templates": "text4vis",
            "views": {"frames": 8, "sampler": "ticks", "augmentation": "mote", "copies": 0},
            "batch": 256,
            "epochs": 30,
            "warmup_epochs": 5,
            "lr": 5e-5,
            "tower_lr_ratio": 0.1,
            "weight_decay": 0.2,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "precision": "fp16",
        },
    },
    "clean": {
        "config": {"tower": "tuned", "layers": 6},
        "inference": {"clip_alpha": 1.0},
        "recipe": {**CLEAN_TRAINING, "tower_lr_ratio": 0.1},
    },
}
