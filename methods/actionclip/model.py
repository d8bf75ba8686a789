"""ActionCLIP's training and test (arXiv 2109.08472; official code).

Legend: B batch, T frames, D joint CLIP width, C classes, P prompts of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models.clip import Clip
from methods import contract
from methods.actionclip.config import FIXED_SCALE, Config, Inference
from methods.contract import Prediction, Predictor, Terms, cosines
from methods.settings import Inference as AnyInference
from methods.text4vis.model import contrast
from methods.text4vis.temporal import HEADS, INSIDE, FrameHead


class Model(contract.Model):
    """Both towers and the head, with a loss over the batch."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.head = HEADS[config.head](config, clip.spec)
        self.inside = INSIDE[config.inside](clip.spec)

    def encode(self, clips_BT3HW: Tensor) -> Tensor:
        if self.inside is None:
            frames_BTD: Tensor = super().encode(clips_BT3HW)
            return frames_BTD
        return self.inside.encode(self.clip.visual, clips_BT3HW)

    # --- training -----------------------------------------------------------------------------------------------------

    def draw(self, choices: Sequence[int], generator: torch.Generator) -> list[int]:
        """For each video one of so many templates, all alike likely."""
        return [int(torch.randint(count, (), generator=generator)) for count in choices]

    def draw_texts(self, prompts: list[list[str]], generator: torch.Generator) -> list[list[str]]:
        """One prompt for each video of a part, if the text tower is tuned to drawn ones."""
        if not self.config.texts_of_labels:
            return prompts
        drawn = self.draw([len(own) for own in prompts], generator)
        return [[own[index]] for own, index in zip(prompts, drawn, strict=True)]

    def label_texts(self, labels_B: Tensor, classes_CPD: Tensor, generator: torch.Generator) -> Tensor:
        """Unit feature [B, D] of the text that each video is compared with.

        `classes_CPD` are the prompts of all classes; or the drawn ones of the labels, [B, 1, D].
        """
        if self.config.texts_of_labels:
            return unit(classes_CPD[:, 0])
        if self.config.text_draw == "mean":
            return unit(unit(classes_CPD).mean(dim=1))[labels_B]
        drawn = self.draw([classes_CPD.shape[1]] * len(labels_B), generator)
        return unit(classes_CPD[labels_B, torch.tensor(drawn, device=classes_CPD.device)])

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        video_BD = self.head.features(frames_BTD, generator)["z"]
        similarity_BB = self.logits(video_BD, self.label_texts(labels_B, classes_CD, generator))
        nce = contrast(similarity_BB, labels_B, dual=False)
        return {"nce": nce, "total": nce}

    # --- test ---------------------------------------------------------------------------------------------------------

    def deploy(self, inference: AnyInference, source_classes_CD: Tensor) -> PromptPredictor:
        assert isinstance(inference, Inference)
        scale = FIXED_SCALE if inference.scale == "fixed100" else self.scale
        return PromptPredictor(deepcopy(self.head), scale, probabilities=inference.templates == "probabilities")


def unit(features: Tensor) -> Tensor:
    """Features [..., D] of length 1, in fp32."""
    return F.normalize(features.float(), dim=-1)


class PromptPredictor(Predictor):
    """A deployed head that looks at every prompt of a class.

    With `probabilities` a score is ln(p) / scale, p the mean over templates k of softmax_c(scale * cos(z, t_kc)), so
    that a softmax of scaled scores is p again, and summing it over views is the official test. Else it is the cosine
    with the mean of the prompts' unit features.
    """

    def __init__(self, head: FrameHead, scale: float, *, probabilities: bool) -> None:
        super().__init__()
        self.head, self.logit_scale = head, scale
        self.looks_at_classes, self.bounded = probabilities, not probabilities
        self.eval().requires_grad_(False)

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        features, prompts_CPD = self.head.features(frames_BTD), unit(classes_CD)
        if not self.per_frame:
            features.pop("t_frames", None)
        cosines_BCP = cosines(features["z"], prompts_CPD.flatten(0, 1)).unflatten(1, prompts_CPD.shape[:2])
        if self.looks_at_classes:
            # Through logarithms, since a probability of some cosines underflows.
            sums_BC = self.log_probabilities(cosines_BCP).logsumexp(dim=-1)
            scores_BC = (sums_BC - log(cosines_BCP.shape[-1])) / self.logit_scale
        else:
            scores_BC = cosines_BCP.mean(dim=-1) / prompts_CPD.mean(dim=1).norm(dim=-1)
        return Prediction(scores_BC, features["z"].norm(dim=-1), features)

    def log_probabilities(self, cosines_BCP: Tensor) -> Tensor:
        """Logarithm of what each prompt alone gives the classes."""
        return (self.logit_scale * cosines_BCP).log_softmax(dim=1)
