"""Blocks in closed form: the parameters and FLOPs that methods compose; without torch.

FLOPs are of one view, forward, 2 per multiply-add, matrix products only. `width` is D, the joint CLIP width; `tokens`
are the rows that a layer is applied to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.models.backbones import Backbone

POSITIONS = 77  # rows of the position table; the official heads size it by CLIP's text context length
EXPANSION = 4  # hidden width of the temporal transformer's feed-forward network over D
# Modules of `temporal` in a predictor.
TEMPORAL_PATHS: Mapping[str, tuple[str, ...]] = {"attention": ("*.attn",), "feed-forward": ("*.mlp",)}


@dataclass(frozen=True)
class Cost:
    """Parameters of a block, and FLOPs of one view."""

    parameters: int = 0
    flops: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.flops + other.flops)

    def __rmul__(self, blocks: int) -> Cost:
        return Cost(blocks * self.parameters, blocks * self.flops)


Costs = dict[str, Cost]  # by part of the head


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())


def table(rows: int, width: int) -> Cost:
    """Learnt rows, which are only added."""
    return Cost(rows * width)


def norm(width: int) -> Cost:
    """Scale and shift of a layer norm."""
    return Cost(2 * width)


def linear(inputs: int, outputs: int, tokens: int = 1, *, bias: bool = True) -> Cost:
    """A linear layer; also a convolution, with as many inputs as an output channel sees."""
    return Cost((inputs + bias) * outputs, 2 * tokens * inputs * outputs)


def product(rows: int, inner: int, columns: int) -> Cost:
    """A matrix product without parameters."""
    return Cost(0, 2 * rows * inner * columns)


def attention(width: int, tokens: int = 1) -> Cost:
    """Multi-head attention over a sequence: four projections and two products."""
    return 4 * linear(width, width, tokens) + 2 * product(tokens, width, tokens)


def feed_forward(width: int, inner: int, tokens: int = 1) -> Cost:
    """Two linear layers."""
    return linear(width, inner, tokens) + linear(inner, width, tokens)


def temporal(width: int, layers: int, tokens: int, ups: int = 1, downs: int = 1) -> Costs:
    """Temporal transformer by part, with `ups` up- and `downs` down-projections in the network of each layer."""
    up, down = linear(width, EXPANSION * width, tokens), linear(EXPANSION * width, width, tokens)
    return {
        "attention": table(POSITIONS, width) + layers * (attention(width, tokens) + 2 * norm(width)),
        "feed-forward": layers * (ups * up + downs * down),
    }


def temporal_heads(backbone: Backbone) -> int:
    """Attention heads: one per 64 channels of the text tower (official code), at least one."""
    return max(1, backbone.text_width // 64)


def refuse_frames_without_position(frames: int) -> None:
    """Raises ValueError for more frames than the position table has rows."""
    if frames > POSITIONS:
        raise ValueError(f"{frames} frames, but there are {POSITIONS} positions in time; allowed: up to {POSITIONS}")
