"""MSTA's adapters: bottlenecks beside a text block and a video block, with one shared projection (Sec. 3.2).

Legend: B batch, T frames, N sequences of a batch (texts; frames, B * T; or clips of a video tower, B), P tokens of a
sequence, S places of a frame, W width of a tower, R bottleneck.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.msta.config import KERNEL, Config


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, forward: float, backward: float) -> Tensor:
        ctx.backward_factor = backward
        return value.view_as(value) if forward == 1 else value * forward

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.backward_factor, None, None


def scaled(value: Tensor, forward: float, backward: float) -> Tensor:
    """The value times `forward`, with a gradient times `backward`."""
    result: Tensor = _Scaled.apply(value, forward, backward)
    return result


class TemporalUp(nn.Module):
    """Convolution over the frames at each token's place.

    It equals the paper's 3D convolution of kernel (3, 1, 1), and is several times as fast on a CPU. `joint`: a sequence
    holds a clip, its class token first and then patch by patch, time running fastest (ViCLIP); otherwise a frame.
    """

    def __init__(self, config: Config, width: int, joint: bool = False) -> None:
        super().__init__()
        inputs = config.bottleneck if config.temporal_layout == "grouped" else width
        groups = inputs // config.inputs_per_output(width)
        self.conv = nn.Conv1d(inputs, width, KERNEL, padding=KERNEL // 2, groups=groups)
        self.skipped = 0 if config.temporal_cls else 1  # leading tokens without a temporal term
        self.joint = joint

    def forward(self, inner_NPR: Tensor, frames: int) -> Tensor:
        taken_NPR = inner_NPR[:, self.skipped :]
        if self.joint:
            inner_BSTR = taken_NPR.unflatten(1, (-1, frames))
        else:
            inner_BSTR = taken_NPR.unflatten(0, (-1, frames)).transpose(1, 2)
        mixed_MWT = self.conv(inner_BSTR.transpose(2, 3).flatten(0, 1))  # M = B * S
        mixed_BSTW = mixed_MWT.unflatten(0, inner_BSTR.shape[:2]).transpose(2, 3)
        mixed_NPW: Tensor = mixed_BSTW.flatten(1, 2) if self.joint else mixed_BSTW.transpose(1, 2).flatten(0, 1)
        return F.pad(mixed_NPW, (0, 0, self.skipped, 0)) if self.skipped else mixed_NPW


class VideoUp(nn.Module):
    """R -> W by a linear projection, a temporal one, or the sum of both."""

    def __init__(self, config: Config, width: int, joint: bool = False) -> None:
        super().__init__()
        self.config = config
        self.spatial = nn.Linear(config.bottleneck, width) if config.linear_up else None
        self.temporal = TemporalUp(config, width, joint) if config.up != "spatial" else None

    def forward(self, inner_NPR: Tensor, frames: int) -> Tensor:
        terms: list[Tensor] = [] if self.spatial is None else [self.spatial(inner_NPR)]
        if self.temporal is not None:
            below = inner_NPR if self.config.temporal_layout == "grouped" else terms[0]
            terms.append(self.temporal(below, frames))
        return terms[0] + terms[1] if self.config.up == "both" else terms[-1]


class Branch(nn.Module):
    """Adapter of one tower's block. The middle projection comes from the pair unless the branch has its own."""

    def __init__(self, config: Config, width: int, up: nn.Module) -> None:
        super().__init__()
        self.down = nn.Linear(width, config.bottleneck)
        self.middle = nn.Linear(config.bottleneck, config.bottleneck) if config.middle == "own" else None
        self.up = up

    def forward(self, hidden_NPW: Tensor, shared: nn.Linear | None, frames: int) -> Tensor:
        inner_NPR = F.relu(self.down(hidden_NPW))
        middle = self.middle if shared is None else shared
        if middle is not None:
            inner_NPR = F.relu(middle(inner_NPR))
        output_NPW: Tensor = self.up(inner_NPR, frames) if isinstance(self.up, VideoUp) else self.up(inner_NPR)
        return output_NPW


class AdapterPair(nn.Module):
    """Adapters of a text block and of its video block; `joint` as in `TemporalUp`."""

    def __init__(self, config: Config, text_width: int, video_width: int, joint: bool = False) -> None:
        super().__init__()
        inner = config.bottleneck
        self.shared = nn.Linear(inner, inner) if config.middle == "shared" else None
        self.text = Branch(config, text_width, nn.Linear(inner, text_width)) if config.texts_inside else None
        self.video = Branch(config, video_width, VideoUp(config, video_width, joint)) if config.adapts_video else None
        self.apply(_initialise)


def _initialise(module: nn.Module) -> None:
    """Kaiming's rule for all layers, up-projections included, so that training does not start at CLIP itself."""
    if isinstance(module, nn.Linear | nn.Conv1d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)


class AdaptedBlock:
    """A tower's block with an adapter beside it: block(z) + lambda * A(z).

    It is no module itself, so that weights keep their names and copies of the model share none.
    """

    def __init__(self, config: Config, block: Any, branch: Branch, shared: nn.Linear | None, frames: int) -> None:
        self.config, self.block, self.branch, self.shared, self.frames = config, block, branch, shared, frames

    def __call__(self, hidden_NPW: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        scale = self.config.scale
        learning, below = (1.0, scale) if self.config.unscaled_gradients else (scale, 1.0)
        taken_NPW = self.block.ln_1(hidden_NPW) if self.config.adapter_input == "ln1" else hidden_NPW
        added_NPW = self.branch(scaled(taken_NPW, 1.0, below), self.shared, self.frames)
        output_NPW: Tensor = self.block(hidden_NPW, attn_mask=attn_mask) + scaled(added_NPW, scale, learning)
        return output_NPW
