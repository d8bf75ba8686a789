"""Pooling by several queries: each training step draws one, a test takes their mean.

Title, paper, official code and licence belong here. `list methods` shows the first line.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from bench.models.backbones import Backbone
from methods import settings
from methods.costs import Cost, Costs
from methods.settings import each_expert, refuse_missing_expert


class Inference(settings.Inference):
    """Choices made after training."""

    expert: Annotated[int, Ge(0)] | None = None
    """this query alone, instead of the mean of all (this example)"""


class Config(settings.Config):
    """Choices that change training."""

    head_paths = {"pooling": ("",)}

    queries: Annotated[int, Ge(2)] = 2
    """number of queries, the experts (this example)"""

    @property
    def experts(self) -> int:
        return self.queries

    @property
    def routing_odds(self) -> tuple[float, ...]:
        return (1 / self.queries,) * self.queries

    def expert_choices(self, inference: settings.Inference) -> dict[str, settings.Inference]:
        return each_expert(inference.model_copy(update={"expert": None}), self.queries)

    def check(self, inference: settings.Inference) -> None:
        assert isinstance(inference, Inference)
        refuse_missing_expert(inference.expert, self.queries)

    def head_costs(self, backbone: Backbone, frames: int, inference: settings.Inference | None, stored: bool) -> Costs:
        """All queries are stored, and one or their mean is deployed."""
        once = self.expert_flops(backbone, frames)[0]
        return {"pooling": Cost((self.queries if stored else 1) * backbone.embed_dim, once)}

    def expert_flops(self, backbone: Backbone, frames: int) -> tuple[int, ...]:
        """The frames' scores and their weighted sum."""
        return (2 * 2 * frames * backbone.embed_dim,) * self.queries
