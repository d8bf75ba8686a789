"""Modules that several methods share: the temporal transformer behind CLIP, and walks through CLIP's towers.

Text4Vis, BIKE and MoTE have the same transformer: Text4Vis (arXiv 2207.01297), head `Transf` of the official code;
MoTE (arXiv 2410.10589). State-dict names are theirs. It has no mask, no dropout (0 in all official configs), no final
norm and no output projection.

Legend: B batch, T frames, F features of a clip, N frames, clips or texts of a batch, P tokens, L layers or tokens of a
text, W width of a tower, D joint CLIP width, C classes, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.models.clip import VideoTower
from methods.contract import Prediction, Predictor
from methods.costs import EXPANSION, POSITIONS, refuse_frames_without_position


class FeedForward(nn.Module):
    """D -> 4D -> D with QuickGELU, on the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, EXPANSION * width)
        self.gelu = QuickGELU()
        self.c_proj = nn.Linear(EXPANSION * width, width)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        output_BTD: Tensor = self.c_proj(self.gelu(self.c_fc(hidden_BTD)))
        return output_BTD


def layer_norm(width: int) -> nn.LayerNorm:
    """Layer norm with the epsilon of the official heads, BERT's.

    With torch's 1e-5 their weights give other outputs wherever the variance over channels is small.
    """
    return nn.LayerNorm(width, eps=1e-12)


class TemporalBlock(nn.Module):
    """Pre-norm attention over the frames, then a pre-norm feed-forward network, each with a residual connection."""

    def __init__(self, width: int, heads: int, feed_forward: nn.Module) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = layer_norm(width)
        self.mlp = feed_forward
        self.ln_2 = layer_norm(width)

    def forward(self, hidden_BTD: Tensor, *weights_E: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Residual stream behind the attention, and the output of the feed-forward network, to be added to it."""
        normed_BTD = self.ln_1(hidden_BTD)
        hidden_BTD = hidden_BTD + self.attn(normed_BTD, normed_BTD, normed_BTD, need_weights=False)[0]
        return hidden_BTD, self.mlp(self.ln_2(hidden_BTD), *weights_E)


class TemporalTransformer(nn.Module):
    """h: [B, T, D] -> [B, T, D], T <= 77. `feed_forward` makes a layer's network from D.

    Its residual stream carries the input, so the output contains a copy of the frames and of their positions.
    """

    def __init__(
        self, width: int, heads: int, layers: int, feed_forward: Callable[[int], nn.Module] = FeedForward
    ) -> None:
        super().__init__()
        self.frame_position_embeddings = nn.Embedding(POSITIONS, width)
        blocks = [TemporalBlock(width, heads, feed_forward(width)) for _ in range(layers)]
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(blocks)})
        self.apply(_initialise)

    @property
    def blocks(self) -> list[TemporalBlock]:
        return list(cast("Iterable[TemporalBlock]", self.transformer["resblocks"]))

    def forward(self, frames_BTD: Tensor, *weights_LE: Sequence[Sequence[float]]) -> Tensor:
        """Temporal features. `weights_LE` mix the experts of each layer, if layers have experts."""
        return self.trace(frames_BTD, *weights_LE)[0]

    def trace(self, frames_BTD: Tensor, *weights_LE: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
        """Temporal features, and the last feed-forward network's output, which is part of them."""
        hidden_BTD = branch_BTD = self.positioned(frames_BTD)
        for layer, block in enumerate(self.blocks):
            hidden_BTD, branch_BTD = block(hidden_BTD, *(weights[layer] for weights in weights_LE))
            hidden_BTD = hidden_BTD + branch_BTD
        return hidden_BTD, branch_BTD

    def positioned(self, frames_BTD: Tensor) -> Tensor:
        """Frames with their positions: the first layer's input, which the residual stream carries to the output."""
        frames = frames_BTD.shape[1]
        refuse_frames_without_position(frames)
        return frames_BTD + self.frame_position_embeddings.weight[:frames]


def _initialise(module: nn.Module) -> None:
    # attn.in_proj_weight is no Linear and keeps torch's Xavier, as in the official code.
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class TemporalPredictor(Predictor):
    """Deployed temporal transformer: z = mean over T of e + h(e)."""

    def __init__(self, head: TemporalTransformer, logit_scale: float) -> None:
        super().__init__()
        self.head = head
        self.logit_scale = logit_scale
        self.eval().requires_grad_(False)

    def embed(self, frames_BTD: Tensor, temporal_BTD: Tensor, classes_CD: Tensor) -> Tensor:
        """Frame-level video embeddings [B, T, D]."""
        return frames_BTD + temporal_BTD

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        return self.predict(frames_BTD, classes_CD)

    def predict(self, frames_BTD: Tensor, classes_CD: Tensor, *weights_LE: Sequence[Sequence[float]]) -> Prediction:
        """One pass; weights as in `TemporalTransformer.forward`."""
        temporal_BTD, branch_BTD = self.head.trace(frames_BTD, *weights_LE)
        video_BD = self.embed(frames_BTD, temporal_BTD, classes_CD).mean(dim=1)
        features = {"t": temporal_BTD.mean(dim=1), "last_ffn_branch": branch_BTD.mean(dim=1)}
        if self.per_frame:
            features["t_frames"] = temporal_BTD
        return Prediction.of(video_BD, classes_CD, features)


# --- CLIP's towers, block by block ------------------------------------------------------------------------------------


def through(visual: Any, block: Callable[..., Tensor], hidden_NPW: Tensor, **inputs: Any) -> Tensor:
    """One block, recomputed in the backward pass if the recipe sets `checkpointing`, which `visual` is told.

    Texts do as the visual tower: where they carry a gradient they are the larger part of the memory.
    """
    if visual.transformer.grad_checkpointing and torch.is_grad_enabled():
        again_NPW: Tensor = checkpoint(block, hidden_NPW, use_reentrant=False, **inputs)
        return again_NPW
    return block(hidden_NPW, **inputs)


def class_tokens(visual: Any, hidden_NPW: Tensor) -> Tensor:
    """Embeddings [N, D] of the class tokens behind the last block of a visual tower."""
    embeddings_ND: Tensor = visual._pool(hidden_NPW)[0] @ visual.proj
    return embeddings_ND


def encoded(visual: Any, clips_BT3HW: Tensor, blocks: Iterable[Callable[..., Tensor]]) -> Tensor:
    """Features [B, F, D] of a visual tower with these blocks in the place of its own: F = T, or 1 of a video tower."""
    video = isinstance(visual, VideoTower)
    hidden_NPW = visual.ln_pre(visual.tokens(clips_BT3HW)) if video else visual._embeds(clips_BT3HW.flatten(0, 1))
    for block in blocks:
        hidden_NPW = through(visual, block, hidden_NPW)
    features_BFD: Tensor = class_tokens(visual, hidden_NPW).unflatten(0, (len(clips_BT3HW), -1))
    return features_BFD
