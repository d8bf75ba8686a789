"""Models of MoTE's official checkpoints on CLIPs of any size, for golden files and tests.

Legend: D joint CLIP width, S source classes.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from bench.checkpoints.heads import HEADS
from bench.core.errors import UserError
from bench.models.backbones import Backbone, backbone
from bench.models.clip import Clip
from bench.models.state_dicts import (
    HEAD,
    SOURCES,
    TOWER,
    State,
    is_tower,
    layers_in,
    refuse_differences,
    tensors,
    trained_names,
)
from methods.mote.config import Config
from methods.mote.model import Model

HEAD_CHANNELS = 64  # of an attention head, in all towers of CLIP


class OfficialMote(NamedTuple):
    """A model with a checkpoint's weights and the source's class features [S, D], where the checkpoint has them."""

    model: Model
    sources_SD: Tensor | None


def official_mote(model_state: State, head_state: State, clip: Clip) -> OfficialMote:
    """The method's model on `clip`, whose tower is overwritten; it should be the CLIP that training started from.

    Raises UserError for missing, left-over or wrongly shaped tensors, and for a head without experts.
    """
    tower, head = tensors(model_state), tensors(head_state)
    model = Model(Config.model_validate({"tower": "tuned", **HEADS["mote"].choices(head)}), clip)
    HEADS["mote"].refuse(head)
    sources_SD = head.pop(SOURCES, None)
    fixed = HEADS["mote"].additions(head)
    head = {name: tensor for name, tensor in head.items() if name not in fixed}
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("head.")}
    refuse_differences(own, trained_names({}, head), "not the head of this model", HEAD)
    refuse_differences(tower_state(clip), tower, "not the tower of this CLIP", TOWER)
    model.load_trained(trained_names(tower, head))
    return OfficialMote(model, sources_SD)


def clip_like(state: State) -> Clip:
    """A CLIP with the given tower and scale, and a random text tower of OpenAI's layout with the matching width.

    Raises UserError for missing, left-over or wrongly shaped tensors.
    """
    tower = tensors(state)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        clip = bare_clip(_tower_shapes(tower))
    refuse_differences(tower_state(clip), tower, "not a CLIP tower", TOWER)
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
    if missing := [name for name in needed if name not in tower]:
        raise UserError(f"{len(missing)} tensors are missing: {', '.join(missing)}", where=TOWER)
    conv_W3PP, positions_NW, proj_WD = (tower[name] for name in needed)
    width, dim, patch = len(conv_W3PP), proj_WD.shape[1], conv_W3PP.shape[-1]
    text_heads = max(1, dim // HEAD_CHANNELS)  # CLIP's text towers are as wide as the joint space
    return replace(
        backbone("ViT-B-16-quickgelu"),
        image_size=isqrt(len(positions_NW) - 1) * patch,
        patch_size=patch,
        vision_width=width,
        vision_layers=layers_in(tower, r"visual\.transformer\.resblocks\.(\d+)\."),
        vision_heads=max(1, width // HEAD_CHANNELS),
        embed_dim=dim,
        text_width=text_heads * HEAD_CHANNELS,
        text_heads=text_heads,
    )


def tower_state(clip: Clip) -> State:
    """Tensors of a CLIP that `model_state_dict` holds."""
    return {name: tensor for name, tensor in clip.state_dict().items() if is_tower(name)}
