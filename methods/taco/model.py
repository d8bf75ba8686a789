"""TACO's objective: cross-entropy behind a projection, and relative structure distillation (official code).

L = CE(s v . y) + weight * KL(softmax(s R_t) || softmax(s R_s)), with R = (v A^T)(A y^T) over unit anchors A, for the
teacher t and the student s. The paper's tables and equations could not be read; the form is that of the code.

Legend: B batch, T frames, D joint CLIP width, C classes, P prompts of a class, K anchors.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.clip import Clip
from methods import contract
from methods.contract import Encoded, Prediction, Predictor, Terms, cosines, frames_of
from methods.settings import Inference as AnyInference
from methods.taco.config import WIDENING, Config, Inference


def projection(width: int) -> nn.Sequential:
    """Specialization projection, [..., D] -> [..., D]: two linear layers with nothing between, zero at first."""
    first, second = nn.Linear(width, WIDENING * width), nn.Linear(WIDENING * width, width)
    for parameter in second.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(OrderedDict(linear_A=first, linear_B=second))


class Model(contract.Model):
    """CLIP that learns from labels and from a moving average of itself."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        # The official name, behind `head.`.
        self.head = nn.ModuleDict({"vision_proj": projection(self.width)} if config.projection else {})

    def encode(self, clips_BT3HW: Tensor) -> Encoded:
        """Frame features [B, T, D]; in training those of the teacher as well, unless its visual tower is the same."""
        frames_BTD = super().encode(clips_BT3HW)
        if not self.training or self.teacher is None or "visual" not in self.config.tuned:
            return frames_BTD
        with torch.no_grad():
            taught_ND = self.teacher.encode_frames(clips_BT3HW.flatten(0, 1))
        return {"frames": frames_BTD, "teacher": taught_ND.reshape(frames_BTD.shape)}

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Unit class features [C, D]; in training with a teacher [C, 2, D], of the student and, detached, of it."""
        own_CD = self._class_means(self.clip, prompts)
        if not self.training or self.teacher is None:
            return own_CD
        with torch.no_grad():
            taught_CD = self._class_means(self.teacher, prompts)
        return torch.stack([own_CD, taught_CD], dim=1)

    def _class_means(self, clip: Clip, prompts: list[list[str]]) -> Tensor:
        if self.config.class_mean == "unit":
            return clip.embed_classes(prompts)
        texts = torch.split(clip.encode_prompts(prompts), [len(own) for own in prompts])
        return F.normalize(torch.stack([texts_PD.mean(dim=0) for texts_PD in texts]), dim=-1)

    def loss(self, frames_BTD: Encoded, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        """Terms of a batch; with a teacher, the classes are [C, 2, D]."""
        video_BD = self.projected(frames_of(frames_BTD).mean(dim=1))
        if self.teacher is None:
            ce = self.cross_entropy(video_BD, labels_B, classes_CD)
            return {"ce": ce, "total": ce}
        own_CD, taught_CD = classes_CD.unbind(dim=1)
        taught_BTD = frames_BTD["teacher"] if isinstance(frames_BTD, dict) else frames_BTD
        anchors_KD = self.draw_anchors(generator)
        ce = self.cross_entropy(video_BD, labels_B, own_CD)
        kl = self.divergence(
            relative(taught_BTD.mean(dim=1), taught_CD.detach(), anchors_KD), relative(video_BD, own_CD, anchors_KD)
        )
        return {"ce": ce, "kl": kl, "total": ce + self.config.kl_weight * kl}

    def projected(self, mean_BD: Tensor) -> Tensor:
        """Video features [B, D] of means over frames, in the space of cross-entropy."""
        return mean_BD + self.head["vision_proj"](mean_BD) if self.config.projection else mean_BD

    def draw_anchors(self, generator: torch.Generator) -> Tensor | None:
        """Unit anchors [K, D]: normal draws divided by their lengths; None if cosines are compared as they are."""
        if not self.config.anchors:
            return None
        drawn_KD = torch.randn(self.config.anchors, self.width, generator=generator)
        return F.normalize(drawn_KD, dim=-1).to(self.clip.logit_scale.device)

    def divergence(self, taught_BC: Tensor, own_BC: Tensor) -> Tensor:
        """Mean over the videos of KL(teacher || student); both distributions have the student's scale."""
        scale = self.clip.logit_scale.exp()
        target_scale = scale if self.config.target_scale == "live" else scale.detach()
        target_BC, answer_BC = F.log_softmax(target_scale * taught_BC, dim=-1), F.log_softmax(scale * own_BC, dim=-1)
        return (target_BC.exp() * (target_BC - answer_BC)).sum(dim=-1).mean()

    def after_step(self) -> None:
        """Move the teacher towards the student. The code does it between the forward passes of the next step."""
        if self.teacher is None or self.config.momentum == 1:
            return
        for taught, own in zip(self.teacher.parameters(), self.clip.parameters(), strict=True):
            taught.lerp_(own, 1 - self.config.momentum)

    def deploy(self, inference: AnyInference, source_classes_CD: Tensor) -> Predictor:
        assert isinstance(inference, Inference)
        projected = self.config.projection and inference.projected
        return ProjectedPredictor(deepcopy(self.head["vision_proj"]) if projected else None, self.scale)


def relative(video_BD: Tensor, classes_CD: Tensor, anchors_KD: Tensor | None) -> Tensor:
    """Relative similarities R [B, C] of videos with unit classes: products of their cosines with unit anchors."""
    if anchors_KD is None:
        return cosines(video_BD, classes_CD)
    with torch.autocast(video_BD.device.type, enabled=False):
        seen_BK = F.normalize(video_BD.float(), dim=-1) @ anchors_KD.T
        similarity_BC: Tensor = seen_BK @ (anchors_KD @ classes_CD.float().T)
        return similarity_BC


class ProjectedPredictor(Predictor):
    """z = m + p(m) for the mean m over the frames, or m alone."""

    def __init__(self, projection: nn.Module | None, logit_scale: float) -> None:
        super().__init__()
        self.projection = projection
        self.logit_scale = logit_scale
        self.requires_grad_(False).eval()

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        mean_BD = frames_BTD.mean(dim=1)
        video_BD = mean_BD if self.projection is None else mean_BD + self.projection(mean_BD)
        return Prediction.of(video_BD, classes_CD)
