"""Closed forms of parameters and FLOPs that methods share; without torch.

FLOPs are of one view, forward, 2 per multiply-add, matrix products only. `width` is D, the joint CLIP width.
"""

from __future__ import annotations

from bench.models.backbones import Backbone
from methods.settings import Flops

POSITIONS = 77  # rows of the position table; the official heads size it by CLIP's text context length
EXPANSION = 4  # hidden width of the temporal transformer's feed-forward network over D
TEMPORAL_PATHS = {"attention": ("*.attn",), "feed-forward": ("*.mlp",)}  # modules of `temporal_modules` in a predictor


def refuse_frames_without_position(frames: int) -> None:
    """Raises ValueError for more frames than the position table has rows."""
    if frames > POSITIONS:
        raise ValueError(f"{frames} frames, but there are {POSITIONS} positions in time; allowed: up to {POSITIONS}")


def linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer with bias."""
    return (inputs + 1) * outputs


def attention(width: int) -> int:
    """Parameters of a multi-head attention: four projections with biases."""
    return linear(width, 4 * width)


def attention_flops(width: int, tokens: int) -> int:
    """Four projections and two products of an attention over a sequence."""
    return 2 * 4 * tokens * width**2 + 2 * 2 * tokens**2 * width


def temporal_heads(backbone: Backbone) -> int:
    """Attention heads: one per 64 channels of the text tower (official code), at least one."""
    return max(1, backbone.text_width // 64)


def temporal_parameters(width: int, layers: int, ups: int = 1, downs: int = 1) -> int:
    """Parameters with `ups` and `downs` up- and down-projections in the feed-forward network of each layer."""
    up, down = linear(width, EXPANSION * width), linear(EXPANSION * width, width)
    return POSITIONS * width + layers * (attention(width) + 4 * width + ups * up + downs * down)


def temporal_modules(width: int, layers: int, frames: int) -> Flops:
    """FLOPs of dense layers by part."""
    feed_forward = 2 * half_feed_forward_flops(width, layers, frames)
    return {"attention": layers * attention_flops(width, frames), "feed-forward": feed_forward}


def half_feed_forward_flops(width: int, layers: int, frames: int) -> int:
    """FLOPs of the up- or the down-projections of the layers' feed-forward networks."""
    return layers * 2 * frames * EXPANSION * width**2
