"""Profiles as stages: what is measured of a method, under which settings. No data and no trained weights enter."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from bench.graph.stage import Part, Stage, identify
from bench.models.backbones import Backbone
from methods.registry import method
from methods.settings import Config, Inference

Count = Annotated[int, Ge(1)]

PRETRAINED = "random:0"  # weights decide nothing about costs
ROUNDS = 4  # times that a call is carried out, at least, in measuring it
STEP = 3  # a training step over its forward pass


class Measurement(BaseModel):
    """How a profile is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batches: tuple[Count, ...] = Field(default=(1,), description="videos at once; none: nothing is timed")
    precisions: Annotated[tuple[Literal["fp32", "bf16", "fp16"], ...], MinLen(1)] = Field(
        default=("fp32",), description="precisions of matrix products that are measured"
    )
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        default="auto", description="device: `cpu`, `cuda`, `cuda:1` and so on; `auto`: the launch's"
    )
    threads: Annotated[int, Ge(0)] = Field(default=0, description="CPU threads; 0: the launch's")
    seconds: Annotated[float, Gt(0)] = Field(default=0.5, description="length of each measurement, about")


def profile_stage(
    name: str,
    config: Config,
    inference: Inference,
    shape: Backbone,
    shown: Part,
    training: Part,
    measurement: Measurement,
    title: str,
) -> Stage:
    """The profile of a method.

    `shown`: frames, views, classes of the answer to a video. `training`: frames of a clip, whether its features are
    `cached`, `checkpointing`, and for a method that adapts texts the `texts` of a class in a step and its `batch`.
    """
    if not config.texts_inside:
        training = {key: value for key, value in training.items() if key not in ("texts", "batch")}
    spec = {
        "backbone": shape.name,
        "method": name,
        "config": config.model_dump(mode="json"),
        "inference": {**inference.model_dump(mode="json"), "clip_alpha": 1.0},  # weights are interpolated in advance
        **shown,
        "training": training,
        **measurement.model_dump(mode="json"),
    }
    modules = ("bench.stages.profile", *method(name).modules)
    view = shown["frames"] * shape.tower_flops() + config.inside_flops(shape, shown["frames"])
    calls = ROUNDS * (2 * shown["views"] + STEP * (config.trains and not training["cached"]))
    flops = float(view * calls * sum(measurement.batches) * len(measurement.precisions))
    stage = Stage("profile", spec, {}, modules, {"pretrained": PRETRAINED}, title, flops)
    stage.identity = identify(stage)
    return stage
