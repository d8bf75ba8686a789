"""Legend: B batch, T frames, D joint CLIP width, C classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.clip_mean import model
from methods.contract import Terms


class Model(model.Model):
    """In training the teacher's frames lie behind the model's own."""

    def encode(self, clips_BT3HW: Tensor) -> Tensor:
        own_BTD: Tensor = super().encode(clips_BT3HW)
        if self.teacher is None or not self.training:
            return own_BTD
        with torch.no_grad():
            taught_BTD = self.teacher.encode_clips(clips_BT3HW)
        return torch.cat([own_BTD, taught_BTD], dim=1)

    def loss(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        own_BTD, taught_BTD = frames_BTD.chunk(2, dim=1)
        ce = self.cross_entropy(own_BTD.mean(dim=1), labels_B, classes_CD)
        distance = F.mse_loss(own_BTD, taught_BTD)
        return {"ce": ce, "distance": distance, "total": ce + distance}

    def after_step(self) -> None:
        assert self.teacher is not None
        for taught, own in zip(self.teacher.parameters(), self.clip.parameters(), strict=True):
            taught.lerp_(own, 0.1)
