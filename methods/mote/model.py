"""MoTE's random choices, objective and predictor (arXiv 2410.10589; official code where the two differ).

Legend: B batch, T frames, D joint CLIP width, C classes, S source classes, K neighbours, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from math import copysign, inf
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.core.seeds import seed_for
from bench.models.clip import Clip
from methods import contract, settings
from methods.blocks import TemporalPredictor, TemporalTransformer
from methods.contract import Prediction, Terms
from methods.costs import temporal_heads
from methods.mote.config import Config, Inference, merge_weights
from methods.mote.experts import LayerWeights, MoteHead, one_expert

COLDEST = 1e-3  # smallest size of a drawn temperature; the merge is that of one expert long before

# --- Random choices of a training step, from the generator of the step, layer by layer --------------------------------


def draw_routing(config: Config, generator: torch.Generator) -> dict[str, list[int]]:
    """Expert of each layer [L] for the whole batch, for each of the config's routers."""
    odds_E = torch.tensor(config.routing_odds, dtype=torch.float64, device=generator.device)
    return {
        router: [int(torch.multinomial(odds_E, 1, generator=generator)) for _ in range(config.layers)]
        for router in config.routers
    }


def temperatures(beta: float) -> list[float]:
    """Merge temperatures of training (Table 2e): +-beta * 2^n for n = 0..4, ascending, then infinity."""
    return [*sorted(sign * beta * 2**n for sign in (-1, 1) for n in range(5)), inf]


def draw_temperatures(config: Config, generator: torch.Generator) -> list[float]:
    """Merge temperature of each layer [L]."""
    draw = DRAWS[config.temperature if config.wmr_region == "region" else "point"]
    return [draw(config.beta, generator) for _ in range(config.layers)]


def _discrete(beta: float, generator: torch.Generator) -> float:
    allowed = temperatures(beta)
    return allowed[int(torch.randint(len(allowed), (1,), generator=generator, device=generator.device))]


def _not_zero(temperature: float) -> float:
    return copysign(max(abs(temperature), COLDEST), temperature)


DRAWS: dict[str, Callable[[float, torch.Generator], float]] = {
    "discrete": _discrete,
    "normal": lambda beta, own: _not_zero(float(torch.randn(1, generator=own, device=own.device))),
    "uniform": lambda beta, own: _not_zero(
        16 * beta * (2 * float(torch.rand(1, generator=own, device=own.device)) - 1)
    ),
    "point": lambda beta, own: inf,
}


# --- Training ---------------------------------------------------------------------------------------------------------


class Pass(NamedTuple):
    """Video embeddings of the frames and scaled logits of one pass through the head."""

    video_BTD: Tensor
    logits_BC: Tensor

    def detached(self) -> Pass:
        return Pass(*(tensor.detach() for tensor in self))


# Loss of the merged pass: (merged, routed, labels_B) -> loss. The routed pass is detached, which the paper leaves open.
REGULARISERS: dict[str, Callable[[Pass, Pass, Tensor], Tensor]] = {
    "ce": lambda merged, routed, labels_B: F.cross_entropy(merged.logits_BC, labels_B),
    "kl": lambda merged, routed, labels_B: F.kl_div(
        merged.logits_BC.log_softmax(dim=-1),
        routed.logits_BC.log_softmax(dim=-1),
        reduction="batchmean",
        log_target=True,
    ),
    "mse": lambda merged, routed, labels_B: F.mse_loss(merged.video_BTD, routed.video_BTD),
}

# The paper pools V - e before squaring and sums over D. The code squares per frame, where V - e is h(e) itself, and
# lets the gradient through to the tower.
MEAN_SQUARES: dict[str, Callable[[Tensor], Tensor]] = {
    "code": lambda temporal_BTD: temporal_BTD.square().mean(),
    "paper": lambda temporal_BTD: temporal_BTD.mean(dim=1).square().sum(dim=-1).mean(),
}


class Model(contract.Model):
    """Routed pass, merged pass, mean square of the merged temporal feature: L = L_TE + lambda L_WMR + eta L_MSE."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.head = MoteHead(self.width, temporal_heads(clip.spec), config)
        self.counts = {router: torch.zeros(config.layers, config.built, dtype=torch.int64) for router in config.routers}

    def unused_parameters(self) -> set[str]:
        """Experts that a step may neither draw nor merge. A very cold temperature rounds weights to 0."""
        if not self.config.routers or (self.config.regularised and self.config.temperature == "discrete"):
            return set()
        resting = {id(parameter) for own in self.expert_parameters() for parameter in own.values()}
        return {name for name, parameter in self.named_parameters() if id(parameter) in resting}

    def expert_parameters(self) -> Sequence[Mapping[str, Tensor]]:
        return [
            {
                f"layer {layer}.{pool}.{kind}": linears[expert].get_parameter(kind)
                for layer, mlp in enumerate(self.head.mixtures)
                for pool, linears in (("fc_up", mlp.fc_up), ("fc_dn", mlp.fc_dn))
                for kind in ("weight", "bias")
                if len(linears) > 1
            }
            for expert in range(self.config.experts)
        ]

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        config = self.config
        routing = draw_routing(config, generator)
        for router, routing_L in routing.items():
            self.counts[router][range(config.layers), routing_L] += 1
        temperatures_L = draw_temperatures(config, generator) if config.regularised else None
        up_L, down_L = routing.get("routing"), routing.get("routing_down")
        return self.objective(frames_BTD, labels_B, classes_CD, up_L, temperatures_L, down_L)

    def objective(
        self,
        frames_BTD: Tensor,
        labels_B: Tensor,
        classes_CD: Tensor,
        routing_L: Sequence[int] | None,
        temperatures_L: Sequence[float] | None,
        down_L: Sequence[int] | None = None,
    ) -> Terms:
        """Loss under given choices. Without temperatures there is no merged pass, and undrawn experts get no gradient.

        Without routing all experts see the batch. `down_L` is the separate routing of down-projections, if they have
        one.
        """
        config = self.config
        paths = self._weights(path for path in (routing_L, down_L) if path is not None)
        routed = self._pass(frames_BTD, self.head(frames_BTD, *paths), classes_CD)
        ce = F.cross_entropy(routed.logits_BC, labels_B)
        if temperatures_L is None:
            return {"ce": ce, "total": ce}
        merged_BTD = self.head(frames_BTD, [merge_weights(config.built, tau) for tau in temperatures_L])
        merged = self._pass(frames_BTD, merged_BTD, classes_CD)
        wmr = REGULARISERS[config.wmr_loss](merged, routed.detached(), labels_B)
        mse = MEAN_SQUARES[config.mse_form](merged_BTD)
        total = ce + config.wmr_weight * wmr + config.mse_weight * mse
        return {"ce": ce, "wmr": wmr, "mse": mse, "total": total}

    def _pass(self, frames_BTD: Tensor, temporal_BTD: Tensor, classes_CD: Tensor) -> Pass:
        video_BTD = frames_BTD + temporal_BTD
        return Pass(video_BTD, self.logits(video_BTD.mean(dim=1), classes_CD))

    def _weights(self, paths: Iterable[Sequence[int]]) -> list[LayerWeights]:
        """Weights that select one expert in each layer, for each path through the layers."""
        return [[one_expert(self.config.built, expert) for expert in path_L] for path_L in paths]

    def deploy(self, inference: settings.Inference, source_classes_CD: Tensor) -> MotePredictor:
        """Merges the experts into one network, once. Only an ensemble keeps them, with one pass through each."""
        assert isinstance(inference, Inference)
        self.config.check(inference)
        weights, scale = self._deployed(inference), self.scale
        layers = [weights_E for weights_LE in weights for weights_E in weights_LE]
        shares_E = [fmean(column) for column in zip(*layers, strict=True)] if self.config.experts else []
        if inference.aggregation == "ensemble":
            return MotePredictor(deepcopy(self.head), scale, source_classes_CD, inference, shares_E, weights)
        return MotePredictor(self.head.merged(*weights), scale, source_classes_CD, inference, shares_E)

    def _deployed(self, inference: Inference) -> list[LayerWeights]:
        """Weights of each pass; of a merge, those of all pools, or of up- and of down-projections.

        Random routing draws once for the whole test. The paper may draw anew for each batch: the mean over seeds is the
        same, but here no video's score depends on its batch.
        """
        layers, experts, expert = self.config.layers, self.config.built, inference.expert
        if inference.aggregation == "ensemble":
            return self._weights([i] * layers for i in range(experts))
        if inference.aggregation == "random_routing":
            generator = torch.Generator().manual_seed(seed_for("routing at test", inference.routing_seed))
            return self._weights(draw_routing(self.config, generator).values())
        if expert is not None:
            return self._weights([[expert] * layers])
        return [[merge_weights(experts, inference.merge_temperature or inf)] * layers]


# --- Test -------------------------------------------------------------------------------------------------------------


def modulation(frames_BTD: Tensor, classes_CD: Tensor, sources_SD: Tensor, gamma: float, k: int) -> Tensor:
    """Strength rho [B] = exp(-(1 - m) / gamma) of the temporal feature (Sec. 3.4).

    m is the mean over a video's nearest test classes of their similarity with the most similar of its nearest source
    classes (official code). It depends on the list of test classes; if that equals the source's, rho is 1.
    """
    k = min(k, len(classes_CD), len(sources_SD))
    query_BD = F.normalize(frames_BTD.mean(dim=1), dim=-1)
    tests_BKD, sources_BKD = (rows[(query_BD @ rows.T).topk(k).indices] for rows in (classes_CD, sources_SD))
    similarity_B = (tests_BKD @ sources_BKD.mT).amax(dim=-1).mean(dim=-1)
    return torch.exp((similarity_B - 1) / gamma)


class MotePredictor(TemporalPredictor):
    """A head whose temporal feature has less weight where the test's classes are unlike the source's.

    `shares_E` are the mean weights of experts over layers and passes; empty if all experts are one network. `passes`
    are the weights of each pass through a head that still has its experts; cosines and features are then means.
    """

    sources_SD: Tensor

    def __init__(
        self,
        head: TemporalTransformer,
        logit_scale: float,
        sources_SD: Tensor,
        inference: Inference,
        shares_E: Sequence[float],
        passes: Sequence[LayerWeights] = (),
    ) -> None:
        super().__init__(head, logit_scale)
        self.register_buffer("sources_SD", sources_SD.detach().clone())
        self.inference, self.passes, self.shares_E = inference, passes, shares_E
        # Without that, a measurement on half of the classes takes the scores of all and drops columns (official code).
        self.looks_at_classes = inference.tfm and inference.tfm_scope == "list"

    def strength(self, frames_BTD: Tensor, classes_CD: Tensor) -> Tensor:
        """Weight rho [B] of the temporal feature."""
        if not self.inference.tfm:
            return frames_BTD.new_ones(len(frames_BTD))
        return modulation(frames_BTD, classes_CD, self.sources_SD, self.inference.tfm_gamma, self.inference.tfm_k)

    def embed(self, frames_BTD: Tensor, temporal_BTD: Tensor, classes_CD: Tensor) -> Tensor:
        rho_B11 = self.strength(frames_BTD, classes_CD)[:, None, None]
        if self.inference.tfm_target == "h":
            return frames_BTD + rho_B11 * temporal_BTD
        carried_BTD = self.head.positioned(frames_BTD)
        return frames_BTD + carried_BTD + rho_B11 * (temporal_BTD - carried_BTD)

    def shares(self, frames_BTD: Tensor, classes_CD: Tensor) -> Tensor | None:
        """Shares [B, E], equal for all videos: they see the same merge."""
        return frames_BTD.new_tensor(self.shares_E).expand(len(frames_BTD), -1) if self.shares_E else None

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        if not self.passes:
            return super().forward(frames_BTD, classes_CD)
        passes = [self.predict(frames_BTD, classes_CD, weights_LE) for weights_LE in self.passes]
        features = {
            name: torch.stack([each.features[name] for each in passes]).mean(dim=0) for name in passes[0].features
        }
        cosines_BC = torch.stack([each.cosines_BC for each in passes]).mean(dim=0)
        return Prediction(cosines_BC, features["z"].norm(dim=-1), features)
