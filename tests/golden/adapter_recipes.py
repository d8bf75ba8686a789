"""Replay of rates, weight decays and schedules of official programs with adapters and prompts in CLIP's towers.

Parameters of AIM are those of the method's model. Of X-CLIP and ST-Adapter only names count here: their groups and the
numbers of dimensions follow from the names, their recipes stand below. Rates and decays are those of the `official`
presets, and only the lengths of a schedule are the file's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from bench.checkpoints.heads import AIM
from bench.models.backbones import backbone
from bench.models.state_dicts import renamed
from bench.stages.training.optimiser import adamw
from bench.stages.training.schedule import Schedule
from bench.suite.recipe import Training
from methods.contract import Model, build_model
from methods.registry import method
from tests.golden.official_mote import bare_clip
from tests.golden.replay import Deviations

Groups = dict[str, tuple[float, float]]  # official name of a parameter -> its rate and its weight decay
Settings = dict[str, Any]


def _official(name: str) -> Settings:
    """What the official recipe of a method says of its training."""
    recipe = method(name).declared.PRESETS["official"]["recipe"]
    return {field: own for field, own in recipe.items() if field in Training.model_fields}


TRAININGS: dict[str, Settings] = {  # start of an entry's name -> its recipe
    "aim_base": _official("aim"),
    "aim_large": {**_official("aim"), "tower_lr_ratio": 0.1, "undecayed": ()},
    "aim_schedule": _official("aim"),
    "st_adapter_schedule": _official("st_adapter"),
    "st_adapter": _official("st_adapter"),
    "vita_clip_schedule": _official("vita_clip"),
    "xclip": _official("xclip"),
}
ONE_DIMENSION = re.compile(r".*(bias|class_embedding|alpha|(^|\.)(ln\w*|\w*_ln|norm\w*)\.weight)$")


def replay_adapter_recipes(path: Path) -> Deviations:
    case = json.loads(path.read_text(encoding="utf-8"))
    deviations: Deviations = {}
    for name, own in case.items():
        start = max((each for each in TRAININGS if name.startswith(each)), key=len, default="")
        if name == "about":
            continue
        if not start:
            deviations[name] = inf
        elif "lr" in own:
            deviations[name] = _schedule(own, TRAININGS[start])
        else:
            deviations |= {f"{name}.{what}": worst for what, worst in _groups(own, start).items()}
    return deviations


def _schedule(case: Settings, settings: Settings) -> float:
    """Largest deviation of a rate, over the base rate. A batch is one video."""
    told = {"epochs": case.get("epochs", 1), "warmup_epochs": case.get("warmup_epochs", 0)}
    training = Training.model_validate({**settings, **told, "batch": 1})
    schedule = Schedule(training, case["iterations_per_epoch"] if "epochs" in case else case["steps"])
    if schedule.steps != len(case["lr"]):
        return inf
    rates = (training.lr * schedule.factor(step) for step in range(schedule.steps))
    # The file has twelve digits.
    worst: float = max(abs(float(f"{own:.12g}") - rate) for own, rate in zip(rates, case["lr"], strict=True))
    return worst / training.lr


# --- groups of parameters ---------------------------------------------------------------------------------------------


def _groups(case: Groups, start: str) -> Deviations:
    """Largest deviations of rates and decays, each over the recipe's; inf if other parameters are trained."""
    training = Training.model_validate(TRAININGS[start])
    found = _aim(case, training) if start.startswith("aim") else _found(_Named(case), training)
    if found.keys() != case.keys():
        return {"rate": inf, "decay": inf}
    return {
        what: max(abs(found[name][index] - own[index]) / (largest or 1) for name, own in case.items())
        for index, (what, largest) in enumerate((("rate", training.lr), ("decay", training.weight_decay)))
    }


def _found(model: Any, training: Training) -> Groups:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = adamw(cast("Model", model), training).param_groups
    return {names[id(each)]: (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}


def _aim(case: Groups, training: Training) -> Groups:
    """Groups of the method's model with as many blocks and adapters."""
    blocks = len({name.split(".")[3] for name in case if ".resblocks." in name})
    own = method("aim")
    two = any(".T_Adapter_in." in name for name in case)
    config = own.config.model_validate({"head": "linear", "temporal_adapters": 2 if two else 1})
    clip = bare_clip(replace(backbone("glyph-vit"), vision_layers=blocks))
    found = _found(build_model(own.model, config, clip, 0, classes=2), training)
    official = {new: name for name, new in AIM.states["state_dict"].items()}
    return {renamed(name, official): group for name, group in found.items()}


class _Named:
    """Parameters of these official names; X-CLIP's own ones lie inside CLIP's visual tower and outside of it."""

    def __init__(self, names: Iterable[str]) -> None:
        self.made = {name: nn.Parameter(torch.zeros(2 if ONE_DIMENSION.match(name) else (2, 2))) for name in names}

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.made.items()

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups: dict[str, list[nn.Parameter]] = {"tower": [], "head": []}
        for name, parameter in self.named_parameters():
            inside = name.startswith("visual.") and ".message_" not in name
            groups["tower" if inside else "head"].append(parameter)
        return {name: group for name, group in groups.items() if group}
