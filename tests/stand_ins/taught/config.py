"""Mean-pool CLIP that stays close to a teacher, which follows it step by step."""

from __future__ import annotations

from methods.clip_mean import config
from methods.settings import Inference

__all__ = ["Config", "Inference"]


class Config(config.Config):
    """Choices of the tower alone."""

    @property
    def teacher(self) -> bool:
        return True
