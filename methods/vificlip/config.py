"""ViFi-CLIP: CLIP as it is, with one or both towers tuned on videos; then prompts in both towers of what came out.

Title: Fine-tuned CLIP Models are Efficient Video Learners (CVPR 2023).
Paper: arXiv 2212.03640. Official code: github.com/muzairkhattak/ViFi-CLIP, no licence file (written from a description;
no code or sentence taken).
Smoothed labels and blended videos are the recipe's (`smoothing`, `mix`). The token table is never trained, as in the
official code, where only its rows of the class texts are part of the model. "Bridge and prompt" is a row with `prompts`
that starts from another without (`init_from`).
Left out: half precision of the prompts in fp32; words as initial context, without effect in all official configs.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from bench.core.identity import Few, Identified, setting
from bench.models.backbones import Backbone, Part
from methods import settings
from methods.costs import Cost, attention, feed_forward, table
from methods.presets import CLEAN_TRAINING, Preset
from methods.settings import Inference

__all__ = ["Config", "Inference", "Prompts"]

MARKS = 3  # start and end of a text, and the full stop behind a class name
TUNED: dict[str, tuple[Part, ...]] = {"both": ("visual", "text", "scale"), "image": ("visual",), "text": ("text",)}


class Prompts(Identified):
    """Learnt vectors in both towers."""

    image: Few = setting(10, "vectors behind the patches (ViFi-CLIP, few-shot 10, base-to-novel 16)")
    text: Few = setting(10, "vectors in the place of a template's words (ViFi-CLIP, few-shot 10, base-to-novel 16)")
    image_depth: Few = setting(12, "first blocks that have image vectors of their own (ViFi-CLIP, few-shot 12, else 9)")
    text_depth: Few = setting(12, "first blocks that have text vectors of their own (ViFi-CLIP, few-shot 12, else 9)")


class Config(settings.Config):
    """Parts of CLIP that are tuned, or prompts in a frozen one."""

    without_frames = {}

    tower: Literal["frozen", "tuned"] = "tuned"
    """frozen or trained visual tower of CLIP; follows from the fields below (ViFi-CLIP)"""
    tunes: Literal["both", "image", "text"] = "both"
    """towers that are tuned; the logit scale is with both alone (ViFi-CLIP, official code, USE)"""
    prompts: Prompts | None = None
    """vectors learnt in both towers while all else is frozen, for little data: `image`, `text` (numbers), `image_depth`
    and `text_depth`; recipe.templates: name, since a template's words would count as part of the name; none: CLIP as it
    is (ViFi-CLIP, bridge and prompt)"""

    @model_validator(mode="before")
    @classmethod
    def _tower_follows(cls, given: Any) -> Any:
        frozen = isinstance(given, dict) and (given.get("prompts") is not None or given.get("tunes") == "text")
        return {"tower": "frozen", **given} if frozen else given

    @model_validator(mode="after")
    def _every_choice_counts(self) -> Self:
        if self.prompts and self.tunes != "both":
            raise ValueError(f"tunes: {self.tunes} has no effect with prompts; allowed: leave it out")
        follows = "tuned" if "visual" in self.tuned else "frozen"
        if self.tower != follows:
            reason = "prompts" if self.prompts else f"tunes: {self.tunes}"
            raise ValueError(f"tower: {self.tower} contradicts {reason}; allowed: tower: {follows}")
        return self

    # --- derived choices ----------------------------------------------------------------------------------------------

    @property
    def tuned(self) -> frozenset[Part]:
        return frozenset(() if self.prompts else TUNED[self.tunes])

    @property
    def interpolates(self) -> bool:
        """Always: a frozen CLIP under prompts may be a tuned one."""
        return True

    @property
    def tower_inside(self) -> bool:  # type: ignore[override]
        return self.prompts is not None

    @property
    def needs_frames(self) -> bool:
        return self.prompts is not None

    @property
    def has_head(self) -> bool:
        return self.prompts is not None

    @property
    def texts_inside(self) -> bool:
        return self.prompts is not None or self.tunes != "image"

    @property
    def soft_targets(self) -> bool:
        return True

    def continues(self, first: settings.Config) -> bool:
        """True also for prompts in what any training without them tuned."""
        bridge = isinstance(first, Config) and self.prompts is not None and first.prompts is None
        return bridge or self == first

    def name_room(self, backbone: Backbone) -> int | None:
        return backbone.context_length - self.prompts.text if self.prompts else None

    def fits(self, backbone: Backbone, frames: int) -> None:
        if self.prompts is None:
            return
        for field, layers in (("image_depth", backbone.vision_layers), ("text_depth", backbone.text_layers)):
            if (depth := getattr(self.prompts, field)) > layers:
                raise ValueError(
                    f"prompts.{field} {depth}, but {backbone.name} has {layers} blocks there; allowed: 1 to {layers}"
                )
        if self.prompts.text >= (room := backbone.context_length - MARKS):
            raise ValueError(
                f"prompts.text {self.prompts.text} leaves no room for a class name in a text of "
                f"{backbone.context_length} tokens; allowed: up to {room} less the tokens of the longest name"
            )

    # --- costs --------------------------------------------------------------------------------------------------------

    def inside_cost(self, backbone: Backbone, frames: int) -> Cost:
        """The vectors are tokens of all blocks, also of those behind the last that has its own."""
        if self.prompts is None:
            return Cost()
        width, count, tokens = backbone.vision_width, self.prompts.image, backbone.vision_tokens
        inner = int(width * backbone.vision_mlp_ratio)
        longer, plain = (
            attention(width, each).flops + feed_forward(width, inner, each).flops for each in (tokens + count, tokens)
        )
        return Cost(self.prompts.image_depth * count * width, frames * backbone.vision_layers * (longer - plain))

    def text_cost(self, backbone: Backbone) -> Cost:
        """Vectors stand where a text has other tokens, so it is no longer."""
        own = self.prompts
        return table(own.text_depth * own.text, backbone.text_width) if own else Cost()


# The zero-shot recipe (official configs; the other settings are fields of suites). A batch of 256 is 8 processes of 4
# videos, 8 times; each of the 64 groups of 4 is blended by itself.
_OFFICIAL: dict[str, Any] = {
    "templates": "vifi",
    "views": {
        **{"frames": 32, "sampler": "mmaction", "augmentation": "multi_scale", "positions": 5, "copies": 0},
        **{"normalise": "imagenet", "resize": 256},
    },
    **{"batch": 256, "epochs": 10, "warmup_epochs": 5, "schedule": "vifi", "micro_steps": 8, "drop_last": True},
    **{"lr": 8e-6, "tower_lr_ratio": 1.0, "weight_decay": 1e-3, "betas": [0.9, 0.98], "eps": 1e-8},
    **{"smoothing": 0.1, "mix": {"mixup": 0.8, "cutmix": 1.0, "odds": 0.5, "group": 4}, "precision": "fp16"},
}
PRESETS: dict[str, Preset] = {
    "official": {"inference": {"clip_alpha": 1.0}, "recipe": _OFFICIAL},
    "clean": {"inference": {"clip_alpha": 1.0}, "recipe": {**CLEAN_TRAINING, "tower_lr_ratio": 0.07}},
}
