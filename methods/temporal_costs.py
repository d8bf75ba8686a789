"""Sizes, parameters and FLOPs of the temporal transformer in `blocks.py`; closed forms, without torch."""

from __future__ import annotations

from bench.backbones import Backbone
from methods.settings import Parameters

POSITIONS = 77  # rows of the position table; the official heads size it by CLIP's text context length
EXPANSION = 4  # hidden width of a feed-forward network over D


def temporal_heads(backbone: Backbone) -> int:
    """Attention heads: one per 64 channels of the text tower (official code), at least one."""
    return max(1, backbone.text_width // 64)


def temporal_parameters(width: int, layers: int, experts: int = 1) -> Parameters:
    """Parameters with `experts` feed-forward networks per layer, of which merging or choosing leaves one."""
    attention = 4 * width * (width + 1)
    norms = 4 * width
    feed_forward = 2 * EXPANSION * width**2 + (EXPANSION + 1) * width
    stored, active = (POSITIONS * width + layers * (attention + norms + n * feed_forward) for n in (experts, 1))
    return Parameters(stored, active)


def temporal_flops(width: int, layers: int, frames: int) -> int:
    """FLOPs of one view through dense layers, forward, 2 per multiply-add: projections, attention's products, FFN."""
    projections = 2 * frames * width**2 * (4 + 2 * EXPANSION)
    attention = 2 * 2 * frames**2 * width
    return layers * (projections + attention)
