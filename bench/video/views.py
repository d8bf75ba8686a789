"""Views of a video: its frames, clips and crops, for measuring (`TestViews`) and for training (`TrainViews`).

Both enter identities by value, so they have a field for everything that changes a pixel, and no others.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt
from pydantic import Field, model_validator

from bench.core.identity import Identified

Positive = Annotated[int, Ge(1)]
Resize = Positive | tuple[Positive, Positive]


class _Views(Identified):
    frames: Positive = 8
    resize: Resize = Field(description="length of the short side, or [height, width] whatever the video's proportions")
    size: Positive = Field(description="side of the square that a tower sees")
    decoder: str = Field(default="decord", description="decord, pyav, torchcodec, or module:Class")
    normalise: Literal["model", "imagenet"] = Field(
        default="model", description="channel statistics: those of the CLIP weights, or ImageNet's (X-CLIP, ViFi-CLIP)"
    )
    stride: Positive = Field(default=16, description="strided sampler: frames from one to the next")
    rate: Annotated[float, Gt(0)] | None = Field(
        default=None, description="strided sampler: frames per second for which `stride` holds; none: of every video"
    )
    spacing: Literal["step", "even"] = Field(
        default="step",
        description="strided sampler: exact steps (ST-Adapter), or evenly to the span's end (PySlowFast)",
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

    clips: Positive = 1
    crops: Literal[1, 3, 5, 10] = 1
    three_crop: Literal["quarters", "long_side"] = Field(
        default="quarters", description="where three crops lie: MoTE's rule, or along the longer side (mmaction)"
    )
    sampler: Literal["segment_start", "dense", "segment_centre", "mmaction", "strided"] = "segment_start"
    short_clip: Literal["wrap", "clamp"] = "clamp"
    resize: Resize = 224
    size: Positive = 224

    @property
    def count(self) -> int:
        """Number of views V of one video."""
        return self.clips * self.crops


class TrainViews(_Views):
    """Random views of a training video.

    `copies` = N >= 1 draws N fixed views of each video, the same for every trial seed, so that a frozen tower encodes
    them once; epoch e uses copy e mod N. `copies` = 0 draws a new view in every epoch.
    """

    sampler: Literal["segments_inclusive", "ticks", "dense", "mmaction", "strided"] = "segments_inclusive"
    augmentation: Literal["none", "mote"] = "none"
    flip: bool = Field(
        default=True, description="`mote` mirrors half of the views; off where left and right have names"
    )
    resize: Resize = 256
    size: Positive = 224
    copies: Annotated[int, Ge(0)] = 0

    @property
    def count(self) -> int:
        """Number of fixed views V of one video, 0 if views are drawn in every epoch."""
        return self.copies
