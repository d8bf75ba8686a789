"""CLIP backbones by name: shapes, parameters and FLOPs in closed form, and what identifies a backbone's weights.

Planning reads this module, so it imports no torch: the shapes of open_clip's models come from the JSON files that
open_clip ships, found without importing it. `glyph-vit` is the tiny CLIP of the embedded default (docs/glyph_world.md).

1 FLOP is one multiplication or addition, 1 MAC is 2 FLOPs. Only matrix products count (convolution, projections,
attention), as in torch's FlopCounterMode; norms, activations and softmax are left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, unknown

# open_clip's model-config format, see its docs and src/open_clip/model_configs.
GLYPH_VIT: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 128, "width": 128, "heads": 4, "layers": 2},
}
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)  # open_clip/constants.py
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
GLYPH_MEAN, GLYPH_STD = (0.27, 0.27, 0.27), (0.2, 0.2, 0.2)  # of the pre-training stills, two digits
BUILTIN_FILE = Path(__file__).parents[1] / "assets" / "glyph_clip.safetensors"

# What a Backbone's closed forms know. A config with any other key has a tower of another shape.
_VISION_KEYS = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "ls_init_value"}
_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers"}


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

    @property
    def vision_tokens(self) -> int:
        """Patches of a frame plus the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    def tower_parameters(self) -> int:
        """Parameters of the visual tower: patch convolution, class token, positions, blocks, norms, projection."""
        width = self.vision_width
        stem = 3 * self.patch_size**2 * width + width + self.vision_tokens * width
        scales = 2 * width * self.vision_layers if self.layer_scale else 0
        blocks = self.vision_layers * _block_parameters(width, int(width * self.vision_mlp_ratio)) + scales
        return stem + blocks + 4 * width + width * self.embed_dim

    def text_parameters(self) -> int:
        """Parameters of the text tower: word embedding, positions, blocks, final norm, projection; no logit scale."""
        width = self.text_width
        embedding = (self.vocab_size + self.context_length) * width
        return embedding + self.text_layers * _block_parameters(width, 4 * width) + 2 * width + width * self.embed_dim

    def tower_flops(self) -> int:
        """FLOPs of one frame through the visual tower, forward (1 MAC = 2 FLOPs)."""
        width, patches = self.vision_width, self.vision_tokens - 1
        stem = 2 * patches * 3 * self.patch_size**2 * width
        block = _block_flops(self.vision_tokens, width, int(width * self.vision_mlp_ratio))
        return stem + self.vision_layers * block + 2 * width * self.embed_dim

    def text_flops(self) -> int:
        """FLOPs of one text, padded to full length, through the text tower, forward (1 MAC = 2 FLOPs)."""
        block = _block_flops(self.context_length, self.text_width, 4 * self.text_width)
        return self.text_layers * block + 2 * self.text_width * self.embed_dim


def _block_parameters(width: int, hidden: int) -> int:
    """Attention (q, k, v, output) and a two-layer MLP with biases, two norms."""
    return 4 * width * (width + 1) + hidden * (width + 1) + width * (hidden + 1) + 4 * width


def _block_flops(tokens: int, width: int, hidden: int) -> int:
    """Four projections, the attention's two products (all pairs, also under a causal mask), the MLP."""
    return 2 * tokens * (4 * width * width + 2 * tokens * width + 2 * width * hidden)


# ---------------------------------------------------------------------------------------------------------------------
# Configs


@cache
def _open_clip_folder() -> Path:
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise UserError("open_clip is not installed", hint="pip install open_clip_torch")
    return Path(spec.origin).parent / "model_configs"


@cache
def backbone_names() -> tuple[str, ...]:
    """`glyph-vit` and every config that open_clip ships, ViT or not."""
    return ("glyph-vit", *sorted(file.stem for file in _open_clip_folder().glob("*.json")))


def model_config(name: str) -> dict[str, Any]:
    """The open_clip model config of a backbone. Raises UserError for an unknown name."""
    if name == "glyph-vit":
        return GLYPH_VIT
    if name not in backbone_names():
        raise unknown("backbone", name, supported_names())
    config: dict[str, Any] = json.loads((_open_clip_folder() / f"{name}.json").read_text(encoding="utf-8"))
    return config


def supported_names() -> list[str]:
    """The backbones that `backbone` answers for: both towers are CLIP's plain transformers."""
    return [name for name in backbone_names() if not _other_tower(name, model_config(name))]


def _other_tower(name: str, config: dict[str, Any]) -> str:
    """What in a config isn't CLIP's pair of plain transformers; empty where nothing is."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or not isinstance(vision.get("layers"), int):
        return f"backbone '{name}' has no ViT tower"
    other = sorted(set(vision) - _VISION_KEYS) + sorted(set(text) - _TEXT_KEYS)
    other += sorted(set(config) - {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"})
    return f"backbone '{name}' is not a plain CLIP: its config sets {', '.join(other)}" if other else ""


@cache
def backbone(name: str) -> Backbone:
    """The shapes of a backbone. Raises UserError for an unknown name and for towers that aren't plain transformers."""
    config = model_config(name)
    if other := _other_tower(name, config):
        raise UserError(other, hint="use a plain ViT config, such as ViT-B-16")
    vision, text = config["vision_cfg"], config["text_cfg"]
    own = name == "glyph-vit"
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
        mean=GLYPH_MEAN if own else OPENAI_MEAN,
        std=GLYPH_STD if own else OPENAI_STD,
        vision_mlp_ratio=vision.get("mlp_ratio", 4.0),
        layer_scale="ls_init_value" in vision,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Weights

RANDOM = "random:"
TAGGED = re.compile(r"([\w-]+)@(/.+)")  # open_clip's tags are of letters, digits, `_` and `-`


def random_seed(pretrained: str) -> int | None:
    """The seed of `random:<seed>`, None for other weights. Raises UserError where the seed is no number."""
    if not pretrained.startswith(RANDOM):
        return None
    seed = pretrained.removeprefix(RANDOM)
    if not seed.isdecimal():
        raise UserError(f"'{pretrained}' needs a whole number after the colon, such as random:0", where="pretrained")
    return int(seed)


def tagged(pretrained: str) -> tuple[str, Path | None]:
    """The two parts of `<tag>@<absolute path>`, an open_clip tag and the file that holds its weights here.

    Any other value is the first part. A relative path into a folder such as `a@` needs a leading `./`.
    """
    match = TAGGED.fullmatch(pretrained)
    return (match[1], Path(match[2])) if match else (pretrained, None)


def weights_file(name: str, pretrained: str) -> Path | None:
    """The local file of `builtin` or a path; None where the weights are open_clip's or random.

    A value with a suffix or a separator is a path, anything else is one of open_clip's tags, with or without its file.
    Raises UserError where the file of a path is missing.
    """
    if pretrained == "builtin":
        if name != "glyph-vit":
            raise UserError(f"no weights of '{name}' are built in", where="pretrained", hint="use a file or a tag")
        return _existing(BUILTIN_FILE)
    if random_seed(pretrained) is not None or tagged(pretrained)[1] is not None:
        return None
    looks_like_path = "/" in pretrained or "\\" in pretrained or Path(pretrained).suffix in {".pt", ".safetensors"}
    return _existing(Path(pretrained).expanduser()) if looks_like_path else None


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise UserError("the weights file does not exist", where=str(file))
    return file


def weights_identity(name: str, pretrained: str) -> str:
    """What identifies a backbone's weights: a file's sha256, or the declaration where there is no file to hash.

    open_clip's tags are declared, `open_clip:<name>/<tag>`, wherever their file lies: planning downloads nothing, so
    weights that the publisher replaces under the same tag would not be noticed. `random:<seed>` is declared too; it
    depends on torch's generator.
    """
    backbone(name)
    file = weights_file(name, pretrained)
    if file is not None:
        return f"sha256:{file_sha256(file)}"
    if random_seed(pretrained) is not None:
        return f"{name}/{pretrained}"
    return f"open_clip:{name}/{tagged(pretrained)[0]}"


def file_sha256(file: Path) -> str:
    """The hash of a file's content, computed once for as long as its size and time stay."""
    status = file.stat()
    return _sha256(file.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _sha256(file: Path, size: int, modified_ns: int) -> str:
    """Size and time are arguments only to be part of the cache's key: a changed file is hashed anew."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
