"""Parameters and FLOPs of VidPrism's modules; closed forms, without torch. `width` is D, the joint CLIP width.

FLOPs are those of one view, forward, 2 per multiply-add, matrix products only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from methods.vidprism.config import Config, Pair


def linear(inputs: int, outputs: int) -> int:
    return outputs * (inputs + 1)


# --- parameters -------------------------------------------------------------------------------------------------------


def merging(config: Config, width: int) -> int:
    """All streams: a projection, a norm, a score without bias."""
    return len(config.rates) * (linear(width, width) + 3 * width) if config.aggregation == "guided" else 0


def interaction(config: Config, width: int, *, deployed: bool = False) -> int:
    """As stored there is a scoring network for any two streams and a shared projection, needed or not (code)."""
    if config.interaction == "none":
        return 0
    to_fast = [pair for pair in config.pairs if not config.is_slow(pair.target)]
    to_slow = len(config.pairs) - len(to_fast)
    inner = score_width(config, width)
    scores = len(config.pairs) if deployed else len(config.rates) ** 2
    shared = bool(to_fast) if deployed else config.interaction != "fast_to_slow"
    scoring = linear(2 * width, inner) + linear(inner, 1)
    return scores * scoring + shared * linear(width, width) + to_slow * config.kernel * width**2


def score_width(config: Config, width: int) -> int:
    """Inner width of a scoring network."""
    return max(1, width // config.gate_reduction)


def attention(width: int) -> int:
    return linear(width, 4 * width)


def expert(config: Config, width: int) -> int:
    """Attention, two norms, feed-forward network."""
    inner = config.expansion * width
    return attention(width) + 4 * width + linear(width, inner) + linear(inner, width)


def readout(config: Config, width: int) -> int:
    """What weighs tokens, and the norm behind it."""
    inner = score_width(config, width)
    weighing = {
        "query": width + attention(width),
        "average": 0,
        "linear": linear(width, 1),
        "mlp": linear(width, inner) + linear(inner, 1),
    }
    return weighing[config.readout] + 2 * width


def projection(config: Config, width: int) -> int:
    """Two layers; with a norm where they lead to class texts."""
    return 2 * linear(width, width) + (2 * width if config.classifier == "text" else 0)


# --- FLOPs ------------------------------------------------------------------------------------------------------------


# Where the parts of `modules` are found in a predictor.
PATHS = {
    "merging": ("head.pooling_layers.*",),
    "interaction": ("head.dynamic_interaction",),
    "experts": ("head.mote.experts.*",),
    "read-out": ("head.mote.readout_gate",),
    "projection": ("head.projection_head",),
}


def modules(config: Config, width: int, frames: int, asked: int | None) -> dict[str, int]:
    """The deployed head up to its logits by part, with all gates open; `asked` is a single expert that is read out."""
    lengths = config.lengths(frames)
    merged = sum(merging_flops(config, width, frames, rate) for rate in config.rates)
    streams = [length for i, length in enumerate(lengths) if asked in (None, i)]
    experts = sum(expert_flops(config, width, length) for length in streams)
    parts = {
        "merging": merged,
        "interaction": interaction_flops(config, width, lengths),
        "experts": experts,
        "read-out": readout_flops(config, width, sum(streams)),
        "projection": 2 * 2 * width**2 if config.classifier == "text" else 0,
    }
    return {name: flops for name, flops in parts.items() if flops}


def merging_flops(config: Config, width: int, frames: int, rate: int) -> int:
    """Projection and score of every token, similarities within a window, weights of and sums for what is kept."""
    if config.aggregation != "guided":
        return 0
    return sum(
        2 * count * (length * width * (width + 1) + length**2 * (width + config.keep) + config.keep * length * width)
        for count, length in config.windows(frames, rate)
        if length > config.keep
    )


def interaction_flops(config: Config, width: int, lengths: tuple[int, ...]) -> int:
    """Every pair's score; a projection for each slow source in use; then interpolations and strided convolutions."""
    used = list(config.pairs)
    if config.sources == "last":
        used = list({pair.target: pair for pair in used}.values())
    inner = score_width(config, width)
    scores = len(config.pairs) * (2 * width * inner + inner)
    projected = sum(lengths[source] * width**2 for source in {p.source for p in used if config.is_slow(p.source)})
    return 2 * (scores + projected + sum(_taken(config, width, lengths, pair) for pair in used))


def _taken(config: Config, width: int, lengths: tuple[int, ...], pair: Pair) -> int:
    if config.is_slow(pair.target):
        return lengths[pair.target] * config.kernel * width**2
    return lengths[pair.source] * lengths[pair.target] * width


def expert_flops(config: Config, width: int, length: int) -> int:
    """Projections and feed-forward network of every token, attention's two products."""
    return 2 * length * width**2 * (4 + 2 * config.expansion) + 2 * 2 * length**2 * width


def readout_flops(config: Config, width: int, length: int) -> int:
    """What weighs the tokens, and their weighted sum."""
    inner = score_width(config, width)
    weighing = {
        "query": width**2 * (2 + 2 * length) + length * width,
        "average": 0,
        "linear": length * width,
        "mlp": length * (width * inner + inner),
    }
    return 2 * (weighing[config.readout] + length * width)
