"""Attention pooling: one learnable query weighs the frames, instead of their mean.

Title, paper, official code and licence belong here. `list methods` shows the first line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from annotated_types import Gt

from bench.models.backbones import Backbone
from methods import settings
from methods.settings import Flops, Inference, Parameters

__all__ = ["Config", "Inference"]


class Config(settings.Config):
    """Choices that change training. Choices of the test alone belong to Inference."""

    head_paths: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "pooling": ("",)
    }  # computed in the predictor itself, in no named module

    temperature: Annotated[float, Gt(0)] = 1.0
    """temperature of the softmax over the frames (this template)"""

    def head_parameters(self, backbone: Backbone, inference: settings.Inference | None = None) -> Parameters:
        return Parameters(stored=backbone.embed_dim, active=backbone.embed_dim)

    def head_modules(self, backbone: Backbone, frames: int, inference: settings.Inference | None = None) -> Flops:
        """FLOPs of the frames' scores and of their weighted sum."""
        return {"pooling": 2 * 2 * frames * backbone.embed_dim}
