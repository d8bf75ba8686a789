"""Soft targets of a training: smoothed labels, and videos of which two are blended into one.

Mixup (arXiv 1710.09412) adds two videos, CutMix (arXiv 1905.04899) puts a box of one into the other, the same in all
frames. As in the official code of X-CLIP and ViFi-CLIP, a group of videos shares the choice between the two, the share
and one permutation, which names each video's partner.

Legend: b videos, C classes, T frames, H and W the frame's height and width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.suite.recipe import Mix


class Blend(NamedTuple):
    """Videos [b, T, 3, H, W], normalised, and their targets [b, C], whose rows sum to 1."""

    pixels: Tensor
    targets: Tensor


class Box(NamedTuple):
    """Pixels [y1:y2, x1:x2]."""

    x1: int
    x2: int
    y1: int
    y2: int


def smoothed(labels_b: Tensor, classes: int, smoothing: float) -> Tensor:
    """Targets [b, C]: eps / C everywhere, and 1 - eps + eps / C at the label, for a smoothing eps in 0..1."""
    off = smoothing / classes
    targets_bC = torch.full((len(labels_b), classes), off, device=labels_b.device)
    return targets_bC.scatter(1, labels_b[:, None], 1 - smoothing + off)


def blended(videos: Blend, mix: Mix, rng: np.random.Generator) -> Blend:
    """Videos that are blended within groups of `mix.group` consecutive ones, or all together without it."""
    size = mix.group or len(videos.pixels)
    groups = zip(videos.pixels.split(size), videos.targets.split(size), strict=True)
    parts = [_drawn(Blend(*group), mix, rng) for group in groups]
    return Blend(*map(torch.cat, zip(*parts, strict=True)))


def _drawn(videos: Blend, mix: Mix, rng: np.random.Generator) -> Blend:
    height, width = videos.pixels.shape[-2:]
    cut = rng.random() < mix.odds
    alpha = mix.cutmix if cut else mix.mixup
    share = rng.beta(alpha, alpha)
    partner_b = torch.from_numpy(rng.permutation(len(videos.pixels))).to(videos.pixels.device)
    if not cut:
        return mixed_up(videos, partner_b, share)
    centre = int(rng.integers(width)), int(rng.integers(height))
    return cut_in(videos, partner_b, cut_box(width, height, share, centre))


def mixed_up(videos: Blend, partner_b: Tensor, share: float) -> Blend:
    """Mixup: `share` of each video and the rest of its partner, pixels and targets alike."""
    return Blend(*(share * own + (1 - share) * own[partner_b] for own in videos))


def cut_box(width: int, height: int, share: float, centre: tuple[int, int]) -> Box:
    """The box that takes 1 - `share` of a picture around `centre` (x, y), less what lies outside.

    As in the official code, a box of an odd side loses a pixel.
    """
    (x, y), side = centre, (1 - share) ** 0.5
    half_w, half_h = int(width * side) // 2, int(height * side) // 2
    return Box(max(x - half_w, 0), min(x + half_w, width), max(y - half_h, 0), min(y + half_h, height))


def cut_in(videos: Blend, partner_b: Tensor, box: Box) -> Blend:
    """CutMix: a box of each video comes from its partner, and of the targets the share that the box has."""
    pixels, targets = videos
    rows, columns = slice(box.y1, box.y2), slice(box.x1, box.x2)
    cut = pixels.clone()
    cut[..., rows, columns] = pixels[partner_b][..., rows, columns]
    kept = 1 - (box.x2 - box.x1) * (box.y2 - box.y1) / (pixels.shape[-1] * pixels.shape[-2])
    return Blend(cut, kept * targets + (1 - kept) * targets[partner_b])
