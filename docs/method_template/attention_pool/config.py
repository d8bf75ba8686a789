"""Attention pooling: one learnable query weighs the frames, instead of their mean.

Title, paper, official code and licence belong here. `list methods` shows the first line.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from bench.models.backbones import Backbone
from methods import settings
from methods.costs import Cost, Costs
from methods.settings import Inference


class Config(settings.Config):
    """Choices that change training. Choices of the test alone belong to Inference."""

    head_paths = {"pooling": ("",)}  # computed in the predictor itself, in no named module

    temperature: Annotated[float, Gt(0)] = 1.0
    """temperature of the softmax over the frames (this template)"""

    def head_costs(self, backbone: Backbone, frames: int, inference: Inference | None, stored: bool) -> Costs:
        """The query, the frames' scores and their weighted sum."""
        return {"pooling": Cost(backbone.embed_dim, 2 * 2 * frames * backbone.embed_dim)}
