"""Views of a video: its frames, clips and crops, for measuring (`TestViews`) and for training (`TrainViews`).

Both enter identities by value, so they have a field for everything that changes a pixel, and no others.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt
from pydantic import model_validator

from bench.core.identity import Identified, setting

Positive = Annotated[int, Ge(1)]
Resize = Positive | tuple[Positive, Positive]


class _Views(Identified):
    frames: Positive = setting(8, "frames of a clip, T")
    resize: Resize
    size: Positive
    decoder: str = setting(
        "decord", "video decoder: `decord` or `pyav` (both exact, by PyAV), `torchcodec`, or `module:Class`"
    )
    normalise: Literal["model", "imagenet"] = setting(
        "model", "channel statistics: those of the CLIP weights, or ImageNet's (X-CLIP, ViFi-CLIP)"
    )
    stride: Positive = setting(16, "strided samplers: distance of two frames of a clip, in frames of the video")
    rate: Annotated[float, Gt(0)] | None = setting(
        None, "strided samplers: frames per second that `stride` is meant for; none: those of each video"
    )
    spacing: Literal["step", "even"] = setting(
        "step", "sampler `strided`: exact steps (ST-Adapter), or evenly to the span's end (PySlowFast, Open-VCLIP)"
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        short = self.resize if isinstance(self.resize, int) else min(self.resize)
        if self.size > short:
            raise ValueError(f"crop size {self.size} does not fit a short side resized to {short}")
        return self


class TestViews(_Views):
    """Deterministic views of a test video: `clips` x `crops` views, crop outermost, of `frames` frames each."""

    __test__ = False

    clips: Positive = setting(1, "clips of a video, at different times")
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
    size: Positive = setting(
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
    augmentation: Literal["none", "mote"] = setting(
        "none", "centre crop; or random resized crop, mirror image and grey at random (MoTE, code)"
    )
    flip: bool = setting(
        True, "augmentation `mote` mirrors half of the views; switch off where classes name left and right"
    )
    resize: Resize = setting(
        256,
        "length of the short side in pixels, or [height, width] whatever the video's proportions; left out in a "
        "suite, the default is scaled to the backbone's input size",
    )
    size: Positive = setting(
        224, "side of the square crop in pixels; left out in a suite, it is the backbone's input size"
    )
    copies: Annotated[int, Ge(0)] = setting(
        0, "fixed views of each video, which trials with a frozen tower share; 0: fresh ones always"
    )

    @property
    def count(self) -> int:
        """Number of fixed views V of one video, 0 if views are drawn in every epoch."""
        return self.copies
