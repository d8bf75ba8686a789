"""Transforms from decoded frames to the tower's input: resize, crops, augmentation, normalisation, on uint8 tensors.

Crops follow the official test code of MoTE and Text4Vis or mmaction, augmentations the training code of the methods
that `TrainViews.augmentation` names. RandAugment (arXiv 1909.13719) is torchvision's; those of timm and imgaug, which
ST-Adapter, Vita-CLIP and AIM use, have other operations.
Flips that also swap labels, for Something-Something, are not implemented; `views.flip` can only switch flips off.

Legend: T frames, V crops, S output side, H and W the frame's height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import ColorJitter, InterpolationMode, RandAugment, RandomErasing, Transform
from torchvision.transforms.v2 import functional as F

from bench.video.views import Resize, TestViews, TrainViews

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of red, green, blue in 0..1

IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MIN_AREA = 0.08
ASPECTS = (3 / 4, 4 / 3)
TRIES = 10
FLIP = 0.5
GRAYSCALE = 0.2
JITTERED, JITTER = 0.8, (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
SCALES, NEAR = (1, 0.875, 0.75, 0.66), 3  # of `multi_scale`; sides that are nearer to the crop's size become it
ERASED = (0.02, 1 / 3), (0.3, 10 / 3)  # area and proportions of an erased box
MEAN_COLOUR = [123, 117, 104]  # CLIP's; on normalised pixels the official code writes zeros


def test_views(frames_THWC: np.ndarray, views: TestViews) -> Tensor:
    """The crops of one clip, [V,T,3,S,S] uint8: resized, then cropped."""
    return crop_views(resized(frames_THWC, views.resize), views)


test_views.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it where it is imported


def train_view(frames_THWC: np.ndarray, views: TrainViews, rng: np.random.Generator) -> Tensor:
    """One training view of a clip, [T,3,S,S] uint8: resized, then augmented."""
    return augmented(resized(frames_THWC, views.resize), views, rng)


def resized(frames_THWC: np.ndarray, resize: Resize | None) -> Tensor:
    """Frames [T,3,H,W] uint8, resized bicubically with antialiasing: the short side, or both sides (height, width)."""
    frames_T3HW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
    if resize is None:
        return frames_T3HW
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
    """A training view [T,3,S,S] of frames that are resized already.

    `rng` draws once for all frames, but for the colours of `multi_scale` and a RandAugment of each frame.
    """
    if views.rand_augment != "none":
        operations = RandAugment(views.rand_augment_n, views.rand_augment_m)
        frames_T3HW = _drawn(operations, frames_T3HW, rng, each=views.rand_augment == "frame")
    if views.augmentation == "none":
        view_T3SS = _cropped(frames_T3HW, *_centre(frames_T3HW, views.size), views.size)
    else:
        view_T3SS = _flipped_and_coloured(CROPS[views.augmentation](frames_T3HW, views, rng), views, rng)
    if views.random_erasing:
        view_T3SS = _drawn(RandomErasing(views.random_erasing, *ERASED, MEAN_COLOUR), view_T3SS, rng)
    return view_T3SS


def _flipped_and_coloured(view_T3SS: Tensor, views: TrainViews, rng: np.random.Generator) -> Tensor:
    mirrored = rng.random() < FLIP
    coloured = views.augmentation == "multi_scale" and rng.random() < JITTERED
    grey = views.augmentation in ("mote", "multi_scale") and rng.random() < GRAYSCALE
    if mirrored and views.flip:
        view_T3SS = view_T3SS.flip(-1)
    if coloured:
        view_T3SS = _drawn(ColorJitter(*JITTER), view_T3SS, rng, each=True)
    if grey:
        view_T3SS = F.rgb_to_grayscale(view_T3SS, num_output_channels=3)
    return view_T3SS


def _drawn(transform: Transform, frames_T3HW: Tensor, rng: np.random.Generator, each: bool = False) -> Tensor:
    """Frames after a transform of torchvision, whose draws follow `rng`: one for all frames, or one for `each`."""
    if each:
        return torch.cat([_drawn(transform, frame_13HW, rng) for frame_13HW in frames_T3HW.split(1)])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**63)))  # manual_seed would reset devices too
        return transform(frames_T3HW)  # type: ignore[no-any-return]


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


def _random_resized_crop(frames_T3HW: Tensor, views: TrainViews, rng: np.random.Generator) -> Tensor:
    """Up to ten tries. MoTE's aspect ratio is uniform (not log-uniform), with sides swapped half of the time."""
    (height, width), size = frames_T3HW.shape[-2:], views.size
    for _ in range(TRIES):
        area = height * width * rng.uniform(MIN_AREA, 1)
        uniform = views.augmentation == "mote"
        aspect = rng.uniform(*ASPECTS) if uniform else np.exp(rng.uniform(*np.log(ASPECTS)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if uniform and rng.random() < 0.5:
            w, h = h, w
        if w <= width and h <= height:
            x, y = _random_corner(width - w, height - h, rng)
            return _resized(frames_T3HW[..., y : y + h, x : x + w], [size, size], InterpolationMode.BILINEAR)
    return _random_crop(frames_T3HW, size, size, rng)


def _short_side_crop(frames_T3HW: Tensor, views: TrainViews, rng: np.random.Generator) -> Tensor:
    """Official code of Open-VCLIP and ST-Adapter, which resizes normalised pixels without antialiasing."""
    side = round(rng.uniform(views.size, round(views.size * views.short_side)))
    return _random_crop(frames_T3HW, side, views.size, rng)


def _random_crop(frames_T3HW: Tensor, side: int, size: int, rng: np.random.Generator) -> Tensor:
    """A square crop of frames whose short side is resized."""
    small_T3HW = _short_side(frames_T3HW, side, InterpolationMode.BILINEAR)
    x, y = _random_corner(small_T3HW.shape[-1] - size, small_T3HW.shape[-2] - size, rng)
    return _cropped(small_T3HW, x, y, size)


def _multi_scale_crop(frames_T3HW: Tensor, views: TrainViews, rng: np.random.Generator) -> Tensor:
    """A crop of one of a few sizes at one of a few places, whatever its proportions (mmaction; TSN, arXiv 1608.00859).

    Width and height are at most one step of the scales apart.
    """
    (height, width), size = frames_T3HW.shape[-2:], views.size
    sides = [int(min(height, width) * scale) for scale in SCALES]
    sides = [size if abs(side - size) < NEAR else side for side in sides]
    pairs = [(w, h) for i, w in enumerate(sides) for j, h in enumerate(sides) if abs(i - j) <= 1]
    w, h = pairs[rng.integers(len(pairs))]
    w, h = min(w, width), min(h, height)
    column, row = PLACES[rng.integers(views.positions)]
    x, y = column * ((width - w) // 4), row * ((height - h) // 4)
    return _resized(frames_T3HW[..., y : y + h, x : x + w], [size, size], InterpolationMode.BILINEAR)


def _random_corner(free_x: int, free_y: int, rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(free_x, endpoint=True)), int(rng.integers(free_y, endpoint=True))


CROPS = {
    "mote": _random_resized_crop,
    "resized_crop": _random_resized_crop,
    "multi_scale": _multi_scale_crop,
    "short_side": _short_side_crop,
}
# Corners of crops in quarters of the room that they have: of 5 the first ones, of 13 all.
PLACES = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)]
