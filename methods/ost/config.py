"""OST: both towers of CLIP tuned to match frames with several sentences of a class, by optimal transport.

Title: OST: Refining Text Knowledge with Optimal Spatio-Temporal Descriptor for General Video Recognition (CVPR 2024).
Paper: arXiv 2312.00096, of which only the abstract was readable. Official code: github.com/tomchen-ctj/OST, built on
ViFi-CLIP's (written from a description; no code taken).
It has no parameters beside CLIP's. A class has as many spatial as temporal sentences of a language model, which are
prompts here: first all spatial ones, then all temporal ones, as `templates: ost` has them.
Left out: few-shot training that goes on with the optimiser and the schedule of Kinetics-400; gradients divided by the
number of processes, which AdamW undoes; an error for texts beyond the tower's length, which are cut here; classes with
unequally many sentences.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge

from bench.models.backbones import Backbone, Part
from methods import settings
from methods.presets import CLEAN_TRAINING, Preset
from methods.settings import Finite, Inference
from methods.vificlip.config import PRESETS as VIFICLIP

__all__ = ["Config", "Inference"]

KINDS = ("spatial", "temporal")  # of sentences, in the order of a class's prompts
SMALLEST = 0.025  # kernels of single precision are exp(-2 / epsilon) at least


class Config(settings.Config):
    """Towers that are tuned, and how frames are compared with sentences."""

    per_prompt = True
    head_paths = {"classification": ("",)}  # what a predictor computes depends on each class
    needs = {name: {"terms": ("both", "transport")} for name in ("epsilon", "stop")}

    tower: Literal["frozen", "tuned"] = "tuned"
    """frozen or trained visual tower of CLIP (OST, official code, where either tower can be trained alone)"""
    tunes_text: bool = True
    """whether the text tower and its token embedding are trained; the logit scale is with both towers alone (OST,
    official code)"""
    kinds: Literal["both", "spatial", "temporal", "one"] = "both"
    """sentences that a video is compared with: of both kinds, whose scores are averaged, of either kind, or all prompts
    as one kind, whatever they are, such as templates of the class name (both: OST; others: this project)"""
    terms: Literal["both", "pool", "transport"] = "both"
    """what is added up: the mean similarity of frames and sentences (pool), and the sum of their similarities along the
    transport plan (both: OST, official code; a single term: this project)"""
    epsilon: Annotated[Finite, Ge(SMALLEST)] = 0.1
    """regularisation of the transport, whose kernel is exp(-(1 - similarity) / epsilon) (OST, official code)"""
    stop: Literal["batch", "fixed"] = "batch"
    """end of the iterations towards a plan: once its row factors move by less than 0.01, a mean over all videos of a
    batch, all classes and frames, at most after 100 (batch: OST, official code), so that bits of a video's answer
    depend on the others; or after 20 (fixed: this project)"""

    @property
    def tuned(self) -> frozenset[Part]:
        visual: tuple[Part, ...] = ("visual",) if self.tower == "tuned" else ()
        texts: tuple[Part, ...] = ("text", "tokens") if self.tunes_text else ()
        scale: tuple[Part, ...] = ("scale",) if visual and texts else ()
        return frozenset((*visual, *texts, *scale))

    @property
    def prompt_kinds(self) -> tuple[str, ...]:
        return () if self.kinds == "one" else KINDS

    @property
    def has_head(self) -> bool:
        return False

    @property
    def texts_of_labels(self) -> bool:
        return self.tunes_text

    @property
    def depends_on_processes(self) -> bool:
        return True

    @property
    def depends_on_batch(self) -> bool:
        return self.terms != "pool" and self.stop == "batch"

    def fusions(self, inference: settings.Inference) -> tuple[str, ...]:
        """There is no one video feature that views could share."""
        return ("softmax_sum", "double_softmax", "logit_sum", "cos_mean")

    def class_flops(self, backbone: Backbone, frames: int, prompts: int) -> int:
        """Products of all frames with all sentences of the kinds; iterations of the plan are no matrix products."""
        used = max(1, prompts // len(KINDS)) if self.kinds in KINDS else prompts
        return 2 * frames * used * backbone.embed_dim


# Zero-shot from Kinetics-400 (official configs; few-shot settings are fields of suites). A batch of 256 is 8 processes
# of 4 videos, 8 times: the loss compares the 32 videos that are gathered at a time. The share of the tuned weights is
# that of the zero-shot test; few-shot models are tested as they are.
_OFFICIAL: dict[str, Any] = {
    **{name: own for name, own in VIFICLIP["official"]["recipe"].items() if name not in ("smoothing", "mix")},
    **{"templates": "ost", "parts": 8},
}
PRESETS: dict[str, Preset] = {
    "official": {"inference": {"clip_alpha": 0.8}, "recipe": _OFFICIAL},
    "clean": {
        "config": {"stop": "fixed"},
        "inference": {"clip_alpha": 1.0},
        "recipe": {**CLEAN_TRAINING, "templates": "ost", "tower_lr_ratio": 0.07},
    },
}
