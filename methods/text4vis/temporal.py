"""Temporal modules of Text4Vis (arXiv 2207.01297): heads behind the tower (HEADS), and exchange inside it (INSIDE).

Heads: `none` and `transf` are Text4Vis' own. `transf_cls`, `conv1d` and `lstm` come from ActionCLIP (arXiv 2109.08472),
the code base that it grew out of, and keep its module names. That code makes a position table for every head; only
`transf` uses it, so the others have none. `shift` is the temporal shift that other methods have inside their tower,
here behind it. All but `transf_cls` end in a mean over the frames.

Inside the tower: `network.tm` and the joint space-time option of the official code. These modules walk through CLIP's
own blocks, whose weights keep their names. Shifts are zero beyond the ends of a clip.

Legend: B batch, T frames, N tokens or B * T frames of a batch, G patches of a frame, P tokens of a frame, W width of
the tower, D joint CLIP width, H attention heads, K width of an attention head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.models.backbones import Backbone
from methods.blocks import TemporalTransformer, class_tokens, encoded, through
from methods.contract import Features
from methods.costs import POSITIONS, refuse_frames_without_position, temporal_heads
from methods.text4vis.config import CLS_HEADS, CLS_INNER, KERNEL, Temporal

SHIFTED = 8  # an eighth of the channels comes from the next frame, an eighth from the one before
DROPOUT = 0.1  # of `transf_cls`, in training


class FrameHead(nn.Module):
    """Features of frames e [B, T, D], see `Prediction`; "z" [B, D] is the video embedding."""

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        """Features by name. Random choices of a training step come from `generator`."""
        raise NotImplementedError


def residual(frames_BTD: Tensor, temporal_BTD: Tensor) -> Features:
    """Features of z = mean over T of e + h(e)."""
    z_BD, t_BD = (frames_BTD + temporal_BTD).mean(dim=1), temporal_BTD.mean(dim=1)
    return {"z": z_BD, "t": t_BD, "t_frames": temporal_BTD}


class NoHead(FrameHead):
    """z = mean over T of e."""

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        return {"z": frames_BTD.mean(dim=1)}


class Transf(TemporalTransformer, FrameHead):
    """Temporal transformer as a head."""

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        temporal_BTD, branch_BTD = self.trace(frames_BTD)
        return {**residual(frames_BTD, temporal_BTD), "last_ffn_branch": branch_BTD.mean(dim=1)}


class Shift(FrameHead):
    """A frame takes an eighth of its channels from the next one and an eighth from the one before, zeros at the ends.

    No description of such a head is known; folds, direction and zeros are those of TSM (arXiv 1811.08383). The mean
    over frames hardly changes: in the shifted channels it lacks the first or the last frame.
    """

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        return {"z": shifted(frames_BTD, frames_BTD.shape[-1] // SHIFTED).mean(dim=1)}


def shifted(frames: Tensor, fold: int) -> Tensor:
    """Frames [B, T, ..., D] with `fold` channels from the next frame, `fold` from the one before, zeros at the ends."""
    moved = torch.zeros_like(frames)
    moved[:, :-1, ..., :fold] = frames[:, 1:, ..., :fold]
    second, rest = slice(fold, 2 * fold), slice(2 * fold, None)
    moved[:, 1:, ..., second] = frames[:, :-1, ..., second]
    moved[..., rest] = frames[..., rest]
    return moved


def shift_convolution(width: int, before: slice, own: slice, behind: slice) -> nn.Conv1d:
    """Depth-wise convolution over three frames; at first, channels read the frame before, their own or the next one."""
    convolution = nn.Conv1d(width, width, KERNEL, padding=1, groups=width, bias=False)
    with torch.no_grad():
        convolution.weight.zero_()
        for place, channels in enumerate((before, own, behind)):
            convolution.weight[channels, 0, place] = 1
    return convolution


class Conv1d(FrameHead):
    """A convolution over three frames, channel by channel, that starts as a shift of two quarters of the channels."""

    def __init__(self, width: int, axes: str) -> None:
        super().__init__()
        self.axes = axes
        quarter, rest = width // 4, width - width // 4
        self.shift = shift_convolution(width, slice(quarter), slice(quarter, rest), slice(rest, None))

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        # The official view is no transpose: neighbours in "time" are neighbouring channels of a frame.
        frames_BDT = frames_BTD.mT if self.axes == "transposed" else frames_BTD.reshape_as(frames_BTD.mT)
        return residual(frames_BTD, self.shift(frames_BDT).mT)


class Lstm(FrameHead):
    """One LSTM layer over the frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm_visual = nn.LSTM(width, width, batch_first=True)

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        # Cell by cell: the fused layer gives other bits on each device, and FLOP counters cannot see into it.
        weights = [getattr(self.lstm_visual, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        hidden_BD = memory_BD = torch.zeros_like(frames_BTD[:, 0])
        outputs = []
        for frame_BD in frames_BTD.unbind(dim=1):
            hidden_BD, memory_BD = torch.lstm_cell(frame_BD, (hidden_BD, memory_BD), *weights)
            outputs.append(hidden_BD)
        return residual(frames_BTD, torch.stack(outputs, dim=1))


class TransfCls(FrameHead):
    """A transformer over a class token and the frames, whose output at the class token is the video embedding.

    Post-norm layers with ReLU and a final norm; the input is not added. It has 77 positions, while ActionCLIP has as
    many as training has frames, so that a test may have another number.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, POSITIONS + 1, width))
        blocks = nn.ModuleList(PostNormBlock(width) for _ in range(layers))
        self.transformer_enc = nn.ModuleDict({"layers": blocks, "norm": nn.LayerNorm(width)})
        for weight in (self.cls_token, self.pos_embed):
            _truncated_normal(weight)
        self.apply(_initialise)

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        batch, frames, _ = frames_BTD.shape
        refuse_frames_without_position(frames)
        tokens_BND = torch.cat([self.cls_token.expand(batch, -1, -1), frames_BTD], dim=1)
        tokens_BND = tokens_BND + self.pos_embed[:, : frames + 1]
        drop = partial(dropped, generator=generator if self.training else None)
        for block in cast("Iterable[PostNormBlock]", self.transformer_enc["layers"]):
            tokens_BND = block(tokens_BND, drop)
        return {"z": self.transformer_enc["norm"](tokens_BND)[:, 0]}


class PostNormBlock(nn.TransformerEncoderLayer):
    """torch's encoder layer with dropout that draws from a generator of the caller's, in the attention as well."""

    def __init__(self, width: int) -> None:
        super().__init__(width, CLS_HEADS, CLS_INNER, batch_first=True)

    def forward(self, tokens_BND: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:  # type: ignore[override]
        tokens_BND = self.norm1(tokens_BND + drop(self._attention(tokens_BND, drop)))
        added_BND: Tensor = self.linear2(drop(self.linear1(tokens_BND).relu()))
        normed_BND: Tensor = self.norm2(tokens_BND + drop(added_BND))
        return normed_BND

    def _attention(self, tokens_BND: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        own = self.self_attn
        projected_BND = nn.functional.linear(tokens_BND, own.in_proj_weight, own.in_proj_bias)
        query_BHNK, key_BHNK, value_BHNK = (
            part_BND.unflatten(-1, (CLS_HEADS, -1)).transpose(1, 2) for part_BND in projected_BND.chunk(3, dim=-1)
        )
        weights_BHNN = (query_BHNK @ key_BHNK.mT * query_BHNK.shape[-1] ** -0.5).softmax(dim=-1)
        mixed_BND = (drop(weights_BHNN) @ value_BHNK).transpose(1, 2).flatten(2)
        output_BND: Tensor = own.out_proj(mixed_BND)
        return output_BND


def dropped(values: Tensor, generator: torch.Generator | None) -> Tensor:
    """Dropout, if there is a generator. Masks are drawn on the CPU, so that they are equal on all devices."""
    if generator is None:
        return values
    kept = torch.rand(values.shape, generator=generator) >= DROPOUT
    return values * kept.to(values.device) / (1 - DROPOUT)


def _initialise(module: nn.Module) -> None:
    # As in `TemporalTransformer`, self_attn.in_proj_weight is no Linear and keeps torch's Xavier.
    if isinstance(module, nn.Linear):
        _truncated_normal(module.weight)
        nn.init.zeros_(module.bias)


def _truncated_normal(weight: Tensor) -> None:
    nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04)


HEADS: dict[str, Callable[[Temporal, Backbone], FrameHead]] = {
    "none": lambda config, spec: NoHead(),
    "transf": lambda config, spec: Transf(spec.embed_dim, temporal_heads(spec), config.layers),
    "transf_cls": lambda config, spec: TransfCls(spec.embed_dim, config.layers),
    "conv1d": lambda config, spec: Conv1d(spec.embed_dim, config.conv_axes),
    "lstm": lambda config, spec: Lstm(spec.embed_dim),
    "shift": lambda config, spec: Shift(),
}


# --- Inside the tower -------------------------------------------------------------------------------------------------


class Inside(nn.Module):
    """Clips [B, T, 3, H, W] -> frame features [B, T, D], through the blocks of a visual tower."""

    twice = False  # True: frames see each other before the feed-forward network of a block as well

    def encode(self, visual: Any, clips_BT3HW: Tensor) -> Tensor:
        """Frame features, with `mix` before the attention of every block."""
        blocks, frames = visual.transformer.resblocks, clips_BT3HW.shape[1]
        steps = [partial(self._step, block, layer=layer, frames=frames) for layer, block in enumerate(blocks)]
        return encoded(visual, clips_BT3HW, steps)

    def _step(self, block: Any, hidden_NPW: Tensor, layer: int, frames: int) -> Tensor:
        """A residual block of CLIP with the stream mixed before its attention, or before both of its halves."""
        hidden_NPW = self.mix(hidden_NPW, layer, frames)
        hidden_NPW = hidden_NPW + block.ls_1(block.attention(block.ln_1(hidden_NPW)))
        if self.twice:
            hidden_NPW = self.mix(hidden_NPW, layer, frames)
        stepped_NPW: Tensor = hidden_NPW + block.ls_2(block.mlp(block.ln_2(hidden_NPW)))
        return stepped_NPW

    def mix(self, hidden_NPW: Tensor, layer: int, frames: int) -> Tensor:
        """Residual stream of a layer, mixed over the frames of each clip."""
        raise NotImplementedError


class PatchShift(Inside):
    """TSM before every block: patch tokens take an eighth of their channels from either neighbour in time.

    The residual stream itself is shifted, not a branch of it; the class token is not shifted.
    """

    def mix(self, hidden_NPW: Tensor, layer: int, frames: int) -> Tensor:
        patches_BTGW = hidden_NPW[:, 1:].unflatten(0, (-1, frames))
        moved_BTGW = shifted(patches_BTGW, hidden_NPW.shape[-1] // SHIFTED)
        return torch.cat([hidden_NPW[:, :1], moved_BTGW.flatten(0, 1)], dim=1)


class TokenShift(Inside):
    """Class tokens take a quarter of their channels from either neighbour in time, twice in every block."""

    fold_of, twice = 4, True

    def mix(self, hidden_NPW: Tensor, layer: int, frames: int) -> Tensor:
        tokens_BTW = self.mixed(layer, hidden_NPW[:, 0].unflatten(0, (-1, frames)))
        return torch.cat([tokens_BTW.flatten(0, 1)[:, None], hidden_NPW[:, 1:]], dim=1)

    def mixed(self, layer: int, tokens_BTW: Tensor) -> Tensor:
        """Class tokens of a clip, mixed over time."""
        return shifted(tokens_BTW, tokens_BTW.shape[-1] // self.fold_of)


class TokenConv(TokenShift):
    """A depth-wise convolution over three class tokens that starts as their shift; a block uses the same one twice."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        fold = width // self.fold_of
        channels = slice(fold, 2 * fold), slice(2 * fold, None), slice(fold)
        self.convs = nn.ModuleList(shift_convolution(width, *channels) for _ in range(layers))

    def mixed(self, layer: int, tokens_BTW: Tensor) -> Tensor:
        mixed_BTW: Tensor = self.convs[layer](tokens_BTW.mT).mT
        return mixed_BTW


class JointSpaceTime(Inside):
    """One class token attends to the patches of all frames, which have a learnt position in time.

    Its output is used for every frame. There are 77 positions, while the official code has as many as training has
    frames.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time_embedding = nn.Parameter(width**-0.5 * torch.randn(POSITIONS, width))

    def encode(self, visual: Any, clips_BT3HW: Tensor) -> Tensor:
        """Equal features for all frames; their mean is the clip's."""
        frames = clips_BT3HW.shape[1]
        refuse_frames_without_position(frames)
        hidden_BPW = visual.ln_pre(self._tokens(visual, clips_BT3HW.flatten(0, 1), frames))
        for block in visual.transformer.resblocks:
            hidden_BPW = through(visual, block, hidden_BPW)
        return class_tokens(visual, hidden_BPW)[:, None].expand(-1, frames, -1)

    def _tokens(self, visual: Any, frames_N3HW: Tensor, frames: int) -> Tensor:
        """Tokens [B, 1 + T * G, W] before the tower's first norm."""
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
