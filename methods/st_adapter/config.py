"""ST-Adapter: bottlenecks with a convolution over time, inside CLIP's frozen visual tower.

Title: ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning (NeurIPS 2022).
Paper: arXiv 2206.13559. Official code: github.com/linziyi96/st-adapter, commit b914b38, no licence file (written from a
description; no code taken).
The official head is `linear`; the head for zero-shot tests is that of the re-runs in MoTE and FROSTER, which have
published numbers and, as far as ST-Adapter goes, no complete program.
Left out: convolutions over space, which no released model has; half precision of the frozen tower beyond the recipe's;
FROSTER's re-run with learnt words in the texts.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from bench.core.identity import Count
from bench.models.backbones import Backbone
from methods import heads
from methods.costs import Cost, linear
from methods.open_vclip import config as open_vclip
from methods.presets import CLEAN_TRAINING, Preset
from methods.settings import Inference

__all__ = ["Config", "Inference"]

Place = Literal["pre_attn", "pre_mlp"]
PLACES: dict[str, tuple[Place, ...]] = {"mlp": ("pre_mlp",), "attn": ("pre_attn",), "both": ("pre_attn", "pre_mlp")}
BEFORE_MLP = ("mlp", "both")


class Config(heads.Config):
    """Places and form of the adapters."""

    needs = {**heads.Config.needs, "drop_dead": {"places": BEFORE_MLP}}

    places: Literal["mlp", "attn", "both"] = "mlp"
    """what an adapter stands in front of, on the residual stream: the feed-forward network of a block (mlp: K400), the
    attention (attn: FROSTER's re-run), or each (both: SSv2) (ST-Adapter, code)"""
    width: Count = 384
    """channels of the bottleneck (ST-Adapter, code; the same with ViT-L/14)"""
    kernel: Literal[1, 3, 5, 7] = 3
    """frames in the convolution, channel by channel; 1: frames do not meet (ST-Adapter, code)"""
    last_blocks: Count | None = None
    """number of last blocks that have adapters; none: all (ST-Adapter, code)"""
    zero: Literal["convolution", "up"] = "convolution"
    """layer that starts at zero, so that training starts at CLIP: the convolution (ST-Adapter, code), or the one behind
    it (up: FROSTER's re-run)"""
    drop_dead: bool = False
    """leave out the adapter before the last feed-forward network, which changes patches that nothing reads (ST-Adapter,
    code, has it)"""

    @model_validator(mode="after")
    def _something_is_read(self) -> Self:
        if self.places == "mlp" and self.last_blocks == 1:
            raise ValueError(
                "places: mlp in one last block adapts what nothing reads; allowed: places: attn or both, "
                "last_blocks: 2 or more"
            )
        return self

    @property
    def interpolates(self) -> bool:
        """Always: `clip_alpha` scales what adapters add, so that 0 is CLIP (this project)."""
        return True

    def inside(self, layers: int) -> list[tuple[Place, ...]]:
        """Places of the adapters in each of so many blocks."""
        adapted = min(layers, self.last_blocks or layers)
        places: list[tuple[Place, ...]] = [()] * (layers - adapted) + [PLACES[self.places]] * adapted
        if self.drop_dead:
            places[-1] = tuple(place for place in places[-1] if place != "pre_mlp")
        return places

    def fits(self, backbone: Backbone, frames: int) -> None:
        if (self.last_blocks or 0) > backbone.vision_layers:
            raise ValueError(
                f"last_blocks {self.last_blocks}, but {backbone.name} has {backbone.vision_layers} blocks; allowed: 1 "
                f"to {backbone.vision_layers}"
            )

    def encoded(self, backbone: Backbone, frames: int) -> dict[str, tuple[int, ...]]:
        """For the linear head, which norms the mean over the frames, one token a view."""
        return super().encoded(backbone, 1 if self.head == "linear" else frames)

    # --- costs --------------------------------------------------------------------------------------------------------

    def inside_cost(self, backbone: Backbone, frames: int) -> Cost:
        """All adapters, on patches alone; two in the place of one have twice its costs."""
        width, patches = backbone.vision_width, frames * (backbone.vision_tokens - 1)
        adapter = linear(width, self.width, patches) + linear(self.width, width, patches)
        adapter += linear(self.kernel, self.width, patches)
        return sum(map(len, self.inside(backbone.vision_layers))) * adapter + self.left_out(backbone, frames)


# Released scripts. Not as there: they resize pixels that are normalised already, without antialiasing, and never draw
# the last place of a crop. RandAugment's operations are torchvision's; a magnitude of 7 of 10 is one of 21 of 30 here,
# without its spread. Of FROSTER's re-run a configuration file is known, but no record of the run.
_TRAINING: dict[str, Any] = {
    "templates": "mote28",
    "warmup_epochs": 2,
    "schedule": "cosine",
    "weight_decay": 0.01,
    "undecayed": ["*.bias"],
    "betas": [0.9, 0.999],
    "eps": 1e-8,
}
_K400: dict[str, Any] = {
    **_TRAINING,
    "views": {
        **{"frames": 8, "sampler": "strided", "stride": 16, "spacing": "step", "copies": 0},
        **{"augmentation": "short_side", "short_side": 1.15, "resize": None},
    },
    **{"batch": 192, "epochs": 12, "lr": 7.5e-4, "precision": "fp16"},
}
_SSV2: dict[str, Any] = {
    **_TRAINING,
    "views": {
        **{"frames": 8, "sampler": "segments_inclusive", "augmentation": "resized_crop", "flip": False},
        **{"rand_augment": "clip", "rand_augment_n": 4, "rand_augment_m": 21, "resize": None, "copies": 0},
    },
    **{"batch": 256, "epochs": 50, "lr": 1e-3, "precision": "fp16"},
}
_FROSTER: dict[str, Any] = {
    **_TRAINING,
    "views": open_vclip.TRAINING["views"],
    **{"batch": 128, "epochs": 12, "warmup_epochs": 1, "lr": 5e-4, "floor": 2e-4, "undecayed": ["1d", "*.bias"]},
    **{"clip_grad": 1.0, "precision": "fp16"},
}
PRESETS: dict[str, Preset] = {
    "official": {"config": {"head": "linear"}, "inference": {"clip_alpha": 1.0}, "recipe": _K400},
    "official-ssv2": {
        "config": {"head": "linear", "places": "both"},
        "inference": {"clip_alpha": 1.0},
        "recipe": _SSV2,
    },
    "froster": {
        "config": {"places": "attn", "zero": "up", "pool": "unit_frames"},
        "inference": {"clip_alpha": 1.0},
        "recipe": _FROSTER,
    },
    "clean": {
        "config": {"drop_dead": True},
        "inference": {"clip_alpha": 1.0},
        "recipe": {**CLEAN_TRAINING, **_TRAINING, "batch": 192, "epochs": 12, "lr": 7.5e-4},
    },
}
