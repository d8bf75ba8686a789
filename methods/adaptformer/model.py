"""AdaptFormer's modules inside the visual tower (arXiv 2205.13535).

Legend: B batch, T frames, N frames of a batch (B * T), K tokens of a frame, W width of the tower, A width of an
adapter, D joint CLIP width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import sqrt
from typing import Any, cast

from torch import Tensor, nn

from bench.models.clip import Clip
from methods import linear_head
from methods.adaptformer.config import Config
from methods.blocks import class_tokens, through
from methods.linear_head import Head, dropout_factors


class Adapter(nn.Module):
    """scale * up(ReLU(down(x))), which starts at zero."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.scale = config.scale
        self.down_proj = nn.Linear(width, config.width)
        self.up_proj = nn.Linear(config.width, width)
        nn.init.kaiming_uniform_(self.down_proj.weight, a=sqrt(5))
        for parameter in (self.down_proj.bias, *self.up_proj.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, tokens_NKW: Tensor, factors_NKA: Tensor | None) -> Tensor:
        """What is added to tokens; dropout multiplies the bottleneck by its factors."""
        inner_NKA = self.down_proj(tokens_NKW).relu()
        output_NKW: Tensor = self.up_proj(inner_NKA if factors_NKA is None else inner_NKA * factors_NKA)
        return self.scale * output_NKW


class Model(linear_head.Model):
    """CLIP with adapters beside the feed-forward networks of its visual tower."""

    config: Config
    std = 0.01

    def __init__(self, config: Config, clip: Clip) -> None:
        adapters = (Adapter(clip.spec.vision_width, config) for _ in range(clip.spec.vision_layers))
        super().__init__(config, clip, Head(adapters))

    def encode(self, clips_BT3HW: Tensor) -> Tensor:
        """Frame features [B, T, D]; for the linear head normed class tokens [B, T, W]."""
        visual, config, generator = self.clip.visual, self.config, self.generator if self.training else None
        hidden_NKW = visual._embeds(clips_BT3HW.flatten(0, 1))
        shape = *hidden_NKW.shape[:2], config.width
        for block, adapter in zip(visual.transformer.resblocks, self.head.blocks, strict=True):
            # Drawn here, since a block may be computed again.
            factors_NKA = dropout_factors(shape, config.inner_dropout, generator, hidden_NKW.device)
            step = partial(_adapted, block=block, adapter=adapter, factors_NKA=factors_NKA, form=config.form)
            hidden_NKW = through(visual, step, hidden_NKW)
        read_NW = visual._pool(hidden_NKW)[0] if config.head == "linear" else class_tokens(visual, hidden_NKW)
        read_BTW: Tensor = read_NW.unflatten(0, clips_BT3HW.shape[:2])
        return read_BTW

    def last_layers(self) -> Iterator[nn.Linear]:
        return (cast("Adapter", adapter).up_proj for adapter in self.head.blocks)


def _adapted(hidden_NKW: Tensor, block: Any, adapter: Any, factors_NKA: Tensor | None, form: str) -> Tensor:
    """A block with an adapter beside its feed-forward network, or behind it."""
    hidden_NKW = hidden_NKW + block.ls_1(block.attention(block.ln_1(hidden_NKW)))
    added_NKW = block.ls_2(block.mlp(block.ln_2(hidden_NKW)))
    taken_NKW = hidden_NKW if form == "parallel" else added_NKW
    output_NKW: Tensor = hidden_NKW + added_NKW + adapter(taken_NKW, factors_NKA)
    return output_NKW
