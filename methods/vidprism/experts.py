"""VidPrism's experts, one post-norm transformer layer for each stream, and the read-out that makes them one vector.

Source: arXiv 2605.28229, official code; module names are those of its checkpoints.
Legend: B batch, L tokens of a stream or of all, E experts, D joint CLIP width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from methods.vidprism.config import Config
from methods.vidprism.costs import score_width


class Expert(nn.Module):
    """Attention within a stream and a feed-forward network, each followed by a norm."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        inner = config.expansion * width
        self.attn = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, inner), QuickGELU(), nn.Linear(inner, width))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, stream_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """The stream behind the layer, and what the feed-forward network added to it before the last norm."""
        attended_BLD = self.attn(stream_BLD, stream_BLD, stream_BLD, need_weights=False)[0]
        hidden_BLD = self.ln_1(stream_BLD + attended_BLD)
        branch_BLD = self.ffn(hidden_BLD)
        return self.ln_2(hidden_BLD + branch_BLD), branch_BLD


class QueryReadout(nn.Module):
    """Attention of one learnt query over all tokens, then a norm; no residual connection."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.global_query = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.attn = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.ln = nn.LayerNorm(width)

    def forward(self, tokens_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """The vector [B, D] and every token's weight [B, L], the mean over heads."""
        query_B1D = self.global_query.expand(len(tokens_BLD), -1, -1)
        read_B1D, weights_B1L = self.attn(query_B1D, tokens_BLD, tokens_BLD)
        return self.ln(read_B1D.squeeze(1)), weights_B1L.squeeze(1)


class WeightedReadout(nn.Module):
    """The weighted mean of all tokens, then a norm; weights are equal, or a softmax of what a small network scores."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        inner = score_width(config, width)
        if config.readout == "linear":
            self.score = nn.Linear(width, 1)
        elif config.readout == "mlp":
            self.score = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, 1))  # type: ignore[assignment]
        self.ln = nn.LayerNorm(width)

    def forward(self, tokens_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """As `QueryReadout`."""
        scores_BL = (
            self.score(tokens_BLD).squeeze(-1) if hasattr(self, "score") else tokens_BLD.new_zeros(tokens_BLD.shape[:2])
        )
        weights_BL = scores_BL.softmax(dim=-1)
        return self.ln((weights_BL[:, None] @ tokens_BLD).squeeze(1)), weights_BL


class Read(NamedTuple):
    """What the experts made of the streams. E are the experts that were asked."""

    video_BD: Tensor
    shares_BE: Tensor  # of the read-out's weight that each expert's tokens have; rows sum to 1
    tokens_BLD: Tensor  # of all experts, one after the other
    branch_BLD: Tensor  # what feed-forward networks added to them
    summaries_BED: Tensor  # mean token of each expert


class Experts(nn.Module):
    """An expert for each stream, and their read-out."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Expert(width, config) for _ in config.rates)
        self.readout_gate = QueryReadout(width, config) if config.readout == "query" else WeightedReadout(width, config)

    def forward(self, streams: Sequence[Tensor]) -> Read:
        """Streams [B, L, D], one for each expert."""
        outputs, branches = zip(
            *(expert(stream_BLD) for expert, stream_BLD in zip(self.experts, streams, strict=True)), strict=True
        )
        tokens_BLD = torch.cat(outputs, dim=1)
        video_BD, weights_BL = self.readout_gate(tokens_BLD)
        own = weights_BL.split([stream_BLD.shape[1] for stream_BLD in streams], dim=1)
        return Read(
            video_BD,
            torch.stack([weights.sum(dim=1) for weights in own], dim=1),
            tokens_BLD,
            torch.cat(branches, dim=1),
            torch.stack([output_BLD.mean(dim=1) for output_BLD in outputs], dim=1),
        )
