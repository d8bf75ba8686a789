"""Sizes, parameters and FLOPs of the temporal transformer in `blocks.py`; closed forms, without torch."""

from __future__ import annotations

from bench.models.backbones import Backbone

POSITIONS = 77  # rows of the position table; the official heads size it by CLIP's text context length


def within_positions(frames: int) -> None:
    """Raises ValueError for more frames than have a position."""
    if frames > POSITIONS:
        raise ValueError(f"{frames} frames, but there are {POSITIONS} positions in time; allowed: up to {POSITIONS}")


EXPANSION = 4  # hidden width of a feed-forward network over D


def temporal_heads(backbone: Backbone) -> int:
    """Attention heads: one per 64 channels of the text tower (official code), at least one."""
    return max(1, backbone.text_width // 64)


def temporal_parameters(width: int, layers: int, ups: int = 1, downs: int = 1) -> int:
    """Parameters with `ups` and `downs` up- and down-projections in the feed-forward network of each layer."""
    attention = 4 * width * (width + 1)
    norms = 4 * width
    up, down = EXPANSION * width * (width + 1), (EXPANSION * width + 1) * width
    return POSITIONS * width + layers * (attention + norms + ups * up + downs * down)


# Where the parts of `temporal_modules` are found in a predictor.
TEMPORAL_PATHS = {"attention": ("*.attn",), "feed-forward": ("*.mlp",)}


def temporal_modules(width: int, layers: int, frames: int) -> dict[str, int]:
    """FLOPs of one view through dense layers by part, forward, 2 per multiply-add."""
    projections, products = 2 * 4 * frames * width**2, 2 * 2 * frames**2 * width
    feed_forward = 2 * half_feed_forward_flops(width, layers, frames)
    return {"attention": layers * (projections + products), "feed-forward": feed_forward}


def half_feed_forward_flops(width: int, layers: int, frames: int) -> int:
    """FLOPs of one view through the up- or the down-projections of the layers' feed-forward networks."""
    return layers * 2 * frames * EXPANSION * width**2
