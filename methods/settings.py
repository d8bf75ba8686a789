"""What a method declares without torch: its training choices (`Config`), its inference choices (`Inference`), costs.

Planning, validation and identities need nothing else. `Config` changes a training; `Inference` only changes what is
done with a trained model, so rows that differ in it share the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

from annotated_types import Ge, Le
from pydantic import Field

from bench.core.identity import Identified
from bench.models.backbones import Backbone

Fraction = Annotated[float, Ge(0), Le(1)]


class Parameters(NamedTuple):
    """Numbers of parameters of a method's own modules, without the CLIP towers."""

    stored: int
    active: int  # at inference, after experts are merged or one is chosen


class Inference(Identified):
    """Choices made after training. Methods extend it."""

    clip_alpha: Fraction = Field(
        default=1.0,
        description="weight interpolation of the tuned tower with CLIP: "
        "alpha * tuned + (1 - alpha) * CLIP (WiSE-FT, arXiv 2109.01903; MoTE's test uses .99)",
    )


class Config(Identified):
    """Choices that change training. Methods extend it."""

    tower_inside: ClassVar[bool] = False  # True: adapters, prompts, attention inside the tower: an `encode` of its own

    # Part of the head -> patterns of its modules' names in the predictor, where a counter finds it. Of modules the
    # innermost counts, of parts the first that fits; "" is the predictor itself: what is computed in no named module.
    head_paths: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    tower: Literal["frozen", "tuned"] = Field(default="frozen", description="whether the CLIP visual tower is trained")

    @property
    def open_vocabulary(self) -> bool:
        """Whether any classes can be candidates. Zero-shot protocols refuse a head that is bound to its classes."""
        return True

    @property
    def texts_inside(self) -> bool:
        """Whether the text tower is adapted too, so that class features come from the model and not from CLIP."""
        return False

    @property
    def guidance(self) -> tuple[str, ...]:
        """Sets of class descriptions that the loss compares with; `recipe.descriptions` says where they come from."""
        return ()

    @property
    def looks_at_source(self) -> bool:
        """Whether the model is made from features of source videos before it is trained (`Model.learn_from`)."""
        return False

    @property
    def depends_on_batch(self) -> bool:
        """Whether a video's answer depends on the others of its batch: a quirk of some official code."""
        return False

    @property
    def shares_encodings(self) -> bool:
        """Whether frame features are plain CLIP's, so that trials can share them."""
        return self.tower == "frozen" and not self.tower_inside

    @property
    def has_head(self) -> bool:
        """Whether the method has trainable parameters besides the tower."""
        return True

    @property
    def trains(self) -> bool:
        """Whether there is anything to train; if not, a trial has no training stage and its seed no effect."""
        return self.has_head or self.tower == "tuned"

    @property
    def experts(self) -> int:
        """Number of experts; 0 for a method without any."""
        return 0

    @property
    def routing_odds(self) -> tuple[float, ...]:
        """Probability with which training draws each expert; empty where none is drawn."""
        return ()

    @property
    def expert_passes(self) -> tuple[float, ...]:
        """How often a batch goes through each expert in a training step, on average. Merged ones share a pass."""
        return self.routing_odds or (1.0,) * self.experts

    @property
    def depends_on_processes(self) -> bool:
        """Whether the number of training processes changes the result by more than the order of sums."""
        return False

    def expert_choices(self, inference: Inference) -> dict[str, Inference]:
        """Named inference choices that compare experts: `merged` first, then `expert 0` ...; empty without experts."""
        return {}

    def ensembles(self, inference: Inference) -> dict[str, Inference]:
        """Named inference choices that ask all experts and combine their answers; for what they cost."""
        return {}

    def check(self, inference: Inference) -> None:
        """Raises ValueError, naming what is allowed, for inference choices that this configuration cannot serve."""

    def fits(self, backbone: Backbone, frames: int) -> None:
        """Raises ValueError, naming what is allowed, for a backbone or a number of frames that this cannot have."""

    def head_parameters(self, backbone: Backbone, inference: Inference | None = None) -> Parameters:
        """Closed form; `active` is as deployed with these inference choices, by default the method's defaults."""
        return Parameters(0, 0)

    def bound_parameters(self, backbone: Backbone, classes: int) -> int:
        """Parameters that are bound to the source classes; closed form. The head's own do not include them."""
        return 0

    # --- FLOPs: 2 per multiply-add, matrix products only, forward, in closed form ---

    def text_flops(self, backbone: Backbone) -> int:
        """Of one class text, padded to full length, through the text tower and what the method has inside it."""
        return backbone.text_flops()

    def inside_flops(self, backbone: Backbone, frames: int) -> int:
        """What modules inside the visual tower add to one view."""
        return 0

    def head_modules(self, backbone: Backbone, frames: int, inference: Inference | None = None) -> dict[str, int]:
        """Of the deployed head for one view, by part, without the product with class features; parts add up to it."""
        return {}

    def head_flops(self, backbone: Backbone, frames: int, inference: Inference | None = None) -> int:
        """Of the deployed head for one view."""
        return sum(self.head_modules(backbone, frames, inference).values())

    def expert_flops(self, backbone: Backbone, frames: int) -> tuple[int, ...]:
        """What each expert's own modules take for one view; empty without experts."""
        return ()
