"""CLIP backbones by name: shapes, parameters and FLOPs in closed form.

Planning uses this module, so it does not import torch. Shapes come from the JSON files of open_clip, which are located
without importing it, and from bench/assets/backbones: `glyph-vit` is the tiny CLIP of the embedded world
(docs/glyph_world.md). Those with `clip_frames` have video towers (ViCLIP, arXiv 2307.06942), which read all frames of a
clip as one sequence and give one feature a clip: `glyph-video` is that of the embedded world, `glyph-viclip` a smaller
one for tests, without trained weights.

1 FLOP is one multiplication or addition, 1 MAC is 2 FLOPs. Only matrix products are counted (convolution, projections,
attention), as torch's FlopCounterMode does; norms, activations and softmax are left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from bench.core.errors import UserError, unknown
from bench.core.files import ASSETS

Part = Literal["visual", "text", "tokens", "scale"]  # of a CLIP: two towers, token table, logit scale

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)  # open_clip/constants.py
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

# Config keys that the closed forms of `Backbone` cover. A config with any other key describes another architecture.
_VISION_KEYS = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "ls_init_value"}
_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers"}
_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "mean", "std", "tokenizer", "clip_frames"}


@dataclass(frozen=True)
class Backbone:
    """Shapes of a CLIP with a ViT tower. Sizes are in pixels; mean and std are RGB on a 0..1 scale."""

    name: str
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    embed_dim: int
    text_width: int
    text_layers: int
    text_heads: int
    context_length: int
    vocab_size: int
    quick_gelu: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    vision_mlp_ratio: float = 4.0
    layer_scale: bool = False
    tokenizer: str = ""  # `words`: those of a list that is stored with the weights; or the open_clip name of another
    clip_frames: int = 0  # rows of a video tower's table of temporal positions; 0: an image tower

    @property
    def video(self) -> bool:
        """True if the tower reads all frames of a clip together and gives one feature a clip."""
        return self.clip_frames > 0

    @property
    def word_tokens(self) -> bool:
        """True if the tokenizer splits texts into words."""
        return self.tokenizer == "words"

    @property
    def vision_tokens(self) -> int:
        """Patches of a frame plus the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    def features(self, frames: int) -> int:
        """Features that the tower gives for a clip of so many frames."""
        return 1 if self.video else frames

    def view_flops(self, frames: int) -> int:
        """FLOPs of a view of so many frames through the visual tower, forward (1 MAC = 2 FLOPs)."""
        width, patches, sequences = self.vision_width, self.vision_tokens - 1, self.features(frames)
        stem = 2 * patches * 3 * self.patch_size**2 * width
        block = _block_flops(1 + patches * frames // sequences, width, int(width * self.vision_mlp_ratio))
        return frames * stem + sequences * (self.vision_layers * block + 2 * width * self.embed_dim)

    def text_flops(self) -> int:
        """FLOPs of one text, padded to full length, through the text tower, forward (1 MAC = 2 FLOPs)."""
        block = _block_flops(self.context_length, self.text_width, 4 * self.text_width)
        return self.text_layers * block + 2 * self.text_width * self.embed_dim

    def parameters(self, part: Part) -> int:
        """Parameters of a part of CLIP."""
        width, text = self.vision_width, self.text_width
        if part == "visual":
            block = _block_parameters(width, int(width * self.vision_mlp_ratio)) + 2 * width * self.layer_scale
            outside = 3 * self.patch_size**2 + 1 + self.vision_tokens + self.clip_frames + 4 + self.embed_dim
            return self.vision_layers * block + outside * width
        if part == "text":
            outside = self.context_length + 2 + self.embed_dim  # positions, norm, projection
            return self.text_layers * _block_parameters(text, 4 * text) + outside * text
        return self.vocab_size * text if part == "tokens" else 1


def _block_flops(tokens: int, width: int, hidden: int) -> int:
    """Four projections, two attention products (over all pairs, even with a causal mask) and the MLP."""
    return 2 * tokens * (4 * width * width + 2 * tokens * width + 2 * width * hidden)


def _block_parameters(width: int, hidden: int) -> int:
    """Four projections and the MLP with their biases, and two norms."""
    return 4 * width * (width + 1) + 2 * width * hidden + hidden + width + 4 * width


# --- configs ----------------------------------------------------------------------------------------------------------


@cache
def _open_clip_folder() -> Path:
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise UserError("open_clip is not installed", hint="pip install open_clip_torch")
    return Path(spec.origin).parent / "model_configs"


@cache
def config_files() -> dict[str, Path]:
    """Config file of every backbone: first those of this project, then those of open_clip, including non-ViT models."""
    own, shipped = (sorted(folder.glob("*.json")) for folder in (ASSETS / "backbones", _open_clip_folder()))
    return {file.stem: file for file in (*own, *shipped)}


def backbone_names() -> tuple[str, ...]:
    """Names of all backbones, those of this project first."""
    return tuple(config_files())


def model_config(name: str) -> dict[str, Any]:
    """The open_clip config of a backbone. Raises UserError for an unknown name."""
    if name not in config_files():
        raise unknown("backbone", name, supported_names())
    config: dict[str, Any] = json.loads(config_files()[name].read_text(encoding="utf-8"))
    return config


def supported_names() -> list[str]:
    """Names of the backbones whose towers are both plain CLIP transformers."""
    return [name for name in backbone_names() if not _unsupported(name, model_config(name))]


def _unsupported(name: str, config: dict[str, Any]) -> str:
    """The reason why a config is not a pair of plain CLIP transformers; empty if it is."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or not isinstance(vision.get("layers"), int):
        return f"backbone '{name}' has no ViT tower"
    other = sorted(set(vision) - _VISION_KEYS) + sorted(set(text) - _TEXT_KEYS)
    other += sorted(set(config) - _KEYS)
    return f"backbone '{name}' is not a plain CLIP: its config sets {', '.join(other)}" if other else ""


@cache
def backbone(name: str) -> Backbone:
    """Shapes of a backbone. Raises UserError for an unknown name and for towers that are not plain transformers."""
    config = model_config(name)
    if reason := _unsupported(name, config):
        raise UserError(reason, hint="use a plain ViT config, such as ViT-B-16")
    vision, text = config["vision_cfg"], config["text_cfg"]
    return Backbone(
        name=name,
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        vision_width=vision["width"],
        vision_layers=vision["layers"],
        vision_heads=vision["width"] // vision.get("head_width", 64),
        embed_dim=config["embed_dim"],
        text_width=text["width"],
        text_layers=text["layers"],
        text_heads=text["heads"],
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        quick_gelu=config.get("quick_gelu", False),
        mean=tuple(config.get("mean", OPENAI_MEAN)),
        std=tuple(config.get("std", OPENAI_STD)),
        vision_mlp_ratio=vision.get("mlp_ratio", 4.0),
        layer_scale="ls_init_value" in vision,
        tokenizer=config.get("tokenizer", ""),
        clip_frames=config.get("clip_frames", 0),
    )
