"""Open-VCLIP (arXiv 2302.00624): a second pass of each training step at weights between CLIP's and the trained ones.

Legend: B batch, T frames, D joint CLIP width, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from methods import contract
from methods.contract import Encoded, Predictor, Terms, frames_of
from methods.open_vclip.config import Config
from methods.open_vclip.tower import FramesPredictor, WindowTower, pooled, similarities
from methods.settings import Inference


class Model(contract.Model):
    """CLIP whose frames see their neighbours. In training, `teacher` holds the weights that are mixed in."""

    config: Config

    def encode(self, clips_BT3HW: Tensor) -> Encoded:
        """Frame features [B, T, D]; in training also those at `mixed` weights, and the `share` of CLIP in them."""
        frames_BTD = WindowTower(self.clip.visual, self.config)(clips_BT3HW)
        if not self.training or self.teacher is None:
            return frames_BTD
        share = self.draw_share().to(clips_BT3HW.device)
        return {"frames": frames_BTD, "mixed": self.mixed(clips_BT3HW, share), "share": share}

    def draw_share(self) -> Tensor:
        """Share of CLIP in the mixed weights of a step, one number."""
        if self.generator is None:
            raise ValueError("the share of CLIP in mixed weights is drawn in a training step (Model.draws_from)")
        low, high = self.config.mix_low, self.config.mix_high
        return low + (high - low) * torch.rand((), generator=self.generator)

    def mixed(self, clips_BT3HW: Tensor, share: Tensor) -> Tensor:
        """Frame features [B, T, D] at the weights share * CLIP + (1 - share) * own, with a gradient to the own ones.

        `checkpointing` computes the whole pass again: its blocks alone would be computed with unmixed weights.
        """
        visual = self.clip.visual
        tower, (names, weights) = (
            WindowTower(visual, self.config, recompute=False),
            zip(*self._mixture(share), strict=True),
        )

        def run(clips_BT3HW: Tensor, *weights: Tensor) -> Tensor:
            frames_BTD: Tensor = functional_call(tower, dict(zip(names, weights, strict=True)), (clips_BT3HW,))
            return frames_BTD

        if visual.transformer.grad_checkpointing and torch.is_grad_enabled():
            again_BTD: Tensor = checkpoint(run, clips_BT3HW, *weights, use_reentrant=False)
            return again_BTD
        return run(clips_BT3HW, *weights)

    def _mixture(self, share: Tensor) -> Iterator[tuple[str, Tensor]]:
        assert self.teacher is not None
        pretrained = dict(self.teacher.visual.named_parameters())
        for name, own in self.clip.visual.named_parameters():
            yield f"visual.{name}", share * pretrained[name] + (1 - share) * own

    def loss(self, frames_BTD: Encoded, labels_B: Tensor, classes_CD: Tensor, generator: torch.Generator) -> Terms:
        """Cross-entropy at the own weights, and at the mixed ones by mix_weight / (1 - share).

        Through the mixture a gradient loses the factor 1 - share. The official program adds the gradient with respect
        to the mixed weights themselves, by mix_weight; it is the same.
        """
        encoded, own = frames_BTD, self.clip.logit_scale
        ce = self._cross_entropy(frames_of(encoded), labels_B, classes_CD, own)
        if not isinstance(encoded, dict):
            return {"ce": ce, "total": ce}
        assert self.teacher is not None
        share = encoded["share"]
        scale = share * self.teacher.logit_scale + (1 - share) * own
        mixed = self._cross_entropy(encoded["mixed"], labels_B, classes_CD, scale)
        return {"ce": ce, "ce_mixed": mixed, "total": ce + self.config.mix_weight / (1 - share) * mixed}

    def _cross_entropy(self, frames_BTD: Tensor, labels_B: Tensor, classes_CD: Tensor, log_scale: Tensor) -> Tensor:
        scores_BC = similarities(pooled(frames_BTD, self.config), classes_CD, self.config)
        return F.cross_entropy(log_scale.exp() * scores_BC, labels_B)

    def deploy(self, inference: Inference, source_classes_CD: Tensor) -> Predictor:
        return FramesPredictor(self.config, self.scale)
