"""Vita-CLIP: a frozen CLIP whose visual blocks read learnt tokens, and whose class names stand in a learnt context.

Title: Vita-CLIP: Video and text adaptive CLIP via Multimodal Prompting (CVPR 2023).
Paper: arXiv 2304.03307. Official code: github.com/TalalWasim/Vita-CLIP, commit c858299 (written from a description; no
code taken).
The context is that of CoOp in `text4vis`. The feed-forward network of global tokens, whose result the official code
throws away, is not computed. The patch convolution's bias, which CLIP lacks, is zero unless an official checkpoint has
one. Left out: clips of other lengths, which the official code cuts into groups that do not see each other, or fails at;
a context that begins as words. RandAugment's operations are torchvision's, without the spread of their magnitude (7 of
10 is 21 of 30 here); the resized crop is taken from pixels.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import field_validator, model_validator

from bench.core.identity import Count, Distinct, Few
from bench.models.backbones import Backbone, Part
from methods import costs, settings
from methods.presets import CLEAN_TRAINING, Preset
from methods.text4vis.config import Config as Text4Vis

Prompt = Literal["global", "local", "summary"]


class Inference(settings.Inference):
    """Choices made after training."""

    texts: Literal["learnt", "plain", "seen"] = "learnt"
    """class texts at the test: in the learnt context (learnt), which serves no unseen classes if each has its own; by
    frozen CLIP from the protocol's templates (plain); or learnt where all candidates were trained on, else plain (seen)
    (Vita-CLIP's official code has plain for zero-shot, but it cannot run)"""


class Config(settings.Config):
    """Learnt tokens of the visual tower and of class texts."""

    needs = {name: {"context": ("class", "generic")} for name in ("name_at", "context_vectors")}

    tower: Literal["frozen"] = "frozen"
    """the visual tower is CLIP's (Vita-CLIP, code)"""
    prompts: Annotated[tuple[Prompt, ...], Distinct] = ("global", "local", "summary")
    """learnt tokens of every visual block: the same for all videos (global); one a frame, seen by all frames and moved
    by its class token (local); attention over the class tokens of all frames (summary) (Vita-CLIP, code)"""
    frames: Few = 8
    """frames of a clip, each with a local token and an embedding of its time; other clips are refused (Vita-CLIP,
    script)"""
    global_tokens: Few = 8
    """global tokens of a block (Vita-CLIP, script)"""
    train_cls_proj: bool = False
    """train the projection of class tokens that local and summary tokens are made of; the official code leaves it at
    its random start (Vita-CLIP, code)"""
    train_scale: bool = True
    """train the logit scale (Vita-CLIP, code)"""
    context: Literal["class", "generic", "none"] = "class"
    """learnt vectors around a class name: of each class, which is class-bound; the same for all classes; or CLIP's
    texts; with vectors recipe.templates: name, since a template's words would count as part of the name (Vita-CLIP,
    script)"""
    context_vectors: Count = 8
    """vectors of a context, drawn from Normal(0, 0.02) (Vita-CLIP, script)"""
    name_at: Literal["end", "middle", "front"] = "end"
    """place of the class name: behind, amid or before the vectors; a full stop follows (Vita-CLIP, code)"""

    @field_validator("prompts")
    @classmethod
    def _in_one_order(cls, given: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
        return tuple(sorted(given))

    @model_validator(mode="after")
    def _every_token_counts(self) -> Self:
        for name, of in (("global_tokens", ("global",)), ("train_cls_proj", ("local", "summary"))):
            changed = getattr(self, name) != type(self).model_fields[name].default
            if changed and not {*of} & {*self.prompts}:
                raise ValueError(f"{name} has no effect without {' or '.join(of)} in prompts; allowed: leave it out")
        return self

    # --- derived choices ----------------------------------------------------------------------------------------------

    @property
    def tuned(self) -> frozenset[Part]:
        return frozenset(("scale",) if self.train_scale else ())

    @property
    def tower_inside(self) -> bool:  # type: ignore[override]
        return True

    @property
    def soft_targets(self) -> bool:
        return True

    @property
    def open_vocabulary(self) -> bool:
        return self.context != "class"

    @property
    def texts_inside(self) -> bool:
        return self.context != "none"

    def plain_texts(self, inference: settings.Inference, seen: bool) -> bool:
        texts = getattr(inference, "texts", "learnt")
        return self.texts_inside and (texts == "plain" or (texts == "seen" and not seen))

    def check(self, inference: settings.Inference) -> None:
        if not self.texts_inside and (texts := getattr(inference, "texts", "learnt")) != "learnt":
            raise ValueError(f"inference.texts: {texts} has no effect with context: none; allowed: leave it out")

    @property
    def projects(self) -> bool:
        """True if tokens are made of projected class tokens."""
        return bool({"local", "summary"} & {*self.prompts})

    @property
    def learnt(self) -> Text4Vis:
        """The same context as a choice of Text4Vis."""
        owner = "class" if self.context == "class" else "all"
        chosen = {"context": self.context_vectors, "context_of": owner, "class_at": self.name_at}
        return Text4Vis.model_validate({"head": "none", "classifier": "coop", **chosen})

    def name_room(self, backbone: Backbone) -> int | None:
        return self.learnt.name_room(backbone) if self.texts_inside else None

    def fits(self, backbone: Backbone, frames: int) -> None:
        if frames != self.frames:
            raise ValueError(
                f"clips of {frames} frames, but config.frames {self.frames} have tokens; allowed: views.frames "
                f"{self.frames}, or config.frames {frames}"
            )
        if self.texts_inside:
            self.learnt.fits(backbone, frames)

    # --- costs --------------------------------------------------------------------------------------------------------

    def inside_cost(self, backbone: Backbone, frames: int) -> costs.Cost:
        """Attention is also over tokens whose output is thrown away, as in the official code."""
        width, tokens = backbone.vision_width, backbone.vision_tokens
        count = {"global": self.global_tokens, "local": frames, "summary": 1}
        more = sum(count[name] for name in self.prompts)
        longer, plain = (costs.attention(width, each).flops for each in (tokens + more, tokens))
        block = costs.Cost(0, frames * (longer - plain))
        if "global" in self.prompts:
            block += costs.table(self.global_tokens, width)
        if "local" in self.prompts:
            block += costs.table(self.frames, width)
        if "summary" in self.prompts:
            block += costs.norm(width) + costs.attention(width, frames)
        if self.projects:
            block += costs.linear(width, width, frames)
        return costs.table(self.frames, width) + backbone.vision_layers * block

    def text_cost(self, backbone: Backbone) -> costs.Cost:
        return self.learnt.text_cost(backbone) if self.texts_inside else costs.Cost()

    def class_bound_parameters(self, backbone: Backbone, classes: int) -> int:
        return self.learnt.class_bound_parameters(backbone, classes) if self.texts_inside else 0


# Not as in the official program: it counts 30,000 steps of 256 videos, resizes normalised pixels bilinearly, and draws
# the magnitudes of RandAugment.
_RATES: dict[str, Any] = {"templates": "name", "lr": 4e-4, "tower_lr_ratio": 1.0, "weight_decay": 0.05}
_OFFICIAL: dict[str, Any] = {
    "views": {
        **{"frames": 8, "sampler": "strided", "stride": 16, "spacing": "step", "resize": None, "copies": 0},
        **{"augmentation": "resized_crop", "flip": False},
        **{"rand_augment": "clip", "rand_augment_n": 4, "rand_augment_m": 21},  # 7 of 10
    },
    **{"batch": 256, "epochs": 32, "warmup_epochs": 0, "schedule": "cosine", "betas": [0.9, 0.999], "eps": 1e-8},
}
PRESETS: dict[str, Preset] = {
    "official": {
        "config": {"frames": 8, "context_vectors": 8},  # said, so that small towers can have fewer
        "inference": {"clip_alpha": 1.0, "texts": "seen"},
        "recipe": {**_OFFICIAL, **_RATES},
    },
    "clean": {
        "config": {"train_cls_proj": True, "context": "generic", "frames": 8, "context_vectors": 8},
        "inference": {"clip_alpha": 1.0},
        "recipe": {
            **CLEAN_TRAINING,
            **_RATES,
            "undecayed": ["1d", "*_prompts", "*time_embed", "*vectors_KMW", "*logit_scale"],
        },
    },
}
