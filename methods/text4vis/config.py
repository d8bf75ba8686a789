"""Text4Vis: a six-layer temporal transformer and a frozen classifier of CLIP's text embeddings.

Title: Revisiting Classifier: Transferring Vision-Language Models for Video Recognition.
Paper: arXiv 2207.01297 (AAAI 2023). Official code: github.com/whwu95/Text4Vis, MIT licence. By default, it is
`dense_temporal` at the depth that Text4Vis uses; other heads, classifiers and losses are fields. Heads beside `none`
and `transf` are those of the code that it grew out of, ActionCLIP (arXiv 2109.08472; github.com/sallymmx/ActionCLIP,
MIT licence).
Its rows of a language model (distilbert) are class texts whose features come from a file, `recipe.class_features`.
Left out: a layer between video embeddings and rows of another width; ResNet towers; a text tower that is tuned with the
contrastive losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from annotated_types import Ge
from pydantic import Field, StringConstraints, model_validator

from bench.models.backbones import Backbone
from methods import settings
from methods.dense_temporal import config as dense
from methods.presets import CLEAN_TRAINING, Preset
from methods.settings import Inference, Parameters
from methods.temporal_costs import within_positions
from methods.text4vis.costs import HEAD_PATHS, head_modules, head_parameters, inside_flops, inside_parameters

__all__ = ["Config", "Inference"]

LAYERED = ("transf", "transf_cls")
LEARNT = (*LAYERED, "conv1d", "lstm")
TEXTS = ("clip_text", "coop")
MARKS = 2  # tokens that start and end a text
OF_COOP = ("context", "context_start", "context_of", "class_at")


class Config(dense.Config):
    """What stands between the tower and the scores, and what is minimised."""

    head_paths: ClassVar[Mapping[str, tuple[str, ...]]] = HEAD_PATHS

    layers: dense.Layers = Field(
        default=6, description="temporal layers of transf and transf_cls; 6 for every backbone (official code)"
    )
    head: Literal["none", "transf", "transf_cls", "conv1d", "lstm", "shift"] = Field(
        default="transf",
        description="what follows the tower: nothing but the mean over frames; the temporal transformer (these two are "
        "Text4Vis' own); a transformer read out at a class token, a depth-wise convolution over time, an LSTM "
        "(ActionCLIP's code); or a shift of an eighth of the channels from either neighbour (TSM, arXiv 1811.08383)",
    )
    conv_axes: Literal["transposed", "viewed"] = Field(
        default="transposed",
        description="how conv1d brings time last: transposed, or, as ActionCLIP's code, by another view of the memory, "
        "which mixes channels with frames",
    )
    inside: Literal["none", "tsm", "tokenshift", "tokent1d", "joint_st"] = Field(
        default="none",
        description="how frames see each other inside the tower (official code, network.tm): not at all; by patch "
        "tokens shifted in time before every block; by class tokens shifted before both halves of every block; by a "
        "convolution that starts as that shift; in one sequence of all frames' patches (joint space-time)",
    )
    classifier: Literal["clip_text", "coop", "linear", "random", "orthogonal", "lda"] = Field(
        default="clip_text",
        description="what videos are held against: class texts (recipe.templates: text4vis has one template, mote28 "
        "the ensemble); class texts with a learnt context (coop, arXiv 2109.01134; recipe.templates: name, and "
        "likewise in protocols, for a template's words count as part of the name); a trained linear layer; frozen rows "
        "of normal draws, of a random orthogonal matrix, or of a linear discriminant analysis of plain CLIP's features "
        "of a tenth of the source, drawn as shots are (lda). All but the texts are bound to the classes of training. "
        "distilbert, of the paper: clip_text with recipe.class_features",
    )
    context: Annotated[int, Ge(1)] = Field(
        default=16, description="learnt vectors of coop, drawn from Normal(0, 0.02) (CoOp's code: N_CTX)"
    )
    context_start: Annotated[str, StringConstraints(strip_whitespace=True)] = Field(
        default="",
        description="words that coop's vectors begin as, one for each; every word has to be a single token (CTX_INIT)",
    )
    context_of: Literal["all", "class"] = Field(
        default="all",
        description="what has a context: all classes one, unseen ones too; or each class its own, which is bound to "
        "the classes of training (CSC; in CoOp's code without effect where vectors begin as words)",
    )
    class_at: Literal["end", "middle", "front"] = Field(
        default="end",
        description="where the class name stands: behind, amid or in front of coop's vectors; the full stop is last "
        "(CLASS_TOKEN_POSITION)",
    )
    loss: Literal["ce", "nce", "ds"] = Field(
        default="ce",
        description="ce: cross-entropy over all classes (main trainer); nce: videos of a batch against the texts of "
        "its labels and back, to targets softmax(10 * same label); ds: the same after a dual softmax (contrastive "
        "trainer). The last two depend on the batch's other videos, as far as these are in the same part of it",
    )

    @model_validator(mode="after")
    def _every_choice_counts(self) -> Self:
        if self.layers != 6 and self.head not in LAYERED:
            raise ValueError(f"layers has no effect with head: {self.head}; allowed: with {' or '.join(LAYERED)}")
        if self.conv_axes != "transposed" and self.head != "conv1d":
            raise ValueError(f"conv_axes has no effect with head: {self.head}; allowed: with conv1d")
        for name in OF_COOP if self.classifier != "coop" else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with classifier: {self.classifier}; allowed: with coop")
        if self.context != 16 and self.context_start:
            raise ValueError("context has no effect with context_start, whose words are counted; allowed: leave it out")
        if self.loss != "ce" and self.classifier not in TEXTS:
            raise ValueError(
                f"loss: {self.loss} compares with texts, not with classifier: {self.classifier}; allowed: ce"
            )
        if self.inside == "joint_st" and self.head != "none":
            raise ValueError(f"inside: joint_st leaves no frames to head: {self.head}; allowed: none")
        if not self.trains and (self.tower_inside or not self.open_vocabulary):
            raise ValueError(
                f"a frozen tower and head: {self.head} leave nothing to learn (inside: {self.inside}, classifier: "
                f"{self.classifier}); allowed: tower: tuned, classifier: linear or coop, or a head of "
                f"{', '.join(LEARNT)}"
            )
        return self

    @property
    def has_head(self) -> bool:
        return self.head in LEARNT or self.classifier in ("linear", "coop") or self.inside in ("tokent1d", "joint_st")

    @property
    def tower_inside(self) -> bool:  # type: ignore[override]
        return self.inside != "none"

    @property
    def open_vocabulary(self) -> bool:
        return self.classifier in TEXTS and self.context_of == "all"

    @property
    def texts_inside(self) -> bool:
        return self.classifier == "coop"

    @property
    def vectors(self) -> int:
        """Of a context of coop."""
        return len(self.context_start.split()) or self.context

    def fits(self, backbone: Backbone, frames: int) -> None:
        if self.head in LAYERED or self.inside == "joint_st":
            within_positions(frames)
        if self.classifier == "coop" and self.vectors >= (room := backbone.context_length - MARKS):
            raise ValueError(
                f"a context of {self.vectors} leaves no room for a class name in a text of {backbone.context_length} "
                f"tokens; allowed: up to {room} less the tokens of the longest name"
            )

    @property
    def looks_at_source(self) -> bool:
        return self.classifier == "lda"

    @property
    def depends_on_processes(self) -> bool:
        return self.loss != "ce"

    def head_parameters(self, backbone: Backbone, inference: settings.Inference | None = None) -> Parameters:
        size = head_parameters(self.head, backbone.embed_dim, self.layers) + inside_parameters(self.inside, backbone)
        if self.classifier == "coop" and self.context_of == "all":
            size += self.vectors * backbone.text_width
        return Parameters(size, size)

    def class_bound_parameters(self, backbone: Backbone, classes: int) -> int:
        if self.context_of == "class":
            return self.vectors * backbone.text_width * classes
        return (backbone.embed_dim + 1) * classes if self.classifier == "linear" else 0

    def inside_flops(self, backbone: Backbone, frames: int) -> int:
        return inside_flops(self.inside, backbone, frames)

    def head_modules(
        self, backbone: Backbone, frames: int, inference: settings.Inference | None = None
    ) -> dict[str, int]:
        return head_modules(self.head, backbone.embed_dim, self.layers, frames)


# Its test also resizes the short side to 256 where a frame is 224 wide; the named protocols `text4vis/...` have that.
PRESETS: dict[str, Preset] = {
    "official": {
        "config": {"tower": "tuned"},
        "inference": {"clip_alpha": 1.0},
        "recipe": {
            "templates": "text4vis",
            "views": {"frames": 8, "sampler": "ticks", "augmentation": "mote", "copies": 0},
            "batch": 256,
            "epochs": 30,
            "warmup_epochs": 5,
            "lr": 5e-5,
            "tower_lr_ratio": 0.1,
            "weight_decay": 0.2,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "precision": "fp16",
        },
    },
    "clean": {
        "config": {"tower": "tuned"},
        "inference": {"clip_alpha": 1.0},
        "recipe": {**CLEAN_TRAINING, "tower_lr_ratio": 0.1},
    },
}
