"""Recipe: how a method is trained. A value; all of it is part of a training's identity."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict, Field

from bench.data.views import TrainViews

Rate = Annotated[float, Ge(0)]


class Recipe(BaseModel):
    """Training settings with the published MoTE values as defaults (arXiv 2410.10589, Sec. 4.1 and official config)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(default="glyphs-narrow", description="dataset that is trained on")
    split: str = Field(default="train", description="split of the source")
    classes: Literal["all", "base"] = Field(default="all", description="base: the half with more training videos")
    shots: Annotated[int, Ge(1)] | None = Field(default=None, description="videos per class, drawn; none: all")
    draw: Annotated[int, Ge(0)] | Literal["trial"] = Field(default="trial", description="seed of the draw of the shots")
    repeat: bool = Field(default=False, description="an epoch of drawn shots is as long as one of the whole list")
    labels: str = Field(default="", description="label variant of the source: another spelling of its class names")
    backbone: str = Field(default="glyph-vit", description="CLIP model: glyph-vit or an open_clip ViT config")
    pretrained: str = Field(default="builtin", description="builtin, a local file, an open_clip tag, or random:<seed>")
    templates: str = Field(default="mote28", description="prompt templates of the source class texts")
    views: TrainViews = TrainViews()
    batch: Annotated[int, Ge(1)] = Field(default=144, description="videos in an optimiser step, over all processes")
    epochs: Annotated[float, Gt(0)] = 30
    warmup_epochs: Rate = 5
    lr: Rate = Field(default=5e-5, description="base rate, used by the head")
    tower_lr_ratio: Rate = Field(default=0.06, description="rate of the CLIP tower and logit scale over the base rate")
    weight_decay: Rate = 0.2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: Annotated[float, Gt(0)] = 1e-8
    precision: Literal["fp32", "bf16"] = "fp32"
