"""Running mean of the trained weights: over the ends of epochs, or with weights that decay (EMA).

It takes the place of the last weights in the record of a training. The training itself does not see it.
Source: averages of Open-VCLIP and FROSTER (SWA, arXiv 1803.05407) and the ensemble of TACO, official code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.suite.recipe import Average

Named = dict[str, Tensor]


class RunningMean:
    """The mean of `count` states. A mean of equal tensors has their bits; integers are those of the last state."""

    def __init__(self, rule: Average, start: Named) -> None:
        """`start` holds the weights before training, which an EMA begins with, and an average on request."""
        self.rule = rule
        self.count, self.state = 0, Named()
        if rule.kind == "ema" or rule.start:
            self._add(start, 1.0)

    def after_step(self, state: Named) -> None:
        """Take in the weights after a step."""
        if self.rule.kind == "ema":
            self._add(state, 1 - self.rule.momentum)

    def after_epoch(self, epoch: int, last: bool, state: Named) -> None:
        """Take in the weights after an epoch, counted from 1. The end of a training before `first` counts as well."""
        rule = self.rule
        due = epoch <= (rule.last or epoch) if rule.first <= epoch else last
        if rule.kind == "epochs" and due:
            self._add(state, 1 / (self.count + 1))

    @torch.no_grad()
    def _add(self, state: Named, share: float) -> None:
        self.count += 1
        if not self.state:
            self.state = {name: tensor.clone() for name, tensor in state.items()}
        for name, mean in self.state.items():
            if mean.is_floating_point():
                mean.add_(state[name] - mean, alpha=share)
            else:
                mean.copy_(state[name])
