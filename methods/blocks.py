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
from methods.temporal_costs import EXPANSION, POSITIONS


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

    def forward(self, hidden_BTD: Tensor, *weights_E: Sequence[float]) -> Tensor:
        normed_BTD = self.ln_1(hidden_BTD)
        hidden_BTD = hidden_BTD + self.attn(normed_BTD, normed_BTD, normed_BTD, need_weights=False)[0]
        output_BTD: Tensor = hidden_BTD + self.mlp(self.ln_2(hidden_BTD), *weights_E)
        return output_BTD


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

    def forward(self, frames_BTD: Tensor, weights_LE: Sequence[Sequence[float]] | None = None) -> Tensor:
        """Temporal features. `weights_LE` mixes the experts of each layer, where layers have experts."""
        if frames_BTD.shape[1] > POSITIONS:
            raise ValueError(f"{frames_BTD.shape[1]} frames, but the temporal transformer has {POSITIONS} positions")
        hidden_BTD = frames_BTD + self.frame_position_embeddings.weight[: frames_BTD.shape[1]]
        for layer, block in enumerate(self.blocks):
            hidden_BTD = block(hidden_BTD, *([] if weights_LE is None else [weights_LE[layer]]))
        return hidden_BTD


def _initialise(module: nn.Module) -> None:
    # attn.in_proj_weight is no Linear and keeps torch's Xavier, as in the official code.
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class TemporalPredictor(Predictor):
    """Deployed temporal transformer: z = mean over T of e + rho * h(e). Features: `z`, and `t`, the mean of h(e)."""

    def __init__(self, head: TemporalTransformer, logit_scale: float) -> None:
        super().__init__()
        self.head = head
        self.logit_scale = logit_scale
        self.eval().requires_grad_(False)

    def strength(self, frames_BTD: Tensor, classes_CD: Tensor) -> Tensor:
        """rho [B], the weight of the temporal feature."""
        return frames_BTD.new_ones(len(frames_BTD))

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        temporal_BTD = self.head(frames_BTD)
        rho_B11 = self.strength(frames_BTD, classes_CD)[:, None, None]
        video_BD = (frames_BTD + rho_B11 * temporal_BTD).mean(dim=1)
        features = {"z": video_BD, "t": temporal_BTD.mean(dim=1)}
        return Prediction(cosines(video_BD, classes_CD), video_BD.norm(dim=-1), features)
