"""Official checkpoints for tests: the golden one on a tiny backbone of its own, and small ones for `glyph-vit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core.files import ASSETS
from bench.models import backbones, clip
from bench.models.clip import Clip, WordTokenizer, load_clip, new_clip
from bench.models.state_dicts import HEAD, SOURCES, TOWER, State, is_tower
from methods.contract import build_model
from methods.registry import method
from tools.stills import WORDS

GOLDEN = Path(__file__).parent / "golden" / "mote_checkpoint.safetensors"
TINY = "ViT-T-8"  # the golden checkpoint's CLIP
TINY_CONFIG = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 128, "width": 64, "heads": 1, "layers": 1},
}


def golden(prefix: str) -> State:
    return {name.removeprefix(prefix): t for name, t in load_file(GOLDEN).items() if name.startswith(prefix)}


def golden_checkpoint() -> dict[str, Any]:
    """As the official trainer saves it."""
    states = {part: golden(f"ckpt.{part}.") for part in (TOWER, HEAD)}
    return {"epoch": 29, **states, "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 5e-5}]}}


def register_tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes `TINY` a known backbone and returns the file of the weights that the golden training started from."""
    folder.mkdir()
    (folder / f"{TINY}.json").write_text(json.dumps(TINY_CONFIG))
    known = {"glyph-vit": ASSETS / "backbones" / "glyph-vit.json", TINY: folder / f"{TINY}.json"}
    monkeypatch.setattr(backbones, "config_files", lambda: known)
    monkeypatch.setattr(clip, "_tokenizer", lambda spec: WordTokenizer(WORDS, spec.vocab_size, spec.context_length))
    pretrained = new_clip(TINY, 0)
    pretrained.load_state_dict(golden("pretrained."), strict=False)
    save_file(pretrained.state_dict(), folder / "pretrained.safetensors")
    return folder / "pretrained.safetensors"


def tuned(seed: int = 1) -> Clip:
    """A `glyph-vit` with the texts of `random:0` and a tower that differs from it."""
    tuned_clip, other = load_clip("glyph-vit", "random:0"), load_clip("glyph-vit", f"random:{seed}")
    tuned_clip.load_state_dict({n: t for n, t in other.state_dict().items() if is_tower(n)}, strict=False)
    return tuned_clip


def head_state(method_name: str, **choices: Any) -> State:
    """The state of a head on `glyph-vit`."""
    registered = method(method_name)
    config = registered.config.model_validate(choices)
    model = build_model(registered.model, config, load_clip("glyph-vit", "random:0"), 0)
    return {n.removeprefix("head."): t for n, t in model.state_dict().items() if n.startswith("head.")}


def mote_checkpoint(sources_SD: Tensor | None = None) -> dict[str, Any]:
    """Two layers of three experts on `glyph-vit`, keys as a data-parallel wrapper has them."""
    head = head_state("mote", layers=2, num_experts=3)
    head |= {f"transformer.resblocks.{layer}.mlp.mote_fusion_weight": torch.zeros(3) for layer in range(2)}
    head |= {} if sources_SD is None else {SOURCES: sources_SD}
    tower = {name: tensor for name, tensor in tuned().state_dict().items() if is_tower(name)}
    return {"epoch": 3, TOWER: _wrapped(tower), HEAD: _wrapped(head)}


def text4vis_checkpoint(whole: bool, in_one: bool) -> dict[str, Any]:
    """Two dense layers on `glyph-vit`, with or without the text tower, in one dictionary or two."""
    head = head_state("text4vis", layers=2)
    model = {name: tensor for name, tensor in tuned().state_dict().items() if whole or is_tower(name)}
    if in_one:
        return {"epoch": 3, TOWER: model | {f"fusion_model.{name}": tensor for name, tensor in head.items()}}
    return {"epoch": 3, TOWER: model, HEAD: head}


def actionclip_checkpoint(frames: int, **choices: Any) -> dict[str, Any]:
    """A whole tuned CLIP, its matrices in half precision, and a head with what the official one has besides."""
    clip_state = load_clip("glyph-vit", "random:1").state_dict()
    model = {name: tensor.half() if tensor.ndim == 2 else tensor for name, tensor in clip_state.items()}
    head = head_state("actionclip", **choices)
    if "pos_embed" in head:
        head["pos_embed"] = head["pos_embed"][:, : frames + 1].clone()
        head = {f"transformer.{name}": tensor for name, tensor in head.items()}
    if choices["head"] in ("conv1d", "lstm", "transf_cls"):
        head["frame_position_embeddings.weight"] = 0.02 * torch.randn(77, 128)
    return {"epoch": 49, TOWER: model, HEAD: _wrapped(head)}


def _wrapped(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}
