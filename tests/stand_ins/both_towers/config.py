"""Mean-pool CLIP with all of its tensors trained."""

from __future__ import annotations

from typing import Literal

from bench.models.backbones import Part
from methods import settings
from methods.settings import Inference

__all__ = ["Config", "Inference"]


class Config(settings.Config):
    """All of CLIP, or its texts alone under `tower: frozen`."""

    tower: Literal["frozen", "tuned"] = "tuned"
    """whether the visual tower is trained as well (tests)"""

    @property
    def tuned(self) -> frozenset[Part]:
        return super().tuned | {"text", "tokens"}

    @property
    def has_head(self) -> bool:
        return False
