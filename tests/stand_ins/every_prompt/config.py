"""A method with all that the contract allows beyond frames and unit class features."""

from __future__ import annotations

from typing import Any, Literal

from bench.models.backbones import Backbone, Part
from methods import settings
from methods.costs import Cost, Costs
from methods.settings import Inference

__all__ = ["Config", "Inference"]


class Config(settings.Config):
    """Changes between frames beside the frames, and class features of every prompt."""

    per_prompt = True
    head_paths = {"gate": ("",)}

    texts: Literal["frozen", "labels", "columns"] = "frozen"
    """CLIP's texts; a tuned text tower that embeds one text of each label; one that embeds two of each class (tests)"""
    keeps: bool = False
    """whether records keep the frozen visual tower, and a training starts from one that tuned it (tests)"""

    @property
    def tuned(self) -> frozenset[Part]:
        return super().tuned | ({"text"} if self.texts != "frozen" else set())

    @property
    def texts_of_labels(self) -> bool:
        return self.texts == "labels"

    @property
    def depends_on_processes(self) -> bool:
        return self.texts == "labels"

    def continues(self, first: settings.Config) -> bool:
        return self in (first, first.model_copy(update={"tower": "frozen", "keeps": True}))

    def fusions(self, inference: settings.Inference) -> tuple[str, ...]:
        return ("softmax_sum", "cos_mean")

    def encoded(self, backbone: Backbone, frames: int) -> dict[str, tuple[int, ...]]:
        return {**super().encoded(backbone, frames), "changes": (frames - 1, backbone.embed_dim)}

    def head_costs(self, backbone: Backbone, frames: int, inference: settings.Inference | None, stored: bool) -> Costs:
        return {"gate": Cost(backbone.embed_dim, 0)}


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "labels": ({"texts": "labels"}, {}),
    "columns": ({"texts": "columns", "tower": "tuned"}, {}),
    "keeps": ({"keeps": True}, {}),
}
