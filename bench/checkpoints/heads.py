"""Heads of official checkpoints: the config that each was built with, and what it holds beside parameters.

Sizes are inferred from the tensors' shapes. Legend: E experts, D joint CLIP width, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch.nn import functional as F

from bench.checkpoints.imported import IMPORTABLE
from bench.core.errors import UserError, unknown
from bench.models.state_dicts import HEAD, TOWER, TWO, Layout, State, layers_in
from methods.costs import POSITIONS
from methods.registry import method
from methods.vidprism.config import Config as VidPrism

LAYER, EXPERT = r"transformer\.resblocks\.(\d+)\.", r"transformer\.resblocks\.\d+\.mlp\.fc_up\.(\d+)\."
CONVOLUTION = r"dynamic_interaction\.fast2slow_ops\.(.+?)\."
TEXT_NORM = "projection_head.3.weight"  # of VidPrism's head for class texts
# Rates are not in the file: those of the official configs, which have one choice for each number of experts.
RATES = {1: (4,), 2: (2, 8), 3: (2, 4, 8), 4: (2, 4, 8, 16)}
UNUSED_CLASSES = 400  # of the linear classifier that VidPrism's official head for class texts has and does not use


class OfficialHead(NamedTuple):
    """Official layout of a method's checkpoints."""

    choices: Callable[[State], dict[str, Any]]  # config of a head; raises UserError for a head of another kind
    additions: Callable[[State], State] = lambda head: {}  # tensors besides the parameters, as a new head has them
    refuse: Callable[[State], None] = lambda head: None  # raises UserError for additions that cannot be left out
    bound_classes: Callable[[State], int] = lambda head: 0  # number of classes of a class-bound part
    inference: Mapping[str, Any] = {}  # choices of the official test programs that are not the defaults
    has_sources: bool = False  # True: it keeps the class features of its training set
    # Shapes of a head in a model from those in a file, and the reverse, given the frames of a training; 0: imported.
    widened: Callable[[State], State] = lambda head: head
    narrowed: Callable[[State, int], State] = lambda head, frames: head
    layout: Layout = TWO
    # A text tower in the file: that of the pretrained CLIP, from which class texts come; part of what was trained, as
    # far as the config's `tuned` and the model's `carried` say; or none.
    text: Literal["pretrained", "tuned", "absent"] = "pretrained"
    whole: bool = False  # True: official code needs a `pretrained` text tower in the file


def official_head(method_name: str) -> OfficialHead:
    """Layout of a method's head. Raises UserError for a method without one."""
    if method_name not in HEADS:
        try:
            method(method_name)
        except UserError:
            raise unknown("method", method_name, HEADS, where="--method") from None
        raise UserError(f"'{method_name}' has no official layout here", where="--method", allowed=HEADS)
    return HEADS[method_name]


def _dense(head: State) -> dict[str, int]:
    """Of Text4Vis, and of MoTE's dense rows."""
    if any(".mlp.fc_up." in name for name in head):
        raise UserError("the head has experts", where=HEAD, hint="import it as mote, or merge them with --collapse")
    if not (layers := layers_in(head, LAYER)):
        raise UserError("the head has no temporal transformer", where=HEAD, hint="expected transformer.resblocks.0...")
    return {"layers": layers}


def _mote(head: State) -> dict[str, int]:
    if not (experts := layers_in(head, EXPERT)):
        raise UserError("the head has no experts", where=HEAD, hint="dense heads belong to text4vis or dense_temporal")
    return {"layers": layers_in(head, LAYER), "num_experts": experts}


def _merge_logits(head: State) -> State:
    """Logits [E] of each layer's merge weights, fixed at 0."""
    found = _mote(head)
    names = (f"transformer.resblocks.{layer}.mlp.mote_fusion_weight" for layer in range(found["layers"]))
    return {name: torch.zeros(found["num_experts"]) for name in names}


def _refuse_skewed(head: State) -> None:
    if skewed := [name for name in _merge_logits(head) if name in head and head[name].any()]:
        raise UserError(f"{skewed[0]} is not 0: these experts were not merged equally", where=HEAD)


def _vidprism(head: State) -> dict[str, Any]:
    """No weights have been published."""
    if not (experts := layers_in(head, r"mote\.experts\.(\d+)\.")):
        raise UserError("the head has no experts", where=HEAD, hint="expected VidPrism's: mote.experts.0...")
    if experts not in RATES:
        hint = "the file does not say them, and no official config has as many"
        raise UserError(f"rates of {experts} experts are not known", where=HEAD, allowed=map(str, RATES), hint=hint)
    chosen = {"rates": list(RATES[experts]), "classifier": "text" if TEXT_NORM in head else "linear"}
    config = VidPrism.model_validate(chosen)
    own = {f"{pair.source}->{pair.target}" for pair in config.pairs if config.is_slow(pair.target)}
    found = {match[1] for name in head if (match := re.match(CONVOLUTION, name))}
    if own != found:
        raise UserError(
            f"its convolutions {', '.join(sorted(found)) or '(none)'} are not those of rates {chosen['rates']}",
            where=HEAD,
            hint="other rates than the official configs' cannot be read from a file",
        )
    return chosen


def _unused_classifier(head: State) -> State:
    if TEXT_NORM not in head:
        return {}
    return {"head.weight": torch.zeros(UNUSED_CLASSES, len(head[TEXT_NORM])), "head.bias": torch.zeros(UNUSED_CLASSES)}


def _classes(head: State) -> int:
    return 0 if TEXT_NORM in head or "head.weight" not in head else len(head["head.weight"])


def _taco(head: State) -> dict[str, Any]:
    if not any(name.startswith("vision_proj.") for name in head):
        raise UserError("the head has no projection", where=HEAD, hint="expected vision_proj.linear_A.weight...")
    return {}


def _vificlip(head: State) -> dict[str, Any]:
    """Files of the first stage have no head; whether they tuned one tower or both is not in them."""
    if not head:
        return {}
    depths = {tower: layers_in(head, rf"{tower}\.(\d+)$") for tower in ("image", "text")}
    if lacking := [tower for tower in depths if f"{tower}.0" not in head]:
        raise UserError(f"there are no vectors of the {lacking[0]} tower's first block", where=HEAD)
    counts = {tower: len(head[f"{tower}.0"]) for tower in depths}
    return {"tower": "frozen", "prompts": {**counts, **{f"{tower}_depth": own for tower, own in depths.items()}}}


VIFICLIP = Layout(
    {
        "model": {
            **{"image_encoder.": "clip.visual.", "text_encoder.": "clip.", "logit_scale": "clip.logit_scale"},
            **{"image_encoder.VPT": "head.image.0", "prompt_learner.ctx": "head.text.0"},
            "image_encoder.transformer.resblocks.*.VPT_shallow": "head.image.*",
            "text_encoder.transformer.resblocks.*.VPT_shallow": "head.text.*",
        }
    },
    # Token embeddings of the training classes, which official code looks up again.
    dropped=tuple(f"prompt_learner.{name}" for name in ("complete_text_embeddings", "token_prefix", "token_suffix")),
    wrapped=True,
)


# --- ActionCLIP -------------------------------------------------------------------------------------------------------

CLASS_TOKEN, TOKEN_POSITIONS, DEAD_TABLE = "cls_token", "pos_embed", "frame_position_embeddings.weight"


def _actionclip(head: State) -> dict[str, Any]:
    """The kind of a head follows from its names; one without tensors is the mean over frames."""
    if "lstm_visual.weight_ih_l0" in head:
        return {"head": "lstm"}
    if "shift.weight" in head:
        return {"head": "conv1d", "conv_axes": "viewed"}
    kind, layer = ("transf_cls", r"transformer_enc\.layers\.(\d+)\.") if CLASS_TOKEN in head else ("transf", LAYER)
    if layers := layers_in(head, layer):
        return {"head": kind, "layers": layers}
    if head:
        names = "lstm_visual, shift, transformer.cls_token or transformer.resblocks.0"
        raise UserError("the head is none of ActionCLIP's", where=HEAD, hint=f"expected {names}..., or nothing")
    return {"head": "none"}


def _dead_table(head: State) -> State:
    """The table of positions that the official heads have, and only `transf` uses."""
    widths = [head[name].shape[axis] for name, axis in DEAD_WIDTHS.items() if name in head]
    return {DEAD_TABLE: torch.zeros(POSITIONS, widths[0])} if widths else {}


DEAD_WIDTHS = {"lstm_visual.weight_ih_l0": 1, "shift.weight": 0, CLASS_TOKEN: -1}  # a tensor, and its axis of width D


def _widened(head: State) -> State:
    """With a position for each of 77 frames, zero where the file has none: official heads have those of training."""
    table = head.get(TOKEN_POSITIONS)
    if table is None or table.ndim != 3 or (missing := POSITIONS + 1 - table.shape[1]) <= 0:
        return head
    return {**head, TOKEN_POSITIONS: F.pad(table, (0, 0, 0, missing))}


def _narrowed(head: State, frames: int) -> State:
    """With the positions that training had; of an imported head, without the zeros behind them."""
    table = head.get(TOKEN_POSITIONS)
    if table is None:
        return head
    rows = frames + 1 if frames else int(table[0].any(dim=-1).nonzero().amax()) + 1
    return {**head, TOKEN_POSITIONS: table[:, :rows].clone()}


ACTIONCLIP = Layout(
    {
        TOWER: {"": "clip."},
        HEAD: {
            "": "head.",
            **{f"transformer.{name}": f"head.{name}" for name in (CLASS_TOKEN, TOKEN_POSITIONS, "transformer_enc.")},
        },
    },
    wrapped=(HEAD,),
)


def _froster(head: State) -> dict[str, Any]:
    """Projectors are named by what is held to the frozen CLIP."""
    kinds = [kind for kind in ("video", "text") if any(name.startswith(f"projector_{kind[0]}.") for name in head)]
    return {"distil": {2: "both", 0: "none"}.get(len(kinds), kinds[0] if kinds else "")}


FROSTER = Layout(
    {"model_state": {"model.": "clip.", "projector_": "head.projector_"}},
    dropped=("raw_model.*",),  # the teacher, plain CLIP, in files of an epoch; means over epochs are without it
)

HEADS = {
    "mote": OfficialHead(_mote, _merge_logits, _refuse_skewed, inference={"clip_alpha": 0.99}, has_sources=True),
    "text4vis": OfficialHead(_dense),
    "dense_temporal": OfficialHead(_dense),
    # The evaluation inside VidPrism's training has a clip_alpha of 1.
    "vidprism": OfficialHead(_vidprism, _unused_classifier, bound_classes=_classes, inference={"clip_alpha": 0.99}),
    "taco": OfficialHead(_taco, text="tuned"),
    "vificlip": OfficialHead(_vificlip, layout=VIFICLIP, text="tuned"),
    "actionclip": OfficialHead(
        _actionclip, _dead_table, layout=ACTIONCLIP, text="tuned", widened=_widened, narrowed=_narrowed
    ),
    # Files hold means over epochs; the test program mixes CLIP in, by 0.6 with ViT-L/14.
    "open_vclip": OfficialHead(
        lambda head: {}, inference={"clip_alpha": 0.5}, layout=Layout({"model_state": {"model.": "clip."}}), whole=True
    ),
    "froster": OfficialHead(_froster, layout=FROSTER, text="tuned"),
}
assert tuple(HEADS) == IMPORTABLE
