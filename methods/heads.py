"""Settings of methods with modules inside a frozen visual tower, and one of two heads behind it; without torch.

`text` compares features in CLIP's joint space with class texts, as zero-shot tests need it. `linear` is a layer over
the source classes on class tokens of the tower's own width, as ST-Adapter, AIM and AdaptFormer were published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from bench.models.backbones import Backbone
from methods import settings
from methods.costs import Cost, linear
from methods.settings import Inference

Share = Annotated[float, Ge(0), Lt(1)]


class Config(settings.Config):
    """The head behind adapters; methods extend it."""

    tower_inside = True
    needs = {"dropout": {"head": ("linear",)}, "pool": {"head": ("text",)}}

    tower: Literal["frozen"] = "frozen"
    """the visual tower is frozen, and adapters are trained inside it (official code)"""
    head: Literal["text", "linear"] = "text"
    """scores of a video: exp(s) times cosines with class texts (text: the re-runs of MoTE and FROSTER), or those of a
    linear layer over the source classes, which no zero-shot test can use (linear: official code)"""
    pool: Literal["frames", "unit_frames"] = "frames"
    """text: mean over the frames of their features (frames: this project), or of their unit features, which is not
    normalised again (unit_frames: FROSTER's re-run, code)"""
    dropout: Share = 0.5
    """linear: dropout in front of the layer, in training (official code)"""

    @property
    def open_vocabulary(self) -> bool:
        return self.head == "text"

    @property
    def soft_targets(self) -> bool:
        return True

    def encoded(self, backbone: Backbone, frames: int) -> dict[str, tuple[int, ...]]:
        """Features in CLIP's joint space, or class tokens of the tower's width."""
        if self.head == "text":
            return super().encoded(backbone, frames)
        return {"frames": (backbone.features(frames), backbone.vision_width)}

    def fusions(self, inference: Inference) -> tuple[str, ...]:
        return () if self.head == "text" else ("softmax_sum",)

    # --- costs --------------------------------------------------------------------------------------------------------

    def left_out(self, backbone: Backbone, frames: int) -> Cost:
        """CLIP's projection of the frames, which the linear head does without: fewer FLOPs, no other parameters."""
        projection = linear(backbone.vision_width, backbone.embed_dim, frames)
        return Cost(0, -projection.flops if self.head == "linear" else 0)

    @property
    def head_paths(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        return {} if self.head == "text" else {"classification": ("fc",)}

    def class_bound_parameters(self, backbone: Backbone, classes: int) -> int:
        return linear(backbone.vision_width, classes).parameters if self.head == "linear" else 0

    def class_flops(self, backbone: Backbone, frames: int, prompts: int) -> int:
        width = backbone.vision_width if self.head == "linear" else backbone.embed_dim
        return 2 * width
