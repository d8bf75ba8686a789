"""Transforms from decoded frames to the tower's input: resize, crops, augmentation, normalisation, on uint8 tensors.

Crops follow the official test code of MoTE and Text4Vis or mmaction, augmentation follows MoTE's training code.
Flips that also swap labels, for Something-Something, are not implemented; `views.flip` can only switch flips off.

Legend: T frames, V crops, S output side, H and W the frame's height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from bench.video.views import Resize, TestViews, TrainViews

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of red, green, blue in 0..1

IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MIN_AREA = 0.08
ASPECTS = (3 / 4, 4 / 3)
TRIES = 10
FLIP = 0.5
GRAYSCALE = 0.2


def test_views(frames_THWC: np.ndarray, views: TestViews) -> Tensor:
    """The crops of one clip, [V,T,3,S,S] uint8: resized, then cropped."""
    return crop_views(resized(frames_THWC, views.resize), views)


test_views.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it where it is imported


def train_view(frames_THWC: np.ndarray, views: TrainViews, rng: np.random.Generator) -> Tensor:
    """One training view of a clip, [T,3,S,S] uint8: resized, then augmented."""
    return augmented(resized(frames_THWC, views.resize), views, rng)


def resized(frames_THWC: np.ndarray, resize: Resize) -> Tensor:
    """Frames [T,3,H,W] uint8, resized bicubically with antialiasing: the short side, or both sides (height, width)."""
    frames_T3HW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
    if isinstance(resize, int):
        return _short_side(frames_T3HW, resize)
    if frames_T3HW.shape[-2:] == tuple(resize):
        return frames_T3HW
    return _resized(frames_T3HW, list(resize), InterpolationMode.BICUBIC)


def crop_views(frames_T3HW: Tensor, views: TestViews) -> Tensor:
    """Square crops [V,T,3,S,S] of frames that are resized already.

    1: centre. 3: left, right, centre (`quarters`), or start, end, middle of the longer side (`long_side`). 5: corners
    row by row, then centre. 10: each of the five, followed by its mirror image.
    """
    crops = [_cropped(frames_T3HW, x, y, views.size) for x, y in _corners(frames_T3HW, views)]
    if views.crops == 10:
        crops = [view for crop in crops for view in (crop, crop.flip(-1))]
    return torch.stack(crops)


def augmented(frames_T3HW: Tensor, views: TrainViews, rng: np.random.Generator) -> Tensor:
    """A training view [T,3,S,S] of frames that are resized already; `rng` draws once for all frames.

    `none` is the centre crop. `mote` is random resized crop, horizontal flip and grayscale.
    """
    if views.augmentation == "none":
        return _cropped(frames_T3HW, *_centre(frames_T3HW, views.size), views.size)
    view_T3SS = _random_resized_crop(frames_T3HW, views.size, rng)
    mirrored, grey = rng.random() < FLIP, rng.random() < GRAYSCALE
    if mirrored and views.flip:
        view_T3SS = view_T3SS.flip(-1)
    if grey:
        view_T3SS = F.rgb_to_grayscale(view_T3SS, num_output_channels=3)
    return view_T3SS


def statistics(views: TestViews | TrainViews, clip_mean: Sequence[float], clip_std: Sequence[float]) -> Statistics:
    """Mean and standard deviation with which views are normalised, given those of the CLIP weights."""
    return IMAGENET if views.normalise == "imagenet" else (clip_mean, clip_std)


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 pixels [...,3,H,W] as float32, normalised by the mean and standard deviation of values in 0..1."""
    scale = torch.tensor([[255 * m, 255 * s] for m, s in zip(mean, std, strict=True)], device=pixels.device)
    return (pixels.float() - scale[:, 0, None, None]) / scale[:, 1, None, None]


def _short_side(frames_T3HW: Tensor, side: int, mode: InterpolationMode = InterpolationMode.BICUBIC) -> Tensor:
    if min(frames_T3HW.shape[-2:]) == side:
        return frames_T3HW
    return _resized(frames_T3HW, [side], mode)


def _resized(frames_T3HW: Tensor, sides: list[int], mode: InterpolationMode) -> Tensor:
    return F.resize(frames_T3HW, sides, mode, antialias=True)  # type: ignore[no-any-return]


def _corners(frames_T3HW: Tensor, views: TestViews) -> list[tuple[int, int]]:
    """Top-left corners (x, y). As in the official code quarters are rounded down, so crops can miss up to 3 pixels."""
    height, width = frames_T3HW.shape[-2:]
    free_x, free_y = width - views.size, height - views.size
    dx, dy = free_x // 4, free_y // 4
    if views.crops == 1:
        return [_centre(frames_T3HW, views.size)]
    if views.crops == 3 and views.three_crop == "long_side":
        x, y = free_x // 2, free_y // 2
        return [(0, y), (2 * x, y), (x, y)] if width > height else [(x, 0), (x, 2 * y), (x, y)]
    if views.crops == 3:
        return [(0, 2 * dy), (4 * dx, 2 * dy), (2 * dx, 2 * dy)]
    return [(0, 0), (4 * dx, 0), (0, 4 * dy), (4 * dx, 4 * dy), (2 * dx, 2 * dy)]


def _centre(frames_T3HW: Tensor, size: int) -> tuple[int, int]:
    height, width = frames_T3HW.shape[-2:]
    return round((width - size) / 2), round((height - size) / 2)


def _cropped(frames_T3HW: Tensor, x: int, y: int, size: int) -> Tensor:
    return frames_T3HW[..., y : y + size, x : x + size]


def _random_resized_crop(frames_T3HW: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """MoTE's rule: uniform (not log-uniform) aspect ratio, sides swapped half of the time, up to ten tries."""
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
