"""MoTE's head, objective and merged predictor (arXiv 2410.10589; official code where the two differ).

Legend: B batch, T frames, D joint CLIP width, C classes, S source classes, K neighbours, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from math import inf

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

from bench.clip import Clip
from methods import contract, settings
from methods.blocks import FeedForward, TemporalPredictor, TemporalTransformer
from methods.mote.config import Config, Inference
from methods.temporal_costs import EXPANSION, temporal_heads

# ---------------------------------------------------------------------------------------------------------------------
# Experts


class ExpertFeedForward(nn.Module):
    """E feed-forward networks of one layer, of which a weighted mean in weight space is run.

    Experts are parameters of their own and a weight of 0 leaves one out of the graph, so the optimiser passes over an
    expert that was not drawn: no decay, no momentum.
    """

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.width = width
        self.fc_up = nn.ModuleList(nn.Linear(width, EXPANSION * width) for _ in range(experts))
        self.gelu = QuickGELU()
        self.fc_dn = nn.ModuleList(nn.Linear(EXPANSION * width, width) for _ in range(experts))

    def forward(self, hidden_BTD: Tensor, weights_E: Sequence[float]) -> Tensor:
        state = self._mean(weights_E)
        inner_BTH = self.gelu(F.linear(hidden_BTD, state["c_fc.weight"], state["c_fc.bias"]))
        return F.linear(inner_BTH, state["c_proj.weight"], state["c_proj.bias"])

    def _mean(self, weights_E: Sequence[float]) -> dict[str, Tensor]:
        """The weighted mean of the experts under the names of a dense network."""
        return {
            f"{name}.{kind}": _weighted_mean(linears, kind, weights_E)
            for name, linears in (("c_fc", self.fc_up), ("c_proj", self.fc_dn))
            for kind in ("weight", "bias")
        }

    @torch.no_grad()
    def merged(self, weights_E: Sequence[float]) -> FeedForward:
        """The dense network of a weighted mean, in memory of its own."""
        with torch.device("meta"):  # no initialisation, which would consume the global generator
            dense = FeedForward(self.width)
        dense.load_state_dict(self._mean(weights_E), assign=True)
        return dense


def _weighted_mean(linears: nn.ModuleList, name: str, weights_E: Sequence[float]) -> Tensor:
    pairs = zip(weights_E, linears, strict=True)
    return torch.stack([weight * linear.get_parameter(name) for weight, linear in pairs if weight]).sum(dim=0)


class MoteHead(TemporalTransformer):
    """A temporal transformer whose layers each have E experts; attention, norms and positions are shared by them."""

    def __init__(self, width: int, heads: int, layers: int, experts: int) -> None:
        super().__init__(width, heads, layers, partial(ExpertFeedForward, experts=experts))

    def merged(self, weights_E: Sequence[float]) -> TemporalTransformer:
        """A dense copy in which every layer has the same weighted mean of its experts."""
        dense = deepcopy(self)
        for block in dense.blocks:
            assert isinstance(block.mlp, ExpertFeedForward)
            block.mlp = block.mlp.merged(weights_E)
        return dense


# ---------------------------------------------------------------------------------------------------------------------
# Random choices of a training step


def merge_weights(experts: int, temperature: float) -> list[float]:
    """softmax(i / temperature) over i = 1..E (Eq. 7); an infinite temperature gives equal weights."""
    weights_E: list[float] = (torch.arange(1, experts + 1, dtype=torch.float64) / temperature).softmax(dim=0).tolist()
    return weights_E


def one_expert(experts: int, expert: int) -> list[float]:
    """Weights [E] that leave one expert."""
    return [float(i == expert) for i in range(experts)]


def temperatures(beta: float) -> list[float]:
    """The eleven merge temperatures of training (Table 2e): +-beta * 2^n for n = 0..4, ascending, then infinity."""
    return [*sorted(sign * beta * 2**n for sign in (-1, 1) for n in range(5)), inf]


def draw_routing(layers: int, experts: int, generator: torch.Generator) -> list[int]:
    """The expert that the whole batch goes through in each layer, drawn with probability ~ exp(i), i = 1..E."""
    odds_E = torch.tensor(merge_weights(experts, 1.0), device=generator.device)
    return [int(torch.multinomial(odds_E, 1, generator=generator)) for _ in range(layers)]


def draw_temperatures(layers: int, beta: float, generator: torch.Generator) -> list[float]:
    """A merge temperature for each layer, all eleven equally likely."""
    allowed = temperatures(beta)
    draws = [torch.randint(len(allowed), (1,), generator=generator, device=generator.device) for _ in range(layers)]
    return [allowed[int(draw)] for draw in draws]


# ---------------------------------------------------------------------------------------------------------------------
# Test time


def modulation(frames_BTD: Tensor, classes_CD: Tensor, sources_SD: Tensor, gamma: float, k: int) -> Tensor:
    """rho [B] = exp(-(1 - m) / gamma), m the similarity of a video's nearest test classes with its nearest source ones.

    Per test neighbour the most similar source neighbour counts, then the mean is taken (official code). It
    depends on the list of test classes; if that equals the source's, rho is 1.
    """
    k = min(k, len(classes_CD), len(sources_SD))
    query_BD = F.normalize(frames_BTD.mean(dim=1), dim=-1)
    tests_BKD, sources_BKD = (rows[(query_BD @ rows.T).topk(k).indices] for rows in (classes_CD, sources_SD))
    similarity_B = (tests_BKD @ sources_BKD.mT).amax(dim=-1).mean(dim=-1)
    return torch.exp((similarity_B - 1) / gamma)


class ModulatedPredictor(TemporalPredictor):
    """A merged head whose temporal feature counts less where the test's classes are unlike the source's."""

    looks_at_classes = True
    sources_SD: Tensor

    def __init__(self, head: TemporalTransformer, logit_scale: float, sources_SD: Tensor, inference: Inference) -> None:
        super().__init__(head, logit_scale)
        self.register_buffer("sources_SD", sources_SD.detach().clone())
        self.gamma, self.k = inference.tfm_gamma, inference.tfm_k

    def strength(self, frames_BTD: Tensor, classes_CD: Tensor) -> Tensor:
        return modulation(frames_BTD, classes_CD, self.sources_SD, self.gamma, self.k)


# ---------------------------------------------------------------------------------------------------------------------
# The method


class Model(contract.Model):
    """Routed pass, merged pass, mean square of the merged temporal feature: L = L_TE + lambda L_WMR + eta L_MSE."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.head = MoteHead(self.width, temporal_heads(clip.spec), config.layers, config.num_experts)

    def loss(
        self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        config = self.config
        routing_L = draw_routing(config.layers, config.num_experts, generator)
        regularised = config.wmr_weight > 0 or config.mse_weight > 0
        temperatures_L = draw_temperatures(config.layers, config.beta, generator) if regularised else None
        return self.objective(frames_BTD, labels_B, classes_CD, routing_L, temperatures_L)

    def objective(
        self,
        frames_BTD: Tensor,
        labels_B: Tensor,
        classes_CD: Tensor,
        routing_L: Sequence[int],
        temperatures_L: Sequence[float] | None,
    ) -> dict[str, Tensor]:
        """The loss under given choices. Without temperatures there is no merged pass, and undrawn experts rest."""
        experts = self.config.num_experts
        routed_BTD = self.head(frames_BTD, [one_expert(experts, i) for i in routing_L])
        ce = self.cross_entropy((frames_BTD + routed_BTD).mean(dim=1), labels_B, classes_CD)
        if temperatures_L is None:
            return {"ce": ce, "total": ce}
        merged_BTD = self.head(frames_BTD, [merge_weights(experts, tau) for tau in temperatures_L])
        wmr = self.cross_entropy((frames_BTD + merged_BTD).mean(dim=1), labels_B, classes_CD)
        # The paper pools V - e before squaring. The code squares per frame, where V - e is h(e) itself, and lets the
        # gradient through to the tower.
        mse = merged_BTD.square().mean()
        total = ce + self.config.wmr_weight * wmr + self.config.mse_weight * mse
        return {"ce": ce, "wmr": wmr, "mse": mse, "total": total}

    def deploy(self, inference: settings.Inference, source_classes_CD: Tensor) -> TemporalPredictor:
        """The experts become one network here, once; prediction never merges."""
        assert isinstance(inference, Inference)
        self.config.check(inference)
        head, scale = self.head.merged(self._weights(inference)), self.deployed_scale(inference)
        if not inference.tfm:
            return TemporalPredictor(head, scale)
        return ModulatedPredictor(head, scale, source_classes_CD, inference)

    def _weights(self, inference: Inference) -> list[float]:
        experts = self.config.num_experts
        if inference.expert is not None:
            return one_expert(experts, inference.expert)
        return merge_weights(experts, inf if inference.merge_temperature is None else inference.merge_temperature)
