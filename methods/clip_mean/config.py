"""Mean-pool CLIP: the mean of CLIP's frame features, untrained or with its tower fine-tuned.

Title: Learning Transferable Visual Models From Natural Language Supervision (CLIP).
Paper: arXiv 2103.00020. Official code: github.com/openai/CLIP, MIT licence.
Fine-tuned (`tower: tuned`), it is the CLIP-Mean of MoTE's Fig. 3 (arXiv 2410.10589): Text4Vis' trainer without a head.
Left out: tuning the text tower as well, which is `vificlip`.
"""

from __future__ import annotations

from methods import settings
from methods.presets import CLEAN_TRAINING, MOTE_TRAINING, Preset
from methods.settings import Inference

__all__ = ["Config", "Inference"]


class Config(settings.Config):
    """Choices of the tower alone; there is no head."""

    without_frames = {}

    @property
    def soft_targets(self) -> bool:
        return True

    @property
    def has_head(self) -> bool:
        return False


# Rows say whether the tower is tuned. A tuned one is trained and tested with MoTE's programs, as in its Fig. 3.
PRESETS: dict[str, Preset] = {
    "official": {"inference": {"clip_alpha": 0.99}, "recipe": MOTE_TRAINING},
    "official-192": {"inference": {"clip_alpha": 0.99}, "recipe": {**MOTE_TRAINING, "batch": 192}},  # with ViT-B/16
    "clean": {"inference": {"clip_alpha": 1.0}, "recipe": CLEAN_TRAINING},
}
