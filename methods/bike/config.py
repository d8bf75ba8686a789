"""BIKE, video branch: frames that a class's words point at weigh more (*from the paper*, not against its outputs).

Title: Bidirectional Cross-Modal Knowledge Exploration for Video Recognition with Pre-trained Vision-Language Models.
Paper: arXiv 2301.00182 (CVPR 2023). Official code: github.com/whwu95/BIKE, MIT licence (written from a description; no
code taken; no outputs of it to compare with).
Behind Text4Vis' temporal transformer frames are not averaged: every class weighs them by how near they are to the
tokens of its text (video concept spotting). With the mean in its place it is `text4vis` with `loss: nce`.
Left out: the branch of attributes, sentences of a larger CLIP about each video, and its fusion with this one; scores of
frames in front of the head, which the official program has for halves of the classes.
"""

from __future__ import annotations

from typing import Literal

from bench.core.identity import Few
from bench.models.backbones import Backbone
from methods import settings
from methods.costs import TEMPORAL_PATHS, Cost, Costs, product
from methods.dense_temporal import config as dense
from methods.presets import CLEAN_TRAINING, MOTE_TRAINING, Preset, tuned
from methods.settings import Inference

__all__ = ["Config", "Inference"]


class Config(dense.Config):
    """The temporal transformer, in front of the spotting, which has no parameters."""

    head_paths = {**TEMPORAL_PATHS, "classification": ("",)}
    needs = {"layers": {"head": ("transf",)}}

    layers: Few = 6
    """temporal layers; 6 for every backbone (BIKE, official code)"""
    head: Literal["transf", "none"] = "transf"
    """module between tower and spotting: the temporal transformer, or none (BIKE, official code)"""

    @property
    def has_head(self) -> bool:
        return self.head == "transf"

    @property
    def texts_inside(self) -> bool:
        """True, though the tower is frozen: features of all tokens are no class features of CLIP."""
        return True

    @property
    def texts_of_labels(self) -> bool:
        return True

    @property
    def soft_targets(self) -> bool:
        return False

    @property
    def depends_on_processes(self) -> bool:
        return True

    def fits(self, backbone: Backbone, frames: int) -> None:
        if self.has_head:
            super().fits(backbone, frames)

    def fusions(self, inference: settings.Inference) -> tuple[str, ...]:
        """There is no one video feature that views could share."""
        return ("double_softmax", "cos_mean", "softmax_sum", "logit_sum")

    def class_shape(self, backbone: Backbone, prompts: int) -> tuple[int, ...]:
        """The class feature, then those of all tokens of all prompts."""
        return (1 + prompts * backbone.context_length, backbone.embed_dim)

    # --- costs --------------------------------------------------------------------------------------------------------

    def head_costs(self, backbone: Backbone, frames: int, inference: settings.Inference | None, stored: bool) -> Costs:
        return super().head_costs(backbone, frames, inference, stored) if self.has_head else {}

    def text_cost(self, backbone: Backbone) -> Cost:
        """All tokens are projected, not only the last."""
        return product(backbone.context_length - 1, backbone.text_width, backbone.embed_dim)

    def class_flops(self, backbone: Backbone, frames: int, prompts: int) -> int:
        """Products of all frames with the class feature and with all tokens."""
        return frames * super().class_flops(backbone, frames, prompts)


# Official configs with ViT-B/16; ViT-L/14 has 20 epochs. The loss compares videos and texts of all processes.
PRESETS: dict[str, Preset] = {
    "official": tuned(
        {
            **{**MOTE_TRAINING, "templates": "bike"},
            **{"batch": 256, "epochs": 30, "tower_lr_ratio": 0.1, "drop_last": True, "parts": 1},
        }
    ),
    "clean": tuned({**CLEAN_TRAINING, "templates": "bike", "tower_lr_ratio": 0.1}),
}
