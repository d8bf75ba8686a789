"""Recipe: settings of a training, divided into those that it reads and those that say how it is executed."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, model_validator

from bench.core.identity import Count, Few, Identified, Seed, setting
from bench.video.views import TrainViews

Rate = Annotated[float, Ge(0)]
Decay = Annotated[float, Ge(0), Lt(1)]
Fraction = Annotated[float, Ge(0), Le(1)]


class Execution(BaseModel):
    """Execution of a training: results are alike within rounding, unless the method draws for each process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    processes: Few = setting(1, "processes of the training, one device each; every batch is divided among them")
    accumulate: Count = setting(1, "parts of a process's share of a batch, computed one after another to save memory")
    checkpointing: bool = setting(False, "compute the tower's activations again in the backward pass, to save memory")

    @property
    def shards(self) -> int:
        """Parts into which a batch is divided. A method that draws per process sees each of them as a process."""
        return self.processes * self.accumulate


class Mix(Identified):
    """Blends of two training videos and of their labels, drawn on normalised pixels in every step."""

    mixup: Annotated[float, Gt(0)] = setting(
        0.8, "mixup: alpha of the share's distribution Beta(alpha, alpha) (X-CLIP)"
    )
    cutmix: Annotated[float, Gt(0)] = setting(1.0, "CutMix: alpha of the share's distribution (X-CLIP, ViFi-CLIP)")
    odds: Fraction = setting(0.5, "probability of CutMix; else mixup is drawn (X-CLIP, ViFi-CLIP)")
    group: Count | None = setting(
        None,
        "consecutive videos that share the choice, the share and one permutation (ViFi-CLIP: 4, a batch of one of its "
        "processes); none: a part of the batch",
    )


class Average(Identified):
    """Mean of the weights over a training, which takes the place of the last ones."""

    kind: Literal["epochs", "ema"] = setting(
        "epochs", "mean over the ends of epochs (SWA: Open-VCLIP, FROSTER, TACO), or one that decays by step"
    )
    first: Count = setting(
        1, "epochs: the first that counts, from 1; a training that ends before is its last weights (Open-VCLIP: 2)"
    )
    last: Count | None = setting(None, "epochs: the last that counts; none: that of the training")
    start: bool = setting(False, "epochs: count the weights before the training as well (TACO, code)")
    momentum: Fraction = setting(0.9998, "ema: share of the mean that a step leaves (TACO, code)")

    @model_validator(mode="after")
    def _counts_something(self) -> Self:
        if self.last is not None and self.last < self.first:
            raise ValueError(f"no epoch is averaged: first {self.first} comes after last {self.last}")
        for name in ("momentum",) if self.kind == "epochs" else ("first", "last", "start"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with kind: {self.kind}; allowed: leave it out")
        return self


class Training(Identified):
    """Recipe fields that a training reads, with the published MoTE values as defaults.

    Source: arXiv 2410.10589, Sec. 4.1, and the official config.
    """

    views: TrainViews = setting(TrainViews(), "frames and pixels of a training video")
    batch: Count = setting(144, "videos of an optimiser step, over all processes (MoTE, paper)")
    epochs: Annotated[float, Gt(0), Le(1e6)] = setting(30, "length of the training, in epochs (MoTE, Sec. 4.1)")
    warmup_epochs: Rate = setting(5, "length of the warm-up of the rates, in epochs (MoTE, Sec. 4.1)")
    schedule: Literal["mote", "vifi", "cosine", "epoch_cosine"] = setting(
        "mote",
        "schedule of the rates: cosine in steps of ten iterations (`mote`, also of Text4Vis, VidPrism, ActionCLIP and "
        "TACO), or by iteration (`cosine`: Open-VCLIP, FROSTER, ST-Adapter, Vita-CLIP); not shifted by the warm-up: by "
        "iteration, down to a hundredth (`vifi`, also of MSTA, X-CLIP and TC-CLIP), or by epoch (`epoch_cosine`: AIM)",
    )
    warmup_start: Fraction = setting(0.0, "first rate of the warm-up, over the base rate (AIM 0.1, Open-VCLIP 0.01)")
    floor: Fraction | None = setting(
        None, "rate to which a schedule falls, over the base rate; none: the schedule's own, 0.01 of `vifi` and else 0"
    )
    floor_of: Literal["own", "tower"] = setting(
        "own", "whose base rate the floor is a part of: of each group its own, or of all the tower's (X-CLIP, TC-CLIP)"
    )
    micro_steps: Count = setting(
        1, "schedule `vifi`: batches of the official program in one step, which its clock counts (ViFi-CLIP: 8 of 32)"
    )
    drop_last: bool = setting(
        False, "leave the incomplete last batch of an epoch out, unless it is the only one (ActionCLIP, X-CLIP, code)"
    )
    lr: Rate = setting(5e-5, "base learning rate, which is the head's (MoTE, Sec. 4.1)")
    tower_lr_ratio: Rate = setting(
        0.06, "learning rate of the CLIP tower and the logit scale, over the base rate (MoTE, paper)"
    )
    weight_decay: Rate = setting(0.2, "weight decay of AdamW, on every trained parameter (MoTE, code)")
    undecayed: tuple[str, ...] = setting(
        (),
        "parameters without weight decay: `1d`, those of exactly one dimension, or patterns of names such as `*.bias` "
        "and `*positional_embedding*`",
    )
    betas: tuple[Decay, Decay] = setting((0.9, 0.999), "decays of AdamW's two moments (MoTE, code)")
    eps: Annotated[float, Gt(0)] = setting(1e-8, "epsilon of AdamW (MoTE, code)")
    smoothing: Fraction = setting(0.0, "share of a target that is spread over all classes (X-CLIP, ViFi-CLIP: 0.1)")
    mix: Mix | None = setting(None, "blends of two videos and of their labels; none: videos as they are")
    precision: Literal["fp32", "bf16", "fp16"] = setting(
        "fp32", "precision of matrix products, by autocast; fp16 has dynamic loss scaling (MoTE, code)"
    )
    compile: bool = setting(
        False,
        "torch.compile of the blocks of the visual tower, in training and encoding; not of blocks that a method walks "
        "through by parts",
    )
    clip_grad: Annotated[float, Gt(0)] | None = setting(
        None, "largest norm of all gradients together; none: no clipping (MoTE, code)"
    )
    validate_every: Count = setting(1, "epochs between two measurements of the validation split")
    keep: Literal["last", "best"] = setting(
        "last", "weights that are the result: the last ones, or the best ones on the validation split"
    )
    average: Average | None = setting(None, "mean of the weights that is the result; none: the weights themselves")

    @model_validator(mode="after")
    def _one_result(self) -> Self:
        if self.average and self.keep == "best":
            raise ValueError("keep: best has no effect with an average, which is the result; allowed: keep: last")
        return self

    def worked_on(self, videos: int) -> int:
        """Videos of an epoch's list that are in a batch."""
        return videos // self.batch * self.batch or videos if self.drop_last else videos

    @property
    def soft_targets(self) -> bool:
        """True if a video's target is a share of every class instead of a label."""
        return self.smoothing > 0 or self.mix is not None


class Recipe(Training, Execution):
    """All settings of a training. Its own fields name lists, texts and weights, which enter identities by content."""

    parts: Count | None = setting(
        None,
        "parts of a batch for a method that draws in each of them: `processes` x `accumulate` has to be this number, "
        "and `accumulate` follows from it where it is not given; none: any number. `fidelity: official` has the "
        "numbers of the authors' programs: MoTE 3, VidPrism 2",
    )
    source: str = setting("glyphs-narrow", "dataset that is trained on")
    split: str = setting("train", "split of the source")
    classes: Literal["all", "base"] = setting(
        "all", "classes that are trained on; `base` is the half with more training videos (ViFi-CLIP, base to novel)"
    )
    shots: Count | None = setting(None, "videos of each class, drawn (few-shot); none: all")
    draw: Seed | Literal["trial"] = setting("trial", "seed of the draw of the shots; `trial`: that of the training")
    repeat: bool = setting(
        False, "repeat the drawn shots until an epoch is as long as one of the whole list (MoTE, Text4Vis)"
    )
    labels: str = setting("", "label variant of the source: another spelling of its class names")
    backbone: str = setting(
        "glyph-vit",
        "CLIP model: `glyph-vit`, the name of an open_clip ViT, such as `ViT-B-16`, or `ViCLIP-B-16` or `ViCLIP-L-14`, "
        "whose tower reads all frames of a clip together and gives one feature",
    )
    pretrained: str = setting(
        "builtin",
        "weights of CLIP: `builtin`, a local file, also below a variable (`$VTB_DATA/weights/FILE`), an open_clip tag "
        "such as `openai`, or `random:<seed>`",
    )
    encoding: Literal["fp32", "bf16", "fp16"] = setting(
        "fp32", "precision of matrix products where videos are encoded to be kept, for training and tests, by autocast"
    )
    imported: str | None = setting(
        None,
        "official checkpoint that takes the place of training, by the name that `import` prints",
        pattern="^[0-9a-f]{16}$",
    )
    templates: str = setting(
        "mote28",
        "prompt templates of the source class texts: a name (bench/assets/templates.yaml), patterns with `{}` for the "
        "class, whole texts (`{class: [texts]}`), or a file of either (docs/add_a_dataset.md)",
    )
    descriptions: str = setting(
        "",
        "where sentences about the source classes come from, for a loss that compares with them and for templates that "
        "ask for them (`{description}`, `{spatial}`, `{temporal}`): a folder, a file, or `glyphs` for the embedded "
        "world (docs/add_a_dataset.md)",
    )
    class_features: str = setting(
        "", "file of class features that take the place of the text tower's, in training and at the test"
    )
    validation: str = setting(
        "", "split of the source that is measured during training, one view of a video; none: no measurement"
    )

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
        """The part that says how the training is executed."""
        return Execution(**{name: getattr(self, name) for name in Execution.model_fields})
