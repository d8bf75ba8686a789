"""TC-CLIP: frames that see a summary of the whole clip, and class texts that see it too.

Title: Leveraging Temporal Contextualization for Video Action Recognition (ECCV 2024).
Paper: arXiv 2404.09490. Official code: github.com/naver-ai/tc-clip (written from a description; no code taken).
Both towers are tuned. In every visual block the patches that a frame's class token attends to most are merged to a few
context tokens, which all frames of the next block see. Learnt words stand before a class name; in front of the last
text block they read the context tokens of the video, so that class features depend on it. They never see the name, so
what the blocks before make of texts is the same for all videos, and an answer costs little more than its frames.
Names have blanks here, so none is put before capitals; rewritten names are templates with `descriptions`.
Left out: positions of patches in time, a merge rate that varies with depth, words that read the video before other
blocks than the last, a random start of that layer, frozen towers, the text tower run anew for each video and class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import model_validator

from bench.core.identity import Count, Few
from bench.models.backbones import Backbone, Part
from methods import settings
from methods.costs import Cost, Costs, attention, feed_forward, linear, norm, product, table
from methods.presets import CLEAN_TRAINING, Preset
from methods.settings import Inference

__all__ = ["Config", "Inference"]

MARKS = 3  # start and end of a text, and the full stop behind a class name


class Config(settings.Config):
    """Context tokens, and the words that read them."""

    head_paths = {"prompts": ("",), "classification": ("texts",)}
    tower_inside = True

    tower: Literal["tuned"] = "tuned"
    """both towers and the logit scale are trained, the token table is not (TC-CLIP, code)"""
    context_tokens: Count = 96
    """tokens that summarise a clip in each block, or all seeds if they are fewer (TC-CLIP, code)"""
    seed_share: Annotated[float, Gt(0), Le(1)] = 0.3
    """share of a frame's patches that become context tokens: those of the highest attention (TC-CLIP, code)"""
    merge_rate: Count = 100
    """tokens that a step of merging takes away; the next step compares what was merged anew (TC-CLIP, code)"""
    bias: bool = True
    """whether two numbers a block and head are learnt that the attention to a frame's own tokens and to context tokens
    gets on top (TC-CLIP, code)"""
    prompts: Few = 4
    """learnt words before a class name, which start as "a photo of a" (TC-CLIP, code); further ones from Normal(0,
    0.02) (this project)"""
    text_length: Annotated[int, Ge(8), Le(77)] = 30
    """tokens of a text, if the backbone reads as many; 77 for rewritten names (TC-CLIP, code)"""
    video_prompts: bool = True
    """whether the learnt words read the video; false: only its frames see context (TC-CLIP, code)"""
    stop_gradient: bool = True
    """whether that reading sends no gradient to the visual tower (TC-CLIP, code)"""

    @model_validator(mode="after")
    def _stops_what_there_is(self) -> Self:
        if not (self.stop_gradient or self.video_prompts):
            raise ValueError("stop_gradient has no effect with video_prompts: false; allowed: leave it out")
        return self

    # --- derived choices ----------------------------------------------------------------------------------------------

    @property
    def tuned(self) -> frozenset[Part]:
        return frozenset(("visual", "text", "scale"))

    @property
    def soft_targets(self) -> bool:
        return True

    def length(self, backbone: Backbone) -> int:
        """Tokens of a text."""
        return min(self.text_length, backbone.context_length)

    def name_room(self, backbone: Backbone) -> int | None:
        return self.length(backbone) - self.prompts

    def seeds(self, backbone: Backbone) -> int:
        """Patches of a frame that become context tokens."""
        return int(self.seed_share * (backbone.vision_tokens - 1))

    def context(self, backbone: Backbone, frames: int) -> int:
        """Context tokens of a clip."""
        return min(self.context_tokens, frames * self.seeds(backbone))

    def class_shape(self, backbone: Backbone, prompts: int) -> tuple[int, ...]:
        """What the last text block reads of a class, each row two vectors.

        Row 0 is the query and the hidden state of the end mark. Others are keys and values of the start mark and of the
        name with its end, zeros behind it.
        """
        return prompts, 1 + self.length(backbone) - self.prompts, 2 * backbone.text_width

    def encoded(self, backbone: Backbone, frames: int) -> dict[str, tuple[int, ...]]:
        own = self.context(backbone, frames), backbone.embed_dim
        return {**super().encoded(backbone, frames), "context": own}

    def fits(self, backbone: Backbone, frames: int) -> None:
        patches, length = backbone.vision_tokens - 1, self.length(backbone)
        if not self.seeds(backbone):
            raise ValueError(f"seed_share {self.seed_share} of {patches} is no patch; allowed: from {1 / patches:.2g}")
        if self.prompts + MARKS >= length:
            what = f"prompts {self.prompts} leaves no room for a class name in a text of {length} tokens"
            raise ValueError(f"{what}; allowed: up to {length - MARKS - 1} less the tokens of the longest name")
        if self.video_prompts and backbone.embed_dim != backbone.text_width:
            what = f"words of width {backbone.text_width} cannot read context tokens of width {backbone.embed_dim}"
            raise ValueError(f"{what}; allowed: video_prompts: false, a backbone with equal widths")

    # --- costs --------------------------------------------------------------------------------------------------------

    def inside_cost(self, backbone: Backbone, frames: int) -> Cost:
        """Context tokens: made in every block, and keys and values of the next one."""
        width, layers, own = backbone.vision_width, backbone.vision_layers, self.context(backbone, frames)
        seen = 2 * linear(width, width, own) + 2 * product(frames * backbone.vision_tokens, width, own)
        made = feed_forward(width, int(width * backbone.vision_mlp_ratio), own)
        for count, _ in merges(frames * self.seeds(backbone), own, self.merge_rate):
            made += product((count + 1) // 2, width, count // 2)
        flops = ((layers - 1) * seen + layers * made + linear(width, backbone.embed_dim, own)).flops
        return Cost(self.bias * (layers - 1) * backbone.vision_heads * 2, flops)

    def text_cost(self, backbone: Backbone) -> Cost:
        """A text is shorter than CLIP's, and its last block is part of the answer to a video."""
        width, length = backbone.text_width, self.length(backbone)
        blocks = (backbone.text_layers - 1) * (attention(width, length) + feed_forward(width, 4 * width, length))
        own = blocks + linear(width, width) + 2 * linear(width, width, length - self.prompts)
        return table(self.prompts, width) + Cost(0, own.flops - backbone.text_flops())

    def head_costs(self, backbone: Backbone, frames: int, inference: Inference | None, stored: bool) -> Costs:
        """The layer by which words read a video; as deployed, also the text tower from its last block on."""
        width, words, context = backbone.text_width, self.prompts, self.context(backbone, frames)
        block = (attention(width) + feed_forward(width, 4 * width) + 2 * norm(width)).parameters
        reading = 2 * (linear(width, width, words + context) + product(words, width, context))
        flops = self.video_prompts * (reading + feed_forward(width, 4 * width, words)).flops
        parameters = self.video_prompts * (block + norm(width).parameters)
        if not stored:  # the words are keys and values of the last block
            parameters += block + norm(width).parameters + width * backbone.embed_dim
            flops += 2 * linear(width, width, words).flops
        return {"prompts": Cost(parameters, flops)}

    def class_flops(self, backbone: Backbone, frames: int, prompts: int) -> int:
        """The last text block for the end mark of each prompt, and the cosine."""
        width, dim = backbone.text_width, backbone.embed_dim
        text = linear(width, width) + feed_forward(width, 4 * width) + linear(width, dim)
        return prompts * (text + 2 * product(1, width, self.length(backbone))).flops + 2 * dim


def merges(count: int, keep: int, rate: int) -> Iterator[tuple[int, int]]:
    """Steps that merge so many tokens to `keep`: how many there are, and how many the step takes away."""
    full = (count - keep) // rate
    while count > keep:
        removed = min(rate if full > 0 else count - keep, count // 2)
        yield count, removed
        count, full = count - removed, full - 1


# The zero-shot recipe (official configs; the other settings are fields of suites). Words and their layer learn ten
# times as fast as the towers, and fall to the same rate. A batch of 256 is 64 groups of 4, each blended by itself. The
# share of the tuned weights at the test is that of the zero-shot script; elsewhere it is 1.
_OFFICIAL: dict[str, Any] = {
    "templates": "name",
    "views": {
        **{"frames": 16, "sampler": "mmaction", "augmentation": "multi_scale", "positions": 5, "copies": 0},
        **{"normalise": "imagenet", "resize": 256},
    },
    **{"batch": 256, "epochs": 10, "warmup_epochs": 5, "schedule": "vifi", "floor_of": "tower", "drop_last": True},
    **{"lr": 8e-5, "tower_lr_ratio": 0.1, "weight_decay": 1e-3, "betas": [0.9, 0.98], "eps": 1e-8},
    **{"smoothing": 0.1, "mix": {"mixup": 0.8, "cutmix": 1.0, "odds": 0.5, "group": 4}, "precision": "fp16"},
}
PRESETS: dict[str, Preset] = {
    "official": {"inference": {"clip_alpha": 0.7}, "recipe": _OFFICIAL},
    "clean": {
        "inference": {"clip_alpha": 1.0},
        "recipe": {**CLEAN_TRAINING, "templates": "name", "tower_lr_ratio": 0.07},
    },
}
