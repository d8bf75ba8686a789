"""What stands between frame features and scores, by name in HEADS. All but `transf_cls` end in a mean over the frames.

`none` and `transf` are Text4Vis' own (arXiv 2207.01297). `transf_cls`, `conv1d` and `lstm` are those of the code base
that it grew out of, ActionCLIP (arXiv 2109.08472), and modules have the names that they have there. That code makes a
position table for every head, which none but `transf` uses: it is left out. `shift` is the temporal shift that other
methods have inside their tower, behind it.

Legend: B batch, T frames, N tokens, D joint CLIP width, H attention heads, K width of an attention head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from bench.models.backbones import Backbone
from methods.blocks import TemporalTransformer
from methods.temporal_costs import POSITIONS, temporal_heads, within_positions
from methods.text4vis.config import Config
from methods.text4vis.costs import CLS_HEADS, CLS_INNER, KERNEL

Features = dict[str, Tensor]

SHIFTED = 8  # one of so many channels comes from the next frame, one of so many from the one before
DROPOUT = 0.1  # of `transf_cls`, in training


class Head(nn.Module):
    """e [B, T, D] -> features by name, see `Prediction`; "z" [B, D] is the video embedding."""

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        """`generator` is where random choices of a training step come from."""
        raise NotImplementedError


def residual(frames_BTD: Tensor, temporal_BTD: Tensor) -> Features:
    """z = mean over T of e + h(e)."""
    return {
        "z": (frames_BTD + temporal_BTD).mean(dim=1),
        "t": temporal_BTD.mean(dim=1),
        "t_frames": temporal_BTD,
    }


class NoHead(Head):
    """z = mean over T of e."""

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        return {"z": frames_BTD.mean(dim=1)}


class Transf(TemporalTransformer, Head):
    """The temporal transformer."""

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        temporal_BTD, branch_BTD = self.trace(frames_BTD)
        return {**residual(frames_BTD, temporal_BTD), "last_ffn_branch": branch_BTD.mean(dim=1)}


class Shift(Head):
    """A frame takes an eighth of its channels from the next one and an eighth from the one before, zeros at the ends.

    No description of such a head is known to us: folds, direction and zeros are those of TSM (arXiv 1811.08383). A mean
    over frames hardly notices it: in the shifted channels it only lacks the first or the last frame.
    """

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        return {"z": shifted(frames_BTD, frames_BTD.shape[-1] // SHIFTED).mean(dim=1)}


def shifted(frames: Tensor, fold: int) -> Tensor:
    """Of frames [B, T, ..., D] the first `fold` channels come from the next one, the second `fold` from the one before.

    Zeros come from beyond the ends.
    """
    moved = torch.zeros_like(frames)
    moved[:, :-1, ..., :fold] = frames[:, 1:, ..., :fold]
    second, rest = slice(fold, 2 * fold), slice(2 * fold, None)
    moved[:, 1:, ..., second] = frames[:, :-1, ..., second]
    moved[..., rest] = frames[..., rest]
    return moved


class Conv1d(Head):
    """A convolution over three frames, channel by channel, that starts as a shift of two quarters of the channels."""

    def __init__(self, width: int, axes: str) -> None:
        super().__init__()
        self.axes = axes
        self.shift = nn.Conv1d(width, width, KERNEL, padding=1, groups=width, bias=False)
        with torch.no_grad():
            # The first quarter reads the frame before, the last one the frame behind, the half between its own.
            self.shift.weight.zero_()
            for place, channels in enumerate(torch.arange(width).tensor_split((width // 4, width - width // 4))):
                self.shift.weight[channels, 0, place] = 1

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        # The official view is no transpose: neighbours in "time" are then neighbouring channels of a frame.
        frames_BDT = frames_BTD.mT if self.axes == "transposed" else frames_BTD.reshape_as(frames_BTD.mT)
        return residual(frames_BTD, self.shift(frames_BDT).mT)


class Lstm(Head):
    """One LSTM layer over the frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm_visual = nn.LSTM(width, width, batch_first=True)

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        # Cell by cell: the fused layer repeats its bits nowhere but on one device, and counters cannot see into it.
        weights = [getattr(self.lstm_visual, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        hidden_BD = memory_BD = torch.zeros_like(frames_BTD[:, 0])
        outputs = []
        for frame_BD in frames_BTD.unbind(dim=1):
            hidden_BD, memory_BD = torch.lstm_cell(frame_BD, (hidden_BD, memory_BD), *weights)
            outputs.append(hidden_BD)
        return residual(frames_BTD, torch.stack(outputs, dim=1))


class TransfCls(Head):
    """A transformer over a class token and the frames, whose output at the class token is the video embedding.

    Post-norm layers with ReLU, a norm at the end, nothing of the input added. Positions are for 77 frames, not, as in
    ActionCLIP, for those of training, so that a test may have another number.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, POSITIONS + 1, width))
        self.transformer_enc = Stack(width, layers)
        for weight in (self.cls_token, self.pos_embed):
            _truncated_normal(weight)
        self.apply(_initialise)

    def features(self, frames_BTD: Tensor, generator: torch.Generator | None = None) -> Features:
        batch, frames, _ = frames_BTD.shape
        within_positions(frames)
        tokens_BND = torch.cat([self.cls_token.expand(batch, -1, -1), frames_BTD], dim=1)
        tokens_BND = tokens_BND + self.pos_embed[:, : frames + 1]
        drop = partial(dropped, generator=generator if self.training else None)
        return {"z": self.transformer_enc(tokens_BND, drop)[:, 0]}


class Stack(nn.Module):
    """Post-norm layers and a norm behind them."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PostNormBlock(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens_BND: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        for layer in self.layers:
            tokens_BND = layer(tokens_BND, drop)
        normed_BND: Tensor = self.norm(tokens_BND)
        return normed_BND


class PostNormBlock(nn.Module):
    """torch's encoder layer, under its names, with dropout that draws from a generator of the caller's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, CLS_HEADS, batch_first=True)
        self.linear1 = nn.Linear(width, CLS_INNER)
        self.linear2 = nn.Linear(CLS_INNER, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens_BND: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        tokens_BND = self.norm1(tokens_BND + drop(self._attention(tokens_BND, drop)))
        added_BND: Tensor = self.linear2(drop(self.linear1(tokens_BND).relu()))
        normed_BND: Tensor = self.norm2(tokens_BND + drop(added_BND))
        return normed_BND

    def _attention(self, tokens_BND: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        """Written out, because attention weights are dropped as well."""
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
    """Dropout, if there is a generator. Masks are drawn on the CPU, so that all devices have the same."""
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


HEADS: dict[str, Callable[[Config, Backbone], Head]] = {
    "none": lambda config, spec: NoHead(),
    "transf": lambda config, spec: Transf(spec.embed_dim, temporal_heads(spec), config.layers),
    "transf_cls": lambda config, spec: TransfCls(spec.embed_dim, config.layers),
    "conv1d": lambda config, spec: Conv1d(spec.embed_dim, config.conv_axes),
    "lstm": lambda config, spec: Lstm(spec.embed_dim),
    "shift": lambda config, spec: Shift(),
}
