"""Vita-CLIP's towers (arXiv 2304.03307): CLIP's own, frozen, with learnt tokens in every block and around class names.

A frame's sequence is its class token, the local tokens of all frames of its clip, the global ones, its patches, and its
summary token. Only the class token and the patches go on to the next block.

Legend: B batch, T frames, N frames of a batch (B * T), P tokens of a frame, S those with learnt ones among them, G
global tokens, L layers, W width of the tower, H attention heads, K width of an attention head, D joint CLIP width, C
classes, M vectors of a context.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.clip import Clip
from methods.blocks import class_tokens, through
from methods.clip_mean import model as clip_mean
from methods.text4vis.classifiers import Context
from methods.vita_clip.config import Config


class Attention(nn.Module):
    """Projections of self-attention over the frames of a clip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        for each in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(each.weight)
            nn.init.zeros_(each.bias)


class BlockTokens(nn.Module):
    """What a visual block has of its own: local tokens, and what summary tokens are made with."""

    def __init__(self, config: Config, width: int, bound: float) -> None:
        super().__init__()
        if config.projects:
            self.cls_proj = nn.Linear(width, width).requires_grad_(config.train_cls_proj)
        if "local" in config.prompts:
            self.local_prompts = nn.Parameter(torch.empty(1, config.frames, width).uniform_(-bound, bound))
        if "summary" in config.prompts:
            self.summary_ln = nn.LayerNorm(width)
            self.summary_attn_layer = Attention(width)


class Tokens(nn.Module):
    """Everything that is learnt but the logit scale, and the bias of patches that an official checkpoint may have."""

    patch_bias: Tensor

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__()
        width, layers = clip.spec.vision_width, clip.spec.vision_layers
        bound = (6 / (3 * clip.spec.patch_size**2 + width)) ** 0.5
        self.time_embed = nn.Parameter(0.02 * torch.randn(config.frames, width))
        if "global" in config.prompts:
            start_LGW = torch.empty(layers, config.global_tokens, width).uniform_(-bound, bound)
            self.global_prompts = nn.Parameter(start_LGW)
        self.blocks = nn.ModuleList(BlockTokens(config, width, bound) for _ in range(layers))
        self.register_buffer("patch_bias", torch.zeros(width))
        self.context: Context | None = Context(config.learnt, clip) if config.context == "generic" else None


class Model(clip_mean.Model):
    """CLIP between learnt tokens; a video is the mean of its frames' embeddings."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.head = Tokens(config, clip)
        # The projection may stay at its random start, without which the other tokens are worth nothing.
        self.carried = frozenset(name for name in self.state_dict() if ".cls_proj." in name)

    def bind_classes(self, classes: int) -> None:
        if self.config.context == "class":
            self.head.context = Context(self.config.learnt, self.clip, classes)

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Unit class features [C, D], with prompts as class names in the learnt context."""
        if self.config.context == "none":
            return super().embed_classes(prompts)
        if self.head.context is None:
            raise ValueError("context: class was not bound to classes before texts are embedded")
        return self.head.context.embed_classes(self.clip, prompts)

    # --- visual tower -------------------------------------------------------------------------------------------------

    def encode(self, clips_BT3HW: Tensor) -> Tensor:
        """Frame features [B, T, D]."""
        visual, sizes = self.clip.visual, clips_BT3HW.shape[:2]
        hidden_NPW = self._stem(visual, clips_BT3HW)
        for layer, block in enumerate(visual.transformer.resblocks):
            step = partial(self.step, block=block, layer=layer, frames=sizes[1])
            hidden_NPW = through(visual, step, hidden_NPW)
        frames_BTD: Tensor = class_tokens(visual, hidden_NPW).unflatten(0, sizes)
        return frames_BTD

    def _stem(self, visual: Any, clips_BT3HW: Tensor) -> Tensor:
        """Tokens [N, P, W] with places and times, as the first block reads them."""
        patches_NPW = visual.conv1(clips_BT3HW.flatten(0, 1)).flatten(2).mT + self.head.patch_bias
        class_N1W = visual.class_embedding.to(patches_NPW.dtype).expand(len(patches_NPW), 1, -1)
        tokens_NPW = torch.cat([class_N1W, patches_NPW], dim=1) + visual.positional_embedding
        times_T1W = self.head.time_embed[: clips_BT3HW.shape[1], None]
        normed_NPW: Tensor = visual.ln_pre((tokens_NPW.unflatten(0, clips_BT3HW.shape[:2]) + times_T1W).flatten(0, 1))
        return normed_NPW

    def step(self, hidden_NPW: Tensor, block: Any, layer: int, frames: int) -> Tensor:
        """Class tokens and patches behind a block of CLIP that attends to the learnt tokens as well."""
        whole_NSW = self.extended(hidden_NPW, layer, frames)
        whole_NSW = whole_NSW + block.ls_1(block.attention(block.ln_1(whole_NSW)))
        last = whole_NSW.shape[1] - ("summary" in self.config.prompts)
        patches_NPW = whole_NSW[:, last - hidden_NPW.shape[1] + 1 : last]
        kept_NPW = torch.cat([whole_NSW[:, :1], patches_NPW], dim=1)
        stepped_NPW: Tensor = kept_NPW + block.ls_2(block.mlp(block.ln_2(kept_NPW)))
        return stepped_NPW

    def extended(self, hidden_NPW: Tensor, layer: int, frames: int) -> Tensor:
        """Class tokens and patches with the learnt tokens of a layer among them."""
        own: Any = self.head.blocks[layer]
        parts_NSW, class_BTW = [hidden_NPW[:, :1]], hidden_NPW[:, 0].unflatten(0, (-1, frames))
        if self.config.projects:
            class_BTW = linear(own.cls_proj, class_BTW)
        if "local" in self.config.prompts:
            local_BTW = own.local_prompts[:, :frames] + class_BTW
            parts_NSW.append(local_BTW.repeat_interleave(frames, dim=0))
        if "global" in self.config.prompts:
            parts_NSW.append(self.head.global_prompts[layer].expand(len(hidden_NPW), -1, -1))
        parts_NSW.append(hidden_NPW[:, 1:])
        if "summary" in self.config.prompts:
            heads = self.clip.spec.vision_heads
            summary_BTW = class_BTW + attended(own.summary_attn_layer, own.summary_ln(class_BTW), heads)
            parts_NSW.append(summary_BTW.flatten(0, 1)[:, None])
        return torch.cat(parts_NSW, dim=1)


# These call no modules, so that the FLOPs of all tokens count as the tower's: the rest of them arises in CLIP's blocks.


def linear(layer: Any, tokens_BTW: Tensor) -> Tensor:
    """The output of a linear layer."""
    return F.linear(tokens_BTW, layer.weight, layer.bias)


def attended(own: Attention, tokens_BTW: Tensor, heads: int) -> Tensor:
    """Self-attention over the frames."""
    query_BHTK, key_BHTK, value_BHTK = (
        linear(layer, tokens_BTW).unflatten(-1, (heads, -1)).transpose(1, 2)
        for layer in (own.q_proj, own.k_proj, own.v_proj)
    )
    mixed_BHTK = F.scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTK)
    return linear(own.out_proj, mixed_BHTK.transpose(1, 2).flatten(2))
