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

from typing import Annotated, Literal, Self

from pydantic import StringConstraints, model_validator

from bench.core.identity import Count, Few
from bench.models.backbones import Backbone
from methods import costs
from methods.dense_temporal import config as dense
from methods.presets import CLEAN_TRAINING, MOTE_TRAINING, Preset, tuned
from methods.settings import Inference

LAYERED = ("transf", "transf_cls")
LEARNT = (*LAYERED, "conv1d", "lstm")
TEXTS = ("clip_text", "coop")
MARKS = 2  # tokens that start and end a text
CLS_HEADS, CLS_INNER = 8, 2048  # attention heads and inner width of a layer of `transf_cls`, whatever D (ActionCLIP)
KERNEL = 3  # frames in a convolution over time


class Temporal(dense.Config):
    """Modules behind the tower and inside it, of this method and of the one that its code grew out of."""

    # Cells of `lstm` and attention of `transf_cls` are computed outside modules of their own: the former in the
    # predictor itself, the latter in a layer.
    head_paths = {
        "feed-forward": (*costs.TEMPORAL_PATHS["feed-forward"], "*.linear[12]"),
        "attention": (*costs.TEMPORAL_PATHS["attention"], "*.layers.*"),
        "convolution": ("head.shift",),
        "recurrence": ("",),
    }
    without_frames = {"head": "none", "inside": "none"}
    needs = {"layers": {"head": LAYERED}, "conv_axes": {"head": ("conv1d",)}}

    layers: Few = 6
    """temporal layers of transf and transf_cls; 6 for every backbone (Text4Vis, official code)"""
    head: Literal["none", "transf", "transf_cls", "conv1d", "lstm", "shift"] = "transf"
    """module behind the tower: none, for the mean over frames; the temporal transformer (transf); a transformer read
    out at a class token; a convolution over time by channel; an LSTM; a shift of an eighth of the channels each way
    (none, transf: Text4Vis, official code; transf_cls, conv1d, lstm: ActionCLIP; shift: TSM, arXiv 1811.08383)"""
    conv_axes: Literal["transposed", "viewed"] = "transposed"
    """how conv1d moves time to the last axis: by a transpose (this project), or by another view of the memory, which
    mixes channels with frames (viewed: ActionCLIP, official code)"""
    inside: Literal["none", "tsm", "tokenshift", "tokent1d", "joint_st"] = "none"
    """exchange between frames inside the tower: none; patch tokens shifted in time before every block (tsm); class
    tokens shifted before both halves of every block (tokenshift); a convolution that starts as that shift (tokent1d);
    one sequence of all frames' patches, joint space-time (joint_st) (Text4Vis, official code, network.tm)"""

    @model_validator(mode="after")
    def _frames_are_left(self) -> Self:
        if self.inside == "joint_st" and self.head != "none":
            raise ValueError(f"inside: joint_st leaves no frames to head: {self.head}; allowed: none")
        return self

    @property
    def has_head(self) -> bool:
        return self.head in LEARNT or self.inside in ("tokent1d", "joint_st")

    @property
    def tower_inside(self) -> bool:  # type: ignore[override]
        return self.inside != "none"

    @property
    def binds_frames(self) -> bool:  # type: ignore[override]
        return self.head == "transf_cls" or self.inside == "joint_st"

    def fits(self, backbone: Backbone, frames: int) -> None:
        if self.head in LAYERED or self.inside == "joint_st":
            costs.refuse_frames_without_position(frames)

    # --- costs --------------------------------------------------------------------------------------------------------

    def head_costs(self, backbone: Backbone, frames: int, inference: Inference | None, stored: bool) -> costs.Costs:
        width, tokens = backbone.embed_dim, frames + 1
        if self.head == "transf":
            return costs.temporal(width, self.layers, frames)
        if self.head == "transf_cls":
            outside = costs.table(costs.POSITIONS + 2, width) + costs.norm(width)  # class token, positions, last norm
            attending = outside + self.layers * (costs.attention(width, tokens) + 2 * costs.norm(width))
            return {"attention": attending, "feed-forward": self.layers * costs.feed_forward(width, CLS_INNER, tokens)}
        if self.head == "conv1d":
            return {"convolution": costs.linear(KERNEL, width, frames, bias=False)}
        return {"recurrence": 8 * costs.linear(width, width, frames)} if self.head == "lstm" else {}

    def inside_cost(self, backbone: Backbone, frames: int) -> costs.Cost:
        width, layers = backbone.vision_width, backbone.vision_layers
        if self.inside == "tokent1d":
            shift = costs.linear(KERNEL, width, frames, bias=False)
            return layers * costs.Cost(shift.parameters, 2 * shift.flops)  # twice in a block
        if self.inside != "joint_st":
            return costs.Cost()
        # One class token instead of one per frame, all patches attend to each other, and one feature is projected.
        inner, patches = int(width * backbone.vision_mlp_ratio), backbone.vision_tokens - 1
        joint, single = (
            layers * (costs.attention(width, tokens) + costs.feed_forward(width, inner, tokens))
            for tokens in (1 + frames * patches, 1 + patches)
        )
        projection = costs.linear(width, backbone.embed_dim, frames - 1).flops
        return costs.Cost(costs.POSITIONS * width, joint.flops - frames * single.flops - projection)


class Config(Temporal):
    """Temporal module, classifier and loss."""

    needs = {
        **Temporal.needs,
        **{name: {"classifier": ("coop",)} for name in ("context_start", "context_of", "class_at")},
        "context": {"classifier": ("coop",), "context_start": ("",)},  # whose words are counted instead
    }

    classifier: Literal["clip_text", "coop", "linear", "random", "orthogonal", "lda"] = "clip_text"
    """classifier of video embeddings: class texts (clip_text; recipe.templates: text4vis has one template, mote28 the
    ensemble); class texts with a learnt context (coop, arXiv 2109.01134; templates: name, since a template's words
    would count as part of the name); a trained linear layer; frozen rows: normal draws, a random orthogonal matrix, or
    a linear discriminant analysis of plain CLIP's features of a tenth of the source (lda). All but the texts are
    class-bound. The paper's distilbert is clip_text with recipe.class_features (Text4Vis, Sec. 3)"""
    context: Count = 16
    """number of coop's learnt vectors, drawn from Normal(0, 0.02) (CoOp, official code, N_CTX)"""
    context_start: Annotated[str, StringConstraints(strip_whitespace=True)] = ""
    """initial words of coop's vectors, one each; every word has to be a single token (CoOp, official code, CTX_INIT)"""
    context_of: Literal["all", "class"] = "all"
    """owner of a context: all classes together, unseen ones too; or each class, which is class-bound; CoOp's code
    ignores the latter where vectors begin as words (CoOp, official code, CSC)"""
    class_at: Literal["end", "middle", "front"] = "end"
    """place of the class name: behind, amid or before coop's vectors (CoOp, official code, CLASS_TOKEN_POSITION)"""
    loss: Literal["ce", "nce", "ds"] = "ce"
    """loss: cross-entropy over all classes (ce, main trainer); videos of a batch against the texts of its labels and
    back, to targets softmax(10 * same label) (nce, contrastive trainer); the same after a dual softmax (ds). The last
    two compare only videos of the same part of a batch (Text4Vis, official code)"""

    @model_validator(mode="after")
    def _every_choice_counts(self) -> Self:
        if self.loss != "ce" and self.classifier not in TEXTS:
            raise ValueError(
                f"loss: {self.loss} compares with texts, not with classifier: {self.classifier}; allowed: ce"
            )
        if not self.trains and (self.tower_inside or not self.open_vocabulary):
            raise ValueError(
                f"a frozen tower and head: {self.head} leave nothing to learn (inside: {self.inside}, classifier: "
                f"{self.classifier}); allowed: tower: tuned, classifier: linear or coop, or a head of "
                f"{', '.join(LEARNT)}"
            )
        return self

    @property
    def has_head(self) -> bool:
        return super().has_head or self.classifier in ("linear", "coop")

    @property
    def open_vocabulary(self) -> bool:
        return self.classifier in TEXTS and self.context_of == "all"

    @property
    def texts_inside(self) -> bool:
        return self.classifier == "coop"

    @property
    def vectors(self) -> int:
        """Number of vectors in a context of coop."""
        return len(self.context_start.split()) or self.context

    def name_room(self, backbone: Backbone) -> int | None:
        return backbone.context_length - self.vectors if self.classifier == "coop" else None

    def fits(self, backbone: Backbone, frames: int) -> None:
        super().fits(backbone, frames)
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

    @property
    def soft_targets(self) -> bool:
        return self.loss == "ce"

    # --- costs --------------------------------------------------------------------------------------------------------

    def text_cost(self, backbone: Backbone) -> costs.Cost:
        shared = self.classifier == "coop" and self.context_of == "all"
        return costs.table(self.vectors, backbone.text_width) if shared else costs.Cost()

    def class_bound_parameters(self, backbone: Backbone, classes: int) -> int:
        if self.context_of == "class":
            return self.vectors * backbone.text_width * classes
        return costs.linear(backbone.embed_dim, classes).parameters if self.classifier == "linear" else 0


# Its test also resizes the short side to 256 where a frame is 224 wide; the named protocols `text4vis/...` have that.
PRESETS: dict[str, Preset] = {
    "official": tuned(
        {
            **{**MOTE_TRAINING, "templates": "text4vis", "views": {**MOTE_TRAINING["views"], "sampler": "ticks"}},
            **{"batch": 256, "epochs": 30, "tower_lr_ratio": 0.1},
        }
    ),
    "clean": tuned({**CLEAN_TRAINING, "tower_lr_ratio": 0.1}),
}
