"""What is looked at in a video: frames, clips and crops, for measuring (`TestViews`) and for training (`TrainViews`).

Both are values that take part in identities, so everything that changes a pixel is a field here and nothing else is.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, model_validator

Positive = Annotated[int, Ge(1)]


class _Views(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: Positive = 8
    resize: Positive
    size: Positive

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.size > self.resize:
            raise ValueError(f"crop size {self.size} does not fit a short side resized to {self.resize}")
        return self


class TestViews(_Views):
    """Deterministic views of a test video, `clips` x `crops` of them, crop outermost, each of `frames` frames."""

    __test__ = False

    clips: Positive = 1
    crops: Literal[1, 3, 5, 10] = 1
    sampler: Literal["segment_start", "dense", "segment_centre"] = "segment_start"
    short_clip: Literal["wrap", "clamp"] = "clamp"
    resize: Positive = 224
    size: Positive = 224

    @property
    def count(self) -> int:
        """Number of views V of one video."""
        return self.clips * self.crops


class TrainViews(_Views):
    """Random views of a training video.

    `copies` = N >= 1 draws N fixed views of each video, alike for every trial seed, so that a frozen tower's features
    can be encoded once and shared; epoch e uses copy e mod N. `copies` = 0 draws a fresh view in every epoch.
    """

    sampler: Literal["segments_inclusive", "ticks"] = "segments_inclusive"
    augmentation: Literal["none", "mote"] = "none"
    resize: Positive = 256
    size: Positive = 224
    copies: Annotated[int, Ge(0)] = 0
