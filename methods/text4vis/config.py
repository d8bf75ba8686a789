"""Text4Vis: a six-layer temporal transformer and a frozen classifier of CLIP's text embeddings.

Title: Revisiting Classifier: Transferring Vision-Language Models for Video Recognition.
Paper: arXiv 2207.01297 (AAAI 2023). Official code: github.com/whwu95/Text4Vis, MIT licence.
The model is `dense_temporal` at the depth that Text4Vis uses. Left out: classifiers other than text, temporal modelling
inside the tower, and the contrastive trainer.
"""

from __future__ import annotations

from pydantic import Field

from methods.dense_temporal import config as dense
from methods.settings import Inference

__all__ = ["Config", "Inference"]


class Config(dense.Config):
    """Depth of the head."""

    layers: dense.Layers = Field(default=6, description="temporal layers; 6 for every backbone (official code)")
