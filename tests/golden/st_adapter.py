"""Replay of ST-Adapter's golden files: the method's model on a CLIP of the file's shapes, with each head.

Legend: B videos, T frames, W tower width, D joint CLIP width, C classes.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.checkpoints.heads import ST_ADAPTER
from bench.models.backbones import backbone
from bench.models.clip import Clip
from bench.models.state_dicts import layers_in, renamed
from methods.settings import Inference
from methods.st_adapter.config import Config
from methods.st_adapter.model import Model
from tests.golden.official_mote import HEAD_CHANNELS, bare_clip
from tests.golden.replay import Deviations, Tensors, _compare, _under, norm

RULES = ST_ADAPTER.states["model"]
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"places": "mlp"},
    "both": {"places": "both"},
    "last": {"places": "attn", "last_blocks": 1},
}
DROPOUT = 0.5


def replay_st_adapter(path: Path) -> Deviations:
    case = load_file(path)
    state, inputs = {name: own.float() for name, own in _under(case, "state.").items()}, _under(case, "in.")
    computed: Tensors = {}
    for network, choices in NETWORKS.items():
        for head in ("linear", "text"):
            model = official_model(state, inputs, {**choices, "head": head})
            found = linear(model, inputs) if head == "linear" else text(model, inputs)
            computed |= {f"{network}.{name}": own for name, own in found.items()}
    return _compare(computed, case, norm)


def official_clip(state: Tensors, inputs: Tensors) -> Clip:
    """The CLIP of a state without projection and text tower."""
    (width, patch), dim = state["conv1.weight"].shape[::3], inputs["proj"].shape[1]
    spec = replace(
        backbone("ViT-B-16-quickgelu"),
        image_size=isqrt(len(state["positional_embedding"]) - 1) * patch,
        patch_size=patch,
        vision_width=width,
        vision_layers=layers_in(state, r"transformer\.resblocks\.(\d+)\."),
        vision_heads=max(1, width // HEAD_CHANNELS),
        embed_dim=dim,
        text_width=HEAD_CHANNELS,
        text_layers=1,
        text_heads=1,
        context_length=8,
        vocab_size=64,
    )
    clip: Clip = bare_clip(spec).eval()
    tower = {name: own for name, own in state.items() if not renamed(name, RULES)}
    clip.visual.load_state_dict({**tower, "proj": inputs["proj"]})
    with torch.no_grad():
        clip.logit_scale.copy_(inputs["logit_scale"])
    return clip


def official_model(state: Tensors, inputs: Tensors, choices: dict[str, Any]) -> Model:
    """A network with those of the state's adapters that it has."""
    width = next(len(own) for name, own in state.items() if name.endswith("fc1.weight"))
    kernel = next(own.shape[2] for name, own in state.items() if name.endswith("conv.weight"))
    sizes = {"width": width, "kernel": kernel, "dropout": 0.0 if choices["head"] == "linear" else 0.5}
    config = Config.model_validate({**sizes, **choices})
    model = Model(config, official_clip(state, inputs))
    model.bind_classes(len(state["fc.weight"]))
    named = {new: own for name, own in state.items() if (new := renamed(name, RULES))}
    model.load_trained({name: named[name] for name in model.trained_state()})
    return model


def linear(model: Model, inputs: Tensors) -> Tensors:
    """Outputs of the official head. Its dropout is the file's, so the model has none."""
    pooled_B1W, labels_B = model.encode(inputs["pixels"]), inputs["labels"]
    kept_B1W = pooled_B1W * inputs["dropout_keep"][:, None] / (1 - DROPOUT)
    assert model.head.fc is not None
    train_BC = model.head.fc(kept_B1W[:, 0])
    loss = model.loss(kept_B1W, labels_B, torch.empty(0), torch.Generator())["total"]
    loss.backward()
    prediction = model.deploy(Inference(), torch.empty(0))(pooled_B1W, train_BC.T)
    return {
        **{f"block.{place}": own for place, own in enumerate(blocks(model, inputs["pixels"]))},
        **{"pooled": pooled_B1W[:, 0], "logits.eval": prediction.cosines_BC, "logits.train": train_BC, "loss": loss},
        **{f"grad.{name}": own for name, own in gradients(model).items()},
    }


def text(model: Model, inputs: Tensors) -> Tensors:
    frames_BTD, classes_CD = model.encode(inputs["pixels"]), inputs["classes"]
    loss = model.loss(frames_BTD, inputs["labels"], classes_CD, torch.Generator())["total"]
    loss.backward()
    predictor = model.deploy(Inference(), classes_CD)
    logits_BC = predictor.logit_scale * predictor(frames_BTD, classes_CD).cosines_BC
    found = {"frames": frames_BTD, "logits": logits_BC, "loss": loss}
    found |= {f"grad.{name}": own for name, own in gradients(model).items()}
    return {f"text.{name}": own for name, own in found.items()}


@torch.no_grad()
def blocks(model: Model, pixels: Tensor) -> list[Tensor]:
    """Tokens [B, T, N, W] behind each block."""
    hidden_NPW, found = model.clip.visual._embeds(pixels.flatten(0, 1)), list[Tensor]()
    for block in model.blocks(pixels.shape[1]):
        hidden_NPW = block(hidden_NPW)
        found.append(hidden_NPW.unflatten(0, pixels.shape[:2]))
    return found


def gradients(model: Model) -> Tensors:
    """Under official names."""
    official = {own: name for name, own in RULES.items()}
    parameters = {name: own.grad for name, own in model.named_parameters() if own.grad is not None}
    return {renamed(name, official): gradient for name, gradient in parameters.items()}
