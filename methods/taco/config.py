"""TACO: all of CLIP is tuned behind a residual projection, and similarities stay close to a slowly moving teacher's.

Title: TACO: Towards Task-Consistent Open-Vocabulary Adaptation in Video Recognition.
Paper: arXiv 2606.25478 (NeurIPS 2026). Official code: github.com/ZMHH-H/TACO, Apache-2.0 licence (written from a
description; no code taken). The mean over epochs that it deploys is `recipe.average`: {kind: epochs, start: true};
{kind: ema} is its teacher.
Left out: what the code has and its configs do not use, such as hybrid labels, a regression of features and a dense
temporal head; training that goes on with a new teacher and a new mean after an interruption.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Le
from pydantic import model_validator

from bench.models.backbones import Backbone, Part
from methods import settings
from methods.costs import Costs, linear
from methods.presets import CLEAN_TRAINING, MOTE_TRAINING, Preset, tuned
from methods.settings import Fraction, Weight

WIDENING = 2  # inner width of the projection over D
MOST_ANCHORS = 1_000_000


class Inference(settings.Inference):
    """The space that a test compares in."""

    projected: bool = True
    """whether the test goes through the projection, if there is one: the official program's main number does, the one
    it calls CLIP's does not; README and abstract describe the latter (TACO, official code)"""


class Config(settings.Config):
    """Projection and relative structure distillation."""

    head_paths = {"projection": ("projection",)}

    tower: Literal["frozen", "tuned"] = "tuned"
    """frozen or trained visual tower of CLIP; text tower, token table and scale are always trained (TACO, official
    code, where either tower can be frozen)"""
    projection: bool = True
    """whether cross-entropy acts behind a linear projection of the video, added to it and zero at first (specialization
    projection: TACO, official code)"""
    kl_weight: Weight = 0.4
    """weight of the divergence of similarities from the teacher's (relative structure distillation); 0: no teacher
    (TACO, official code)"""
    anchors: Annotated[int, Ge(0), Le(MOST_ANCHORS)] = 200
    """number K of random directions through which similarities are compared, drawn in every step; 0: the cosines
    themselves (TACO, official code)"""
    momentum: Fraction = 0.9998
    """share of the teacher's weights that a step leaves; 1: plain CLIP is the teacher (TACO, official configs)"""
    target_scale: Literal["live", "detached"] = "live"
    """whether the teacher's distribution, which has the student's logit scale, hands that scale a gradient (live:
    official code; detached: this project)"""
    anchor_draw: Literal["process", "step"] = "process"
    """scope of a draw of anchors: each training process (process, official code), or the whole step (step, this
    project)"""
    class_mean: Literal["raw", "unit"] = "raw"
    """mean over a class's prompts: of their embeddings as they are (raw), or of unit ones as elsewhere (unit); the same
    for a single prompt (raw: TACO, official code; unit: this project)"""

    @model_validator(mode="after")
    def _distillation_needs_its_weight(self) -> Self:
        idle = ("anchors", "momentum", "target_scale", "anchor_draw") if not self.kl_weight else ("anchor_draw",)
        cause = "kl_weight" if not self.kl_weight else "" if self.anchors else "anchors"
        for name in idle if cause else ():
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: {value} has no effect with {cause}: 0; allowed: leave it out")
        return self

    @property
    def tuned(self) -> frozenset[Part]:
        return frozenset(
            ("visual", "text", "tokens", "scale") if self.tower == "tuned" else ("text", "tokens", "scale")
        )

    @property
    def has_head(self) -> bool:
        return self.projection

    @property
    def teacher(self) -> bool:
        return self.kl_weight > 0

    @property
    def soft_targets(self) -> bool:
        return True

    @property
    def depends_on_processes(self) -> bool:
        return self.teacher and self.anchors > 0 and self.anchor_draw == "process"

    def head_costs(self, backbone: Backbone, frames: int, inference: settings.Inference | None, stored: bool) -> Costs:
        """On the mean over the frames, so that their number has no effect."""
        used = stored or not isinstance(inference, Inference) or inference.projected
        if not (self.projection and used):
            return {}
        width, inner = backbone.embed_dim, WIDENING * backbone.embed_dim
        return {"projection": linear(width, inner) + linear(inner, width)}


# `official`: the released configs of ViT-B/16; ViT-L/14 has a rate of 2.5e-5 and 96 videos a step. Three processes draw
# anchors of their own. Which of the weights that the program saves were measured is not said; here, the mean of epochs.
# `clean`: no gradient through the target, one draw a step, unit texts, training and test with the same 28 prompts.
_OWN: dict[str, Any] = {"epochs": 15, "tower_lr_ratio": 0.075, "average": {"kind": "epochs", "start": True}}
PRESETS: dict[str, Preset] = {
    "official": tuned({**MOTE_TRAINING, **_OWN, "templates": "bike", "batch": 192, "parts": 3}, {"projected": True}),
    "clean": tuned(
        {**CLEAN_TRAINING, **_OWN},
        {"projected": False},
        **{"target_scale": "detached", "anchor_draw": "step", "class_mean": "unit"},
    ),
}
