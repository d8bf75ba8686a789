"""Settings of the built-in methods, besides the defaults, for the contract tests."""

from __future__ import annotations

from typing import Any

# name -> (method, config, inference)
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "fixed": ("mote", {"routing": "fixed"}, {}),
    "same-all": ("mote", {"data": "all", "init": "same"}, {}),
    "all-point": ("mote", {"data": "all", "wmr_region": "point"}, {"tfm_scope": "full"}),
    "experts-only": ("mote", {"wmr_weight": 0, "mse_weight": 0}, {"merge_temperature": -1.2}),
    "two-pools": ("mote", {"expert_design": "up_down", "wmr_loss": "mse"}, {"aggregation": "random_routing"}),
    "ups": ("mote", {"expert_design": "up", "routing": "random"}, {"aggregation": "ensemble", "tfm_target": "branch"}),
    "downs": ("mote", {"expert_design": "down", "init": "same", "temperature": "normal"}, {"expert": 1}),
    "ensemble": ("mote", {"wmr_loss": "kl", "mse_form": "paper"}, {"aggregation": "ensemble", "tfm": False}),
    "mean": ("text4vis", {"head": "none", "tower": "tuned"}, {}),
    "shift-nce": ("text4vis", {"head": "shift", "tower": "tuned", "loss": "nce"}, {}),
    "class-token-ds": ("text4vis", {"head": "transf_cls", "layers": 2, "loss": "ds"}, {}),
    "conv-random": ("text4vis", {"head": "conv1d", "tower": "tuned", "classifier": "random"}, {}),
    "conv-viewed": ("text4vis", {"head": "conv1d", "conv_axes": "viewed", "classifier": "orthogonal"}, {}),
    "lstm": ("text4vis", {"head": "lstm"}, {}),
    "discriminant": ("text4vis", {"layers": 1, "tower": "tuned", "classifier": "lda"}, {}),
    "linear": ("text4vis", {"layers": 1, "tower": "tuned", "classifier": "linear"}, {}),
    "context": ("text4vis", {"head": "none", "classifier": "coop", "context": 4}, {}),
    "own-context": (
        "text4vis",
        {"head": "none", "tower": "tuned", "classifier": "coop", "context": 3, "context_of": "class"},
        {},
    ),
    "amid-words": (
        "text4vis",
        {"layers": 1, "classifier": "coop", "context_start": "a video of", "class_at": "middle", "loss": "nce"},
        {},
    ),
    "tsm": ("text4vis", {"head": "none", "tower": "tuned", "inside": "tsm"}, {}),
    "tokenshift": ("text4vis", {"head": "none", "tower": "tuned", "inside": "tokenshift"}, {}),
    "tokent1d": ("text4vis", {"head": "none", "inside": "tokent1d", "classifier": "random"}, {}),
    "joint": ("text4vis", {"head": "none", "inside": "joint_st"}, {}),
    "one": ("vidprism", {"rates": [4]}, {}),
    "text-head": ("vidprism", {"classifier": "text", "gate": "sample", "sources": "sum", "diversity": "experts"}, {}),
    "alone": ("vidprism", {"gate": "sample"}, {"expert": 1}),
    "plain": (
        "vidprism",
        {"interaction": "none", "aggregation": "average", "readout": "average", "contrastive_weight": 0},
        {},
    ),
    "no-teacher": ("taco", {"kl_weight": 0, "projection": False}, {}),
    "cosines": ("taco", {"anchors": 0, "target_scale": "detached", "class_mean": "unit"}, {"projected": False}),
    "still-teacher": ("taco", {"tower": "frozen", "projection": False, "momentum": 1, "anchor_draw": "step"}, {}),
    "bridged": ("vificlip", {"prompts": {"image": 3, "text": 2, "image_depth": 2, "text_depth": 2}}, {}),
    "image-alone": ("vificlip", {"tunes": "image"}, {}),
    "text-alone": ("vificlip", {"tunes": "text"}, {"clip_alpha": 0.5}),
    "mean-texts": ("actionclip", {"head": "none", "text_draw": "mean"}, {"templates": "mean", "scale": "learnt"}),
    "fixed-texts": ("actionclip", {"head": "lstm", "inside": "tsm", "tunes_text": False}, {"scale": "learnt"}),
    "class-token": ("actionclip", {"head": "transf_cls", "layers": 2, "tower": "frozen"}, {"templates": "mean"}),
    "space-time": ("actionclip", {"head": "none", "inside": "joint_st", "tunes_text": False, "text_draw": "mean"}, {}),
}
