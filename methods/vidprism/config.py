"""VidPrism: temporal experts that each see the video at a rate of their own, read out by one query.

Title: VidPrism: heterogeneous temporal mixture of experts for image-to-video transfer.
Paper: arXiv 2605.28229 (CVPR 2026). Official code: github.com/Lrrrr549/VidPrism, no licence file (written from a
description; no code taken). Where paper and code differ, the code's form is the default; the paper was known through
notes of others alone. Left out: the VideoMAEv2 tower and joint space-time attention.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, Self

from annotated_types import Ge, MaxLen, MinLen
from pydantic import model_validator

from bench.core.identity import Count, Few
from bench.models.backbones import Backbone
from methods import settings
from methods.costs import Cost, Costs, attention, feed_forward, linear, norm, product, table, total
from methods.presets import CLEAN_TRAINING, MOTE_TRAINING, Preset, tuned
from methods.settings import Fraction, Positive, Weight, each_expert, refuse_missing_expert

INTERACTING = ("both", "slow_to_fast", "fast_to_slow")


class StreamPair(NamedTuple):
    """Two streams, a fast and a slow one; the target may take something over from the source."""

    source: int
    target: int


class Inference(settings.Inference):
    """Choice of experts at the test."""

    expert: Annotated[int, Ge(0)] | None = None
    """read out one expert alone, counted from 0; none: all (none: VidPrism, official code; one: this project)"""


class Config(settings.Config):
    """Rates, modules between frames and logits, and losses."""

    head_paths = {
        "merging": ("head.pooling_layers.*",),
        "interaction": ("head.dynamic_interaction",),
        "experts": ("head.mote.experts.*",),
        "read-out": ("head.mote.readout_gate",),
        "projection": ("head.projection_head",),
    }
    needs = {
        **{name: {"aggregation": ("guided",)} for name in ("keep", "similarity_temperature", "score_share")},
        **{name: {"aggregation": ("guided",)} for name in ("score_temperature", "merge_factor", "rank_weight")},
        **{name: {"interaction": INTERACTING} for name in ("gate", "gate_threshold", "gate_reduction", "sources")},
        "kernel": {"interaction": ("both", "fast_to_slow")},
        "diversity_weight": {"diversity": ("batch", "experts")},
        "freeze_blocks": {"tower": ("tuned",)},
    }

    rates: Annotated[tuple[Count, ...], MinLen(1), MaxLen(100)] = (2, 4, 8, 16)
    """frames per window of each expert's stream, ascending; 2, 4, 8, 16 for 32 frames, 2, 4, 8 for 8 frames (VidPrism,
    official configs; 8 frames: notes on the paper)"""
    slow_rate: Count = 8
    """frames per window from which a stream is slow, not fast (VidPrism, official code)"""

    # --- merging of windows ---
    aggregation: Literal["guided", "sampling", "average", "max"] = "guided"
    """token of a window: its best frame and a share of the others, rank-guided merging (guided); its first frame
    (sampling; the paper does not say which frame); its mean; its maximum (VidPrism, aggregation ablation)"""
    keep: Count = 1
    """tokens that a window keeps (VidPrism, official code, a constant)"""
    similarity_temperature: Positive = 0.1
    """tau, temperature of the softmax over similar tokens (VidPrism, official code)"""
    score_share: Fraction = 0.7
    """alpha, share of the predicted score in choosing a frame; the rest is its norm's (VidPrism, official code)"""
    score_temperature: Positive = 0.2
    """temperature of both sides of the rank loss (VidPrism, official code)"""
    merge_factor: Weight = 0.5
    """delta, weight of the tokens merged into a kept one (VidPrism, official code)"""

    # --- interaction of streams ---
    interaction: Literal["both", "slow_to_fast", "fast_to_slow", "none"] = "both"
    """direction in which streams take over from others (VidPrism, interaction ablation)"""
    gate: Literal["batch", "sample"] = "batch"
    """score compared with the threshold: the batch's mean, at the test too, so that answers depend on the other videos
    (batch: VidPrism, official code), or the video's own (sample: notes on the paper)"""
    gate_threshold: Fraction = 0.3
    """score below which a pair is skipped (VidPrism, official code)"""
    gate_reduction: Count = 4
    """D over the inner width of a pair's scoring network (VidPrism, official code)"""
    sources: Literal["last", "sum"] = "last"
    """of sources that pass: the last one (last: VidPrism, official code), or their sum (sum: notes on the paper)"""
    kernel: Few = 5
    """width in tokens of the strided convolutions from fast to slow, odd (VidPrism, official code)"""

    # --- experts and read-out ---
    heads: Few = 4
    """attention heads of experts and read-out (VidPrism, official code)"""
    expansion: Few = 2
    """inner width of an expert's feed-forward network over D (VidPrism, official code)"""
    readout: Literal["query", "average", "linear", "mlp"] = "query"
    """pooling of tokens into one vector: attention of one learnt query; their mean; weights by a linear layer or by a
    small network, neither of which the paper describes. Left out: local attention (VidPrism, read-out ablation)"""
    classifier: Literal["linear", "text"] = "linear"
    """a class-bound linear layer (linear, published), or the cosine with any class texts (text), whose official file
    has no training; here it is the cross-entropy of scaled cosines (VidPrism, official code)"""

    # --- objective ---
    rank_weight: Weight = 0.1
    """weight of the rank loss of the merging (VidPrism, official code)"""
    gate_weight: Weight = 0.01
    """weight of the balance loss of the read-out's shares (VidPrism, official code)"""
    diversity: Literal["batch", "experts", "off"] = "batch"
    """diversity loss: mean of 1 - cosine over pairs of videos, which draws them together (batch: VidPrism, official
    code); mean cosine over pairs of experts, which drives them apart (experts: notes on the paper)"""
    diversity_weight: Weight = 0.005
    """weight of the diversity loss (VidPrism, official code)"""
    contrastive_weight: Weight = 0.01
    """weight of the cross-entropy of plain cosines with class texts; not in the paper (VidPrism, official code)"""
    freeze_blocks: bool = False
    """freeze blocks and positions of a tuned tower, as `fix_text` does by mistake (VidPrism, official K400 config)"""

    @model_validator(mode="after")
    def _every_choice_counts(self) -> Self:
        if any(slower <= faster for faster, slower in pairwise(self.rates)):
            raise ValueError(f"rates {list(self.rates)} must ascend: the last source of a stream is the slowest")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} has no middle; allowed: odd numbers")
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

    # --- derived choices ----------------------------------------------------------------------------------------------

    def is_slow(self, stream: int) -> bool:
        return self.rates[stream] >= self.slow_rate

    @property
    def pairs(self) -> tuple[StreamPair, ...]:
        """Pairs that may interact, source by source as in the official code."""
        ways = {"both": (True, False), "slow_to_fast": (True,), "fast_to_slow": (False,), "none": ()}[self.interaction]
        streams = range(len(self.rates))
        return tuple(
            StreamPair(source, target)
            for source in streams
            for target in streams
            if self.is_slow(source) != self.is_slow(target) and self.is_slow(source) in ways
        )

    def windows(self, frames: int, rate: int) -> list[tuple[int, int]]:
        """(number of windows, their length): the whole windows, then the shorter last one, if there is one."""
        found = [(frames // rate, rate), (int(frames % rate > 0), frames % rate)]
        return [(count, length) for count, length in found if count]

    def fits(self, backbone: Backbone, frames: int) -> None:
        self.lengths(frames)

    def lengths(self, frames: int) -> tuple[int, ...]:
        """Tokens of each stream. Raises ValueError if a convolution would give a slow stream another number."""
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
    def soft_targets(self) -> bool:
        return True

    @property
    def depends_on_batch(self) -> bool:
        return self.gate == "batch" and bool(self.pairs)

    @property
    def depends_on_processes(self) -> bool:
        """True with terms or gates over a batch: each process computes them over its own part (official code)."""
        diverse = self.diversity == "batch" and self.diversity_weight > 0
        return self.depends_on_batch or diverse or self.gate_weight > 0

    @property
    def experts(self) -> int:
        return len(self.rates) if len(self.rates) > 1 else 0

    def check(self, inference: settings.Inference) -> None:
        assert isinstance(inference, Inference)
        refuse_missing_expert(inference.expert, len(self.rates))

    def expert_choices(self, inference: settings.Inference) -> dict[str, settings.Inference]:
        return each_expert(inference.model_copy(update={"expert": None}), self.experts)

    # --- costs --------------------------------------------------------------------------------------------------------

    def score_width(self, width: int) -> int:
        """Inner width of a scoring network."""
        return max(1, width // self.gate_reduction)

    def class_bound_parameters(self, backbone: Backbone, classes: int) -> int:
        return linear(backbone.embed_dim, classes).parameters if self.classifier == "linear" else 0

    def head_costs(self, backbone: Backbone, frames: int, inference: settings.Inference | None, stored: bool) -> Costs:
        """All gates are open. Deployed are the chosen experts, and scores of pairs that can interact."""
        width, lengths = backbone.embed_dim, self.lengths(frames)
        chosen = inference.expert if isinstance(inference, Inference) else None
        streams = [length for i, length in enumerate(lengths) if stored or chosen in (None, i)]
        texts = self.classifier == "text"
        return {
            "merging": total(self._merging(width, frames, rate) for rate in self.rates),
            "interaction": self._interaction(width, lengths, stored),
            "experts": total(self._expert(width, length) for length in streams),
            "read-out": self._readout(width, sum(streams)),
            "projection": 2 * linear(width, width) + texts * norm(width) if stored or texts else Cost(),
        }

    def expert_flops(self, backbone: Backbone, frames: int) -> tuple[int, ...]:
        """FLOPs of experts on streams of different lengths."""
        lengths = self.lengths(frames) if self.experts else ()
        return tuple(self._expert(backbone.embed_dim, length).flops for length in lengths)

    def _merging(self, width: int, frames: int, rate: int) -> Cost:
        """Projection and score of every token, similarities in a window, weights and sums of the kept tokens."""
        if self.aggregation != "guided":
            return Cost()
        merged = [(count, length) for count, length in self.windows(frames, rate) if length > self.keep]
        tokens = sum(count * length for count, length in merged)
        scores = linear(width, width, tokens) + norm(width) + linear(width, 1, tokens, bias=False)
        sums = (count * product(self.keep, length, length + width) for count, length in merged)
        return scores + total(count * product(length, width, length) for count, length in merged) + total(sums)

    def _interaction(self, width: int, lengths: tuple[int, ...], stored: bool) -> Cost:
        """Every pair's score; a projection for each slow source in use; interpolations and strided convolutions.

        Stored are a scoring network for any two streams and a shared projection, needed or not (official code).
        """
        if self.interaction == "none":
            return Cost()
        used = self.pairs if self.sources == "sum" else {pair.target: pair for pair in self.pairs}.values()
        to_slow = [pair for pair in self.pairs if self.is_slow(pair.target)]
        shared = self.interaction != "fast_to_slow" if stored else len(to_slow) < len(self.pairs)
        slow_tokens = sum(lengths[source] for source in {p.source for p in used if p not in to_slow})
        costs = [
            (len(self.rates) ** 2 if stored else len(self.pairs)) * self._score(2 * width, width),
            shared * linear(width, width, slow_tokens),
            *(linear(self.kernel * width, width, (p in used) * lengths[p.target], bias=False) for p in to_slow),
            *(product(lengths[p.source], lengths[p.target], width) for p in used if p not in to_slow),
        ]
        return total(costs)

    def _score(self, inputs: int, width: int, tokens: int = 1) -> Cost:
        """A small scoring network."""
        inner = self.score_width(width)
        return linear(inputs, inner, tokens) + linear(inner, 1, tokens)

    def _expert(self, width: int, length: int) -> Cost:
        return attention(width, length) + 2 * norm(width) + feed_forward(width, self.expansion * width, length)

    def _readout(self, width: int, length: int) -> Cost:
        """Weights of the tokens, their weighted sum, and a norm."""
        query = table(1, width) + 2 * linear(width, width) + 2 * linear(width, width, length)
        weights = {
            "query": query + product(1, width, length),
            "average": Cost(),
            "linear": linear(width, 1, length),
            "mlp": self._score(width, width, length),
        }
        return weights[self.readout] + product(1, length, width) + norm(width)


# `official`: the authors' program on Kinetics-400 with ViT-B/16. `clean`: the method without its quirks, for
# comparisons. ViT-L/14 has a tower's rate of 0.06; UCF-101 and HMDB-51 have 30 epochs, 5 of them warm-up, a rate of
# 5e-5 and the tower's at 0.06, HMDB-51 a decay of 0.1 (official configs). The official K400 config has no rates: those
# of the others are taken. Its 64 videos are two processes' 32, which terms and gates of a batch see by themselves: a
# step has two parts, however many processes share them (recipe.parts); ViT-L/14 accumulates two in each, so four.
PUBLISHED = {"epochs": 40, "warmup_epochs": 10, "lr": 1e-4, "tower_lr_ratio": 0.07, "batch": 64, "accumulate": 2}
RATES = [2, 4, 8, 16]


def _published(training: dict[str, Any]) -> dict[str, Any]:
    return {**training, **PUBLISHED, "views": {**training["views"], "frames": 32}}


PRESETS: dict[str, Preset] = {
    # The only official evaluation that runs, the one inside training, does not mix CLIP's weights in.
    "official": tuned(
        {**_published(MOTE_TRAINING), "parts": 2}, rates=RATES, gate="batch", sources="last", diversity="batch"
    ),
    # Sources and losses stay the code's: the published numbers come from it, and none are known for the paper's form.
    "clean": tuned(
        {**_published(CLEAN_TRAINING), "parts": 2}, rates=RATES, gate="sample", sources="last", diversity="batch"
    ),
}
