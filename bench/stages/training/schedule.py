"""Learning rates as official code steps them. All fall as half a cosine, after a linear warm-up.

`mote`: the schedule of the Text4Vis, BIKE, MoTE and VidPrism trainers, a step function of the iteration: it is computed
anew at the first iteration of an epoch and at every tenth one, and held in between. A run with few iterations per epoch
therefore sees a coarse schedule; that is what was published, and a run with less than ten warm-up iterations before the
first of them starts at a rate of 0.
`cosine`: the same curve, computed at every iteration (Open-VCLIP, FROSTER, ST-Adapter, Vita-CLIP).
`vifi`: that of ViFi-CLIP, MSTA and X-CLIP, by iteration.
`epoch_cosine`: that of AIM, by epoch.

Every function gives the fraction of the base rate, 0..1, in force at a zero-based iteration of a zero-based epoch.
`epochs` and `warmup_epochs` may be fractional; `floor` and `start` are fractions of the base rate, at the end of the
training and at the beginning of the warm-up.
"""

from __future__ import annotations

from math import ceil, cos, pi

from bench.suite.recipe import Training

STRIDE = 10  # iterations between two computations of the rate


class Schedule:
    """The steps of a training on so many videos, and their rates."""

    def __init__(self, training: Training, videos: int) -> None:
        self.training = training
        self.steps_per_epoch = ceil(training.worked_on(videos) / training.batch)
        self.steps = max(1, round(training.epochs * self.steps_per_epoch))
        # Micro-steps at the end of an epoch that fill no step.
        self.left_over = (videos - training.worked_on(videos)) * training.micro_steps // training.batch

    def factor(self, step: int, of_floor: float = 1.0) -> float:
        """Fraction of a base rate in force at a zero-based step, if it falls to `of_floor` times the floor."""
        own = self.training
        floor = own.floor if own.floor is not None else 0.01 if own.schedule == "vifi" else 0.0
        place = *divmod(step, self.steps_per_epoch), self.steps_per_epoch, own.epochs, own.warmup_epochs
        shape = floor * of_floor, own.warmup_start
        if own.schedule == "vifi":
            return vifi_factor(*place, *shape, own.micro_steps, self.left_over)
        return SHIFTED[own.schedule](*place, *shape)


def lr_factor(
    epoch: int,
    iteration: int,
    iterations_per_epoch: int,
    epochs: float,
    warmup_epochs: float,
    floor: float = 0.0,
    start: float = 0.0,
) -> float:
    """Schedule `mote`. Source: official MoTE code, lr_scheduler and training loop."""
    computed_at = max(0, (iteration + 1) // STRIDE * STRIDE - 1)
    return cosine_factor(epoch, computed_at, iterations_per_epoch, epochs, warmup_epochs, floor, start)


def cosine_factor(
    epoch: int,
    iteration: int,
    iterations_per_epoch: int,
    epochs: float,
    warmup_epochs: float,
    floor: float = 0.0,
    start: float = 0.0,
) -> float:
    """Schedule `cosine`, which begins to fall where the warm-up ends. Source: official code of Open-VCLIP."""
    time = epoch + iteration / iterations_per_epoch
    if time < warmup_epochs:
        return start + (1 - start) * time / warmup_epochs
    return _fallen((time - warmup_epochs) / (epochs - warmup_epochs) if epochs > warmup_epochs else 1.0, floor)


def epoch_cosine_factor(
    epoch: int,
    iteration: int,
    iterations_per_epoch: int,
    epochs: float,
    warmup_epochs: float,
    floor: float = 0.0,
    start: float = 0.0,
) -> float:
    """Schedule `epoch_cosine`: the warm-up does not shift the cosine, it multiplies it.

    A warm-up that ends between two iterations is held until the end of its epoch. Source: AIM's configurations, by the
    rules of the framework that it pins (mmcv 1.4.0, hooks/lr_updater).
    """
    factor, warmup = _fallen(epoch / epochs, floor), warmup_epochs * iterations_per_epoch
    done = epoch * iterations_per_epoch + iteration
    if done >= warmup and (warmup == int(warmup) or epoch > warmup_epochs):
        return factor
    return factor * (start + (1 - start) * min(done, ceil(warmup) - 1) / warmup)


def vifi_factor(
    epoch: int,
    iteration: int,
    iterations_per_epoch: int,
    epochs: float,
    warmup_epochs: float,
    floor: float = 0.01,
    start: float = 0.0,
    micro_steps: int = 1,
    left_over: int = 0,
) -> float:
    """Schedule `vifi`: set after each step, so that a step has the rate of the one before.

    The cosine is not shifted by the warm-up, so that the rate drops where they meet. The clock counts the micro-steps
    of which an iteration has several, also those at the end of an epoch that fill no iteration (`left_over`).
    Source: MSTA's logs, whose rates it gives to nine digits; official code of ViFi-CLIP and X-CLIP.
    """
    per_epoch = iterations_per_epoch * micro_steps + left_over
    step = max(0, epoch * per_epoch + (iteration * micro_steps if iteration else -left_over) - 1)
    warmup, steps = warmup_epochs * per_epoch, epochs * per_epoch
    if step < warmup:
        return start + (1 - start) * step / warmup
    return _fallen(step / steps, floor)


def _fallen(progress: float, floor: float) -> float:
    return floor + 0.5 * (1 - floor) * (1 + cos(pi * min(1.0, progress)))


SHIFTED = {"mote": lr_factor, "cosine": cosine_factor, "epoch_cosine": epoch_cosine_factor}
