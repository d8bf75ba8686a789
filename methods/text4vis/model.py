"""Text4Vis: temporal modules, a classifier, a loss (arXiv 2207.01297; official code).

Legend: B batch, T frames, D joint CLIP width, C classes.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models.clip import Clip
from methods import contract
from methods.contract import Prediction, Terms
from methods.settings import Inference
from methods.text4vis.classifiers import CLASSIFIERS, Classifier, Context, Discriminants
from methods.text4vis.config import TEXTS, Config
from methods.text4vis.temporal import HEADS, INSIDE, FrameHead

SHARPNESS = 10.0  # targets of the contrastive losses are softmax(10 * same label)
DUAL_TEMPERATURE = 1000.0


class Model(contract.Model):
    """Classification of the head's pooled output."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.head = HEADS[config.head](config, clip.spec)
        self.inside = INSIDE[config.inside](clip.spec)
        self.classifier: Classifier | None = None
        self.context: Context | None = None
        if config.classifier == "coop" and config.context_of == "all":
            self.context = Context(config, clip)
        if config.classifier == "linear":
            clip.logit_scale.requires_grad_(False)  # its logits have no scale

    def bind_classes(self, classes: int) -> None:
        if self.config.classifier in CLASSIFIERS:
            self.classifier = CLASSIFIERS[self.config.classifier](self.width, classes)
        if self.config.context_of == "class":
            self.context = Context(self.config, self.clip, classes)

    def learn_from(self, features_ND: Tensor, labels_N: Tensor) -> None:
        if not isinstance(self.classifier, Discriminants):
            raise ValueError(f"classifier: {self.config.classifier} was not bound to classes, or learns from no videos")
        self.classifier.learn_from(features_ND, labels_N)

    def encode(self, clips_BT3HW: Tensor) -> Tensor:
        if self.inside is None:
            frames_BTD: Tensor = super().encode(clips_BT3HW)
            return frames_BTD
        return self.inside.encode(self.clip.visual, clips_BT3HW)

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        if self.config.classifier != "coop":
            return super().embed_classes(prompts)
        if self.context is None:
            raise ValueError("context_of: class was not bound to classes before texts are embedded")
        return self.context.embed_classes(self.clip, prompts)

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        name, video_BD = self.config.loss, self.head.features(frames_BTD, generator)["z"]
        if name == "ce":
            term = F.cross_entropy(self._scores(video_BD, classes_CD), labels_B)
        else:
            similarity_BB = self.logits(video_BD, classes_CD[labels_B])
            term = contrast(similarity_BB, labels_B, dual=name == "ds")
        return {name: term, "total": term}

    def _scores(self, video_BD: Tensor, classes_CD: Tensor) -> Tensor:
        if self.classifier is None:
            return self.logits(video_BD, classes_CD)
        return self.classifier.logits(video_BD, self.clip.logit_scale.exp())

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> HeadPredictor:
        if self.classifier is None and self.config.classifier not in TEXTS:
            raise ValueError(f"classifier: {self.config.classifier} was not bound to classes before it is deployed")
        return HeadPredictor(deepcopy(self.head), self.scale, deepcopy(self.classifier))


def contrast(similarity_BB: Tensor, labels_B: Tensor, *, dual: bool) -> Tensor:
    """Mean over both directions of the divergence of softmaxed similarities from their targets.

    `similarity_BB` is scaled; row i is a video and column j the text of video j's label, so that a label that occurs
    twice has two right columns. Text4Vis gathers both over its processes; here each part of a batch is on its own.
    """
    targets_BB, directions = matching(labels_B), [similarity_BB, similarity_BB.T]
    if dual:
        directions = [each * (each / DUAL_TEMPERATURE).softmax(dim=0) * len(each) for each in directions]
    return torch.stack([divergence(each, targets_BB) for each in directions]).mean()


def matching(labels_B: Tensor) -> Tensor:
    """Targets [B, B] of videos: shares of the texts of their label."""
    same_BB = (labels_B[:, None] == labels_B).float()
    return (SHARPNESS * same_BB).softmax(dim=-1)


def divergence(similarity_BB: Tensor, targets_BB: Tensor) -> Tensor:
    """Divergence of softmaxed rows from their targets, a mean over the rows."""
    return F.kl_div(similarity_BB.log_softmax(dim=-1), targets_BB, reduction="batchmean")


class HeadPredictor(contract.Predictor):
    """A deployed head: cosines with class texts, or the logits of a class-bound classifier.

    With a class-bound classifier all views have the norm 1, so that they weigh the same, and exp(s) is in the logits.
    """

    def __init__(self, head: FrameHead, scale: float, classifier: Classifier | None) -> None:
        super().__init__()
        self.head, self.scale, self.classifier = head, scale, classifier
        self.logit_scale = scale if classifier is None else 1.0
        self.eval().requires_grad_(False)

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        features = self.head.features(frames_BTD)
        if not self.per_frame:
            features.pop("t_frames", None)
        if self.classifier is None:
            return Prediction.of(features["z"], classes_CD, features)
        logits_BC = self.classifier.logits(features["z"], self.scale)
        if len(classes_CD) != (own := logits_BC.shape[1]):
            raise ValueError(f"{len(classes_CD)} candidates, but the head is bound to {own} classes")
        return Prediction(logits_BC, torch.ones_like(logits_BC[:, 0]), features)
