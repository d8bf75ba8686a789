"""The optimiser of a training: AdamW over groups of parameters with a rate and a weight decay each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from bench.suite.recipe import Training
from methods.contract import Model


def adamw(model: Model, recipe: Training) -> torch.optim.AdamW:
    """AdamW over the model's groups, each divided into parameters with and without weight decay."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = []
    for part, parameters in model.parameter_groups().items():
        ratio = recipe.tower_lr_ratio if part == "tower" else 1.0
        rate = recipe.lr * ratio
        shared = {"base_lr": rate, "lr": rate, "of_floor": 1.0}
        if recipe.floor_of == "tower" and part != "tower":
            shared["of_floor"] = recipe.tower_lr_ratio
        spared = [undecayed(names[id(parameter)], parameter, recipe.undecayed) for parameter in parameters]
        for without, decay in ((False, recipe.weight_decay), (True, 0.0)):
            chosen = [own for own, each in zip(parameters, spared, strict=True) if each == without]
            if chosen:
                groups.append({"params": chosen, **shared, "weight_decay": decay})
    return torch.optim.AdamW(groups, betas=recipe.betas, eps=recipe.eps)


def undecayed(name: str, parameter: Tensor, patterns: Sequence[str]) -> bool:
    """Tells whether a parameter has no weight decay: `1d` means exactly one dimension, a pattern is one of names."""
    return any(parameter.ndim == 1 if own == "1d" else fnmatchcase(name, own) for own in patterns)


def set_rates(optimizer: torch.optim.Optimizer, factor: Callable[[float], float]) -> None:
    """Put rates in force, given the fraction of the base rate for a group's part of the floor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor(group["of_floor"])
