"""VidPrism: temporal experts that each see the video at a rate of their own, read out by one query.

Title: VidPrism: heterogeneous temporal mixture of experts for image-to-video transfer.
Paper: arXiv 2605.28229 (CVPR 2026). Official code: github.com/Lrrrr549/VidPrism, no licence file (written from a
description; no code taken). Where paper and code differ, the code's form is the default; the paper was known by notes
of others alone, which some descriptions below say. Left out: the VideoMAEv2 tower and joint space-time attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from annotated_types import Ge, Gt, MinLen
from pydantic import Field, model_validator

from bench.models.backbones import Backbone
from methods import settings
from methods.presets import CLEAN_TRAINING, MOTE_TRAINING, Preset
from methods.settings import Fraction, Parameters
from methods.vidprism import costs

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0), Field(allow_inf_nan=False)]
Weight = Annotated[float, Ge(0), Field(allow_inf_nan=False)]


class Pair(NamedTuple):
    """Streams of which the target may take something over from the source; one is fast and one slow."""

    source: int
    target: int


class Inference(settings.Inference):
    """Which experts answer."""

    expert: Annotated[int, Ge(0)] | None = Field(
        default=None, description="read out this expert's tokens alone, counted from 0; none: those of all (published)"
    )


class Config(settings.Config):
    """Rates, the modules between frames and logits, and what they are held to."""

    head_paths: ClassVar[Mapping[str, tuple[str, ...]]] = costs.PATHS

    rates: Annotated[tuple[Count, ...], MinLen(1)] = Field(
        default=(2, 4, 8, 16),
        description="frames per window of each expert's stream, ascending; 2, 4, 8, 16 for 32 frames (official "
        "configs), 2, 4, 8 for 8 frames (notes)",
    )
    slow_rate: Count = Field(default=8, description="streams of at least this rate are slow, the others fast (code)")

    # --- merging of windows ---
    aggregation: Literal["guided", "sampling", "average", "max"] = Field(
        default="guided",
        description="what a window becomes: its best token and a share of the others (rank-guided merging); its first "
        "frame; its mean; its maximum. The paper's ablation does not say which frame is sampled",
    )
    keep: Count = Field(default=1, description="tokens that a window keeps (code; a constant there)")
    similarity_temperature: Positive = Field(default=0.1, description="tau of the softmax over similar tokens (code)")
    score_share: Fraction = Field(
        default=0.7, description="alpha, share of the predicted score beside a frame's norm in choosing (code)"
    )
    score_temperature: Positive = Field(default=0.2, description="temperature of both sides of the rank loss (code)")
    merge_factor: Weight = Field(default=0.5, description="delta, share of what is merged into a kept token (code)")

    # --- interaction of streams ---
    interaction: Literal["both", "slow_to_fast", "fast_to_slow", "none"] = Field(
        default="both", description="which streams take something over from others"
    )
    gate: Literal["batch", "sample"] = Field(
        default="batch",
        description="what the threshold is held against: the mean score over the batch, at the test too, so that an "
        "answer depends on the batch's other videos (code); or a video's own score",
    )
    gate_threshold: Fraction = Field(default=0.3, description="score below which a pair is passed over (code)")
    gate_reduction: Count = Field(default=4, description="D over the inner width of a pair's scoring network (code)")
    sources: Literal["last", "sum"] = Field(
        default="last",
        description="what a stream takes over where several pairs pass: that of the last source (code), or the sum of "
        "all (notes on the paper)",
    )
    kernel: Count = Field(default=5, description="width of the strided convolutions from fast to slow, odd (code)")

    # --- experts and read-out ---
    heads: Count = Field(default=4, description="attention heads of experts and read-out (code)")
    expansion: Count = Field(default=2, description="inner width of an expert's feed-forward network over D (code)")
    readout: Literal["query", "average", "linear", "mlp"] = Field(
        default="query",
        description="how tokens become one vector: attention of one learnt query; their mean; weights that a linear "
        "layer or a small network gives each token. The paper does not describe the last two, nor its local attention, "
        "which is left out",
    )
    classifier: Literal["linear", "text"] = Field(
        default="linear",
        description="linear: a layer bound to the source classes (published); text: cosine with class texts, which "
        "any classes can have. The official file for it has no training: the cross-entropy is that of scaled cosines",
    )

    # --- objective ---
    rank_weight: Weight = Field(default=0.1, description="weight of the rank loss of the merging (code)")
    gate_weight: Weight = Field(default=0.01, description="weight of the balance of the read-out's shares (code)")
    diversity: Literal["batch", "experts", "off"] = Field(
        default="batch",
        description="batch: mean of 1 - cosine over pairs of videos, which draws videos together (code); experts: mean "
        "cosine over pairs of experts, which drives experts apart (paper)",
    )
    diversity_weight: Weight = Field(default=0.005, description="weight of the diversity loss (code)")
    contrastive_weight: Weight = Field(
        default=0.01,
        description="weight of the cross-entropy of plain cosines with class texts (code; not in the paper)",
    )
    freeze_blocks: bool = Field(
        default=False,
        description="of a tuned tower, leave the transformer's blocks and positions frozen: what `fix_text` of the "
        "official Kinetics-400 config does by mistake",
    )

    @model_validator(mode="after")
    def _every_choice_counts(self) -> Self:
        if any(slower <= faster for faster, slower in pairwise(self.rates)):
            raise ValueError(f"rates {list(self.rates)} must ascend: the last source of a stream is the slowest")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} has no middle; allowed: odd numbers")
        if self.freeze_blocks and self.tower == "frozen":
            raise ValueError("freeze_blocks has no effect on a frozen tower; allowed: with tower: tuned")
        if self.keep > 1 and self.aggregation != "guided":
            raise ValueError(f"keep: {self.keep} has no effect; allowed: with aggregation: guided")
        if self.keep > self.rates[0]:
            raise ValueError(f"keep: {self.keep} is more than a window of {self.rates[0]} has; allowed: at most that")
        for source, target in self.pairs:
            fast, slow = sorted((self.rates[source], self.rates[target]))
            if slow % fast and self.is_slow(target):
                raise ValueError(
                    f"rates {fast} and {slow} have no whole stride between them; allowed: slow rates (from "
                    f"{self.slow_rate} on) that are multiples of the fast ones, or interaction: slow_to_fast or none"
                )
        return self

    # --- what follows from it -----------------------------------------------------------------------------------------

    def is_slow(self, stream: int) -> bool:
        return self.rates[stream] >= self.slow_rate

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Pairs that may interact, source by source as in the official code."""
        ways = {"both": (True, False), "slow_to_fast": (True,), "fast_to_slow": (False,), "none": ()}[self.interaction]
        streams = range(len(self.rates))
        return tuple(
            Pair(source, target)
            for source in streams
            for target in streams
            if self.is_slow(source) != self.is_slow(target) and self.is_slow(source) in ways
        )

    def windows(self, frames: int, rate: int) -> list[tuple[int, int]]:
        """(number of windows, their length): the whole ones, then the shorter last one, if there is one."""
        found = [(frames // rate, rate), (int(frames % rate > 0), frames % rate)]
        return [(count, length) for count, length in found if count]

    def fits(self, backbone: Backbone, frames: int) -> None:
        self.lengths(frames)

    def lengths(self, frames: int) -> tuple[int, ...]:
        """Tokens of each stream. Raises ValueError where a convolution would give a slow stream other numbers."""
        lengths = tuple(
            sum(count * min(length, self.keep) for count, length in self.windows(frames, rate)) for rate in self.rates
        )
        for source, target in self.pairs:
            if self.is_slow(target):
                given = (lengths[source] - 1) // (self.rates[target] // self.rates[source]) + 1
                if given != lengths[target]:
                    raise ValueError(
                        f"{frames} frames at rates {list(self.rates)} with keep: {self.keep} give stream {target} "
                        f"{lengths[target]} tokens, but {given} from stream {source}; allowed: frames that the "
                        "slowest rate divides, or keep: 1"
                    )
        return lengths

    @property
    def open_vocabulary(self) -> bool:
        return self.classifier == "text"

    @property
    def depends_on_batch(self) -> bool:
        return self.gate == "batch" and bool(self.pairs)

    @property
    def depends_on_processes(self) -> bool:
        """Terms and gates of a batch, which each process takes over its own part of it (as in the official code)."""
        diverse = self.diversity == "batch" and self.diversity_weight > 0
        return self.depends_on_batch or diverse or self.gate_weight > 0

    @property
    def experts(self) -> int:
        return len(self.rates) if len(self.rates) > 1 else 0

    def check(self, inference: settings.Inference) -> None:
        assert isinstance(inference, Inference)
        if inference.expert is not None and inference.expert >= len(self.rates):
            raise ValueError(f"expert {inference.expert} does not exist; allowed: 0 to {len(self.rates) - 1}")

    def expert_choices(self, inference: settings.Inference) -> dict[str, settings.Inference]:
        if not self.experts:
            return {}
        return {"merged": inference.model_copy(update={"expert": None})} | {
            f"expert {i}": inference.model_copy(update={"expert": i}) for i in range(self.experts)
        }

    # --- costs --------------------------------------------------------------------------------------------------------

    def head_parameters(self, backbone: Backbone, inference: settings.Inference | None = None) -> Parameters:
        """Deployed is what can make a difference: the asked experts, and scores of pairs that can interact."""
        width, streams = backbone.embed_dim, len(self.rates)
        merging = costs.merging(self, width)
        expert, readout = costs.expert(self, width), costs.readout(self, width)
        projection = costs.projection(self, width)
        stored = merging + costs.interaction(self, width) + streams * expert + readout + projection
        active = merging + costs.interaction(self, width, deployed=True) + readout
        active += expert * (streams if _asked(inference) is None else 1)
        return Parameters(stored, active + (projection if self.classifier == "text" else 0))

    def class_bound_parameters(self, backbone: Backbone, classes: int) -> int:
        return classes * (backbone.embed_dim + 1) if self.classifier == "linear" else 0

    def head_modules(
        self, backbone: Backbone, frames: int, inference: settings.Inference | None = None
    ) -> dict[str, int]:
        """With all gates open."""
        return costs.modules(self, backbone.embed_dim, frames, _asked(inference))

    def expert_flops(self, backbone: Backbone, frames: int) -> tuple[int, ...]:
        """Of streams of different lengths."""
        lengths = self.lengths(frames) if self.experts else ()
        return tuple(costs.expert_flops(self, backbone.embed_dim, length) for length in lengths)


def _asked(inference: settings.Inference | None) -> int | None:
    return inference.expert if isinstance(inference, Inference) else None


# What the authors' program does on Kinetics-400 with ViT-B/16, and the same method without what is theirs alone in a
# comparison. ViT-L/14 has a tower's rate of 0.06; UCF-101 and HMDB-51 have 30 epochs, 5 of them warm-up, a rate of
# 5e-5 and the tower's at 0.06, HMDB-51 a decay of 0.1 (official configs). The official K400 config has no rates: those
# of the others are taken. Its 64 videos are two processes' 32, which terms and gates of a batch see by themselves.
PUBLISHED = {"epochs": 40, "warmup_epochs": 10, "lr": 1e-4, "tower_lr_ratio": 0.07, "batch": 64, "accumulate": 2}
VIEWS = {"frames": 32}
PRESETS: dict[str, Preset] = {
    "official": {
        "config": {"tower": "tuned", "rates": [2, 4, 8, 16], "gate": "batch", "sources": "last", "diversity": "batch"},
        # The only official evaluation that runs, the one inside training, does not mix CLIP's weights in.
        "inference": {"clip_alpha": 1.0},
        "recipe": {**MOTE_TRAINING, **PUBLISHED, "views": {**MOTE_TRAINING["views"], **VIEWS}},
    },
    # Sources and losses stay the code's: the published numbers come from it, and none are known for the paper's form.
    "clean": {
        "config": {"tower": "tuned", "rates": [2, 4, 8, 16], "gate": "sample", "sources": "last", "diversity": "batch"},
        "inference": {"clip_alpha": 1.0},
        "recipe": {**CLEAN_TRAINING, **PUBLISHED, "views": {**CLEAN_TRAINING["views"], **VIEWS}},
    },
}
