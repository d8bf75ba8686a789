"""From decoded frames to the pixels a tower sees: resize, crops, augmentation, normalisation, on uint8 tensors.

Crops as in MoTE's and Text4Vis' official test code, augmentation as in MoTE's official training code. Left out: the
label-exchanging flip and the fixed 256 x 320 resize for Something-Something.

Legend: T frames, V crops, S output side, H and W the frame's height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from bench.data.views import TestViews, TrainViews

MIN_AREA = 0.08
ASPECTS = (3 / 4, 4 / 3)
TRIES = 10
FLIP = 0.5
GRAYSCALE = 0.2


def test_views(frames_THWC: np.ndarray, views: TestViews) -> Tensor:
    """The crops of one clip, [V,T,3,S,S] uint8: short side to `resize` (bicubic, antialiased), then square crops.

    1: centre. 3: left, right, centre. 5: corners row by row, centre. 10: each of the five, then its mirror image.
    """
    frames_T3HW = _short_side(_channels_first(frames_THWC), views.resize)
    height, width = frames_T3HW.shape[-2:]
    crops = [_cropped(frames_T3HW, x, y, views.size) for x, y in _corners(width, height, views.size, views.crops)]
    if views.crops == 10:
        crops = [view for crop in crops for view in (crop, crop.flip(-1))]
    return torch.stack(crops)


test_views.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it where it is imported


def train_view(frames_THWC: np.ndarray, views: TrainViews, rng: np.random.Generator) -> Tensor:
    """One training view of a clip, [T,3,S,S] uint8; random choices come from `rng` and are shared by all frames.

    `none` is resize and centre crop. `mote` is random resized crop, horizontal flip and grayscale.
    """
    frames_T3HW = _short_side(_channels_first(frames_THWC), views.resize)
    if views.augmentation == "none":
        height, width = frames_T3HW.shape[-2:]
        ((x, y),) = _corners(width, height, views.size, 1)
        return _cropped(frames_T3HW, x, y, views.size)
    view_T3SS = _random_resized_crop(frames_T3HW, views.size, rng)
    if rng.random() < FLIP:
        view_T3SS = view_T3SS.flip(-1)
    if rng.random() < GRAYSCALE:
        view_T3SS = F.rgb_to_grayscale(view_T3SS, num_output_channels=3)
    return view_T3SS


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 pixels [...,3,H,W] as float32, in units of the dataset's channel statistics (of values in 0..1)."""
    scale = torch.tensor([[255 * m, 255 * s] for m, s in zip(mean, std, strict=True)], device=pixels.device)
    return (pixels.float() - scale[:, 0, None, None]) / scale[:, 1, None, None]


def _channels_first(frames_THWC: np.ndarray) -> Tensor:
    return torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)


def _short_side(frames_T3HW: Tensor, side: int, mode: InterpolationMode = InterpolationMode.BICUBIC) -> Tensor:
    if min(frames_T3HW.shape[-2:]) == side:
        return frames_T3HW
    return _resized(frames_T3HW, [side], mode)


def _resized(frames_T3HW: Tensor, sides: list[int], mode: InterpolationMode) -> Tensor:
    return F.resize(frames_T3HW, sides, mode, antialias=True)  # type: ignore[no-any-return]


def _corners(width: int, height: int, size: int, crops: int) -> list[tuple[int, int]]:
    """Top-left corners (x, y). Quarters are rounded down, so the far crops can miss up to 3 pixels, as officially."""
    dx, dy = (width - size) // 4, (height - size) // 4
    if crops == 1:
        return [(round((width - size) / 2), round((height - size) / 2))]
    if crops == 3:
        return [(0, 2 * dy), (4 * dx, 2 * dy), (2 * dx, 2 * dy)]
    return [(0, 0), (4 * dx, 0), (0, 4 * dy), (4 * dx, 4 * dy), (2 * dx, 2 * dy)]


def _cropped(frames_T3HW: Tensor, x: int, y: int, size: int) -> Tensor:
    return frames_T3HW[..., y : y + size, x : x + size]


def _random_resized_crop(frames_T3HW: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """MoTE's rule: aspect uniform (not log-uniform), sides swapped half of the time, up to ten tries."""
    height, width = frames_T3HW.shape[-2:]
    for _ in range(TRIES):
        area, aspect = height * width * rng.uniform(MIN_AREA, 1), rng.uniform(*ASPECTS)
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if rng.random() < 0.5:
            w, h = h, w
        if w <= width and h <= height:
            x, y = _random_corner(width - w, height - h, rng)
            return _resized(frames_T3HW[..., y : y + h, x : x + w], [size, size], InterpolationMode.BILINEAR)
    small_T3HW = _short_side(frames_T3HW, size, InterpolationMode.BILINEAR)
    x, y = _random_corner(small_T3HW.shape[-1] - size, small_T3HW.shape[-2] - size, rng)
    return _cropped(small_T3HW, x, y, size)


def _random_corner(free_x: int, free_y: int, rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(free_x, endpoint=True)), int(rng.integers(free_y, endpoint=True))
