"""Protocol: how a number is measured. A value with a hash; a table has one protocol per column."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bench.data.views import TestViews

Role = Literal["closed-set", "zero-shot"]
Fusion = Literal["double_softmax", "cos_mean", "softmax_sum", "logit_sum", "feature_mean"]


class Protocol(BaseModel):
    """Everything that decides an accuracy besides the model.

    `closed-set` measures on classes that were trained on, `zero-shot` on classes that were not. Candidates are all
    classes of the dataset. Accuracy is the percentage over videos (micro average); a video that cannot be decoded
    counts as wrong.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    dataset: str
    split: str = "test"
    templates: str = Field(default="mote28", description="prompt templates of the candidate class texts")
    views: TestViews = TestViews()
    fusion: Fusion = Field(default="double_softmax", description="how the scores of the views become one")
