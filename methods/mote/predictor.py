"""MoTE at the test: merged or asked one by one, with temporal feature modulation (arXiv 2410.10589, Sec. 3.4).

Legend: B batch, T frames, D joint CLIP width, C classes, S source classes, K neighbours, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.blocks import TemporalPredictor, TemporalTransformer
from methods.contract import Prediction
from methods.mote.config import Inference
from methods.mote.experts import Weights


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


class MotePredictor(TemporalPredictor):
    """A head whose temporal feature counts less where the test's classes are unlike the source's.

    `passes` are the weights of each pass through a head that still has its experts; cosines and features are then means
    over the passes. `shares_E` are the weights with which experts were merged, the mean over layers; empty without any.
    """

    sources_SD: Tensor

    def __init__(
        self,
        head: TemporalTransformer,
        logit_scale: float,
        sources_SD: Tensor,
        inference: Inference,
        passes: Sequence[Weights] = (),
        shares_E: Sequence[float] = (),
    ) -> None:
        super().__init__(head, logit_scale)
        self.register_buffer("sources_SD", sources_SD.detach().clone())
        self.inference, self.passes, self.shares_E = inference, passes, shares_E
        # The scores of a method that does not look at the candidates are cut to a half of them as they are, as in the
        # official code.
        self.looks_at_classes = inference.tfm and inference.tfm_scope == "list"

    def strength(self, frames_BTD: Tensor, classes_CD: Tensor) -> Tensor:
        """rho [B], the weight of the temporal feature."""
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
        """[B, E], alike for all videos: they all see the same merge."""
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
