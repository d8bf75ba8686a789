"""Values in the presets of several methods: MoTE's training, which its paper's dense rows use as well.

Source: arXiv 2410.10589 and its official configs. What depends on the backbone is left to suites: image size, epochs
(30 for ViT-B/16, 20 for ViT-L/14) and the tower's rate (0.07 and 0.06 of the base rate). The protocol defines the test.
"""

from __future__ import annotations

from typing import Any

Preset = dict[str, dict[str, Any]]  # config, inference, recipe -> settings, below a suite's own

CLEAN_TRAINING: dict[str, Any] = {
    "templates": "mote28",
    "views": {"frames": 8, "sampler": "segments_inclusive", "augmentation": "mote", "copies": 0},
    "batch": 144,
    "warmup_epochs": 5,
    "lr": 5e-5,
    "weight_decay": 0.2,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
}
MOTE_TRAINING: dict[str, Any] = {**CLEAN_TRAINING, "precision": "fp16"}


def tuned(recipe: dict[str, Any], inference: dict[str, Any] | None = None, **config: Any) -> Preset:
    """Preset of a tuned tower, by default without weight interpolation."""
    return {
        "config": {"tower": "tuned", **config},
        "inference": {"clip_alpha": 1.0, **(inference or {})},
        "recipe": recipe,
    }
