"""Torch-free half of the method contract: choices of training (`Config`), of inference (`Inference`), costs.

Planning, validation and identities need nothing else. `Config` changes a training. `Inference` changes only the use of
a trained model, so rows that differ in it share the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from annotated_types import Ge, Gt, Le
from pydantic import ConfigDict, Field, model_validator

from bench.core.identity import Identified
from bench.models.backbones import Backbone, Part
from methods.costs import Cost, Costs, total

Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Ge(0), Le(1)]
Weight = Annotated[Finite, Ge(0)]
Positive = Annotated[Finite, Gt(0)]
Flops = dict[str, int]  # by part of the head


class Parameters(NamedTuple):
    """Numbers of parameters of a method's own modules, without the CLIP towers."""

    stored: int
    active: int  # at inference, after experts are merged or one is chosen


class Choices(Identified):
    """Fields whose meaning and source stand below them."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    # Field -> other field -> the values of it with which the field has an effect.
    needs: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {}

    @model_validator(mode="after")
    def _every_choice_has_an_effect(self) -> Self:
        for name, others in self.needs.items():
            if getattr(self, name) == type(self).model_fields[name].default:
                continue
            for other, allowed in others.items():
                if (value := getattr(self, other)) not in allowed:
                    better = f"{other}: {' or '.join(each or 'empty' for each in allowed)}"
                    raise ValueError(f"{name} has no effect with {other}: {value}; allowed: leave it out, {better}")
        return self


class Inference(Choices):
    """Choices made after training. Methods extend it."""

    clip_alpha: Fraction = 1.0
    """alpha of the weights alpha * tuned + (1 - alpha) * CLIP; 0.99 in MoTE's programs (WiSE-FT, arXiv 2109.01903)"""


class Config(Choices):
    """Choices that change training. Methods extend it."""

    tower_inside: ClassVar[bool] = False  # True: modules inside the visual tower, with an `encode` of the method's own

    binds_frames: ClassVar[bool] = False  # True: single frames have weights, so a test shows no more than training

    per_prompt: ClassVar[bool] = False  # True: class features are those of every prompt [C, P, D], not normalised

    # Part of the head -> patterns of its modules' names in the predictor, where the FLOP counter looks for it. The
    # innermost module counts, and the first part that fits. "" is the predictor itself, outside all named modules.
    head_paths: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    tower: Literal["frozen", "tuned"] = "frozen"
    """frozen or trained visual tower of CLIP (this project)"""

    @property
    def tuned(self) -> frozenset[Part]:
        """Parts of CLIP that are trained, and interpolated with CLIP's at test: `visual`, `text`, `tokens`, `scale`."""
        return frozenset(("visual", "scale") if self.tower == "tuned" else ())

    @property
    def interpolates(self) -> bool:
        """True if `clip_alpha` has an effect."""
        return bool(self.tuned)

    @property
    def open_vocabulary(self) -> bool:
        """True if any classes can be candidates. Zero-shot protocols refuse a class-bound head."""
        return True

    @property
    def texts_inside(self) -> bool:
        """True if the method adapts the text tower, so that class features come from the model instead of CLIP."""
        return bool(self.tuned & {"text", "tokens"})

    def plain_texts(self, inference: Inference, seen: bool) -> bool:
        """True if CLIP's class features answer under these choices, not those of a method with texts of its own.

        `seen` tells whether all candidates were trained on. A class-bound head can be measured on others then.
        """
        return False

    def name_room(self, backbone: Backbone) -> int | None:
        """Tokens for a class name, its full stop and marks beside learnt words; None: prompts are read as they are."""
        return None

    @property
    def texts_of_labels(self) -> bool:
        """True if a training step embeds the texts of its labels alone, one class for each video of a part."""
        return False

    def class_shape(self, backbone: Backbone, prompts: int) -> tuple[int, ...]:
        """Shape of the features of one class at test, from so many prompts."""
        return (prompts, backbone.embed_dim) if self.per_prompt else (backbone.embed_dim,)

    def encoded(self, backbone: Backbone, frames: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that `Model.encode` makes of one view at test: `frames`, and whatever else."""
        return {"frames": (backbone.features(frames), backbone.embed_dim)}

    @property
    def prompt_kinds(self) -> tuple[str, ...]:
        """Kinds of descriptions that the prompts of a class are made of; templates without one of them are refused."""
        return ()

    @property
    def description_sets(self) -> tuple[str, ...]:
        """Sets of class descriptions in the loss. `recipe.descriptions` is their source."""
        return ()

    @property
    def looks_at_source(self) -> bool:
        """True if the model is made from features of source videos before training (`Model.learn_from`)."""
        return False

    @property
    def depends_on_batch(self) -> bool:
        """True if a video's answer depends on the other videos of its batch: a quirk of some official code."""
        return False

    @property
    def encodes_itself(self) -> bool:
        """True if `Model.encode` makes something else than frame features of CLIP's own tower."""
        return self.tower_inside or type(self).encoded is not Config.encoded

    @property
    def shares_encodings(self) -> bool:
        """True if encodings are plain CLIP's, so that trials can share them."""
        return "visual" not in self.tuned and not self.encodes_itself

    @property
    def has_head(self) -> bool:
        """True if the method has trainable parameters besides CLIP's."""
        return True

    @property
    def trains(self) -> bool:
        """False if there is nothing to train: the trial has no training stage, and its seed has no effect."""
        return self.has_head or bool(self.tuned)

    @property
    def experts(self) -> int:
        """Number of experts; 0 for a method without experts."""
        return 0

    @property
    def routing_odds(self) -> tuple[float, ...]:
        """Probability that training draws each expert; empty if none is drawn."""
        return ()

    @property
    def expert_passes(self) -> tuple[float, ...]:
        """Mean number of passes of a batch through each expert in a training step. Merged experts share a pass."""
        return self.routing_odds or (1.0,) * self.experts

    @property
    def depends_on_processes(self) -> bool:
        """True if the number of training processes changes the result by more than the order of sums."""
        return False

    @property
    def teacher(self) -> bool:
        """True if training has a frozen copy of plain CLIP beside the model, `Model.teacher`."""
        return False

    @property
    def extra_passes(self) -> float:
        """Passes of a training step through the visual tower beside its own, as forward passes; a backward one is two.

        Those of a teacher, or of a second forward pass. Prices of plans count them.
        """
        return 0.0

    @property
    def soft_targets(self) -> bool:
        """True if the loss also takes targets [B, C], shares of every class (recipe.smoothing, recipe.mix)."""
        return False

    def expert_choices(self, inference: Inference) -> dict[str, Inference]:
        """Named inference choices that compare experts: `merged` first, then `expert 0` ...; empty without experts."""
        return {}

    def ensembles(self, inference: Inference) -> dict[str, Inference]:
        """Named inference choices that run all experts and combine their answers; the cost report uses them."""
        return {}

    def continues(self, first: Config) -> bool:
        """True if a training may start from the weights of one under the config `first` (`init_from`)."""
        return self == first

    def fusions(self, inference: Inference) -> tuple[str, ...]:
        """Rules of fusing views that make sense of the scores (`Protocol.fusion`); empty: all."""
        return ()

    def check(self, inference: Inference) -> None:
        """Raises ValueError, naming the allowed values, for inference choices that this configuration cannot serve."""

    def fits(self, backbone: Backbone, frames: int) -> None:
        """Raises ValueError, naming the allowed values, for a backbone or a number of frames that cannot be used."""

    # --- costs in closed form -----------------------------------------------------------------------------------------

    def head_costs(self, backbone: Backbone, frames: int, inference: Inference | None, stored: bool) -> Costs:
        """Modules behind the tower by part: as deployed with these inference choices, or as `stored` after training.

        Without class-bound parameters and the product with class features. `frames` has no effect on parameters.
        """
        return {}

    def inside_cost(self, backbone: Backbone, frames: int) -> Cost:
        """Modules inside the visual tower, and the FLOPs that they add to one view."""
        return Cost()

    def text_cost(self, backbone: Backbone) -> Cost:
        """Modules inside the text tower, and the FLOPs that they add to one class text, padded to full length."""
        return Cost()

    def class_bound_parameters(self, backbone: Backbone, classes: int) -> int:
        """Parameters that belong to single classes, which `head_parameters` does not include."""
        return 0

    def class_flops(self, backbone: Backbone, frames: int, prompts: int) -> int:
        """FLOPs for one candidate class in the answer to a view: by default the product with its features.

        Where `head_paths` has a part "classification", they are counted in its modules.
        """
        return 2 * prod(self.class_shape(backbone, prompts))

    def head_parameters(self, backbone: Backbone, inference: Inference | None = None) -> Parameters:
        """Parameters of all modules of the method; `active` with these inference choices, by default the defaults."""
        inside = self.inside_cost(backbone, 1) + self.text_cost(backbone)
        heads = (self.head_costs(backbone, 1, inference, stored) for stored in (True, False))
        return Parameters(*(total([inside, *parts.values()]).parameters for parts in heads))

    def text_flops(self, backbone: Backbone) -> int:
        """FLOPs of one class text through the text tower and the method's modules inside it."""
        return backbone.text_flops() + self.text_cost(backbone).flops

    def inside_flops(self, backbone: Backbone, frames: int) -> int:
        """FLOPs that modules inside the visual tower add to one view."""
        return self.inside_cost(backbone, frames).flops

    def head_modules(self, backbone: Backbone, frames: int, inference: Inference | None = None) -> Flops:
        """FLOPs of the deployed head for one view by part."""
        costs = self.head_costs(backbone, frames, inference, stored=False)
        return {part: cost.flops for part, cost in costs.items() if cost.flops}

    def head_flops(self, backbone: Backbone, frames: int, inference: Inference | None = None) -> int:
        """FLOPs of the deployed head for one view."""
        return sum(self.head_modules(backbone, frames, inference).values())

    def expert_flops(self, backbone: Backbone, frames: int) -> tuple[int, ...]:
        """FLOPs of each expert's own modules for one view; empty without experts."""
        return ()

    # --- towers that give no features of frames -----------------------------------------------------------------------

    # Field -> the value with which one feature a clip is enough, as a video tower gives it; {}: with any values.
    without_frames: ClassVar[Mapping[str, str] | None] = None

    @property
    def needs_frames(self) -> bool:
        """True if the method works on features of single frames, so that video towers are refused."""
        enough = self.without_frames
        return enough is None or any(getattr(self, name) != value for name, value in enough.items())


def each_expert(merged: Inference, experts: int, **changes: object) -> dict[str, Inference]:
    """Inference choices `merged` and `expert 0` ...; single experts also have `changes`. Empty without experts."""
    if not experts:
        return {}
    singles = {f"expert {i}": merged.model_copy(update={**changes, "expert": i}) for i in range(experts)}
    return {"merged": merged, **singles}


def refuse_missing_expert(expert: int | None, experts: int) -> None:
    """Raises ValueError for an expert number out of range."""
    if expert is not None and expert >= experts:
        raise ValueError(f"expert {expert} does not exist; allowed: 0 to {experts - 1}")
