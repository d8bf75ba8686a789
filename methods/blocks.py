"""The temporal transformer behind CLIP that Text4Vis, BIKE and MoTE share, under the state-dict names of their code.

Sources: Text4Vis (arXiv 2207.01297), head `Transf` of the official code; MoTE (arXiv 2410.10589). It has no
mask, no dropout (0 in all official configs), no final norm and no output projection.

Legend: B batch, T frames, D joint CLIP width, C classes, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from methods.contract import Prediction, Predictor, cosines
from methods.temporal_costs import EXPANSION, POSITIONS, within_positions


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
    # The official heads took over BERT's epsilon. With torch's 1e-5 their weights give other outputs wherever the
    # variance over channels is small.
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
        """The residual stream behind the attention, and what the feed-forward network adds to it."""
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
        """Temporal features. Weights mix the experts of each layer, where layers have experts."""
        return self.trace(frames_BTD, *weights_LE)[0]

    def trace(self, frames_BTD: Tensor, *weights_LE: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
        """Temporal features, and what the last feed-forward network added to them."""
        hidden_BTD = branch_BTD = self.positioned(frames_BTD)
        for layer, block in enumerate(self.blocks):
            hidden_BTD, branch_BTD = block(hidden_BTD, *(weights[layer] for weights in weights_LE))
            hidden_BTD = hidden_BTD + branch_BTD
        return hidden_BTD, branch_BTD

    def positioned(self, frames_BTD: Tensor) -> Tensor:
        """What goes into the first layer, and is carried to the output by the residual stream."""
        frames = frames_BTD.shape[1]
        within_positions(frames)
        return frames_BTD + self.frame_position_embeddings.weight[:frames]


def _initialise(module: nn.Module) -> None:
    # attn.in_proj_weight is no Linear and keeps torch's Xavier, as in the official code.
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class TemporalPredictor(Predictor):
    """Deployed temporal transformer: z = mean over T of e + h(e). Features: see `Prediction`."""

    def __init__(self, head: TemporalTransformer, logit_scale: float) -> None:
        super().__init__()
        self.head = head
        self.logit_scale = logit_scale
        self.eval().requires_grad_(False)

    def embed(self, frames_BTD: Tensor, temporal_BTD: Tensor, classes_CD: Tensor) -> Tensor:
        """The video embeddings of frames [B, T, D]."""
        return frames_BTD + temporal_BTD

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        return self.predict(frames_BTD, classes_CD)

    def predict(self, frames_BTD: Tensor, classes_CD: Tensor, *weights_LE: Sequence[Sequence[float]]) -> Prediction:
        """One pass; weights as in `TemporalTransformer.forward`."""
        temporal_BTD, branch_BTD = self.head.trace(frames_BTD, *weights_LE)
        video_BD = self.embed(frames_BTD, temporal_BTD, classes_CD).mean(dim=1)
        features = {"z": video_BD, "t": temporal_BTD.mean(dim=1), "last_ffn_branch": branch_BTD.mean(dim=1)}
        if self.per_frame:
            features["t_frames"] = temporal_BTD
        return Prediction(cosines(video_BD, classes_CD), video_BD.norm(dim=-1), features)
