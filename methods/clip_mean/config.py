"""Mean-pool CLIP: the mean of CLIP's frame features, untrained or with its tower fine-tuned.

Fine-tuned (`tower: tuned`), it is the CLIP-Mean of MoTE's Fig. 3: Text4Vis' trainer without a temporal head.
Paper: Learning Transferable Visual Models From Natural Language Supervision, arXiv 2103.00020, MIT licence,
github.com/openai/CLIP; as a video baseline: Revisiting Classifier, arXiv 2207.01297, github.com/whwu95/Text4Vis, MIT.
Left out: tuning the text tower as well (ViFi-CLIP).
"""

from __future__ import annotations

from methods import settings
from methods.settings import Inference

__all__ = ["Config", "Inference"]


class Config(settings.Config):
    """Nothing but the tower can be trained."""

    @property
    def has_head(self) -> bool:
        return False
