"""Open-VCLIP: CLIP whose frames see their neighbours, tuned beside mixtures with CLIP, averaged, mixed with CLIP again.

Title: Open-VCLIP: Transforming CLIP to an Open-vocabulary Video Model via Interpolated Weight Optimization (ICML 2023).
Paper: arXiv 2302.00624, extended in 2310.05010. Official code: github.com/wengzejia1/Open-VCLIP, commit 047a817, no
licence file (written from a description; no code taken).
It has no parameters beside CLIP's. The mean over epochs is the recipe's (`average`), the last mixture `clip_alpha`.
Left out: the code's other ways of moving information between frames, of which one is broken, and its regularisers that
no released script turns on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Lt
from pydantic import model_validator

from bench.models.backbones import Backbone
from methods import settings
from methods.costs import Cost, product
from methods.presets import CLEAN_TRAINING, Preset
from methods.settings import Inference, Weight

__all__ = ["Config", "Inference"]

Share = Annotated[float, Ge(0), Lt(1)]


class Window(settings.Config):
    """A visual tower in which every frame also attends to its neighbours in time, and the pooling of its frames."""

    window: Literal[1, 3, 5, 7] = 3
    """frames whose tokens a token attends to, its own in the middle; 1 is CLIP (Open-VCLIP, code)"""
    ends: Literal["zeros", "masked"] = "zeros"
    """neighbours before the first and behind the last frame: keys and values of zero, which take a share of the
    attention and give nothing (zeros: Open-VCLIP, code), or none (masked: this project)"""
    pool: Literal["unit_frames", "frames"] = "unit_frames"
    """mean over the frames of their unit features, which is not normalised again (unit_frames: Open-VCLIP, code), or of
    the features as they are (frames: this project)"""

    @model_validator(mode="after")
    def _ends_are_seen(self) -> Self:
        if self.ends != "zeros" and self.window == 1:
            raise ValueError(f"ends has no effect with window: 1; allowed: leave it out, window: {' or '.join('357')}")
        return self

    @property
    def tower_inside(self) -> bool:  # type: ignore[override]
        return self.window > 1

    @property
    def soft_targets(self) -> bool:
        return True

    def inside_cost(self, backbone: Backbone, frames: int) -> Cost:
        """Attention to the tokens of the other frames; those beyond the ends are computed as well."""
        tokens, others = backbone.vision_tokens, (self.window - 1) * backbone.vision_tokens
        return frames * backbone.vision_layers * 2 * product(tokens, backbone.vision_width, others)


class Config(Window):
    """The tower's window, and the second pass of a training step at weights between CLIP's and the trained ones."""

    tower: Literal["tuned"] = "tuned"
    """the visual tower and the logit scale are trained, there is nothing else (Open-VCLIP, code)"""
    mix_weight: Weight = 0.5
    """weight of the gradient at mixed weights, interpolated weight regularisation; 0: none (Open-VCLIP, code)"""
    mix_low: Share = 0.0
    """lowest share of CLIP in the mixed weights, which is drawn evenly in every step (Open-VCLIP, code)"""
    mix_high: Share = 0.6
    """highest share of CLIP in the mixed weights (Open-VCLIP, scripts)"""
    mix_draw: Literal["process", "step"] = "process"
    """whether each process draws a share of its own, as the official code does since only its other generators are
    seeded alike, or all use one (step: this project)"""

    @model_validator(mode="after")
    def _mixes(self) -> Self:
        if self.mix_low > self.mix_high:
            raise ValueError(f"mix_low {self.mix_low} lies above mix_high {self.mix_high}")
        for name in ("mix_low", "mix_high", "mix_draw"):
            if not self.mix_weight and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with mix_weight: 0; allowed: leave it out, a larger mix_weight")
        return self

    @property
    def has_head(self) -> bool:
        return False

    @property
    def teacher(self) -> bool:
        return self.mix_weight > 0

    @property
    def depends_on_processes(self) -> bool:
        return self.teacher and self.mix_draw == "process"


# Released scripts, none of which uses the rate of the configuration files, 1e-5. Not as there: they resize pixels that
# are normalised already, without antialiasing, at the test as well, and round the long side down.
TRAINING: dict[str, Any] = {
    "templates": "mote28",
    "views": {
        **{"frames": 8, "sampler": "strided", "stride": 16, "rate": 30.0, "spacing": "even"},
        **{"augmentation": "short_side", "short_side": 256 / 224, "resize": None, "copies": 0},
    },
    "batch": 64,
    "epochs": 22,
    "warmup_epochs": 2,
    "schedule": "cosine",
    "warmup_start": 0.01,
    "floor": 0.01,
    "lr": 3.33e-6,
    "tower_lr_ratio": 1.0,
    "weight_decay": 0.01,
    "undecayed": ["1d", "*.bias"],
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "precision": "fp16",
    "clip_grad": 1.0,
    "average": {"kind": "epochs", "first": 2},
    "parts": 8,
}
# The share of the tuned weights at the test is that of ViT-B/32 and B/16; it is 0.4 with ViT-L/14.
PRESETS: dict[str, Preset] = {
    "official": {"inference": {"clip_alpha": 0.5}, "recipe": TRAINING},
    "clean": {
        "config": {"ends": "masked", "mix_draw": "step"},
        "inference": {"clip_alpha": 0.5},
        "recipe": {**CLEAN_TRAINING, "average": {"kind": "epochs", "first": 2}},
    },
}
