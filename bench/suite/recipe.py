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


class Training(Identified):
    """Recipe fields that a training reads, with the published MoTE values as defaults.

    Source: arXiv 2410.10589, Sec. 4.1, and the official config.
    """

    views: TrainViews = setting(TrainViews(), "frames and pixels of a training video")
    batch: Count = setting(144, "videos of an optimiser step, over all processes (MoTE, paper)")
    epochs: Annotated[float, Gt(0), Le(1e6)] = setting(30, "length of the training, in epochs (MoTE, Sec. 4.1)")
    warmup_epochs: Rate = setting(5, "length of the warm-up of the rates, in epochs (MoTE, Sec. 4.1)")
    schedule: Literal["mote", "vifi"] = setting(
        "mote",
        "schedule of the rates: cosine in steps of ten iterations (`mote`, also of Text4Vis and VidPrism), or by "
        "iteration, down to a hundredth (`vifi`, also of MSTA)",
    )
    lr: Rate = setting(5e-5, "base learning rate, which is the head's (MoTE, Sec. 4.1)")
    tower_lr_ratio: Rate = setting(
        0.06, "learning rate of the CLIP tower and the logit scale, over the base rate (MoTE, paper)"
    )
    weight_decay: Rate = setting(0.2, "weight decay of AdamW, on every trained parameter (MoTE, code)")
    betas: tuple[Decay, Decay] = setting((0.9, 0.999), "decays of AdamW's two moments (MoTE, code)")
    eps: Annotated[float, Gt(0)] = setting(1e-8, "epsilon of AdamW (MoTE, code)")
    precision: Literal["fp32", "bf16", "fp16"] = setting(
        "fp32", "precision of matrix products, by autocast; fp16 has dynamic loss scaling (MoTE, code)"
    )
    clip_grad: Annotated[float, Gt(0)] | None = setting(
        None, "largest norm of all gradients together; none: no clipping (MoTE, code)"
    )
    validate_every: Count = setting(1, "epochs between two measurements of the validation split")
    keep: Literal["last", "best"] = setting(
        "last", "weights that are the result: the last ones, or the best ones on the validation split"
    )


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
        "builtin", "weights of CLIP: `builtin`, a local file, an open_clip tag such as `openai`, or `random:<seed>`"
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
