"""Recipe: how a method is trained, what of it a training reads, and how it is carried out."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.core.identity import Identified
from bench.video.views import TrainViews

Rate = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]


class Execution(BaseModel):
    """How a training is carried out: results are alike within rounding, unless the method draws for each process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    processes: Count = Field(default=1, description="processes, one device each, among which every batch is divided")
    accumulate: Count = Field(
        default=1, description="parts of a process's share of a batch that are worked on in turn, to need less memory"
    )
    checkpointing: bool = Field(
        default=False,
        description="the tower's activations are computed again in the backward pass, to need less memory",
    )

    @property
    def shards(self) -> int:
        """Parts into which a batch is divided. A method that draws per process sees each of them as a process."""
        return self.processes * self.accumulate


class Training(Identified):
    """Recipe fields that a training reads, with the published MoTE values as defaults.

    Source: arXiv 2410.10589, Sec. 4.1, and the official config.
    """

    views: TrainViews = TrainViews()
    batch: Count = Field(default=144, description="videos in an optimiser step, over all processes")
    epochs: Annotated[float, Gt(0)] = 30
    warmup_epochs: Rate = 5
    schedule: Literal["mote", "vifi"] = Field(
        default="mote", description="of the rates: bench.stages.training.schedule"
    )
    lr: Rate = Field(default=5e-5, description="base rate, used by the head")
    tower_lr_ratio: Rate = Field(default=0.06, description="rate of the CLIP tower and logit scale over the base rate")
    weight_decay: Rate = 0.2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: Annotated[float, Gt(0)] = 1e-8
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="of matrix products, by autocast; fp16 with dynamic loss scaling, as MoTE's trainer"
    )
    clip_grad: Annotated[float, Gt(0)] | None = Field(
        default=None, description="largest norm of all gradients together; none: no clipping, as published"
    )
    validate_every: Count = Field(
        default=1, description="epochs from one measurement of the validation split to the next"
    )
    keep: Literal["last", "best"] = Field(
        default="last", description="which weights are the result: the last, or those best on the validation split"
    )


class Recipe(Training, Execution):
    """All settings of a training. Its own fields name lists, texts and weights, which enter identities by content."""

    source: str = Field(default="glyphs-narrow", description="dataset that is trained on")
    split: str = Field(default="train", description="split of the source")
    classes: Literal["all", "base"] = Field(default="all", description="base: the half with more training videos")
    shots: Count | None = Field(default=None, description="videos per class, drawn; none: all")
    draw: Annotated[int, Ge(0)] | Literal["trial"] = Field(default="trial", description="seed of the draw of the shots")
    repeat: bool = Field(default=False, description="an epoch of drawn shots is as long as one of the whole list")
    labels: str = Field(default="", description="label variant of the source: another spelling of its class names")
    backbone: str = Field(default="glyph-vit", description="CLIP model: glyph-vit or an open_clip ViT config")
    pretrained: str = Field(default="builtin", description="builtin, a local file, an open_clip tag, or random:<seed>")
    imported: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{16}$",
        description="instead of training: an official checkpoint, by the name that `import` gives it",
    )
    templates: str = Field(default="mote28", description="prompt templates of the source class texts")
    descriptions: str = Field(
        default="",
        description="sentences about source classes, for methods that compare with them (bench.data.descriptions)",
    )
    class_features: str = Field(
        default="",
        description="file of class features in the place of the text tower's, also at the test",
    )
    validation: str = Field(default="", description="split of the source that is measured with one view after epochs")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.batch < self.shards:
            raise ValueError(
                f"batch {self.batch} has no video for each of {self.shards} parts (processes x accumulate)"
            )
        if self.keep == "best" and not self.validation:
            raise ValueError("keep: best needs a validation split to tell which weights are best")
        return self

    @cached_property
    def training(self) -> Training:
        """The part that a training reads."""
        return Training(**{name: getattr(self, name) for name in Training.model_fields})

    @cached_property
    def execution(self) -> Execution:
        """The part that says how it is carried out."""
        return Execution(**{name: getattr(self, name) for name in Execution.model_fields})
