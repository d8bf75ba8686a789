"""VidPrism's objective and predictor (arXiv 2605.28229; official code where the two differ).

Legend: B batch, T frames, E experts, D joint CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models.clip import Clip
from methods import contract, settings
from methods.contract import Prediction, Predictor, Terms, cosines
from methods.vidprism.config import Config, Inference
from methods.vidprism.head import Readout, VidPrismHead

FROZEN_BY_MISTAKE = ("transformer", "positional_embedding")  # parts of names that the official `fix_text` freezes

# --- Auxiliary losses of a batch; the rank loss is computed where windows are merged ----------------------------------


def balance(shares_BE: Tensor) -> Tensor:
    """E times the sum of squares of the experts' mean shares; 1, its minimum, for equal shares."""
    return shares_BE.shape[1] * shares_BE.mean(dim=0).square().sum()


def mean_cosine(vectors_XYD: Tensor) -> Tensor:
    """Mean cosine over pairs of rows X that have the same Y; 0 for a single row.

    The products of all pairs are the square of their sum without the squares, so no matrix of pairs is needed.
    """
    rows, columns = vectors_XYD.shape[:2]
    if rows < 2:
        return vectors_XYD.new_zeros(())
    unit_XYD = F.normalize(vectors_XYD, dim=-1)
    products = unit_XYD.sum(dim=0).square().sum() - unit_XYD.square().sum()
    return products / (columns * rows * (rows - 1))


def _unlike_videos(summaries_BED: Tensor) -> Tensor:
    return 1 - mean_cosine(summaries_BED) if len(summaries_BED) > 1 else summaries_BED.new_zeros(())


# The official code is meant to compare experts, but goes through the batch: it pulls different videos together.
DIVERSITY: dict[str, Callable[[Tensor], Tensor]] = {
    "batch": _unlike_videos,
    "experts": lambda summaries_BED: mean_cosine(summaries_BED.transpose(0, 1)),
}


# --- Training ---------------------------------------------------------------------------------------------------------


class Model(contract.Model):
    """Classification with rank, balance, diversity and contrastive terms of constant weights."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.head = VidPrismHead(self.width, config)
        if config.freeze_blocks:
            for name, parameter in clip.visual.named_parameters():
                if any(part in name for part in FROZEN_BY_MISTAKE):
                    parameter.requires_grad_(False)

    def bind_classes(self, classes: int) -> None:
        self.head.bind_classes(classes)

    def unused_parameters(self) -> set[str]:
        """Scores of streams that never interact, pairs behind closed gates, terms without weight, and CLIP's scale.

        The scale is stored in official checkpoints, but the linear classifier has none, and with class texts it stays
        CLIP's.
        """
        config, merging = self.config, "head.pooling_layers."
        unused = {
            "head.dynamic_interaction.": True,
            "clip.logit_scale": True,
            merging: not config.rank_weight,
            f"{merging}0.": config.rates[0] == config.keep,  # nothing is merged
            "head.mote.readout_gate.": len(config.rates) == 1,  # a stream of a single token, whose weight is always 1
            "head.projection_head.": config.classifier == "linear" and not config.contrastive_weight,
        }
        prefixes = tuple(prefix for prefix, is_unused in unused.items() if is_unused)
        trainable = (name for name, parameter in self.named_parameters() if parameter.requires_grad)
        return {name for name in trainable if name.startswith(prefixes)}

    def expert_parameters(self) -> Sequence[Mapping[str, Tensor]]:
        experts = list(self.head.mote.experts) if self.config.experts else []
        return [{f"layer 0.{name}": own for name, own in expert.named_parameters()} for expert in experts]

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        config, (_, _, read, rank) = self.config, self.head(frames_BTD, ranked=self.config.rank_weight > 0)
        cosines_BC = None
        if config.classifier == "text" or config.contrastive_weight:
            cosines_BC = cosines(self.head.projection_head(read.video_BD), classes_CD)
        if config.classifier == "linear":
            logits_BC = self.head.logits(read.video_BD)
        else:
            assert cosines_BC is not None
            logits_BC = self.clip.logit_scale.exp().detach() * cosines_BC
        ce = F.cross_entropy(logits_BC, labels_B)
        terms: dict[str, tuple[float, Tensor]] = {"ce": (1.0, ce)}
        if config.rank_weight and config.aggregation == "guided":
            terms["rank"] = (config.rank_weight, rank)
        if config.gate_weight:
            terms["gate"] = (config.gate_weight, balance(read.shares_BE))
        if config.diversity != "off" and config.diversity_weight:
            terms["diversity"] = (config.diversity_weight, DIVERSITY[config.diversity](read.summaries_BED))
        if config.contrastive_weight:
            assert cosines_BC is not None
            terms["contrastive"] = (config.contrastive_weight, F.cross_entropy(cosines_BC, labels_B))
        total = torch.stack([weight * term for weight, term in terms.values()]).sum()
        return {name: term for name, (_, term) in terms.items()} | {"total": total}

    def deploy(self, inference: settings.Inference, source_classes_CD: Tensor) -> VidPrismPredictor:
        assert isinstance(inference, Inference)
        self.config.check(inference)
        return VidPrismPredictor(self.head, self.scale, inference)


# --- Test -------------------------------------------------------------------------------------------------------------


class VidPrismPredictor(Predictor):
    """Logits of the linear classifier, or cosines with class texts.

    Features: "z" is the read-out's vector, with class texts its projection; "t" the mean of the experts' tokens;
    "last_ffn_branch" the mean of their feed-forward networks' outputs. Tokens are no frames: there is no "t_frames".
    """

    def __init__(self, head: VidPrismHead, logit_scale: float, inference: Inference) -> None:
        super().__init__()
        self.head = head.deployed(inference.expert)
        self.linear = head.config.classifier == "linear"
        self.logit_scale = 1.0 if self.linear else logit_scale
        self.eval().requires_grad_(False)

    def shares(self, frames_BTD: Tensor, classes_CD: Tensor) -> Tensor | None:
        """Shares [B, E] of the read-out's attention; 1 for an expert that is read out alone."""
        experts, chosen = self.head.config.experts, self.head.chosen
        if not experts:
            return None
        if chosen is not None:
            return F.one_hot(frames_BTD.new_full((len(frames_BTD),), chosen).long(), experts).to(frames_BTD)
        read: Readout = self.head(frames_BTD).read
        return read.shares_BE

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        read: Readout = self.head(frames_BTD).read
        features = {"t": read.tokens_BLD.mean(dim=1), "last_ffn_branch": read.branch_BLD.mean(dim=1)}
        if self.linear:
            logits_BC = self.head.logits(read.video_BD)
            return Prediction(logits_BC, logits_BC.new_ones(len(logits_BC)), {"z": read.video_BD, **features})
        video_BD = self.head.projection_head(read.video_BD)
        return Prediction.of(video_BD, classes_CD, features)
