"""MSTA: adapters in the upper blocks of both towers that share a projection, held to descriptions of the classes.

Title: Efficient Transfer Learning for Video-language Foundation Models (CVPR 2025).
Paper: arXiv 2411.11223. Official code: none; github.com/chenhaoxing/ETL4Video holds description files and, in its
history, logs; no licence file (written from a description; no code or sentence taken). It extends MMA (CVPR 2024).
Where paper and logs differ, presets name both; where neither tells, the field's description says what was chosen.
Left out: ViCLIP, the paper's backbone. Here the towers are CLIP's, so that frames meet only in the adapters' temporal
projection, and every published number has another backbone. Also left out: dropping the last incomplete batch, and
choosing the epoch on the test list.
"""

from __future__ import annotations

from math import gcd
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Le
from pydantic import Field, model_validator

from bench.models.backbones import Backbone
from methods import settings
from methods.presets import Preset
from methods.settings import Inference, Parameters

__all__ = ["Config", "Inference"]

NUMBERS = 12  # of blocks in the paper's two towers
KERNEL = 3  # frames that the temporal projection sees at once

Block = Annotated[int, Ge(1), Le(NUMBERS)]
Weight = Annotated[float, Ge(0), Field(allow_inf_nan=False)]


class Config(settings.Config):
    """Where adapters sit, what they are made of, and how far class texts are held to descriptions."""

    tower_inside: ClassVar[bool] = True

    bottleneck: Annotated[int, Ge(1)] = Field(
        default=128, description="r, width inside the adapters; 128 in all logs, 256 in the paper"
    )
    first_block: Block = Field(
        default=1,
        description="lowest adapted block, counted as if a tower had 12 blocks; other depths are divided in proportion",
    )
    last_block: Block = Field(default=NUMBERS, description="highest adapted block, counted likewise")
    branches: Literal["both", "text", "video"] = Field(
        default="both", description="towers that have adapters (component ablation)"
    )
    middle: Literal["shared", "own", "none"] = Field(
        default="shared",
        description="projection between down and up: one for text and video together; one for each; none, so that the "
        "ReLU behind the down-projection is all (the component ablation's row without a shared layer; the notes "
        "do not say which of the two it is)",
    )
    up: Literal["both", "spatial", "temporal"] = Field(
        default="both", description="up-projections of the video branch, whose outputs are added"
    )
    temporal_layout: Literal["grouped", "depthwise"] = Field(
        default="grouped",
        description="the temporal up-projection, a convolution over three frames; the logged number of parameters fits "
        "two forms: grouped, of the bottleneck itself, in gcd(r, width) groups; depthwise, behind the linear one",
    )
    temporal_cls: bool = Field(
        default=True,
        description="whether frames also meet at the class token; else the last block's temporal term reaches no "
        "output (not told; ViCLIP has one class token per video)",
    )
    adapter_input: Literal["ln1", "raw"] = Field(
        default="ln1", description="what goes in: the block's input behind its first norm (MMA), or as it is (paper)"
    )
    scale: Weight = Field(default=0.005, description="lambda, weight of an adapter's output (logs and paper)")
    unscaled_gradients: bool = Field(
        default=True, description="adapters learn as if lambda were 1, what lies below as it is (MMA)"
    )
    cc_weight: Weight = Field(
        default=1.0, description="alpha, weight of the consistency with descriptions (paper; not in the logged configs)"
    )
    descriptions: Literal["both", "spatial", "temporal"] = Field(
        default="both", description="sets of sentences that class texts are held to"
    )

    @model_validator(mode="after")
    def _every_choice_counts(self) -> Self:
        if self.first_block > self.last_block:
            raise ValueError(f"first_block {self.first_block} lies above last_block {self.last_block}")
        if self.middle == "own" and self.branches != "both":
            raise ValueError(
                f"middle: own is no other than shared with branches: {self.branches}; allowed: shared, none"
            )
        if self.branches == "text":
            self._refuse("branches: text", up="both", temporal_layout="grouped", temporal_cls=True)
        if self.up == "spatial":
            self._refuse("up: spatial", temporal_layout="grouped", temporal_cls=True)
        if self.up == "temporal" and not self.temporal_cls:
            raise ValueError("up: temporal without temporal_cls leaves the last block no way out; allowed: up: both")
        if self.branches == "video" and self.cc_weight:
            raise ValueError("branches: video adapts no texts, so cc_weight has no effect; allowed: cc_weight: 0")
        if not self.cc_weight:
            self._refuse("cc_weight: 0", descriptions="both")
        return self

    def _refuse(self, choice: str, **defaults: Any) -> None:
        """Raises ValueError where fields that a choice leaves without effect are not at their defaults."""
        for name, default in defaults.items():
            if getattr(self, name) != default:
                raise ValueError(f"{name} has no effect with {choice}; allowed: leave it out, or {name}: {default}")

    # --- what follows from it -----------------------------------------------------------------------------------------

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
        """Whether the video branch has the linear up-projection, which the depthwise form builds upon."""
        return self.up != "temporal" or self.temporal_layout == "depthwise"

    def pairs(self, backbone: Backbone) -> list[tuple[int, int]]:
        """Indices of the adapted blocks, (text, video), that share a projection: both towers' last ones first of all.

        ViT-L/14's 12 text blocks go with the upper 12 of its 24 video blocks, which the paper does not say.
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

    # --- costs --------------------------------------------------------------------------------------------------------

    def head_parameters(self, backbone: Backbone, inference: settings.Inference | None = None) -> Parameters:
        inner, size = self.bottleneck, 0
        if self.texts_inside:
            size += _linear(backbone.text_width, inner) + _linear(inner, backbone.text_width)
        if self.adapts_video:
            size += self._video_parameters(backbone.vision_width)
        middles = {"shared": 1, "own": 2, "none": 0}[self.middle]
        total = len(self.pairs(backbone)) * (size + middles * _linear(inner, inner))
        return Parameters(total, total)

    def _video_parameters(self, width: int) -> int:
        linear = _linear(self.bottleneck, width) if self.linear_up else 0
        temporal = width * (KERNEL * self.inputs_per_output(width) + 1) if self.up != "spatial" else 0
        return _linear(width, self.bottleneck) + linear + temporal

    def text_flops(self, backbone: Backbone) -> int:
        if not self.texts_inside:
            return backbone.text_flops()
        width, inner = backbone.text_width, self.bottleneck
        macs = backbone.context_length * (2 * inner * width + (inner**2 if self.middle != "none" else 0))
        return backbone.text_flops() + 2 * len(self.pairs(backbone)) * macs

    def inside_flops(self, backbone: Backbone, frames: int) -> int:
        """Of the video branch; the text branch runs once for a list of classes, not for each view."""
        if not self.adapts_video:
            return 0
        width, inner, tokens = backbone.vision_width, self.bottleneck, frames * backbone.vision_tokens
        products = inner * width * (1 + self.linear_up) + (inner**2 if self.middle != "none" else 0)
        macs = tokens * products
        if self.up != "spatial":
            seen = tokens if self.temporal_cls else tokens - frames
            macs += seen * width * KERNEL * self.inputs_per_output(width)
        return 2 * len(self.pairs(backbone)) * macs


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


# Optimiser, schedule and views are alike in paper and logs: those of ViFi-CLIP's program. What depends on the task is
# left to suites: epochs (50; 11 in the paper's base-to-novel; unknown for Kinetics-400, 10 and 30 as ViFi-CLIP), batch
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
