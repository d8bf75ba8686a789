"""Parameters and FLOPs of `heads.py` and of what `inside.py` puts into the tower; closed forms, without torch.

FLOPs are 2 per multiply-add of matrix products and convolutions.
"""

from __future__ import annotations

from bench.models.backbones import Backbone
from methods.temporal_costs import POSITIONS, TEMPORAL_PATHS, temporal_modules, temporal_parameters

CLS_HEADS, CLS_INNER = 8, 2048  # attention heads and inner width of a layer of `transf_cls`, whatever D (ActionCLIP)
KERNEL = 3  # frames that `conv1d` looks at


def head_parameters(head: str, width: int, layers: int) -> int:
    """Parameters of a head; that of a class token has positions for the longest clip, as that of a transformer."""
    if head == "transf":
        return temporal_parameters(width, layers)
    if head == "transf_cls":
        attention, norms = 4 * width * (width + 1), 4 * width
        feed_forward = CLS_INNER * (width + 1) + width * (CLS_INNER + 1)
        return (POSITIONS + 2) * width + layers * (attention + norms + feed_forward) + 2 * width
    return {"none": 0, "conv1d": KERNEL * width, "lstm": 8 * width * (width + 1), "shift": 0}[head]


# Where the parts of `head_modules` are found in a predictor. Cells of `lstm` and attention of `transf_cls` are computed
# outside modules of their own: that one in the predictor itself, this one in a layer.
HEAD_PATHS = {
    "feed-forward": (*TEMPORAL_PATHS["feed-forward"], "*.linear[12]"),
    "attention": (*TEMPORAL_PATHS["attention"], "*.layers.*"),
    "convolution": ("head.shift",),
    "recurrence": ("",),
}


def head_modules(head: str, width: int, layers: int, frames: int) -> dict[str, int]:
    """FLOPs of one view through a head by part, forward."""
    if head == "transf":
        return temporal_modules(width, layers, frames)
    if head == "transf_cls":
        tokens = frames + 1
        attention = 2 * tokens * 4 * width**2 + 2 * 2 * tokens**2 * width
        return {"attention": layers * attention, "feed-forward": layers * 2 * tokens * 2 * width * CLS_INNER}
    if head == "conv1d":
        return {"convolution": frames * 2 * KERNEL * width}
    return {"recurrence": frames * 2 * 8 * width**2} if head == "lstm" else {}


def inside_parameters(inside: str, spec: Backbone) -> int:
    """Parameters that the tower gets."""
    width = spec.vision_width
    return {"tokent1d": spec.vision_layers * KERNEL * width, "joint_st": POSITIONS * width}.get(inside, 0)


def inside_flops(inside: str, spec: Backbone, frames: int) -> int:
    """FLOPs of one view beside those of its frames, each for itself."""
    if inside == "tokent1d":
        return spec.vision_layers * 2 * frames * 2 * KERNEL * spec.vision_width  # twice in a block
    if inside != "joint_st":
        return 0
    # The frames' class tokens but one are saved, all patches attend to each other, and one feature is projected.
    joint, single = 1 + frames * (spec.vision_tokens - 1), spec.vision_tokens
    saved = (frames - 1) * 2 * spec.vision_width * spec.embed_dim
    return spec.vision_layers * (_block_flops(spec, joint) - frames * _block_flops(spec, single)) - saved


def _block_flops(spec: Backbone, tokens: int) -> int:
    """Four projections, the attention's two products, the feed-forward network."""
    width, inner = spec.vision_width, int(spec.vision_width * spec.vision_mlp_ratio)
    return 2 * tokens * (4 * width**2 + 2 * tokens * width + 2 * width * inner)
