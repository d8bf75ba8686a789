"""X-CLIP's modules, loss and answer (arXiv 2208.02816; official code).

Legend: B batch, T frames, N frames of a batch (B * T), P tokens of a frame, p its patches, W width of the visual tower,
D joint CLIP width, C classes, c classes of a part, K prompts of a class, L texts or patches, h attention heads of X
channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.backbones import Backbone
from bench.models.clip import Clip
from methods import contract
from methods.blocks import FeedForward, class_tokens, through
from methods.contract import Encoded, Prediction, Predictor, Terms, cosines, frames_of
from methods.settings import Inference
from methods.xclip.config import HEAD_CHANNELS, Config

CLASSES = 64  # queries of a view that go through the decoder at once, which bounds memory
STD = 0.02  # of the starts of integration and prompts, truncated normals

Block = Callable[..., Tensor]  # hidden [N, P, W] -> hidden


class Message(nn.Module):
    """Messages of a block: made of class tokens, then exchanged between the frames, without positions in time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.ln = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // HEAD_CHANNELS, batch_first=True)

    def forward(self, class_BTW: Tensor) -> Tensor:
        message_BTW: Tensor = self.fc(class_BTW)
        normed_BTW = self.ln(message_BTW)
        exchanged_BTW: Tensor = self.attn(normed_BTW, normed_BTW, normed_BTW, need_weights=False)[0]
        return message_BTW + exchanged_BTW


class Integration(nn.Module):
    """Transformer over the frames' features, which its output contains, with their positions."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        heads = width // HEAD_CHANNELS
        self.positional_embedding = nn.Parameter(torch.empty(1, config.positions, width))
        blocks = (ResidualAttentionBlock(width, heads, act_layer=QuickGELU) for _ in range(config.integration))
        self.resblocks = nn.Sequential(*blocks)
        nn.init.trunc_normal_(self.positional_embedding, std=STD)
        self.apply(_initialise)

    def forward(self, frames_BTD: Tensor) -> Tensor:
        temporal_BTD: Tensor = self.resblocks(frames_BTD + self.positional_embedding[:, : frames_BTD.shape[1]])
        return temporal_BTD


class Patches(nn.Module):
    """Patch tokens of the last block in the joint space: the mean over frames of what is normed, projected."""

    def __init__(self, width: int, joint: int, scaled: bool) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, joint) * (width**-0.5 if scaled else 1.0))

    def forward(self, patches_BTpW: Tensor) -> Tensor:
        projected_BpD: Tensor = self.ln(patches_BTpW).mean(dim=1) @ self.proj
        return projected_BpD


class DecoderLayer(nn.Module):
    """Attention of class features to patches, then a feed-forward network. Classes do not see each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.proj, self.mlp = nn.Linear(width, width), FeedForward(width)
        self.norm1, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, texts_BcD: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Keys and values are those of the patches, [B, heads, p, channels]."""
        mixed = F.scaled_dot_product_attention(divided(self.q_proj(self.norm1(texts_BcD))), keys, values)
        texts_BcD = texts_BcD + self.proj(mixed.transpose(1, 2).flatten(2))
        changed_BcD: Tensor = texts_BcD + self.mlp(self.norm3(texts_BcD))
        return changed_BcD


class Classifier(nn.Module):
    """Cosines of videos with class features, to which prompts are added that depend on the video."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.decoder = nn.ModuleList(DecoderLayer(width) for _ in range(config.prompts))
        if config.prompts:
            self.norm, self.alpha = nn.LayerNorm(width), nn.Parameter(torch.full((width,), config.alpha))
        self.apply(_initialise)

    def prompts(self, patches_BpD: Tensor, classes_CD: Tensor) -> Iterator[Tensor]:
        """What is added, [B, c, D], for one part of the classes after the other; all have the same keys and values."""
        memory_BpD, layers = self.norm(patches_BpD), cast("list[DecoderLayer]", list(self.decoder))
        seen = [[divided(each(memory_BpD)) for each in (layer.k_proj, layer.v_proj)] for layer in layers]
        for part_cD in classes_CD.split(CLASSES):
            texts_BcD = part_cD.expand(len(patches_BpD), -1, -1)
            for layer, own in zip(layers, seen, strict=True):
                texts_BcD = layer(texts_BcD, *own)
            yield self.alpha * texts_BcD

    def forward(self, video_BD: Tensor, encoded: Encoded, classes_CKD: Tensor) -> Tensor:
        classes_CD = classes_CKD.mean(dim=1)
        if not self.decoder:
            return cosines(video_BD, F.normalize(classes_CD.float(), dim=-1))
        parts = zip(classes_CD.split(CLASSES), self.prompts(encoded["patches"], classes_CD), strict=True)
        return torch.cat([own_cosines(video_BD, part_cD + prompt_BcD) for part_cD, prompt_BcD in parts], dim=1)


class Head(nn.Module):
    """All modules beside CLIP's."""

    def __init__(self, config: Config, spec: Backbone) -> None:
        super().__init__()
        width, joint = spec.vision_width, spec.embed_dim
        self.messages = nn.ModuleList(Message(width) for _ in range(config.messages * spec.vision_layers))
        self.mit = Integration(joint, config) if config.integration else None
        self.patches = Patches(width, joint, config.patch_init == "scaled") if config.prompts else None
        self.classifier = Classifier(joint, config)


class Model(contract.Model):
    """CLIP with messages between its frames, integration over them, and prompts for its classes."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.head = Head(config, clip.spec)
        if config.tower == "tuned":
            self.carried = frozenset({"clip.logit_scale"})  # part of the official layout, though it is frozen

    def encode(self, clips_BT3HW: Tensor) -> Encoded:
        """Frame features [B, T, D], and with prompts the patches [B, p, D]."""
        visual, sizes = self.clip.visual, clips_BT3HW.shape[:2]
        hidden_NPW = visual._embeds(clips_BT3HW.flatten(0, 1))
        for block in self.blocks(sizes[1]):
            hidden_NPW = through(visual, block, hidden_NPW)
        frames_BTD = class_tokens(visual, hidden_NPW).unflatten(0, sizes)
        if self.head.patches is None:
            return frames_BTD
        return {"frames": frames_BTD, "patches": self.head.patches(hidden_NPW[:, 1:].unflatten(0, sizes))}

    def blocks(self, frames: int) -> list[Block]:
        """The tower's blocks, with their messages if there are any."""
        own = list(self.clip.visual.transformer.resblocks)
        if not self.config.messages:
            return own
        messages = cast("list[Message]", list(self.head.messages))
        return [partial(_with_message, *each, frames) for each in zip(own, messages, strict=True)]

    def loss(self, frames_BTD: Encoded, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        """Cross-entropy with labels, or with targets [B, C]."""
        video_BD = pooled(frames_of(frames_BTD), self.head.mit)
        cosines_BC = self.head.classifier(video_BD, frames_BTD, classes_CD)
        ce = F.cross_entropy(self.clip.logit_scale.exp() * cosines_BC, labels_B)
        return {"ce": ce, "total": ce}

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> VideoPredictor:
        return VideoPredictor(deepcopy(self.head.mit), deepcopy(self.head.classifier), self.scale)


class VideoPredictor(Predictor):
    """z = mean over T of e + h(e), compared with class features [C, K, D] that the video changes."""

    def __init__(self, mit: Integration | None, classifier: Classifier, logit_scale: float) -> None:
        super().__init__()
        self.mit, self.classifier, self.logit_scale = mit, classifier, logit_scale
        self.eval().requires_grad_(False)

    def forward(self, frames_BTD: Encoded, classes_CD: Tensor) -> Prediction:
        video_BD = pooled(frames_of(frames_BTD), self.mit)
        return Prediction(self.classifier(video_BD, frames_BTD, classes_CD), video_BD.norm(dim=-1), {"z": video_BD})


def pooled(frames_BTD: Tensor, mit: Integration | None) -> Tensor:
    """Video embeddings [B, D]."""
    return (frames_BTD if mit is None else frames_BTD + mit(frames_BTD)).mean(dim=1)


def _with_message(block: Any, message: Message, frames: int, hidden_NPW: Tensor) -> Tensor:
    """A block's output. The message is one more token of its attention, and left out behind it."""
    message_NW = message(hidden_NPW[:, 0].unflatten(0, (-1, frames))).flatten(0, 1)
    longer_NPW = torch.cat([hidden_NPW, message_NW[:, None].to(hidden_NPW.dtype)], dim=1)
    attended_NPW = block.ls_1(block.attention(block.ln_1(longer_NPW)))[:, :-1]
    hidden_NPW = hidden_NPW + attended_NPW
    stepped_NPW: Tensor = hidden_NPW + block.ls_2(block.mlp(block.ln_2(hidden_NPW)))
    return stepped_NPW


def own_cosines(video_BD: Tensor, classes_BcD: Tensor) -> Tensor:
    """Cosines [B, c] of video embeddings with class features of each video's own."""
    # Not in half precision, as in `methods.contract.cosines`.
    with torch.autocast(video_BD.device.type, enabled=False):
        unit_BcD, unit_BD = (F.normalize(each.float(), dim=-1) for each in (classes_BcD, video_BD))
        return (unit_BcD @ unit_BD[..., None]).squeeze(-1)


def divided(tokens_BLD: Tensor) -> Tensor:
    """Heads of a projection, [B, heads, L, channels]."""
    heads_BhLX: Tensor = tokens_BLD.unflatten(-1, (-1, HEAD_CHANNELS)).transpose(1, 2)
    return heads_BhLX


def _initialise(module: nn.Module) -> None:
    # attn.in_proj_weight is no Linear and keeps torch's Xavier, as in the official code.
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
