"""AIM's tower (arXiv 2302.03024; official code): frozen blocks of CLIP, run over time as well, with adapters.

A linear head takes the mean over the frames of their normed class tokens; class texts are compared with these tokens in
CLIP's joint space.

Legend: B videos, T frames, N frames of a batch (B * T), P tokens of a frame, M sequences over time (B * P), W width of
the tower, D joint CLIP width.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.clip import Clip
from methods import linear_head
from methods.aim.config import Config
from methods.blocks import through


class Adapter(nn.Module):
    """Linear, GELU, linear, on the last axis; its output is zero at the start."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.D_fc1, self.D_fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.trunc_normal_(self.D_fc1.weight, std=0.02)
        for zero in (self.D_fc1.bias, self.D_fc2.weight, self.D_fc2.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden_NPW: Tensor) -> Tensor:
        output_NPW: Tensor = self.D_fc2(F.gelu(self.D_fc1(hidden_NPW)))
        return output_NPW


class Kept(NamedTuple):
    """Factors of a block's temporal and joint terms in a step, [1, P, 1] or [N, 1, 1]; none: 1."""

    temporal: Tensor | None = None
    joint: Tensor | None = None


class Adapters(nn.ModuleDict):
    """A block of CLIP with adapters. It is handed in, so that its weights keep their names."""

    def __init__(self, config: Config, width: int, inner: int) -> None:
        super().__init__({name: Adapter(width, inner) for name in config.adapters})
        self.scale = config.scale

    def forward(self, hidden_NPW: Tensor, block: Any, frames: int, kept: Kept) -> Tensor:
        if "T_Adapter" in self:
            hidden_NPW = hidden_NPW + _times(kept.temporal, self._over_time(hidden_NPW, block, frames))
        seen_NPW = block.attention(q_x=block.ln_1(hidden_NPW))
        if "S_Adapter" in self:
            seen_NPW = seen_NPW + self["S_Adapter"](seen_NPW)
        hidden_NPW = hidden_NPW + block.ls_1(seen_NPW)
        normed_NPW = block.ln_2(hidden_NPW)
        hidden_NPW = hidden_NPW + block.ls_2(block.mlp(normed_NPW))
        if "MLP_Adapter" in self:
            hidden_NPW = hidden_NPW + _times(kept.joint, self.scale * self["MLP_Adapter"](normed_NPW))
        return hidden_NPW

    def _over_time(self, hidden_NPW: Tensor, block: Any, frames: int) -> Tensor:
        """Adapted attention of the tokens at each place of the frame to those of the clip's other frames."""
        tokens_MTW = block.ln_1(hidden_NPW).unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)
        if "T_Adapter_in" in self:
            tokens_MTW = tokens_MTW + self["T_Adapter_in"](tokens_MTW)
        places = hidden_NPW.shape[1]
        adapted_MTW = self["T_Adapter"](attended(block.attn, tokens_MTW))
        adapted_NPW: Tensor = adapted_MTW.unflatten(0, (-1, places)).transpose(1, 2).flatten(0, 1)
        return adapted_NPW


def attended(attention: nn.MultiheadAttention, tokens_MTW: Tensor) -> Tensor:
    """Self-attention by the weights of another one, whose own FLOPs are counted apart from these."""
    projected_MTX = F.linear(tokens_MTW, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (
        each_MTW.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for each_MTW in projected_MTX.chunk(3, dim=-1)
    )
    mixed_MTW = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return F.linear(mixed_MTW, attention.out_proj.weight, attention.out_proj.bias)


def _times(kept: Tensor | None, term_NPW: Tensor) -> Tensor:
    return term_NPW if kept is None else term_NPW * kept.to(term_NPW)  # in its precision


class Head(linear_head.Head):
    """Adapters of all blocks, a vector [W] for each frame, the final norm that trains, and the layer over classes."""

    def __init__(self, config: Config, clip: Clip) -> None:
        width, inner = clip.spec.vision_width, config.inner(clip.spec)
        super().__init__(Adapters(config, width, inner) for _ in range(clip.spec.vision_layers))
        self.temporal_embedding = nn.Parameter(torch.zeros(1, config.frames, width)) if config.frames else None
        self.ln_post = deepcopy(clip.visual.ln_post).requires_grad_(True)


class Model(linear_head.Model):
    """Cross-entropy of either head."""

    config: Config
    head: Head
    std = 0.01

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip, Head(config, clip))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """With a linear head, all but it has the tower's rate: official programs give it another with ViT-L/14."""
        groups, layer = super().parameter_groups(), self.head.fc
        if layer is None:
            return groups
        own = {id(parameter) for parameter in layer.parameters()}
        return {
            "tower": [parameter for parameter in groups["head"] if id(parameter) not in own],
            "head": list(layer.parameters()),
        }

    def unused_parameters(self) -> set[str]:
        """The last joint adapter: of that block only the class token is read, and its term may be dropped."""
        last = f"head.blocks.{len(self.head.blocks) - 1}.MLP_Adapter."
        return {name for name, _ in self.named_parameters() if self.config.drop_path and name.startswith(last)}

    def encode(self, clips_BT3HW: Tensor) -> Tensor:
        """Normed class tokens of the frames: [B, T, W] for a linear head, else projected to [B, T, D]."""
        visual, sizes = self.clip.visual, clips_BT3HW.shape[:2]
        hidden_NPW = self._embedded(clips_BT3HW)
        last = len(self.head.blocks) - 1
        for place, (own, block) in enumerate(zip(self.head.blocks, visual.transformer.resblocks, strict=True)):
            kept = self._kept(self.config.drop_path * place / last if last else 0.0, hidden_NPW.shape[1], sizes)
            hidden_NPW = through(visual, partial(own, block=block, frames=sizes[1], kept=kept), hidden_NPW)
        tokens_NW = self.head.ln_post(hidden_NPW[:, 0])
        read_NX = tokens_NW if self.config.head == "linear" else tokens_NW @ visual.proj
        frames_BTX: Tensor = read_NX.unflatten(0, sizes)
        return frames_BTX

    def _embedded(self, clips_BT3HW: Tensor) -> Tensor:
        """Tokens [N, P, W] in front of the first block; the vector of a frame passes the tower's first norm."""
        visual, pixels_N3HW = self.clip.visual, clips_BT3HW.flatten(0, 1)
        if self.head.temporal_embedding is None:
            hidden_NPW: Tensor = visual._embeds(pixels_N3HW)
            return hidden_NPW
        patches_NPW = visual.conv1(pixels_N3HW).flatten(2).mT
        class_N1W = visual.class_embedding.to(patches_NPW.dtype).expand(len(patches_NPW), 1, -1)
        tokens_NPW = torch.cat([class_N1W, patches_NPW], dim=1) + visual.positional_embedding.to(patches_NPW.dtype)
        times_1TW = self.head.temporal_embedding[:, : clips_BT3HW.shape[1]].to(patches_NPW.dtype)
        hidden_NPW = visual.ln_pre(
            (tokens_NPW.unflatten(0, clips_BT3HW.shape[:2]) + times_1TW[:, :, None]).flatten(0, 1)
        )
        return hidden_NPW

    def _kept(self, rate: float, places: int, sizes: torch.Size) -> Kept:
        """Draws of a block in training, the temporal term's first."""
        if not self.training or not rate:
            return Kept()
        if self.generator is None:
            raise ValueError("stochastic depth is drawn in a training step; allowed: inside Model.draws_from")
        return Kept(*(self.draw_kept(rate, places, sizes) for _ in Kept._fields))

    def draw_kept(self, rate: float, places: int, sizes: torch.Size) -> Tensor:
        """0 with the probability `rate`, else 1 / (1 - rate): [1, P, 1] or [N, 1, 1]."""
        videos, frames = sizes
        count = places if self.config.drop_unit == "token" else videos
        kept = (torch.rand(count, generator=self.generator) >= rate) / (1 - rate)
        return (
            kept[None, :, None] if self.config.drop_unit == "token" else kept.repeat_interleave(frames)[:, None, None]
        )

    def last_layers(self) -> Iterable[nn.Linear]:
        return [module.D_fc2 for module in self.head.modules() if isinstance(module, Adapter)]

    @torch.no_grad()
    def interpolate(self, pretrained: Clip, alpha: float) -> None:
        """In place: vectors of frames and final norm go the same way as what adapters add."""
        super().interpolate(pretrained, alpha)
        if self.head.temporal_embedding is not None:
            self.head.temporal_embedding.mul_(alpha)
        for own, start in zip(self.head.ln_post.parameters(), pretrained.visual.ln_post.parameters(), strict=True):
            own.copy_(alpha * own + (1 - alpha) * start)
