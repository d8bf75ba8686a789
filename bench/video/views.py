"""Views of a video: its frames, clips and crops, for measuring (`TestViews`) and for training (`TrainViews`).

Both enter identities by value, so they have a field for everything that changes a pixel, and no others.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import model_validator

from bench.core.identity import Count, Few, Identified, setting

Pixels = Annotated[int, Ge(1), Le(10_000)]
Resize = Pixels | tuple[Pixels, Pixels]


class _Views(Identified):
    frames: Few = setting(8, "frames of a clip, T")
    resize: Resize | None
    size: Pixels
    decoder: str = setting("decord", "video decoder: `decord`, `pyav`, `torchcodec`, or `module:Class`")
    normalise: Literal["model", "imagenet"] = setting(
        "model", "channel statistics: those of the CLIP weights, or ImageNet's (X-CLIP, ViFi-CLIP)"
    )
    stride: Count = setting(16, "strided samplers: distance of two frames of a clip, in frames of the video")
    rate: Annotated[float, Gt(0)] | None = setting(
        None, "strided samplers: frames per second that `stride` is meant for; none: those of each video"
    )
    spacing: Literal["step", "even"] = setting(
        "step", "sampler `strided`: exact steps (ST-Adapter), or evenly to the span's end (PySlowFast, Open-VCLIP)"
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize is None:
            return self
        short = self.resize if isinstance(self.resize, int) else min(self.resize)
        if self.size > short:
            raise ValueError(f"crop size {self.size} does not fit a short side resized to {short}")
        return self


class TestViews(_Views):
    """Deterministic views of a test video: `clips` x `crops` views, crop outermost, of `frames` frames each."""

    __test__ = False

    clips: Few = setting(1, "clips of a video, at different times")
    crops: Literal[1, 3, 5, 10] = setting(
        1, "crops of a clip: centre; three; corners and centre; these five and their mirror images"
    )
    three_crop: Literal["quarters", "long_side"] = setting(
        "quarters", "places of three crops: left, right, centre (MoTE), or along the longer side (mmaction)"
    )
    sampler: Literal[
        "segment_start", "dense", "segment_centre", "segments_inclusive", "mmaction", "strided", "mmaction_strided"
    ] = setting(
        "segment_start",
        "rule that picks the frames: first of each segment (MoTE, Text4Vis), over 128 consecutive ones (`dense`), "
        "middle of each segment (ActionCLIP) or of each with common borders (`segments_inclusive`; ST-Adapter and AIM "
        "on SSv2), mmaction's (X-CLIP, ViFi-CLIP), every `stride`-th (ST-Adapter, Vita-CLIP, Open-VCLIP), mmaction's "
        "every `stride`-th, where short videos start over (AIM)",
    )
    short_clip: Literal["wrap", "clamp"] = setting(
        "clamp",
        "segment_start of videos with fewer frames than `frames`: later clips begin with the last frame (`wrap`, "
        "official code) or with the first (`clamp`)",
    )
    resize: Resize = setting(
        224,
        "length of the short side in pixels, or [height, width] whatever the video's proportions; left out in a "
        "suite, the default is scaled to the backbone's input size",
    )
    size: Pixels = setting(
        224, "side of the square crop in pixels; left out in a suite, it is the backbone's input size"
    )

    @property
    def count(self) -> int:
        """Number of views V of one video."""
        return self.clips * self.crops


class TrainViews(_Views):
    """Random views of a training video.

    `copies` = N >= 1 draws N fixed views of each video, the same for every trial seed, so that a frozen tower encodes
    them once; epoch e uses copy e mod N. `copies` = 0 draws a new view in every epoch.
    """

    sampler: Literal["segments_inclusive", "ticks", "dense", "mmaction", "strided", "mmaction_strided"] = setting(
        "segments_inclusive",
        "rule that draws the frames: one of each segment with common borders (MoTE) or without (`ticks`, "
        "Text4Vis), over 128 consecutive ones (`dense`), mmaction's (X-CLIP, ViFi-CLIP), every `stride`-th, or "
        "mmaction's every `stride`-th (AIM)",
    )
    augmentation: Literal["none", "mote", "resized_crop", "multi_scale", "short_side"] = setting(
        "none",
        "centre crop; or at random mirror image and: resized crop and grey (`mote`, MoTE, code), resized crop "
        "(`resized_crop`, AIM), crop of a few sizes and places, colours of each frame and grey (`multi_scale`, X-CLIP, "
        "ViFi-CLIP, ActionCLIP), short side and crop (`short_side`, Open-VCLIP, ST-Adapter)",
    )
    flip: bool = setting(True, "augmentations mirror half of the views; switch off where classes name left and right")
    positions: Literal[5, 13] = setting(
        5, "augmentation `multi_scale`: places of crops: corners and centre (X-CLIP, ViFi-CLIP), or 13 (ActionCLIP)"
    )
    short_side: Annotated[float, Ge(1), Le(4)] = setting(
        8 / 7,
        "augmentation `short_side`: longest short side over `size`, drawn from `size` on (Open-VCLIP 256/224, "
        "ST-Adapter 1.15)",
    )
    rand_augment: Literal["none", "frame", "clip"] = setting(
        "none",
        "RandAugment before any crop, with torchvision's operations: drawn for each frame (ActionCLIP), or once for "
        "all (ST-Adapter, Vita-CLIP)",
    )
    rand_augment_n: Annotated[int, Ge(1), Le(20)] = setting(2, "operations of RandAugment in a row (ActionCLIP)")
    rand_augment_m: Annotated[int, Ge(0), Le(30)] = setting(9, "magnitude of RandAugment, of 30 (ActionCLIP)")
    random_erasing: Annotated[float, Ge(0), Le(1)] = setting(
        0.0, "probability that a box of a view gets CLIP's mean colour, the same in all frames (AIM on SSv2: 0.25)"
    )
    resize: Resize | None = setting(
        256,
        "length of the short side in pixels, or [height, width] whatever the video's proportions; left out in a "
        "suite, the default is scaled to the backbone's input size; none: frames are cropped as they are decoded",
    )
    size: Pixels = setting(
        224, "side of the square crop in pixels; left out in a suite, it is the backbone's input size"
    )
    copies: Annotated[int, Ge(0), Le(1000)] = setting(
        0, "fixed views of each video, which trials with a frozen tower share; 0: fresh ones always"
    )

    @model_validator(mode="after")
    def _crops_have_a_size(self) -> Self:
        if self.resize is None and self.augmentation == "none":
            raise ValueError("resize: none needs an augmentation, which makes crops of one size; allowed: a length")
        return self

    @property
    def count(self) -> int:
        """Number of fixed views V of one video, 0 if views are drawn in every epoch."""
        return self.copies
