"""MoTE's experts: feed-forward networks that are mixed in weight space (arXiv 2410.10589, Sec. 3.2 and Eq. 7).

Legend: B batch, T frames, D joint CLIP width, H inner width 4D, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

from methods.blocks import FeedForward, TemporalTransformer
from methods.costs import EXPANSION
from methods.mote.config import Config

LayerWeights = Sequence[Sequence[float]]  # [L, E], weights of the experts in each layer


def one_expert(experts: int, expert: int) -> list[float]:
    """Weights [E] that select one expert."""
    return [float(i == expert) for i in range(experts)]


class ExpertFeedForward(nn.Module):
    """A pool of up-projections and a pool of down-projections, whose weighted means run as one network.

    A pool of one is shared by all experts. Experts are separate parameters and a weight of 0 leaves one out of the
    graph, so the optimiser skips an expert that was not drawn: no decay, no momentum.
    """

    def __init__(self, width: int, pools: tuple[int, int]) -> None:
        super().__init__()
        self.width, self.experts = width, max(pools)
        self.fc_up = nn.ModuleList(nn.Linear(width, EXPANSION * width) for _ in range(pools[0]))
        self.gelu = QuickGELU()
        self.fc_dn = nn.ModuleList(nn.Linear(EXPANSION * width, width) for _ in range(pools[1]))

    def forward(
        self, hidden_BTD: Tensor, weights_E: Sequence[float] | None = None, down_E: Sequence[float] | None = None
    ) -> Tensor:
        """Output under weights, or the mean of all experts' outputs. `down_E`: other weights for down-projections."""
        if weights_E is None:
            outputs = [self(hidden_BTD, one_expert(self.experts, i)) for i in range(self.experts)]
            return torch.stack(outputs).mean(dim=0)
        state = self._mean(weights_E, down_E)
        inner_BTH = self.gelu(F.linear(hidden_BTD, state["c_fc.weight"], state["c_fc.bias"]))
        return F.linear(inner_BTH, state["c_proj.weight"], state["c_proj.bias"])

    def _mean(self, weights_E: Sequence[float], down_E: Sequence[float] | None) -> dict[str, Tensor]:
        """Weighted mean of the experts under the names of a dense network."""
        pools = (("c_fc", self.fc_up, weights_E), ("c_proj", self.fc_dn, weights_E if down_E is None else down_E))
        return {
            f"{name}.{kind}": _weighted_mean(linears, kind, pool_E)
            for name, linears, pool_E in pools
            for kind in ("weight", "bias")
        }

    @torch.no_grad()
    def merged(self, weights_E: Sequence[float], down_E: Sequence[float] | None = None) -> FeedForward:
        """Dense network of a weighted mean, with its own memory."""
        with torch.device("meta"):  # no initialisation, which would consume the global generator
            dense = FeedForward(self.width)
        own = {name: tensor.clone() for name, tensor in self._mean(weights_E, down_E).items()}
        dense.load_state_dict(own, assign=True)
        return dense

    def copy_first(self) -> None:
        """Make every expert a copy of the first."""
        for linears in (self.fc_up, self.fc_dn):
            for other in linears[1:]:
                other.load_state_dict(linears[0].state_dict())


def _weighted_mean(linears: nn.ModuleList, name: str, weights_E: Sequence[float]) -> Tensor:
    if len(linears) == 1:
        return linears[0].get_parameter(name)
    (weight, first), *others = [
        (weight, linear.get_parameter(name)) for weight, linear in zip(weights_E, linears, strict=True) if weight
    ]
    # A drawn expert's matrices are used as they are: a copy would cost more than multiplying a small batch by them.
    mean: Tensor = first if weight == 1 else weight * first
    for weight, other in others:
        mean = torch.add(mean, other, alpha=weight)
    return mean


class MoteHead(TemporalTransformer):
    """A temporal transformer whose layers each have E experts; attention, norms and positions are shared by them."""

    def __init__(self, width: int, heads: int, config: Config) -> None:
        super().__init__(width, heads, config.layers, partial(ExpertFeedForward, pools=config.pools))
        if config.init == "same":
            for mlp in self.mixtures:
                mlp.copy_first()

    @property
    def mixtures(self) -> list[ExpertFeedForward]:
        """Experts of each layer."""
        return [block.mlp for block in self.blocks if isinstance(block.mlp, ExpertFeedForward)]

    def merged(self, *weights_LE: LayerWeights) -> TemporalTransformer:
        """Dense copy in which every layer has the weighted mean of its experts; two weights: one for each pool."""
        mixed = [mlp.merged(*weights_E) for mlp, *weights_E in zip(self.mixtures, *weights_LE, strict=True)]
        # A memo that already has the merged network in the place of a layer's experts, which then are not copied.
        return deepcopy(self, {id(mlp): dense for mlp, dense in zip(self.mixtures, mixed, strict=True)})
