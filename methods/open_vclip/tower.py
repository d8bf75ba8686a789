"""Open-VCLIP's visual tower (arXiv 2302.00624), in which the tokens of a frame attend to those of its neighbours too.

Legend: B batch, T frames, N frames of a batch (B * T), P tokens of a frame, K tokens of all frames in a window, H
attention heads, W width of a tower, D joint CLIP width, C classes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.blocks import class_tokens, through
from methods.contract import Prediction, Predictor, cosines
from methods.open_vclip.config import Window


class WindowTower(nn.Module):
    """Clips [B, T, 3, H, W] -> frame features [B, T, D], by the weights of a visual tower of CLIP.

    It is made where it is used and is part of no model, so that CLIP's weights have one name each. `recompute` is False
    where `checkpointing` of the recipe computes the whole pass again, and not each of its blocks.
    """

    def __init__(self, visual: Any, config: Window, recompute: bool = True) -> None:
        super().__init__()
        self.visual, self.config, self.recompute = visual, config, recompute

    def forward(self, clips_BT3HW: Tensor) -> Tensor:
        visual, sizes = self.visual, clips_BT3HW.shape[:2]
        hidden_NPW = visual._embeds(clips_BT3HW.flatten(0, 1))
        for block in visual.transformer.resblocks:
            step = partial(self.step, block=block, frames=sizes[1])
            hidden_NPW = through(visual, step, hidden_NPW) if self.recompute else step(hidden_NPW)
        frames_BTD: Tensor = class_tokens(visual, hidden_NPW).unflatten(0, sizes)
        return frames_BTD

    def step(self, hidden_NPW: Tensor, block: Any, frames: int) -> Tensor:
        """Residual stream of clips of so many frames behind a block of CLIP."""
        if self.config.window == 1:
            plain_NPW: Tensor = block(hidden_NPW)
            return plain_NPW
        own, radius = block.attn, self.config.window // 2
        projected_BTPW = F.linear(block.ln_1(hidden_NPW), own.in_proj_weight, own.in_proj_bias).unflatten(
            0, (-1, frames)
        )
        query_BTPW, key_BTPW, value_BTPW = projected_BTPW.chunk(3, dim=-1)
        key_BTKW, value_BTKW = (neighbours(each_BTPW, radius) for each_BTPW in (key_BTPW, value_BTPW))
        query_NHPX, key_NHKX, value_NHKX = (
            each.flatten(0, 1).unflatten(-1, (own.num_heads, -1)).transpose(1, 2)
            for each in (query_BTPW, key_BTKW, value_BTKW)
        )
        seen_N11K = None
        if self.config.ends == "masked":
            seen_1TK1 = neighbours(torch.ones_like(projected_BTPW[:1, :, :, :1]), radius) > 0
            seen_N11K = seen_1TK1.mT.repeat(len(projected_BTPW), 1, 1, 1).flatten(0, 1)[:, None]
        mixed_NHPX = F.scaled_dot_product_attention(query_NHPX, key_NHKX, value_NHKX, attn_mask=seen_N11K)
        hidden_NPW = hidden_NPW + block.ls_1(own.out_proj(mixed_NHPX.transpose(1, 2).flatten(2)))
        stepped_NPW: Tensor = hidden_NPW + block.ls_2(block.mlp(block.ln_2(hidden_NPW)))
        return stepped_NPW


def neighbours(tokens_BTPW: Tensor, radius: int) -> Tensor:
    """Tokens [B, T, K, W] of the frames t - radius to t + radius of a clip, zeros where it has no such frame."""
    frames = tokens_BTPW.shape[1]
    padded = F.pad(tokens_BTPW, (0, 0, 0, 0, radius, radius))
    return torch.cat([padded[:, first : first + frames] for first in range(2 * radius + 1)], dim=2)


# --- what is read from the frames -------------------------------------------------------------------------------------


def pooled(frames_BTD: Tensor, config: Window) -> Tensor:
    """Video embeddings [B, D]; means of unit features have lengths up to 1, which count in scores."""
    with torch.autocast(frames_BTD.device.type, enabled=False):
        frames_BTD = frames_BTD.float()
        return (frames_BTD if config.pool == "frames" else F.normalize(frames_BTD, dim=-1)).mean(dim=1)


def similarities(video_BD: Tensor, classes_CD: Tensor, config: Window) -> Tensor:
    """Unscaled scores [B, C] with unit class features: the mean over the frames of their cosines, or a cosine."""
    if config.pool == "frames":
        return cosines(video_BD, classes_CD)
    with torch.autocast(video_BD.device.type, enabled=False):
        return video_BD.float() @ classes_CD.float().T


class FramesPredictor(Predictor):
    """z = mean over T of the frame features, as the config pools them."""

    def __init__(self, config: Window, logit_scale: float) -> None:
        super().__init__()
        self.config, self.logit_scale = config, logit_scale
        self.eval()

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        video_BD = pooled(frames_BTD, self.config)
        scores_BC = similarities(video_BD, classes_CD, self.config)
        return Prediction(scores_BC, video_BD.norm(dim=-1), {"z": video_BD})
