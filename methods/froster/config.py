"""FROSTER: Open-VCLIP's tower and the text tower, tuned while small projectors hold both to a frozen CLIP.

Title: FROSTER: Frozen CLIP Is A Strong Teacher for Open-Vocabulary Action Recognition (ICLR 2024).
Paper: arXiv 2402.03241. Official code: github.com/Visual-AI/FROSTER, commit 230ae88, CC BY-NC-SA 4.0 (written from a
description; no code taken).
Class names are replaced by `Name: a sentence` from files under the same licence, so those are the user's: templates
`rephrased29` and `descriptions`, in the recipe and in the protocols. The mean over epochs is the recipe's (`average`).
Left out: other students (ST-Adapter, AIM), an older loss on logits that the code keeps as a comment.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from bench.models.backbones import Backbone, Part
from methods.costs import Cost, Costs, linear
from methods.open_vclip.config import TRAINING, Window
from methods.presets import CLEAN_TRAINING, Preset
from methods.settings import Inference, Weight

__all__ = ["Config", "Inference"]

DISTILLED = {"both": ("video", "text"), "video": ("video",), "text": ("text",), "none": ()}


class Config(Window):
    """What is tuned, what is held to CLIP and by what, and the texts of a training step."""

    needs = {
        "distil_weight": {"distil": ("both", "video", "text")},
        "projector": {"distil": ("both", "video", "text")},
        "residual": {"distil": ("both", "video", "text"), "projector": ("residual",)},
        "texts": {"text_tower": ("tuned",)},
        "template_draw": {"text_tower": ("tuned",), "texts": ("drawn",)},
        "fixed_text": {"text_tower": ("tuned",), "texts": ("drawn",)},
    }

    tower: Literal["frozen", "tuned"] = "tuned"
    """frozen or trained visual tower of CLIP (tuned: FROSTER, code)"""
    text_tower: Literal["frozen", "tuned"] = "tuned"
    """frozen or trained text tower of CLIP with its token table; a frozen one gives the mean of all texts in every step
    (tuned: FROSTER, code)"""
    distil: Literal["both", "video", "text", "none"] = "both"
    """features that are held to those of the frozen CLIP: of frames (video), of classes (text) (both: FROSTER, code)"""
    distil_weight: Weight = 2.0
    """weight of each of the two distances, 1 - cosine (FROSTER, scripts)"""
    projector: Literal["residual", "identity"] = "residual"
    """what stands between the tuned features and CLIP's: features plus a small network of them, which no test needs
    (residual: FROSTER, code), or nothing (identity: this project)"""
    residual: Weight = 0.1
    """factor of the small network's output (FROSTER, code)"""
    texts: Literal["drawn", "all"] = "drawn"
    """texts of a class in a training step: one that is drawn, alike for all classes, and the last one (drawn: FROSTER,
    code), or all of them, which takes fifteen times as long (all: this project)"""
    template_draw: Literal["process", "step"] = "process"
    """whether each process draws a text of its own, as the official code does since its generator is not seeded, or all
    use one (step: this project)"""
    fixed_text: Literal["last", "none"] = "last"
    """the text that stands beside the drawn one: the last, which is the description alone in `rephrased29` (FROSTER,
    code), or none, for templates without such a text (this project)"""

    @model_validator(mode="after")
    def _holds_what_is_tuned(self) -> Self:
        tuned = [name for name, how in (("video", self.tower), ("text", self.text_tower)) if how == "tuned"]
        if not tuned:
            raise ValueError("tower: frozen and text_tower: frozen leave nothing to learn; allowed: one of them tuned")
        if frozen := [name for name in self.distilled if name not in tuned]:
            raise ValueError(f"distil: {self.distil} holds a frozen tower ({frozen[0]}); allowed: {tuned[0]}, none")
        return self

    @property
    def distilled(self) -> tuple[str, ...]:
        """Kinds of features that are held to CLIP's: `video`, `text`."""
        return DISTILLED[self.distil]

    @property
    def tuned(self) -> frozenset[Part]:
        texts: tuple[Part, ...] = ("text", "tokens") if self.text_tower == "tuned" else ()
        return frozenset(("scale", *(("visual",) if self.tower == "tuned" else ()), *texts))

    @property
    def has_head(self) -> bool:
        return bool(self.distilled) and self.projector == "residual"

    @property
    def teacher(self) -> bool:
        return bool(self.distilled)

    @property
    def depends_on_processes(self) -> bool:
        return self.texts_inside and self.texts == "drawn" and self.template_draw == "process"

    def head_costs(self, backbone: Backbone, frames: int, inference: Inference | None, stored: bool) -> Costs:
        """The projectors, which are in no test."""
        layer = linear(backbone.embed_dim, backbone.embed_dim, bias=False)
        own = 2 * len(self.distilled) * layer if stored and self.has_head else Cost()
        return {"projectors": own} if own.parameters else {}


# Scripts. Suites set the rest: the files of descriptions and, for base-to-novel, 12 epochs, batches of 32 (UCF-101: 64)
# and the weights of the last epoch on SSv2.
PRESETS: dict[str, Preset] = {
    "official": {"inference": {"clip_alpha": 1.0}, "recipe": {**TRAINING, "templates": "rephrased29"}},
    "clean": {
        "config": {"ends": "masked", "template_draw": "step", "fixed_text": "none"},
        "inference": {"clip_alpha": 1.0},
        "recipe": {**CLEAN_TRAINING, "average": {"kind": "epochs", "first": 2}},
    },
}
