"""ST-Adapter's modules inside the visual tower (arXiv 2206.13559; official code).

Legend: B batch, T frames, N frames of a batch (B * T), P patches, K tokens of a frame (P + 1), W width of the tower, A
width of an adapter, D joint CLIP width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.clip import Clip
from methods import linear_head
from methods.blocks import class_tokens, through
from methods.linear_head import Head
from methods.st_adapter.config import Config


class Adapter(nn.Module):
    """A linear map down, a convolution over time by channel and a linear map up, added to the tokens of patches."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        inner, kernel = config.width, (config.kernel, 1, 1)
        self.fc1 = nn.Linear(width, inner)
        self.conv = nn.Conv3d(inner, inner, kernel, padding=(config.kernel // 2, 0, 0), groups=inner)
        self.fc2 = nn.Linear(inner, width)
        for weight in (self.conv if config.zero == "convolution" else self.fc2).parameters():
            nn.init.zeros_(weight)
        for layer in (self.fc1, self.fc2):
            nn.init.zeros_(layer.bias)

    def forward(self, hidden_NKW: Tensor, frames: int) -> Tensor:
        """Tokens of clips of so many frames; the class token stays as it is."""
        class_N1W, patches_NPW = hidden_NKW[:, :1], hidden_NKW[:, 1:]
        down_BTPA = self.fc1(patches_NPW).unflatten(0, (-1, frames))
        # Frames beyond the ends are zeros behind the first layer, not what it makes of zeros.
        mixed_BATP1 = self.conv(down_BTPA.permute(0, 3, 1, 2)[..., None])
        mixed_NPA = mixed_BATP1[..., 0].permute(0, 2, 3, 1).flatten(0, 1)
        return torch.cat([class_N1W, patches_NPW + self.fc2(mixed_NPA)], dim=1)


class Model(linear_head.Model):
    """CLIP with adapters on the residual stream of its visual tower."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        width, places = clip.spec.vision_width, config.inside(clip.spec.vision_layers)
        super().__init__(
            config, clip, Head(nn.ModuleDict({place: Adapter(width, config) for place in own}) for own in places)
        )

    def unused_parameters(self) -> set[str]:
        """Those of the adapter before the last feed-forward network: behind it only the class token is read."""
        dead = f"head.blocks.{len(self.head.blocks) - 1}.pre_mlp."
        return {name for name, _ in self.named_parameters() if name.startswith(dead)}

    def encode(self, clips_BT3HW: Tensor) -> Tensor:
        """Frame features [B, T, D]; for the linear head the normed mean [B, 1, W] of the frames' class tokens."""
        visual, sizes = self.clip.visual, clips_BT3HW.shape[:2]
        hidden_NKW = visual._embeds(clips_BT3HW.flatten(0, 1))
        for block in self.blocks(sizes[1]):
            hidden_NKW = through(visual, block, hidden_NKW)
        if self.config.head == "linear":
            mean_B1W = hidden_NKW[:, 0].unflatten(0, sizes).mean(dim=1, keepdim=True)
            normed_B1W: Tensor = visual.ln_post(mean_B1W)
            return normed_B1W
        frames_BTD: Tensor = class_tokens(visual, hidden_NKW).unflatten(0, sizes)
        return frames_BTD

    def blocks(self, frames: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """Blocks of the tower with their adapters, for clips of so many frames."""
        for block, adapters in zip(self.clip.visual.transformer.resblocks, self.head.blocks, strict=True):
            yield partial(_adapted, block, adapters, frames)

    def last_layers(self) -> Iterator[nn.Linear]:
        return (module.fc2 for module in self.head.modules() if isinstance(module, Adapter))


def _adapted(block: Any, adapters: Any, frames: int, hidden_NKW: Tensor) -> Tensor:
    """A block with adapters in front of its halves."""
    if "pre_attn" in adapters:
        hidden_NKW = adapters["pre_attn"](hidden_NKW, frames)
    hidden_NKW = hidden_NKW + block.ls_1(block.attention(block.ln_1(hidden_NKW)))
    if "pre_mlp" in adapters:
        hidden_NKW = adapters["pre_mlp"](hidden_NKW, frames)
    output_NKW: Tensor = hidden_NKW + block.ls_2(block.mlp(block.ln_2(hidden_NKW)))
    return output_NKW
