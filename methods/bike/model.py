"""BIKE's video branch (arXiv 2301.00182): temporal transformer, and video concept spotting, which has no parameters.

With unit frame features v_t and unit features w_j of all tokens of a class's text, padding included, a frame weighs
a_t = mean over j of softmax_t(w_j . v_t / 0.01), and the class's score is its unit feature times the sum of a_t v_t,
which is not normalised again.

Legend: B batch, T frames, D joint CLIP width, C classes, L tokens of a text, J tokens of all texts of a class, N texts.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models.clip import CLASSES_PER_BATCH, Clip, class_means
from methods import contract
from methods.bike.config import Config
from methods.blocks import TemporalTransformer
from methods.contract import Features, Prediction, Predictor, Terms
from methods.costs import temporal_heads
from methods.settings import Inference
from methods.text4vis.model import contrast

TEMPERATURE = 0.01
AT_ONCE = 2**24  # similarities of frames with tokens that are held together


class Model(contract.Model):
    """A tuned visual tower and a head, with a loss over the batch; the text tower is frozen."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.head: TemporalTransformer | None = None
        if config.has_head:
            self.head = TemporalTransformer(self.width, temporal_heads(clip.spec), config.layers)

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Unit features [C, 1 + J, D]: of each class, and of all tokens of its prompts.

        Raises ValueError for unequally many prompts.
        """
        if wrong := next((len(own) for own in prompts if len(own) != len(prompts[0])), 0):
            raise ValueError(f"a class has {wrong} prompts, the first {len(prompts[0])}; allowed: equally many of each")
        parts = (prompts[i : i + CLASSES_PER_BATCH] for i in range(0, len(prompts), CLASSES_PER_BATCH))
        return torch.cat([self._embed(part) for part in parts])

    def _embed(self, prompts: list[list[str]]) -> Tensor:
        texts = [text for own in prompts for text in own]
        tokens_NL = self.clip.tokenizer(texts).to(self.clip.token_embedding.weight.device)
        features_NLD = self._tokens(tokens_NL)
        ends_N = tokens_NL.argmax(dim=-1)  # the end has the highest id
        ends_ND = features_NLD[torch.arange(len(ends_N), device=ends_N.device), ends_N]
        tokens_CJD = features_NLD.unflatten(0, (len(prompts), -1)).flatten(1, 2)
        return torch.cat([class_means(ends_ND, prompts)[:, None], F.normalize(tokens_CJD, dim=-1)], dim=1)

    def _tokens(self, tokens_NL: Tensor) -> Tensor:
        """Features [N, L, D] of all tokens, not normalised."""
        clip = self.clip
        hidden_NLW = clip.token_embedding(tokens_NL) + clip.positional_embedding
        hidden_NLW = clip.ln_final(clip.transformer(hidden_NLW, attn_mask=clip.attn_mask))
        features_NLD: Tensor = hidden_NLW @ clip.text_projection
        return features_NLD

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        """Mean divergence of videos from the texts of the batch's labels [B, 1 + J, D], and of texts from videos."""
        temporal_BTD = frames_BTD if self.head is None else frames_BTD + self.head(frames_BTD)
        similarity_BB = self.clip.logit_scale.exp() * spotted(temporal_BTD, classes_CD)
        nce = contrast(similarity_BB, labels_B, dual=False)
        return {"nce": nce, "total": nce}

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> SpottingPredictor:
        return SpottingPredictor(deepcopy(self.head), self.scale)


class SpottingPredictor(Predictor):
    """Scores of frames that each class weighs; z is the mean over T of unit frames, which no class has weighed."""

    def __init__(self, head: TemporalTransformer | None, scale: float) -> None:
        super().__init__()
        self.head, self.logit_scale = head, scale
        self.eval().requires_grad_(False)

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        features: Features = {}
        if self.head is not None:
            temporal_BTD, branch_BTD = self.head.trace(frames_BTD)
            frames_BTD = frames_BTD + temporal_BTD
            features = {"t": temporal_BTD.mean(dim=1), "last_ffn_branch": branch_BTD.mean(dim=1)}
            features |= {"t_frames": temporal_BTD} if self.per_frame else {}
        video_BD = F.normalize(frames_BTD.float(), dim=-1).mean(dim=1)
        return Prediction(spotted(frames_BTD, classes_CD), video_BD.norm(dim=-1), {"z": video_BD, **features})


def spotted(frames_BTD: Tensor, classes_CJD: Tensor) -> Tensor:
    """Scores [B, C] of frames for classes, whose first row is their feature and the others those of tokens.

    Never in bf16, as all cosines of this project.
    """
    with torch.autocast(frames_BTD.device.type, enabled=False):
        units_BTD = F.normalize(frames_BTD.float(), dim=-1)
        size = max(1, AT_ONCE // (classes_CJD.shape[1] * units_BTD[..., 0].numel()))
        return torch.cat([_spotted(units_BTD, part_CJD.float()) for part_CJD in classes_CJD.split(size)], dim=1)


def _spotted(units_BTD: Tensor, classes_CJD: Tensor) -> Tensor:
    similarity_BTCJ = (units_BTD @ classes_CJD.flatten(0, 1).T).unflatten(-1, classes_CJD.shape[:2])
    weights_BTC = (similarity_BTCJ[..., 1:] / TEMPERATURE).softmax(dim=1).mean(dim=-1)
    scores_BC: Tensor = (weights_BTC * similarity_BTCJ[..., 0]).sum(dim=1)
    return scores_BC
