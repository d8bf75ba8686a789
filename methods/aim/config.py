"""AIM: a frozen tower whose attention also runs over time, and adapters behind each of its parts.

Title: AIM: Adapting Image Models for Efficient Video Action Recognition (ICLR 2023).
Paper: arXiv 2302.03024. Official code: github.com/taoyang1122/adapt-image-models, commit b3580d2 (written from a
description; no code taken).
The final norm trains, so a copy of CLIP's is part of the head. Scores by class texts are not official: FROSTER's
authors trained such a row (arXiv 2402.03241), whose variant is `fidelity: froster`.
Left out: noise of the lighting with ViT-L/14; a blue mean that differs from CLIP's by a slip; clips of other lengths,
which the official code cuts into groups that do not see each other; the random tower of a training that was not told to
load CLIP.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, model_validator

from bench.core.identity import Distinct
from bench.models.backbones import Backbone
from methods import heads
from methods.costs import Cost, attention, feed_forward, norm, table
from methods.heads import Share
from methods.presets import CLEAN_TRAINING, Preset
from methods.settings import Inference, Positive

__all__ = ["Config", "Inference"]

Part = Literal["spatial", "temporal", "joint"]
PARTS: tuple[Part, ...] = ("spatial", "temporal", "joint")


def _in_order(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(part for part in PARTS if part in parts)


class Config(heads.Config):
    """Adapters, stochastic depth and the vectors of the frames."""

    tower: Literal["frozen"] = "frozen"
    """the visual tower is frozen, but for a copy of its final norm (AIM, code)"""
    parts: Annotated[tuple[Part, ...], Distinct, AfterValidator(_in_order)] = PARTS
    """parts of a block with an adapter: behind the attention within a frame (spatial); behind a second pass of the same
    attention over the frames at each place (temporal); beside the feed-forward network (joint) (AIM, Sec. 3)"""
    ratio: Annotated[float, Gt(0), Le(1)] = 0.25
    """inner width of an adapter, over the tower's (AIM, code)"""
    temporal_adapters: Literal[1, 2] = 1
    """adapters of the pass over time; the second one is in front of it (1: AIM, Kinetics-400; 2: SSv2 with ViT-B/16)"""
    scale: Positive = 0.5
    """factor of the joint adapter (AIM, configs; 1 on SSv2)"""
    drop_path: Share = 0.2
    """stochastic depth: probability that the last block drops its temporal or its joint term in training; it rises
    evenly from 0 in the first block (AIM, configs)"""
    drop_unit: Literal["token", "sample"] = "token"
    """what keeps or loses a term: a place of the frame, in all frames of all videos of a process at once (token: AIM,
    code), or a video (sample: this project)"""
    frames: Annotated[int, Ge(0), Le(512)] = 8
    """frames of a clip, each with a learnt vector that all its tokens get; other clips are refused. 0: no vectors, and
    clips of any length (8: AIM, configs; 0: FROSTER's re-run, code)"""

    @model_validator(mode="after")
    def _every_choice_counts(self) -> Self:
        dropping = "temporal" in self.parts or "joint" in self.parts
        effect = {
            "temporal_adapters": ("temporal" in self.parts, "parts with temporal"),
            "scale": ("joint" in self.parts, "parts with joint"),
            "drop_path": (dropping, "parts with temporal or joint"),
            "drop_unit": (dropping and self.drop_path > 0, "drop_path above 0, parts with temporal or joint"),
            "ratio": (bool(self.parts), "some parts"),
        }
        for name, (has_effect, better) in effect.items():
            if not has_effect and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with these other choices; allowed: leave it out, {better}")
        return self

    # --- derived choices ----------------------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[str, ...]:
        """Adapters of a block, under their official names."""
        temporal = ("T_Adapter", "T_Adapter_in")[: self.temporal_adapters]
        names = {"spatial": ("S_Adapter",), "temporal": temporal, "joint": ("MLP_Adapter",)}
        return tuple(name for part in self.parts for name in names[part])

    @property
    def interpolates(self) -> bool:
        """Always: without the adapters' terms and the frames' vectors the tower is CLIP's."""
        return True

    @property
    def depends_on_processes(self) -> bool:
        """True if anything is drawn: each process draws for its own videos."""
        dropping = self.drop_path > 0 and ("temporal" in self.parts or "joint" in self.parts)
        return dropping or (self.head == "linear" and self.dropout > 0)

    def inner(self, backbone: Backbone) -> int:
        """Inner width of an adapter."""
        return int(backbone.vision_width * self.ratio)

    def fits(self, backbone: Backbone, frames: int) -> None:
        if self.frames not in (0, frames):
            raise ValueError(
                f"clips of {frames} frames, but config.frames {self.frames} vectors are learnt; allowed: "
                f"views.frames {self.frames}, or config.frames {frames} or 0"
            )
        if not self.inner(backbone):
            raise ValueError(
                f"ratio {self.ratio} of a width of {backbone.vision_width} leaves adapters no width; allowed: at least "
                f"1/{backbone.vision_width}"
            )

    # --- costs --------------------------------------------------------------------------------------------------------

    def inside_cost(self, backbone: Backbone, frames: int) -> Cost:
        """Adapters, the pass over time, which has no parameters of its own, vectors and norm."""
        width, tokens = backbone.vision_width, backbone.vision_tokens
        block = len(self.adapters) * feed_forward(width, self.inner(backbone), frames * tokens)
        if "temporal" in self.parts:
            block += Cost(0, tokens * attention(width, frames).flops)
        added = backbone.vision_layers * block + table(self.frames, width) + norm(width)
        return added + self.left_out(backbone, frames)


# Official configs of Kinetics-400 with ViT-B/16. With ViT-L/14 all but the linear layer learns at a tenth of the rate,
# and the final norm decays too: `tower_lr_ratio: 0.1`, `undecayed: []`. Eight processes of eight videos.
_OFFICIAL: dict[str, Any] = {
    "templates": "mote28",
    "views": {
        **{"frames": 8, "sampler": "mmaction_strided", "stride": 16},
        **{"augmentation": "resized_crop", "resize": 256, "copies": 0},
    },
    **{"batch": 64, "epochs": 30, "warmup_epochs": 2.5, "schedule": "epoch_cosine", "warmup_start": 0.1},
    **{"lr": 3e-4, "tower_lr_ratio": 1.0, "weight_decay": 0.05, "undecayed": ["*ln_post*"]},
    **{"betas": [0.9, 0.999], "eps": 1e-8, "precision": "fp16", "parts": 8},
}
_SSV2_VIEWS: dict[str, Any] = {
    **{"frames": 8, "sampler": "segments_inclusive", "augmentation": "resized_crop", "flip": False, "resize": 256},
    # The official magnitude is imgaug's, of 30.
    **{"rand_augment": "clip", "rand_augment_n": 4, "rand_augment_m": 7, "random_erasing": 0.25, "copies": 0},
}
# The clean rate is the official one. FROSTER's authors published the code of their variant, and no setting that it was
# trained with: those here are of their ST-Adapter.
_CLEAN: dict[str, Any] = {
    **{**CLEAN_TRAINING, "schedule": "cosine", "lr": 3e-4, "tower_lr_ratio": 1.0},
    **{"weight_decay": 0.05, "undecayed": ["1d", "*temporal_embedding"]},
}
_FROSTER: dict[str, Any] = {
    "templates": "mote28",
    "views": {
        **{"frames": 8, "sampler": "strided", "stride": 16, "rate": 30.0, "spacing": "even"},
        **{"augmentation": "short_side", "short_side": 256 / 224, "resize": None, "copies": 0},
    },
    **{"batch": 128, "epochs": 12, "warmup_epochs": 1, "schedule": "cosine", "floor": 2e-4},
    **{"lr": 5e-4, "tower_lr_ratio": 1.0, "weight_decay": 0.01, "undecayed": ["1d"]},
    **{"betas": [0.9, 0.999], "eps": 1e-8, "precision": "fp16", "clip_grad": 1.0},
}
PRESETS: dict[str, Preset] = {
    "official": {"config": {"head": "linear", "frames": 8}, "inference": {"clip_alpha": 1.0}, "recipe": _OFFICIAL},
    "official-ssv2": {  # ViT-B/16; ViT-L/14 has one temporal adapter
        "config": {"head": "linear", "frames": 8, "temporal_adapters": 2, "scale": 1.0},
        "inference": {"clip_alpha": 1.0},
        "recipe": {**_OFFICIAL, "views": _SSV2_VIEWS, "epochs": 50, "smoothing": 0.1},
    },
    "froster": {
        "config": {"frames": 0, "drop_path": 0.0, "pool": "unit_frames"},
        "inference": {"clip_alpha": 1.0},
        "recipe": _FROSTER,
    },
    "clean": {"config": {"frames": 8, "drop_unit": "sample"}, "inference": {"clip_alpha": 1.0}, "recipe": _CLEAN},
}
