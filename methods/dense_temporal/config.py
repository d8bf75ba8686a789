"""Dense temporal transformer of N layers behind CLIP, the baseline that MoTE sweeps over depth.

Title: MoTE: Reconciling Generalization with Specialization for Visual-Language to Video Knowledge Transfer, Fig. 1b.
Paper: arXiv 2410.10589. Official code: github.com/ZMHH-H/MoTE, no licence file (written from the description; no code
taken). The head is Text4Vis' (github.com/whwu95/Text4Vis, MIT licence).
"""

from __future__ import annotations

from bench.core.identity import Few
from bench.models.backbones import Backbone
from methods import settings
from methods.costs import TEMPORAL_PATHS, Costs, refuse_frames_without_position, temporal
from methods.presets import CLEAN_TRAINING, MOTE_TRAINING, Preset, tuned
from methods.settings import Inference


class Config(settings.Config):
    """Depth of the head."""

    head_paths = TEMPORAL_PATHS

    layers: Few = 4
    """temporal layers; 4 as MoTE's ViT-B/16, the published dense row has 6 (MoTE, Fig. 1b; official configs)"""

    @property
    def soft_targets(self) -> bool:
        return True

    def fits(self, backbone: Backbone, frames: int) -> None:
        refuse_frames_without_position(frames)

    def head_costs(self, backbone: Backbone, frames: int, inference: Inference | None, stored: bool) -> Costs:
        return temporal(backbone.embed_dim, self.layers, frames)


# As MoTE's paper trains and tests its dense rows: with the optimiser, schedule, prompts and programs of MoTE.
PRESETS: dict[str, Preset] = {
    "official": tuned(MOTE_TRAINING, {"clip_alpha": 0.99}),
    "official-192": tuned({**MOTE_TRAINING, "batch": 192}, {"clip_alpha": 0.99}),  # MoTE's program with ViT-B/16
    "clean": tuned(CLEAN_TRAINING),
}
