"""Heads of official checkpoints: the config that each was built with, and what it holds beside parameters.

Sizes are inferred from the tensors' shapes. Legend: E experts, D joint CLIP width, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
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
    # Tensors of CLIP's visual tower from those in a file, and the reverse.
    joined: Callable[[State], State] = lambda tower: tower
    split: Callable[[State], State] = lambda tower: tower
    layout: Layout = TWO
    # A text tower in the file: that of the pretrained CLIP, from which class texts come; part of what was trained, as
    # far as the config's `tuned` and the model's `carried` say; or none.
    text: Literal["pretrained", "tuned", "absent"] = "pretrained"
    whole: bool = False  # True: official code needs a `pretrained` text tower in the file
    unsaid: tuple[str, ...] = ()  # fields of the config that no file says, though answers depend on them
    frozen: tuple[str, ...] = ()  # patterns of tower tensors that training left as the pretrained weights have them

    def frozen_in(self, tower: State) -> State:
        """The tensors of a tower that training left alone."""
        return {name: tensor for name, tensor in tower.items() if any(fnmatchcase(name, own) for own in self.frozen)}


def official_head(method_name: str) -> OfficialHead:
    """Layout of a method's head. Raises UserError for a method without one."""
    if method_name not in HEADS:
        try:
            method(method_name)
        except UserError:
            raise unknown("method", method_name, HEADS, where="--method") from None
        hint = "weights of a whole CLIP, or of ViCLIP, are not imported: recipe.pretrained names their file"
        raise UserError(f"'{method_name}' has no official layout here", where="--method", allowed=HEADS, hint=hint)
    return HEADS[method_name]


def _dense(head: State) -> dict[str, int]:
    """Of Text4Vis, and of MoTE's dense rows."""
    if any(".mlp.fc_up." in name for name in head):
        raise UserError("the head has experts", where=HEAD, hint="import it as mote, or merge them with --collapse")
    if not (layers := layers_in(head, LAYER)):
        raise UserError("the head has no temporal transformer", where=HEAD, hint="expected transformer.resblocks.0...")
    return {"layers": layers}


def _bike(head: State) -> dict[str, Any]:
    """The video branch's; one without tensors is none."""
    if attributes := [name for name in head if name.startswith(("query_fc.", "sentence_fc."))]:
        raise UserError(f"{attributes[0]} is of the branch of attributes", where=HEAD, hint="expected the video branch")
    return _dense(head) if head else {"head": "none"}


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

OST = Layout(
    {"model": {"image_encoder.": "clip.visual.", "text_encoder.": "clip.", "logit_scale": "clip.logit_scale"}},
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


def _st_adapter(head: State) -> dict[str, Any]:
    """Places, blocks and sizes of the adapters; the released models have the layer over classes."""
    kernels = [own for name, own in head.items() if name.startswith("blocks.") and name.endswith(".conv.weight")]
    if not kernels or kernels[0].ndim != 5:
        raise UserError("the head has no adapters", where=HEAD, hint="expected transformer.resblocks.0.adapter_...")
    found = [name.split(".") for name in head if name.startswith("blocks.")]
    places, before = {name[2] for name in found}, min(int(name[1]) for name in found)
    return {
        "tower": "frozen",
        "places": "both" if len(places) > 1 else "attn" if "pre_attn" in places else "mlp",
        **{
            "width": len(kernels[0]),
            "kernel": kernels[0].shape[2],
            "head": "linear" if "fc.weight" in head else "text",
        },
        **({"last_blocks": layers_in(head, r"blocks\.(\d+)\.") - before} if before else {}),
    }


ST_ADAPTER = Layout({"model": {"transformer.resblocks.*.adapter_": "head.blocks.*.", "fc.": "head.fc."}})

# --- AIM --------------------------------------------------------------------------------------------------------------

ADAPTERS = {"S_Adapter": "spatial", "T_Adapter": "temporal", "MLP_Adapter": "joint"}
SSV2_CLASSES = 174


def _aim(head: State) -> dict[str, Any]:
    """The scale of joint adapters is not in the file: 1 in the configs of SSv2, else 0.5."""
    downs = {name.split(".")[2]: tensor for name, tensor in head.items() if name.endswith("Adapter.D_fc1.weight")}
    table = head.get("temporal_embedding", torch.empty(1, 0, 1))
    if not downs or "fc.weight" not in head or {tensor.ndim for tensor in downs.values()} != {2} or table.ndim != 3:
        hint = "expected AIM's: backbone.transformer.resblocks.0.S_Adapter..., cls_head.fc_cls.weight"
        raise UserError("the head has no adapters or no linear layer", where=HEAD, hint=hint)
    inner, width = next(iter(downs.values())).shape
    parts = [part for name, part in ADAPTERS.items() if name in downs]
    choices: dict[str, Any] = {"tower": "frozen", "head": "linear", "parts": parts}
    choices |= {"ratio": inner / width, "frames": table.shape[1]}
    if two := any(".T_Adapter_in." in name for name in head):
        choices["temporal_adapters"] = 2
    if "MLP_Adapter" in downs and (two or _aim_classes(head) == SSV2_CLASSES):
        choices["scale"] = 1.0
    return choices


def _aim_classes(head: State) -> int:
    return len(head["fc.weight"])


AIM = Layout(
    {
        "state_dict": {
            **{"backbone.": "clip.visual.", "backbone.ln_post.": "head.ln_post.", "cls_head.fc_cls.": "head.fc."},
            "backbone.temporal_embedding": "head.temporal_embedding",
            **{f"backbone.transformer.resblocks.*.{name}": f"head.blocks.*.{name}" for name in ADAPTERS},
        }
    }
)


def _xclip(head: State) -> dict[str, Any]:
    """Parts that a file lacks are none of the model's."""
    parts = {"integration": r"mit\.resblocks\.(\d+)\.", "prompts": r"classifier\.decoder\.(\d+)\."}
    choices: dict[str, Any] = {name: layers_in(head, pattern) for name, pattern in parts.items()}
    table = head.get("mit.positional_embedding")
    if choices["integration"] and table is not None and table.ndim == 3:
        choices["positions"] = table.shape[1]
    return {"messages": any(name.startswith("messages.") for name in head), **choices}


DECODER = "prompts_generator.decoder.*.", "head.classifier.decoder.*."  # official name, and the one here
XCLIP = Layout(
    {
        "model": {
            **{"": "clip.", "visual.transformer.resblocks.*.message_": "head.messages.*."},
            **{"mit.": "head.mit.", "prompts_visual_": "head.patches.", "prompts_generator.": "head.classifier."},
            **{f"{DECODER[0]}mlp.{place}.": f"{DECODER[1]}mlp.{own}." for place, own in ((0, "c_fc"), (3, "c_proj"))},
            **{
                f"{DECODER[0]}cross_attn.{name}.": f"{DECODER[1]}{name}."
                for name in ("q_proj", "k_proj", "v_proj", "proj")
            },
        }
    }
)


# --- Vita-CLIP --------------------------------------------------------------------------------------------------------

CONTEXT, TIMES = "context.vectors_KMW", "time_embed"
PROMPTS = {"global": "global_prompts", "local": "blocks.0.local_prompts", "summary": "blocks.0.summary_ln.weight"}


def _vita_clip(head: State) -> dict[str, Any]:
    """The place of the name is not in the file; a context of one owner is that of all classes."""
    if TIMES not in head:
        raise UserError("there is no embedding of time", where=HEAD, hint="expected visual.time_embed")
    prompts = {name: _sizes(head[tensor]) for name, tensor in PROMPTS.items() if tensor in head}
    found: dict[str, Any] = {"tower": "frozen", "prompts": list(prompts), "frames": _sizes(head[TIMES])[1]}
    if "global" in prompts:
        found["global_tokens"] = prompts["global"][1]
    if CONTEXT not in head:
        return {**found, "context": "none"}
    owners, vectors, _ = _sizes(head[CONTEXT])
    return {**found, "context": "class" if owners > 1 else "generic", "context_vectors": vectors}


def _sizes(tensor: torch.Tensor) -> tuple[int, ...]:
    """The last three sizes of a tensor, 1 where it has fewer."""
    return (1, 1, 1, *tensor.shape)[-3:]


def _owners(head: State) -> int:
    """Classes that a context is bound to."""
    owners = _sizes(head[CONTEXT])[0] if CONTEXT in head else 0
    return owners if owners > 1 else 0


def _with_owner(head: State) -> State:
    return {name: own[None] if name == CONTEXT and own.ndim == 2 else own for name, own in head.items()}


def _without_owner(head: State, frames: int) -> State:
    return {name: own[0] if name == CONTEXT and len(own) == 1 else own for name, own in head.items()}


def joined_qkv(tower: State) -> State:
    """Queries, keys and values in one matrix, as CLIP has them."""
    joined = dict(tower)
    for name in tower:
        if match := re.fullmatch(r"(.+\.attn\.)q_proj\.(weight|bias)", name):
            names = [f"{match[1]}{part}_proj.{match[2]}" for part in "qkv"]
            shapes = {tower[each].shape for each in names if each in tower}
            if all(each in tower for each in names) and len(shapes) == 1 and shapes != {()}:
                joined[f"{match[1]}in_proj_{match[2]}"] = torch.cat([joined.pop(each) for each in names])
    return joined


def split_qkv(tower: State) -> State:
    """The inverse of `joined_qkv`, in visual blocks."""
    split = State()
    for name, tensor in tower.items():
        if match := re.fullmatch(r"(visual\..+\.attn\.)in_proj_(weight|bias)", name):
            names = [f"{match[1]}{part}_proj.{match[2]}" for part in "qkv"]
            split |= {each: own.clone() for each, own in zip(names, tensor.chunk(3), strict=True)}
        else:
            split[name] = tensor
    return split


BLOCK, OWN = "visual.blocks.*.", "clip.visual.transformer.resblocks.*."
VITA_CLIP = Layout(
    {
        "model": {
            **{"textual.": "clip.", "logit_scale": "clip.logit_scale", "prompt_learner.ctx": f"head.{CONTEXT}"},
            **{"visual.patch_embed.proj.weight": "clip.visual.conv1.weight", "visual.proj": "clip.visual.proj"},
            **{"visual.cls_token": "clip.visual.class_embedding", "visual.ln_": "clip.visual.ln_"},
            **{"visual.pos_embed": "clip.visual.positional_embedding", f"{BLOCK}attn.": f"{OWN}attn."},
            **{f"{BLOCK}norm1.": f"{OWN}ln_1.", f"{BLOCK}norm2.": f"{OWN}ln_2."},
            **{f"{BLOCK}mlp.fc1.": f"{OWN}mlp.c_fc.", f"{BLOCK}mlp.fc2.": f"{OWN}mlp.c_proj."},
            **{"visual.patch_embed.proj.bias": "head.patch_bias", f"visual.{TIMES}": f"head.{TIMES}"},
            **{"visual.global_prompts": "head.global_prompts"},
            **{f"{BLOCK}{name}": f"head.blocks.*.{name}" for name in ("cls_proj.", "local_prompts", "summary_")},
        }
    },
    # Token embeddings of the training classes, which follow from their names.
    dropped=("prompt_learner.token_prefix", "prompt_learner.token_suffix"),
    wrapped=True,
)


# --- TC-CLIP ----------------------------------------------------------------------------------------------------------

TC_CLIP = Layout(
    {
        "model": {
            **{"image_encoder.": "clip.visual.", "text_encoder.": "clip.", "logit_scale": "clip.logit_scale"},
            "image_encoder.transformer.resblocks.*.attn.local_global_bias_table": "head.bias.*",
            "text_encoder.prompt_generation_layer.": "head.generation.",
            "prompt_learner.ctx": "head.context",
        }
    },
    # Token embeddings of the training classes, which official code drops as well.
    dropped=("prompt_learner.token_prefix", "prompt_learner.token_suffix"),
    wrapped=True,
)


def _tc_clip(head: State) -> dict[str, Any]:
    """Sizes of the merging are not in a file."""
    if "context" not in head:
        raise UserError("there are no learnt words", where=HEAD, hint="expected prompt_learner.ctx")
    found = {name: any(own.startswith(f"{name}.") for own in head) for name in ("bias", "generation")}
    return {"prompts": len(head["context"]), "bias": found["bias"], "video_prompts": found["generation"]}


WINDOW = ("window", "ends", "pool")
VIDPRISM = (
    *("rates", "slow_rate", "aggregation", "keep", "similarity_temperature", "score_share", "merge_factor"),
    *("interaction", "gate", "gate_threshold", "sources", "heads", "readout"),
)

HEADS = {
    "mote": OfficialHead(_mote, _merge_logits, _refuse_skewed, inference={"clip_alpha": 0.99}, has_sources=True),
    "text4vis": OfficialHead(_dense),
    "dense_temporal": OfficialHead(_dense),
    # The evaluation inside VidPrism's training has a clip_alpha of 1.
    "vidprism": OfficialHead(
        _vidprism, _unused_classifier, bound_classes=_classes, inference={"clip_alpha": 0.99}, unsaid=VIDPRISM
    ),
    "taco": OfficialHead(_taco, text="tuned", unsaid=("class_mean",)),
    "vificlip": OfficialHead(_vificlip, layout=VIFICLIP, text="tuned"),
    "actionclip": OfficialHead(
        _actionclip,
        _dead_table,
        layout=ACTIONCLIP,
        text="tuned",
        widened=_widened,
        narrowed=_narrowed,
        unsaid=("conv_axes",),
    ),
    # Files hold means over epochs; the test program mixes CLIP in, by 0.6 with ViT-L/14.
    "open_vclip": OfficialHead(
        lambda head: {},
        inference={"clip_alpha": 0.5},
        layout=Layout({"model_state": {"model.": "clip."}}),
        whole=True,
        unsaid=WINDOW,
    ),
    "froster": OfficialHead(_froster, layout=FROSTER, text="tuned", unsaid=WINDOW),
    "st_adapter": OfficialHead(
        _st_adapter,
        bound_classes=lambda head: len(head.get("fc.weight", ())),
        layout=ST_ADAPTER,
        text="absent",
        unsaid=("pool",),
    ),
    "aim": OfficialHead(
        _aim,
        layout=AIM,
        text="absent",
        unsaid=("scale",),
        bound_classes=_aim_classes,
        frozen=tuple(f"visual.{name}" for name in ("conv1.*", "*_embedding", "ln_pre.*", "transformer.*")),
    ),
    # The zero-shot test mixes CLIP in.
    "ost": OfficialHead(
        lambda head: {},
        inference={"clip_alpha": 0.8},
        layout=OST,
        text="tuned",
        unsaid=("kinds", "terms", "epsilon", "stop"),
    ),
    "bike": OfficialHead(_bike),
    "xclip": OfficialHead(_xclip, layout=XCLIP, whole=True),
    "vita_clip": OfficialHead(
        _vita_clip,
        bound_classes=_owners,
        inference={"texts": "seen"},
        widened=_with_owner,
        narrowed=_without_owner,
        joined=joined_qkv,
        split=split_qkv,
        layout=VITA_CLIP,
        whole=True,
        unsaid=("name_at",),
        frozen=("visual.*",),
    ),
    # The zero-shot script mixes CLIP in.
    "tc_clip": OfficialHead(
        _tc_clip,
        inference={"clip_alpha": 0.7},
        layout=TC_CLIP,
        text="tuned",
        joined=joined_qkv,
        split=split_qkv,
        unsaid=("context_tokens", "seed_share", "merge_rate", "text_length"),
    ),
}
assert tuple(HEADS) == IMPORTABLE
