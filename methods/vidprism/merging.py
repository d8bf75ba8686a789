"""Rank-guided merging: a stream of few tokens, each a window's most important frame with a share of the others.

Source: arXiv 2605.28229, official code, which goes through videos and windows one by one; here all windows of a length
are merged at once. Plainer ways of making a token of a window stand below (`PLAIN`).

Legend: B batch, T frames, L tokens of a stream, n windows, w frames of a window, K tokens it keeps, D joint CLIP width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.vidprism.config import Config

TINY_WEIGHT = 1e-6  # added to sums that weights are divided by (code)
TINY_SHARE = 1e-9  # logarithms of shares start here (code)


class Merged(NamedTuple):
    """A stream, and how far its predicted ranking is from the one it is held to; 0 where it was not asked for."""

    tokens_BLD: Tensor
    divergence: Tensor


def windowed(frames_BTD: Tensor, rate: int) -> list[Tensor]:
    """The whole windows [B, n, w, D], then the shorter last one, if there is one."""
    whole = frames_BTD.shape[1] // rate
    parts = frames_BTD.split([whole * rate, frames_BTD.shape[1] - whole * rate], dim=1)
    shapes = ((whole, rate), (1, parts[1].shape[1]))
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True) if part.shape[1]]


class RankGuidedMerging(nn.Module):
    """The stream of one rate. Choosing has no gradient, so scores are learnt from the rank loss alone."""

    def __init__(self, width: int, rate: int, config: Config) -> None:
        super().__init__()
        self.rate, self.config = rate, config
        self.metric_proj = nn.Linear(width, width)
        self.score_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1, bias=False))

    def forward(self, frames_BTD: Tensor, ranked: bool) -> Merged:
        """The stream of frames [B, T, D]; `ranked` asks for the divergence."""
        tokens, divergences = [], []
        for windows_BnwD in windowed(frames_BTD, self.rate):
            merged_BnKD, divergence_Bn = self._merge(windows_BnwD, ranked)
            tokens.append(merged_BnKD.flatten(1, 2))
            divergences.append(divergence_Bn)
        divergence_BN = torch.cat(divergences, dim=1)
        mean = divergence_BN.mean() if divergence_BN.numel() else frames_BTD.new_zeros(())
        return Merged(torch.cat(tokens, dim=1), mean)

    def _merge(self, windows_BnwD: Tensor, ranked: bool) -> tuple[Tensor, Tensor]:
        """What windows of one length become, and the divergence of those that were chosen from [B, n or 0]."""
        config, length = self.config, windows_BnwD.shape[2]
        if length <= config.keep:
            return windows_BnwD, windows_BnwD.new_zeros(len(windows_BnwD), 0)
        metric_BnwD = self.metric_proj(windows_BnwD)
        predicted_Bnw = self.score_head(metric_BnwD).squeeze(-1)
        similarity_Bnww = _similarities(metric_BnwD)
        norms_Bnw = windows_BnwD.norm(dim=-1)
        mixed_Bnw = config.score_share * predicted_Bnw + (1 - config.score_share) * norms_Bnw
        kept_BnK = mixed_Bnw.topk(config.keep, dim=-1).indices.sort(dim=-1).values
        selected_BnKw = F.one_hot(kept_BnK, length).to(windows_BnwD.dtype)
        shares_BnKw = self._shares(similarity_Bnww, selected_BnKw)
        merged_BnKD = (selected_BnKw + config.merge_factor * shares_BnKw) @ windows_BnwD
        if not ranked:
            return merged_BnKD, windows_BnwD.new_zeros(len(windows_BnwD), 0)
        target_Bnw = (norms_Bnw + similarity_Bnww.mean(dim=-1)).detach()
        return merged_BnKD, divergence(target_Bnw, predicted_Bnw, config.score_temperature)

    def _shares(self, similarity_Bnww: Tensor, selected_BnKw: Tensor) -> Tensor:
        """How much of each token that is not kept goes into each that is.

        A token's shares sum to almost 1, so with one kept token nearly all of every other goes into it and similarity
        decides nothing: the official code's behaviour, and of the paper's formula as well.
        """
        attention_Bnww = (similarity_Bnww / self.config.similarity_temperature).softmax(dim=-1)
        to_kept_BnKw = selected_BnKw @ attention_Bnww.mT
        shares_BnKw = to_kept_BnKw / (to_kept_BnKw.sum(dim=-2, keepdim=True) + TINY_WEIGHT)
        return shares_BnKw * (1 - selected_BnKw.sum(dim=-2, keepdim=True))


def _similarities(metric_BnwD: Tensor) -> Tensor:
    """Cosines within windows [B, n, w, w]; a token's with itself counts as 0."""
    unit_BnwD = F.normalize(metric_BnwD, dim=-1)
    others_ww = 1 - torch.eye(metric_BnwD.shape[2], dtype=unit_BnwD.dtype, device=unit_BnwD.device)
    return (unit_BnwD @ unit_BnwD.mT) * others_ww


def divergence(target_Bnw: Tensor, predicted_Bnw: Tensor, temperature: float) -> Tensor:
    """KL [B, n] of the predicted from the target ranking, each a softmax within a window."""
    target_Bnw, predicted_Bnw = ((scores / temperature).softmax(dim=-1) for scores in (target_Bnw, predicted_Bnw))
    logs = [shares.clamp_min(TINY_SHARE).log() for shares in (target_Bnw, predicted_Bnw)]
    return (target_Bnw * (logs[0] - logs[1])).sum(dim=-1)


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "sampling": lambda windows_BnwD: windows_BnwD[:, :, 0],
    "average": lambda windows_BnwD: windows_BnwD.mean(dim=2),
    "max": lambda windows_BnwD: windows_BnwD.amax(dim=2),
}


class PlainMerging(nn.Module):
    """The stream of one rate without parameters: a frame, the mean or the maximum of each window."""

    def __init__(self, rate: int, config: Config) -> None:
        super().__init__()
        self.rate, self.aggregation = rate, config.aggregation

    def forward(self, frames_BTD: Tensor, ranked: bool) -> Merged:
        """As `RankGuidedMerging`; there is no ranking."""
        merge = PLAIN[self.aggregation]
        tokens = [merge(windows_BnwD) for windows_BnwD in windowed(frames_BTD, self.rate)]
        return Merged(torch.cat(tokens, dim=1), frames_BTD.new_zeros(()))
