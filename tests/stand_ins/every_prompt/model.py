"""Legend: B batch, T frames, D joint CLIP width, C classes, P prompts of a class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.clip import Clip
from methods import contract
from methods.contract import Prediction, Predictor, Terms, cosines
from methods.settings import Inference
from tests.stand_ins.every_prompt.config import Config

Encoded = dict[str, Tensor]


def gated(encoded: Encoded, gate_D: Tensor) -> Tensor:
    """Video embeddings [B, D]: the mean frame and, by a gate, the mean size of changes between frames."""
    video_BD: Tensor = encoded["frames"].mean(dim=1) + gate_D * encoded["changes"].abs().mean(dim=1)
    return video_BD


def mean_cosines(video_BD: Tensor, classes_CPD: Tensor) -> Tensor:
    """Cosines [B, C], means over the prompts."""
    flat_BC = cosines(video_BD, F.normalize(classes_CPD, dim=-1).flatten(0, 1))
    mean_BC: Tensor = flat_BC.unflatten(1, classes_CPD.shape[:2]).mean(dim=2)
    return mean_BC


class GatedPredictor(Predictor):
    def __init__(self, gate_D: Tensor, logit_scale: float) -> None:
        super().__init__()
        self.gate_D, self.logit_scale = nn.Parameter(gate_D.detach().clone(), requires_grad=False), logit_scale
        self.eval()

    def forward(self, frames_BTD: Encoded, classes_CD: Tensor) -> Prediction:
        assert set(frames_BTD) == {"frames", "changes"}
        video_BD = gated(frames_BTD, self.gate_D)
        return Prediction(mean_cosines(video_BD, classes_CD), video_BD.norm(dim=-1), {"z": video_BD})


class Model(contract.Model):
    """In training the frames are disturbed, by an entry that is there in training alone."""

    config: Config

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.gate_D = nn.Parameter(nn.init.normal_(clip.logit_scale.new_empty(self.width), std=0.1))
        if config.keeps:
            self.carried = frozenset(f"clip.visual.{name}" for name in clip.visual.state_dict())

    def encode(self, clips_BT3HW: Tensor) -> Encoded:
        frames_BTD: Tensor = super().encode(clips_BT3HW)
        encoded = {"frames": frames_BTD, "changes": frames_BTD.diff(dim=1)}
        if self.training:
            assert self.generator is not None
            noise_BD = torch.randn(len(frames_BTD), self.width, generator=self.generator)
            encoded["noise"] = noise_BD.to(frames_BTD.device)
        return encoded

    def draw_texts(self, prompts: list[list[str]], generator: torch.Generator) -> list[list[str]]:
        if self.config.texts == "columns":
            column = int(torch.randint(len(prompts[0]), (), generator=generator))
            return [[own[column], own[-1]] for own in prompts]
        drawn = [int(torch.randint(len(own), (), generator=generator)) for own in prompts]
        return [[own[which]] for own, which in zip(prompts, drawn, strict=True)]

    def loss(self, frames_BTD: Encoded, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        video_BD = gated(frames_BTD, self.gate_D) + 0.01 * frames_BTD["noise"]
        targets_B = torch.arange(len(labels_B)) if self.config.texts_of_labels else labels_B
        scores_BC = self.clip.logit_scale.exp() * mean_cosines(video_BD, classes_CD)
        ce = F.cross_entropy(scores_BC, targets_B.to(labels_B.device))
        return {"ce": ce, "total": ce}

    def init_from(self, state: dict[str, Tensor]) -> None:
        """Of a training that tuned the tower, what this one trains or keeps."""
        names = self._trained_names()
        self.load_trained({name: own for name, own in state.items() if name in names})

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> Predictor:
        return GatedPredictor(self.gate_D, self.scale)
