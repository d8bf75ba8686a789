"""ActionCLIP: both towers of CLIP and a temporal head, tuned to pull videos of a batch to sentences of their labels.

Title: ActionCLIP: A New Paradigm for Video Action Recognition.
Paper: arXiv 2109.08472. Official code: github.com/sallymmx/ActionCLIP, MIT licence. Its heads, modules inside the tower
and loss are those that Text4Vis took over; here the text tower learns as well, every label of a batch is put into one
sentence that is drawn, and a test averages probabilities over the sentences.
Left out: weights of the towers that are stored in half precision between steps, which keeps many of them where they
are; dropout in the towers (0 in all official configs); layers of `transf_cls` that start alike; a start without CLIP's
text tower; ResNet towers.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from bench.models.backbones import Part
from methods import settings
from methods.presets import CLEAN_TRAINING, Preset
from methods.text4vis.config import Temporal

FIXED_SCALE = 100.0  # factor of cosines in the official test, whatever training made of CLIP's


class Config(Temporal):
    """Temporal module, and what the text tower does in training."""

    per_prompt = True

    tower: Literal["frozen", "tuned"] = "tuned"
    """frozen or trained visual tower of CLIP (tuned: ActionCLIP; frozen: this project)"""
    head: Literal["none", "transf", "transf_cls", "conv1d", "lstm"] = "transf"
    """module behind the tower: none, for the mean over frames (meanP); the temporal transformer (Transf), which the
    authors call the best; a transformer read out at a class token (Transf_cls); a convolution over time by channel
    (Conv_1D); an LSTM (ActionCLIP, official code, sim_header)"""
    inside: Literal["none", "tsm", "joint_st"] = "none"
    """exchange between frames inside the tower: none; patch tokens shifted in time before every block (tsm, in-network
    prompt); one sequence of all frames' patches (joint_st, pre-network prompt; the official code stops with an error
    there, so the form is that of Text4Vis) (ActionCLIP, official code, tsm and joint)"""
    tunes_text: bool = True
    """whether the text tower and its token embedding are trained; false: their features are constants, while the scale
    of a tuned visual tower still learns (ActionCLIP, official code, not fix_text)"""
    text_draw: Literal["random", "mean"] = "random"
    """text of a video's label in training: that of one template, drawn for every video and step (random: ActionCLIP,
    official code), or the mean of those of all templates (mean: this project)"""

    @model_validator(mode="after")
    def _something_learns(self) -> Self:
        if not self.trains:
            raise ValueError(
                "a frozen tower, head: none and tunes_text: false leave nothing to learn; allowed: tower: tuned, "
                "tunes_text: true, or another head (plain CLIP is the method clip_mean)"
            )
        return self

    @property
    def tuned(self) -> frozenset[Part]:
        texts: frozenset[Part] = frozenset(("text", "tokens", "scale") if self.tunes_text else ())
        return super().tuned | texts

    @property
    def texts_of_labels(self) -> bool:
        return self.tunes_text and self.text_draw == "random"

    @property
    def depends_on_processes(self) -> bool:
        return True

    @property
    def soft_targets(self) -> bool:
        return False

    def fusions(self, inference: settings.Inference) -> tuple[str, ...]:
        assert isinstance(inference, Inference)
        return ("softmax_sum",) if inference.templates == "probabilities" else ()


class Inference(settings.Inference):
    """Use of several templates, and the factor of cosines."""

    templates: Literal["probabilities", "mean"] = "probabilities"
    """use of a class's templates: the mean of the probabilities that each gives (ActionCLIP, official code), which can
    only be summed over views; or the cosine with the mean of their unit features, as other methods do (this project)"""
    scale: Literal["fixed100", "learnt"] = "fixed100"
    """factor of cosines, which changes ranks where probabilities are averaged: 100 (fixed100: ActionCLIP, official
    code) or the trained one (learnt: this project)"""


# Values of the official configs for Kinetics-400, and of the trainer. The rate is the head's: 5e-6 of the towers times
# f_ratio 10. Suites set what other datasets have: a batch of 64 for HMDB-51 and 32 for UCF-101, no RandAugment, and the
# model of Kinetics-400 as the start. There, official training also takes the test's frames, since a key is missing.
_OFFICIAL: dict[str, Any] = {
    "templates": "actionclip16",
    "views": {
        "frames": 8,
        "sampler": "ticks",
        "augmentation": "multi_scale",
        "positions": 13,
        "rand_augment": "frame",
        "resize": None,
        "copies": 0,
    },
    "batch": 128,
    "epochs": 50,
    "warmup_epochs": 5,
    "drop_last": True,
    "parts": 1,  # similarities are those of the whole batch, gathered over the devices
    "schedule": "mote",
    "lr": 5e-5,
    "tower_lr_ratio": 0.1,
    "weight_decay": 0.2,
    "betas": [0.9, 0.98],
    "eps": 1e-8,
    "precision": "fp16",
}
PRESETS: dict[str, Preset] = {
    "official": {
        "config": {"tower": "tuned"},  # head: conv1d also has conv_axes: viewed in the official code
        "inference": {"clip_alpha": 1.0, "templates": "probabilities", "scale": "fixed100"},
        "recipe": _OFFICIAL,
    },
    "clean": {
        "config": {"tower": "tuned"},
        "inference": {"clip_alpha": 1.0, "templates": "mean", "scale": "learnt"},
        "recipe": {**CLEAN_TRAINING, "tower_lr_ratio": 0.1},
    },
}
