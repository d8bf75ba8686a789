"""MoTE's objective and what it deploys (arXiv 2410.10589; official code where the two differ).

Legend: B batch, T frames, D joint CLIP width, C classes, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from math import inf
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.core.seeds import seed_for
from bench.models.clip import Clip
from methods import contract, settings
from methods.mote.choices import draw_routing, draw_temperatures
from methods.mote.config import Config, Inference, merge_weights
from methods.mote.experts import MoteHead, Weights, one_expert
from methods.mote.predictor import MotePredictor
from methods.temporal_costs import temporal_heads


class Pass(NamedTuple):
    """Video embeddings of the frames and scaled logits of one pass through the head."""

    video_BTD: Tensor
    logits_BC: Tensor

    def detached(self) -> Pass:
        return Pass(*(tensor.detach() for tensor in self))


# What the merged pass is held to: (merged, routed, labels_B) -> loss. The routed pass comes detached, which the paper
# does not say.
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
        """Experts that are neither drawn nor merged. A very cold temperature rounds weights to 0."""
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

    # --- training -----------------------------------------------------------------------------------------------------

    def loss(
        self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
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
    ) -> dict[str, Tensor]:
        """The loss under given choices. Without temperatures there is no merged pass, and undrawn experts rest.

        Without routing all experts see the batch; `down_L` is the routing of down-projections that have one of their
        own.
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

    def _weights(self, paths: Iterable[Sequence[int]]) -> list[Weights]:
        """Weights that leave one expert in each layer, for each path through the layers."""
        return [[one_expert(self.config.built, expert) for expert in path_L] for path_L in paths]

    # --- test ---------------------------------------------------------------------------------------------------------

    def deploy(self, inference: settings.Inference, source_classes_CD: Tensor) -> MotePredictor:
        """Experts become one network here, once; only an ensemble keeps them, and takes a pass through each."""
        assert isinstance(inference, Inference)
        self.config.check(inference)
        scale = self.deployed_scale(inference)
        if inference.aggregation == "ensemble":
            passes = self._weights([i] * self.config.layers for i in range(self.config.built))
            return MotePredictor(deepcopy(self.head), scale, source_classes_CD, inference, passes, self._shares(passes))
        weights = {"merge": self._alike, "random_routing": self._drawn}[inference.aggregation](inference)
        head = self.head.merged(*weights)
        return MotePredictor(head, scale, source_classes_CD, inference, shares_E=self._shares(weights))

    def _shares(self, weights: list[Weights]) -> list[float]:
        """Mean weight [E] of each expert over layers and passes; none where experts are one and the same."""
        layers = [weights_E for weights_LE in weights for weights_E in weights_LE]
        return [fmean(column) for column in zip(*layers, strict=True)] if self.config.experts else []

    def _alike(self, inference: Inference) -> list[Weights]:
        """The same weights in each layer: those of one expert, or of a temperature."""
        experts, expert, tau = self.config.built, inference.expert, inference.merge_temperature
        weights_E = merge_weights(experts, tau or inf) if expert is None else one_expert(experts, expert)
        return [[weights_E] * self.config.layers]

    def _drawn(self, inference: Inference) -> list[Weights]:
        """One expert in each layer, drawn with the odds of training.

        Drawn for the whole test and not anew for each batch, as the paper may: the mean over seeds is the same, and no
        video's score depends on what it is batched with.
        """
        generator = torch.Generator().manual_seed(seed_for("routing at test", inference.routing_seed))
        return self._weights(draw_routing(self.config, generator).values())
