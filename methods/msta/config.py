"""MSTA: adapters in the upper blocks of both towers that share a projection, held to descriptions of the classes.

Title: Efficient Transfer Learning for Video-language Foundation Models (CVPR 2025).
Paper: arXiv 2411.11223. Official code: none; github.com/chenhaoxing/ETL4Video holds description files and, in its
history, logs; no licence file (written from a description; no code or sentence taken). It extends MMA (CVPR 2024).
Where paper and logs differ, presets name both; where neither tells, the field's description says what was chosen.
The towers are ViCLIP's, the paper's backbone (`temporal_cls: false`), or CLIP's, whose frames meet only in the
adapters' temporal projection; every published number is with ViCLIP. Left out: dropping the last incomplete batch, and
choosing the epoch on the test list.
"""

from __future__ import annotations

from math import gcd
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Le
from pydantic import model_validator

from bench.core.identity import Count
from bench.models.backbones import Backbone
from methods import settings
from methods.costs import Cost, feed_forward, linear
from methods.presets import Preset
from methods.settings import Inference, Weight

__all__ = ["Config", "Inference"]

NUMBERS = 12  # of blocks in the paper's two towers
KERNEL = 3  # frames in the temporal projection's convolution
WITH_VIDEO = ("both", "video")

BlockNumber = Annotated[int, Ge(1), Le(NUMBERS)]


class Config(settings.Config):
    """Place and form of the adapters, and weight of the consistency with descriptions."""

    tower_inside = True
    without_frames = {}
    needs = {
        "up": {"branches": WITH_VIDEO},
        "temporal_layout": {"branches": WITH_VIDEO, "up": ("both", "temporal")},
        "temporal_cls": {"branches": WITH_VIDEO, "up": ("both", "temporal")},
    }

    bottleneck: Count = 128
    """width r inside the adapters; 128 in all logs, 256 in the paper (MSTA, authors' logs)"""
    first_block: BlockNumber = 1
    """lowest adapted block, counted as if a tower had 12 blocks; towers of another depth are divided in proportion
    (MSTA, base-to-novel setting; the proportion is this project's)"""
    last_block: BlockNumber = NUMBERS
    """highest adapted block, counted as first_block is (MSTA, paper and logs)"""
    branches: Literal["both", "text", "video"] = "both"
    """towers that have adapters (MSTA, component ablation)"""
    middle: Literal["shared", "own", "none"] = "shared"
    """projection between down and up: one for text and video together; one for each; or none, so that only a ReLU is
    left. Which of the last two is the ablation's row without a shared layer is not known (MSTA, component ablation)"""
    up: Literal["both", "spatial", "temporal"] = "both"
    """up-projections of the video branch: linear plus temporal (both: MSTA, equations), or one (this project)"""
    temporal_layout: Literal["grouped", "depthwise"] = "grouped"
    """input of the temporal up-projection, a convolution over three frames: the bottleneck in gcd(r, width) groups, or
    the linear up-projection's output by channel; both fit the logged number of parameters (MSTA, authors' logs)"""
    temporal_cls: bool = True
    """whether the temporal projection also mixes class tokens over time; without it the last block's temporal term
    reaches no output. Has to be false on a video tower, which has one class token a clip (not in the paper; this
    project)"""
    adapter_input: Literal["ln1", "raw"] = "ln1"
    """adapter input: the block's, behind its first norm (ln1: MMA's code) or as it is (raw: MSTA, adapter equations)"""
    scale: Weight = 0.005
    """lambda, weight of an adapter's output (MSTA, paper and logs)"""
    unscaled_gradients: bool = True
    """whether adapters get gradients as if lambda were 1; layers below keep the factor (MMA's code)"""
    cc_weight: Weight = 1.0
    """alpha, weight of the consistency of texts with descriptions; the logged configs do not show it (MSTA, paper)"""
    descriptions: Literal["both", "spatial", "temporal"] = "both"
    """sets of descriptions in the consistency term (both: MSTA, paper; a single one: this project)"""

    @model_validator(mode="after")
    def _every_choice_counts(self) -> Self:
        if self.first_block > self.last_block:
            raise ValueError(f"first_block {self.first_block} lies above last_block {self.last_block}")
        if self.middle == "own" and self.branches != "both":
            raise ValueError(f"middle: own equals shared with branches: {self.branches}; allowed: shared, none")
        if self.up == "temporal" and not self.temporal_cls:
            raise ValueError("up: temporal without temporal_cls has no effect in the last block; allowed: up: both")
        if self.branches == "video" and self.cc_weight:
            raise ValueError("branches: video adapts no texts, so cc_weight has no effect; allowed: cc_weight: 0")
        if self.descriptions != "both" and not self.cc_weight:
            raise ValueError("descriptions has no effect with cc_weight: 0; allowed: leave it out, a larger cc_weight")
        return self

    # --- derived choices ----------------------------------------------------------------------------------------------

    @property
    def soft_targets(self) -> bool:
        return True

    @property
    def adapts_video(self) -> bool:
        return self.branches != "text"

    @property
    def texts_inside(self) -> bool:
        return self.branches != "video"

    @property
    def description_sets(self) -> tuple[str, ...]:
        if not self.cc_weight:
            return ()
        return ("spatial", "temporal") if self.descriptions == "both" else (self.descriptions,)

    @property
    def linear_up(self) -> bool:
        """True if the video branch has the linear up-projection, which the depthwise form builds upon."""
        return self.up != "temporal" or self.temporal_layout == "depthwise"

    def pairs(self, backbone: Backbone) -> list[tuple[int, int]]:
        """Indices (text, video) of adapted blocks that share a projection, aligned at the towers' last blocks.

        ViT-L/14's 12 text blocks go with the upper 12 of its 24 video blocks; the paper does not say so.
        """
        text, video = backbone.text_layers, backbone.vision_layers
        count = min(text, video)
        return [
            (text - count + i, video - count + i)
            for i in range(count)
            if NUMBERS * (i + 1) > (self.first_block - 1) * count and NUMBERS * i < self.last_block * count
        ]

    def inputs_per_output(self, width: int) -> int:
        """Input channels of each output channel of the temporal projection."""
        return self.bottleneck // gcd(self.bottleneck, width) if self.temporal_layout == "grouped" else 1

    def fits(self, backbone: Backbone, frames: int) -> None:
        if backbone.video and self.temporal_cls and self.adapts_video and self.up != "spatial":
            what = f"temporal_cls: true, but '{backbone.name}' has one class token a clip, which no frame follows"
            raise ValueError(f"{what}; allowed: temporal_cls: false with up: both, or up: spatial")

    # --- costs --------------------------------------------------------------------------------------------------------

    def text_cost(self, backbone: Backbone) -> Cost:
        if not self.texts_inside:
            return Cost()
        tokens = backbone.context_length
        branch = feed_forward(backbone.text_width, self.bottleneck, tokens) + self._middle(tokens)
        return len(self.pairs(backbone)) * branch

    def inside_cost(self, backbone: Backbone, frames: int) -> Cost:
        """The video branch. The text branch runs once for a list of classes, not for each view."""
        if not self.adapts_video:
            return Cost()
        width, patches = backbone.vision_width, frames * (backbone.vision_tokens - 1)
        tokens = patches + backbone.features(frames)  # with a class token a frame, or a clip
        middle, up, inputs = self._middle(tokens), Cost(), KERNEL * self.inputs_per_output(width)
        if self.middle == "shared" and self.texts_inside:
            middle = Cost(0, middle.flops)  # its parameters are the text branch's
        if self.linear_up:
            up += linear(self.bottleneck, width, tokens)
        if self.up != "spatial":
            up += linear(inputs, width, tokens if self.temporal_cls else patches)
        return len(self.pairs(backbone)) * (linear(width, self.bottleneck, tokens) + middle + up)

    def _middle(self, tokens: int) -> Cost:
        return Cost() if self.middle == "none" else linear(self.bottleneck, self.bottleneck, tokens)


# Optimiser, schedule and views are alike in paper and logs: those of ViFi-CLIP's program. Suites set what depends on
# the task: epochs (50; 11 in the paper's base-to-novel; unknown for Kinetics-400, 10 and 30 as ViFi-CLIP), batch
# and rate (32 at 1e-3; 256 at 8e-3 on Kinetics-400). Of ViFi-CLIP's augmentation the crops and the jitter of colours,
# redrawn for every frame, are replaced by MoTE's random resized crop.
_CLEAN: dict[str, Any] = {
    "templates": "msta",
    "views": {"frames": 8, "sampler": "mmaction", "augmentation": "mote", "copies": 0},
    "batch": 32,
    "warmup_epochs": 5,
    "schedule": "vifi",
    "lr": 1e-3,
    "weight_decay": 1e-3,
    "betas": [0.9, 0.98],
    "eps": 1e-8,
}
_TRAINING: dict[str, Any] = {**_CLEAN, "views": {**_CLEAN["views"], "normalise": "imagenet"}}
_LOG: Preset = {
    "config": {"bottleneck": 128, "first_block": 8, "last_block": 12},
    "inference": {"clip_alpha": 1.0},
    "recipe": _TRAINING,
}
PRESETS: dict[str, Preset] = {
    "log": _LOG,  # the authors' few-shot and base-to-novel runs of November 2024
    "official": _LOG,
    "paper": {**_LOG, "config": {"bottleneck": 256, "first_block": 1, "last_block": 12}},  # few-shot: first_block 8
    "clean": {**_LOG, "recipe": _CLEAN},
}
