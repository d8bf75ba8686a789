"""X-CLIP: frames that send each other messages, and class features that are changed by the video.

Title: Expanding Language-Image Pretrained Models for General Video Recognition (ECCV 2022).
Paper: arXiv 2208.02816. Official code: github.com/microsoft/VideoX, folder X-CLIP, commit 1744b21, MIT licence (written
from a description; no code taken).
In every block of the tower a frame's message travels to the other frames and is read by the frame's own tokens; a small
transformer works on the projected class tokens; a decoder lets each class feature look at the video's patches. Class
features are not normalised before that: their length counts. Several prompts of a class are their plain mean.
Left out: stochastic depth, 0 in all official configs; the linear head and the learnt text vectors of the paper's
ablations; one template drawn for each step; class features that are computed once, whatever texts come later.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Le
from pydantic import model_validator

from bench.core.identity import Few
from bench.models.backbones import Backbone, Part
from methods import settings
from methods.costs import EXPANSION, Cost, Costs, attention, feed_forward, linear, norm, product, table
from methods.presets import CLEAN_TRAINING, Preset
from methods.settings import Inference, Weight

__all__ = ["Config", "Inference"]

HEAD_CHANNELS = 64  # of an attention head, in all modules that the method adds

Layers = Annotated[int, Ge(0), Le(100)]


class Config(settings.Config):
    """Parts of the method, and the towers that are tuned beside them."""

    per_prompt = True
    head_paths = {
        "integration": ("mit.*",),
        "prompts": ("*.k_proj", "*.v_proj"),
        "classification": ("classifier", "classifier.*"),
    }

    tower: Literal["frozen", "tuned"] = "tuned"
    """frozen or trained visual tower of CLIP (X-CLIP: tuned; Table 7 has both)"""
    texts: Literal["frozen", "tuned"] = "frozen"
    """frozen or trained text tower, with its tokens and the logit scale (X-CLIP: frozen; Table 7 has both)"""
    messages: bool = True
    """whether frames exchange messages in every block of the tower (X-CLIP, cross-frame communication)"""
    integration: Layers = 1
    """layers of the transformer over the frames' features; 0: their mean (X-CLIP, code, MIT_LAYERS)"""
    positions: Few = 8
    """rows of that transformer's table of positions in time, at least the frames of a view; a test has at most those
    of the training, since the other rows have learnt nothing (X-CLIP: as many)"""
    prompts: Layers = 2
    """layers of the decoder that changes class features by the video; 0: none (X-CLIP, code, PROMPTS_LAYERS)"""
    alpha: Weight = 0.1
    """start of the factors, one a channel, with which the change is added to a class feature (X-CLIP, PROMPTS_ALPHA)"""
    patch_init: Literal["unit", "scaled"] = "unit"
    """standard deviation of the patches' projection at the start: 1, whatever its width W (unit: X-CLIP, code), or
    W^-0.5 (scaled: this project)"""

    @model_validator(mode="after")
    def _every_choice_counts(self) -> Self:
        for part, names in (("integration", ["positions"]), ("prompts", ["alpha", "patch_init"])):
            for name in names:
                if not getattr(self, part) and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect with {part}: 0; allowed: leave it out, {part}: 1 or more")
        return self

    # --- derived choices ----------------------------------------------------------------------------------------------

    @property
    def tuned(self) -> frozenset[Part]:
        """The logit scale is not tuned with the visual tower, as in the official code."""
        visual: tuple[Part, ...] = ("visual",) if self.tower == "tuned" else ()
        texts: tuple[Part, ...] = ("text", "tokens", "scale") if self.texts == "tuned" else ()
        return frozenset(visual + texts)

    @property
    def tower_inside(self) -> bool:  # type: ignore[override]
        return self.messages or self.prompts > 0

    @property
    def has_head(self) -> bool:
        return self.messages or self.integration > 0 or self.prompts > 0

    @property
    def soft_targets(self) -> bool:
        return True

    @property
    def binds_frames(self) -> bool:  # type: ignore[override]
        return self.integration > 0

    def encoded(self, backbone: Backbone, frames: int) -> dict[str, tuple[int, ...]]:
        """With prompts also the projected patches, means over the frames."""
        patches = {"patches": (backbone.vision_tokens - 1, backbone.embed_dim)} if self.prompts else {}
        return {**super().encoded(backbone, frames), **patches}

    def fits(self, backbone: Backbone, frames: int) -> None:
        for width in (backbone.vision_width, backbone.embed_dim):
            if width % HEAD_CHANNELS:
                raise ValueError(f"{backbone.name} has width {width}; allowed: multiples of {HEAD_CHANNELS}, a head's")
        if self.integration and frames > self.positions:
            allowed = f"up to {self.positions} frames, or positions: {frames}"
            raise ValueError(f"{frames} frames, but positions: {self.positions}; allowed: {allowed}")

    # --- costs --------------------------------------------------------------------------------------------------------

    def inside_cost(self, backbone: Backbone, frames: int) -> Cost:
        """Messages and their exchange, a message as one more token of each frame in every block, and the patches."""
        width, tokens = backbone.vision_width, backbone.vision_tokens
        exchange = linear(width, width, frames) + norm(width) + attention(width, frames)
        longer = attention(width, tokens + 1).flops - attention(width, tokens).flops
        cost = self.messages * backbone.vision_layers * (exchange + Cost(0, frames * longer))
        return cost + min(1, self.prompts) * (norm(width) + linear(width, backbone.embed_dim, tokens - 1, bias=False))

    def head_costs(self, backbone: Backbone, frames: int, inference: Inference | None, stored: bool) -> Costs:
        """Of the prompts what a view takes: keys and values of its patches. The rest is a class's."""
        width, patches, costs = backbone.embed_dim, backbone.vision_tokens - 1, Costs()
        if self.integration:
            layer = attention(width, frames) + feed_forward(width, EXPANSION * width, frames) + 2 * norm(width)
            costs["integration"] = table(self.positions, width) + self.integration * layer
        if self.prompts:
            of_view = 2 * linear(width, width, patches, bias=False)
            of_class = linear(width, width, bias=False) + linear(width, width)
            of_class += feed_forward(width, EXPANSION * width) + 2 * norm(width)
            layer = of_view + Cost(of_class.parameters)
            costs["prompts"] = norm(width) + table(1, width) + self.prompts * layer
        return costs

    def class_flops(self, backbone: Backbone, frames: int, prompts: int) -> int:
        """Those of the decoder's query, whatever its number of prompts."""
        width, patches = backbone.embed_dim, backbone.vision_tokens - 1
        query = 2 * linear(width, width) + 2 * product(1, width, patches) + feed_forward(width, EXPANSION * width)
        return product(1, width, 1).flops + self.prompts * query.flops


# The fully supervised setting with ViT-B/16: a batch of 256 is 8 processes of 8 videos, 4 times, and each group of 8 is
# blended by itself; with ViT-L/14 8 times 4 videos. The rate is that of the new modules, ten times the tower's; all
# rates fall to a hundredth of the tower's. Suites set what the other settings have: few-shot (batch 64 of groups of 4,
# 2 micro-steps, 50 epochs, rate 2e-5) and zero-shot (10 epochs), both with 32 frames.
_OPTIMISER: dict[str, Any] = {
    **{"lr": 8e-5, "tower_lr_ratio": 0.1, "weight_decay": 1e-3, "betas": [0.9, 0.98], "eps": 1e-8},
    "undecayed": ["1d", "*.bias", "*positional_embedding*"],
}
_OFFICIAL: dict[str, Any] = {
    **_OPTIMISER,
    "templates": "name",
    "views": {
        **{"frames": 8, "sampler": "mmaction", "augmentation": "multi_scale", "positions": 5, "copies": 0},
        **{"normalise": "imagenet", "resize": 256},
    },
    **{"batch": 256, "epochs": 30, "warmup_epochs": 5, "schedule": "vifi", "micro_steps": 4, "drop_last": True},
    **{"floor_of": "tower", "smoothing": 0.1, "mix": {"mixup": 0.8, "cutmix": 1.0, "odds": 0.5, "group": 8}},
    "precision": "fp16",
}
PRESETS: dict[str, Preset] = {
    "official": {"inference": {"clip_alpha": 1.0}, "recipe": _OFFICIAL},
    "clean": {
        "config": {"patch_init": "scaled"},
        "inference": {"clip_alpha": 1.0},
        "recipe": {**CLEAN_TRAINING, **_OPTIMISER},
    },
}
