"""Frames that see each other inside the visual tower: `network.tm` and the joint space-time option of Text4Vis' code.

They walk through CLIP's own blocks, whose weights keep their names. Shifts are zero beyond the ends of a clip.

Legend: B batch, T frames, N = B * T frames of a batch, G patches of a frame, P tokens, W width of the tower, D joint
CLIP width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.models.backbones import Backbone
from methods.temporal_costs import POSITIONS, within_positions
from methods.text4vis.costs import KERNEL
from methods.text4vis.heads import shifted

Moved = Callable[[Tensor], Tensor]  # (hidden [N, P, W]) -> hidden


class Inside(nn.Module):
    """Clips [B, T, 3, H, W] -> frame features [B, T, D], through the blocks of a visual tower."""

    def encode(self, visual: Any, clips_BT3HW: Tensor) -> Tensor:
        """Here, every block sees its frames after `before_attention` and its networks after `before_network`."""
        batch, frames = clips_BT3HW.shape[:2]
        hidden_NPW = visual._embeds(clips_BT3HW.flatten(0, 1))
        for layer, block in enumerate(visual.transformer.resblocks):
            step = partial(_step, block, *self.moves(layer, frames))
            hidden_NPW = through(visual, step, hidden_NPW)
        return pooled(visual, hidden_NPW).reshape(batch, frames, -1)

    def moves(self, layer: int, frames: int) -> tuple[Moved, Moved]:
        """What is done to the residual stream of a block before its attention, and before its feed-forward network."""
        raise NotImplementedError


def _step(block: Any, first: Moved, second: Moved, hidden_NPW: Tensor) -> Tensor:
    """A residual block of CLIP with a move of the stream before each of its halves."""
    hidden_NPW = first(hidden_NPW)
    hidden_NPW = hidden_NPW + block.ls_1(block.attention(block.ln_1(hidden_NPW)))
    hidden_NPW = second(hidden_NPW)
    stepped_NPW: Tensor = hidden_NPW + block.ls_2(block.mlp(block.ln_2(hidden_NPW)))
    return stepped_NPW


def through(visual: Any, step: Moved, hidden_NPW: Tensor) -> Tensor:
    """One block, computed again in the backward pass if the recipe asks for it."""
    if visual.transformer.grad_checkpointing and torch.is_grad_enabled():
        again_NPW: Tensor = checkpoint(step, hidden_NPW, use_reentrant=False)
        return again_NPW
    return step(hidden_NPW)


def pooled(visual: Any, hidden_NPW: Tensor) -> Tensor:
    """Embeddings [N, D] of the class tokens."""
    embeddings_ND: Tensor = visual._pool(hidden_NPW)[0] @ visual.proj
    return embeddings_ND


def _unmoved(hidden_NPW: Tensor) -> Tensor:
    return hidden_NPW


class PatchShift(Inside):
    """TSM before every block: patch tokens take an eighth of their channels from either neighbour in time.

    The residual stream itself is shifted and not a branch of it; the class token is left alone.
    """

    fold_of = 8

    def moves(self, layer: int, frames: int) -> tuple[Moved, Moved]:
        return partial(self._move, frames=frames), _unmoved

    def _move(self, hidden_NPW: Tensor, frames: int) -> Tensor:
        patches_BTGW = hidden_NPW[:, 1:].unflatten(0, (-1, frames))
        moved_BTGW = shifted(patches_BTGW, hidden_NPW.shape[-1] // self.fold_of)
        return torch.cat([hidden_NPW[:, :1], moved_BTGW.flatten(0, 1)], dim=1)


class TokenShift(Inside):
    """Class tokens take a quarter of their channels from either neighbour in time, twice in every block."""

    fold_of = 4

    def moves(self, layer: int, frames: int) -> tuple[Moved, Moved]:
        move = partial(self._move, layer=layer, frames=frames)
        return move, move

    def _move(self, hidden_NPW: Tensor, layer: int, frames: int) -> Tensor:
        tokens_BTW = self.mixed(layer, hidden_NPW[:, 0].unflatten(0, (-1, frames)))
        return torch.cat([tokens_BTW.flatten(0, 1)[:, None], hidden_NPW[:, 1:]], dim=1)

    def mixed(self, layer: int, tokens_BTW: Tensor) -> Tensor:
        """The class tokens of a clip, mixed over time."""
        return shifted(tokens_BTW, tokens_BTW.shape[-1] // self.fold_of)


class TokenConv(TokenShift):
    """A depth-wise convolution over three class tokens that starts as their shift; a block uses the same one twice."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, KERNEL, padding=1, groups=width, bias=False) for _ in range(layers)
        )
        fold = width // self.fold_of
        with torch.no_grad():
            for weight_W1K in self.convs.parameters():
                weight_W1K.zero_()
                weight_W1K[:fold, 0, 2] = weight_W1K[fold : 2 * fold, 0, 0] = weight_W1K[2 * fold :, 0, 1] = 1

    def mixed(self, layer: int, tokens_BTW: Tensor) -> Tensor:
        mixed_BTW: Tensor = self.convs[layer](tokens_BTW.mT).mT
        return mixed_BTW


class JointSpaceTime(Inside):
    """One class token attends to the patches of all frames, which have a learnt place in time.

    Its output stands for every frame. Places are for 77 frames, not, as in the official code, for those of training.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time_embedding = nn.Parameter(width**-0.5 * torch.randn(POSITIONS, width))

    def encode(self, visual: Any, clips_BT3HW: Tensor) -> Tensor:
        """Frame features that are all alike: their mean is the clip's."""
        frames = clips_BT3HW.shape[1]
        within_positions(frames)
        hidden_BPW = visual.ln_pre(self._tokens(visual, clips_BT3HW.flatten(0, 1), frames))
        for block in visual.transformer.resblocks:
            hidden_BPW = through(visual, block, hidden_BPW)
        return pooled(visual, hidden_BPW)[:, None].expand(-1, frames, -1)

    def _tokens(self, visual: Any, frames_N3HW: Tensor, frames: int) -> Tensor:
        """[B, 1 + T * G, W], before the tower's first norm."""
        patches_NGW = visual.conv1(frames_N3HW).flatten(2).mT
        places_PW = visual.positional_embedding
        token_W = visual.class_embedding + places_PW[0]
        patches_BTGW = (patches_NGW + places_PW[1:]).unflatten(0, (-1, frames)) + self.time_embedding[:frames, None]
        return torch.cat([token_W.expand(len(patches_BTGW), 1, -1), patches_BTGW.flatten(1, 2)], dim=1)


INSIDE: dict[str, Callable[[Backbone], Inside | None]] = {
    "none": lambda spec: None,
    "tsm": lambda spec: PatchShift(),
    "tokenshift": lambda spec: TokenShift(),
    "tokent1d": lambda spec: TokenConv(spec.vision_width, spec.vision_layers),
    "joint_st": lambda spec: JointSpaceTime(spec.vision_width),
}
