"""A tag of open_clip's zoo for tests: a tiny plain CLIP whose published weights lie in a file of the test."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import factory
from safetensors.torch import save_file
from torch import Tensor

from bench.core.files import ASSETS
from bench.models import backbones

NAME = "ViT-zoo-16"  # its config says GELU
TAG = "openai"  # its weights were trained with QuickGELU
MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.2, 0.1)
HUB = "somebody/tiny"
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


def register(folder: Path, monkeypatch: pytest.MonkeyPatch, **source: Any) -> None:
    """Makes `NAME` a backbone and `TAG` one of its tags; `source` is `file` or `hf_hub`, as in open_clip's own list."""
    configs = folder / "configs"
    configs.mkdir()
    (configs / f"{NAME}.json").write_text(json.dumps(CONFIG))
    known = {"glyph-vit": ASSETS / "backbones" / "glyph-vit.json", NAME: configs / f"{NAME}.json"}
    monkeypatch.setattr(backbones, "config_files", lambda: known)
    monkeypatch.setitem(factory._MODEL_CONFIGS, NAME, CONFIG)
    trained = {"mean": MEAN, "std": STD, "quick_gelu": True, **source}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, {TAG: trained})


def published(seed: int = 0) -> dict[str, Tensor]:
    """Weights of open_clip's own model, as its zoo publishes them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**CONFIG)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def cached(cache: Path, monkeypatch: pytest.MonkeyPatch, name: str = "open_clip_model.safetensors") -> Path:
    """The hub's cache after `HUB` was fetched; the file is a link to content that is named by its hash."""
    from huggingface_hub import constants

    repository = cache / f"models--{HUB.replace('/', '--')}"
    for part in ("refs", "blobs", "snapshots/1a2b"):
        (repository / part).mkdir(parents=True)
    (repository / "refs" / "main").write_text("1a2b")
    blob, file = repository / "blobs" / "3c4d", repository / "snapshots" / "1a2b" / name
    save_file(published(), str(blob)) if file.suffix == ".safetensors" else torch.save(published(), blob)
    file.symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return file


def forbid_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"the network was asked for {arguments[-1]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
