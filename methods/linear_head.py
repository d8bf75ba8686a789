"""Heads behind adapters in a frozen visual tower: cosines with class texts, or a linear layer over the source classes.

Legend: B batch, T frames, W width of the visual tower, D joint CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.clip import Clip
from methods import contract
from methods.contract import Prediction, Predictor, Terms
from methods.heads import Config
from methods.open_vclip.tower import FramesPredictor, pooled, similarities
from methods.settings import Inference


class LinearHead(nn.Linear):
    """Dropout and a linear layer [B, W] -> [B, C]; weights start from Normal(0, std), biases at 0."""

    def __init__(self, width: int, classes: int, std: float, dropout: float) -> None:
        super().__init__(width, classes)
        self.dropout = dropout
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)

    def forward(self, video_BW: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Logits [B, C], never in half precision. With a generator there is dropout."""
        factors_BW = dropout_factors(video_BW.shape, self.dropout, generator, video_BW.device)
        with torch.autocast(video_BW.device.type, enabled=False):
            video_BW = video_BW.float() if factors_BW is None else video_BW.float() * factors_BW
            logits_BC: Tensor = super().forward(video_BW)
            return logits_BC


class Head(nn.Module):
    """All modules of a method, as official layouts name them: those of each block, and the layer over classes."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.fc: LinearHead | None = None  # of `head: linear`, once it is bound to classes


def dropout_factors(
    shape: Sequence[int], probability: float, generator: torch.Generator | None, device: torch.device
) -> Tensor | None:
    """What dropout multiplies values by; none without a generator. Drawn on the CPU, so equal on all devices."""
    if generator is None or not probability:
        return None
    kept = torch.rand(tuple(shape), generator=generator) >= probability
    return kept.to(device) / (1 - probability)


class LinearPredictor(Predictor):
    """Logits of the mean over T of tokens [B, T, W]. All views have the norm 1, so that they weigh the same."""

    bounded = False

    def __init__(self, fc: LinearHead) -> None:
        super().__init__()
        self.fc = deepcopy(fc)
        self.eval().requires_grad_(False)

    def forward(self, frames_BTD: Tensor, classes_CD: Tensor) -> Prediction:
        video_BW = frames_BTD.float().mean(dim=1)
        logits_BC = self.fc(video_BW)
        if len(classes_CD) != (own := logits_BC.shape[1]):
            raise ValueError(f"{len(classes_CD)} candidates, but the head is bound to {own} classes")
        return Prediction(logits_BC, torch.ones_like(logits_BC[:, 0]), {"z": video_BW})


class Model(contract.Model):
    """A frozen tower, either head and cross-entropy; methods make the modules inside, and `encode`."""

    config: Config
    std = 0.02  # of the linear layer's first weights

    def __init__(self, config: Config, clip: Clip, head: Head) -> None:
        super().__init__(config, clip)
        self.head = head

    def bind_classes(self, classes: int) -> None:
        if self.config.head == "linear":
            self.head.fc = LinearHead(self.clip.spec.vision_width, classes, self.std, self.config.dropout)

    def last_layers(self) -> Iterable[nn.Linear]:
        """Layers that make what is added to the tower, and start from nothing: `clip_alpha` scales them.

        A config whose model names them says that it `interpolates`.
        """
        return ()

    @torch.no_grad()
    def interpolate(self, pretrained: Clip, alpha: float) -> None:
        """In place: adapters add alpha times what they learnt to add, so that 0 is CLIP."""
        super().interpolate(pretrained, alpha)
        for layer in self.last_layers():
            for parameter in layer.parameters():
                parameter.mul_(alpha)

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        """Cross-entropy; dropout draws from the generator in training mode."""
        if self.head.fc is not None:
            logits_BC = self.head.fc(frames_BTD.float().mean(dim=1), generator if self.training else None)
        else:
            pooling: Any = self.config  # whose `pool` is that of Open-VCLIP's settings
            cosines_BC = similarities(pooled(frames_BTD, pooling), classes_CD, pooling)
            logits_BC = self.clip.logit_scale.exp() * cosines_BC
        ce = F.cross_entropy(logits_BC, labels_B)
        return {"ce": ce, "total": ce}

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> Predictor:
        if self.config.head == "text":
            pooling: Any = self.config
            return FramesPredictor(pooling, self.scale)
        if self.head.fc is None:
            raise ValueError("head: linear was not bound to classes before it is deployed")
        return LinearPredictor(self.head.fc)
