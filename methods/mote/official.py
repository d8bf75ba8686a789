"""Official MoTE checkpoints: `model_state_dict` (CLIP's visual tower and scale), `fusion_model_state_dict` (head).

Sizes are inferred from the tensors' shapes; reading the file, which is a pickle, is the caller's affair.
Legend: D joint CLIP width, S source classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from bench.backbones import Backbone, backbone
from bench.clip import Clip
from bench.errors import UserError
from methods.mote.config import Config
from methods.mote.model import Model

State = dict[str, Tensor]

TOWER, HEAD = "model_state_dict", "fusion_model_state_dict"
SOURCES = "spe_cls_feature"  # unit class features of the training set, stored in the head for modulation
HEAD_CHANNELS = 64  # of an attention head, in all towers of CLIP


class OfficialMote(NamedTuple):
    """A model with a checkpoint's weights and the source's class features [S, D], where the checkpoint has them."""

    model: Model
    sources_SD: Tensor | None


def official_mote(model_state: State, head_state: State, clip: Clip) -> OfficialMote:
    """The method's model on `clip`, whose tower is overwritten; it should be the CLIP that training started from.

    Raises UserError for missing, left-over or wrongly shaped tensors, and for a head without experts.
    """
    tower, head = _without_prefix(model_state), _without_prefix(head_state)
    layers = _count(head, r"transformer\.resblocks\.(\d+)\.")
    experts = _count(head, r"transformer\.resblocks\.\d+\.mlp\.fc_up\.(\d+)\.")
    if not experts:
        raise UserError("the head has no experts", where=HEAD, hint="dense heads belong to text4vis or dense_temporal")
    sources_SD = head.pop(SOURCES, None)
    head = _without_merge_logits(head)
    model = Model(Config(tower="tuned", layers=layers, num_experts=experts), clip)
    _refuse_differences(
        {k.removeprefix("head."): v for k, v in model.trained_state().items() if k.startswith("head.")}, head, HEAD
    )
    _refuse_differences(tower_state(clip), tower, TOWER)
    model.load_trained({f"clip.{k}": v for k, v in tower.items()} | {f"head.{k}": v for k, v in head.items()})
    return OfficialMote(model, sources_SD)


def clip_like(state: State) -> Clip:
    """A CLIP with the given tower and scale, and a random text tower of OpenAI's layout with the matching width.

    Raises UserError for missing, left-over or wrongly shaped tensors.
    """
    tower = _without_prefix(state)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        clip = bare_clip(_tower_shapes(tower))
    _refuse_differences(tower_state(clip), tower, TOWER)
    clip.load_state_dict(tower, strict=False)
    clip.eval()
    return clip


def bare_clip(spec: Backbone) -> Clip:
    """A randomly initialised CLIP of any shape."""
    vision = {
        "image_size": spec.image_size,
        "patch_size": spec.patch_size,
        "width": spec.vision_width,
        "layers": spec.vision_layers,
        "head_width": spec.vision_width // spec.vision_heads,
    }
    text = {
        "context_length": spec.context_length,
        "vocab_size": spec.vocab_size,
        "width": spec.text_width,
        "layers": spec.text_layers,
        "heads": spec.text_heads,
    }
    return Clip(spec, {"embed_dim": spec.embed_dim, "vision_cfg": vision, "text_cfg": text})


def _tower_shapes(tower: State) -> Backbone:
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj")
    _refuse_missing(needed, tower, TOWER)
    conv_W3PP, positions_NW, proj_WD = (tower[name] for name in needed)
    width, dim, patch = len(conv_W3PP), proj_WD.shape[1], conv_W3PP.shape[-1]
    text_heads = max(1, dim // HEAD_CHANNELS)  # CLIP's text towers are as wide as the joint space
    return replace(
        backbone("ViT-B-16-quickgelu"),
        image_size=isqrt(len(positions_NW) - 1) * patch,
        patch_size=patch,
        vision_width=width,
        vision_layers=_count(tower, r"visual\.transformer\.resblocks\.(\d+)\."),
        vision_heads=max(1, width // HEAD_CHANNELS),
        embed_dim=dim,
        text_width=text_heads * HEAD_CHANNELS,
        text_heads=text_heads,
    )


def tower_state(clip: Clip) -> State:
    """What `model_state_dict` holds of a CLIP."""
    return {name: tensor for name, tensor in clip.state_dict().items() if name.startswith(("visual.", "logit_scale"))}


def _without_prefix(state: State) -> State:
    """Keys as the bare module has them; a data-parallel wrapper puts `module.` in front."""
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _without_merge_logits(head: State) -> State:
    """The official module keeps the logits of its merge weights, fixed at 0, as a tensor of each layer."""
    logits = {name: tensor for name, tensor in head.items() if name.endswith("mote_fusion_weight")}
    skewed = [name for name, tensor in logits.items() if tensor.any()]
    if skewed:
        raise UserError(f"{skewed[0]} is not 0: these experts were not merged equally", where=HEAD)
    return {name: tensor for name, tensor in head.items() if name not in logits}


def _count(state: State, pattern: str) -> int:
    """One more than the highest number that the pattern's group matches at the start of a key."""
    return 1 + max((int(match[1]) for name in state if (match := re.match(pattern, name))), default=-1)


def _refuse_missing(expected: Iterable[str], found: State, where: str) -> None:
    missing = sorted(set(expected) - set(found))
    if missing:
        raise UserError(f"{len(missing)} tensors are missing: {', '.join(missing[:5])}", where=where)


def _refuse_differences(expected: State, found: State, where: str) -> None:
    _refuse_missing(expected, found, where)
    left_over = sorted(found.keys() - expected.keys())
    if left_over:
        raise UserError(f"{len(left_over)} tensors are left over: {', '.join(left_over[:5])}", where=where)
    shapes = [
        f"{name} is {list(found[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if found[name].shape != tensor.shape
    ]
    if shapes:
        raise UserError(f"shapes differ: {'; '.join(shapes[:5])}", where=where)
