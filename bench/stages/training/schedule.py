"""Learning rates as official code steps them.

`mote`: the warm-up cosine of the Text4Vis, BIKE, MoTE and VidPrism trainers, a step function of the iteration: it is
computed anew at the first iteration of an epoch and at every tenth one, and held in between. A run with few iterations
per epoch therefore sees a coarse schedule; that is what was published, and a run with less than ten warm-up iterations
before the first of them starts at a rate of 0.
`vifi`: that of ViFi-CLIP and MSTA, by iteration.
"""

from __future__ import annotations

from math import cos, pi

STRIDE = 10  # iterations between two computations of the rate


def lr_factor(epoch: int, iteration: int, iterations_per_epoch: int, epochs: float, warmup_epochs: float) -> float:
    """Fraction of the base rate, 0..1, in force at a zero-based iteration of a zero-based epoch.

    `epochs` and `warmup_epochs` may be fractional. Source: official MoTE code, lr_scheduler and training loop.
    """
    computed_at = max(0, (iteration + 1) // STRIDE * STRIDE - 1)
    time = epoch + computed_at / iterations_per_epoch
    if time < warmup_epochs:
        return time / warmup_epochs
    progress = min(1.0, (time - warmup_epochs) / (epochs - warmup_epochs)) if epochs > warmup_epochs else 1.0
    return 0.5 * (1 + cos(pi * progress))


def vifi_factor(epoch: int, iteration: int, iterations_per_epoch: int, epochs: float, warmup_epochs: float) -> float:
    """As `lr_factor`, for ViFi-CLIP and MSTA: set after each step, so that a step has the rate of the one before.

    Linear warm-up, then a cosine down to a hundredth that the warm-up does not shift, so that the rate drops where they
    meet. Source: MSTA's logs, whose rates it gives to nine digits.
    """
    step = max(0, epoch * iterations_per_epoch + iteration - 1)
    warmup, steps = warmup_epochs * iterations_per_epoch, epochs * iterations_per_epoch
    if step < warmup:
        return step / warmup
    return 0.01 + 0.5 * (1 - 0.01) * (1 + cos(pi * min(1.0, step / steps)))


SCHEDULES = {"mote": lr_factor, "vifi": vifi_factor}
