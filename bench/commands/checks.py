"""What is known to fail before a launch starts: devices, loggers and folders that are not there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from bench.commands.display import amount, dominating
from bench.core.errors import UserError
from bench.graph.price import Price
from bench.graph.stage import Stage
from bench.models.backbones import backbone, model_config
from bench.models.prompts import texts_of
from bench.models.weights import check_tag, missing_weights, random_seed, weights_file
from bench.stages.work import Compute
from bench.suite.trial import Suite, Trial
from methods.registry import BUILT_IN, method
from methods.settings import Config

if TYPE_CHECKING:
    from bench.models.clip import Tokenizer

DEVICES = ("auto", "cpu", "cuda", "cuda:1 ...", "mps")


def unusable_options(compute: Compute, here: bool) -> Iterator[UserError]:
    """Options of a launch with which no stage could run. `here`: on this machine, whose devices count."""
    yield from unusable_device(compute.device, "--device", here)
    for package, value in {"tensorboard": compute.tensorboard, "wandb": compute.wandb}.items():
        if value and find_spec(package) is None:
            what, hint = f"the package {package} is not installed", f"pip install {package}"
            yield UserError(what, where=f"--{package}", hint=hint)
    yield from unusable_folders({"--tensorboard": Path(compute.tensorboard)} if compute.tensorboard else {})


def unusable_folders(folders: Mapping[str, Path]) -> Iterator[UserError]:
    """Folders of these options in which nothing can be written. None of them is made."""
    for option, folder in folders.items():
        if reason := _unwritable(folder):
            yield UserError(reason, where=f"{option} {folder}")


def unusable_files(files: Mapping[str, Path | None]) -> Iterator[UserError]:
    """Files of these options that cannot be written: folders, and those below what is no folder."""
    for option, file in files.items():
        if file is not None and file.is_dir():
            yield UserError("is a folder", where=f"{option} {file}", hint=f"a file, such as {file / 'results.zip'}")
        elif file is not None and (reason := _unwritable(file.absolute().parent)):
            yield UserError(reason, where=f"{option} {file}")


def unusable_device(device: str, where: str, here: bool) -> Iterator[UserError]:
    """A device that cannot be. Only for a GPU of this machine torch is asked, which takes seconds to import."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,4})?", device):
        hint = "a GPU is cuda, the second one cuda:1"
        yield UserError(f"unknown device '{device}'", where=where, allowed=DEVICES, hint=hint)
    elif here and device not in ("auto", "cpu"):
        there = ["mps"] * _has_mps() + ["cuda"] * (_gpus() > 0) + [f"cuda:{n}" for n in range(_gpus())]
        if device not in there:
            yield UserError(f"torch finds no device {device} here", where=where, allowed=["auto", "cpu", *there])


def too_few_devices(trials: Iterable[Trial], device: str) -> Iterator[UserError]:
    """Trainings of several processes on this machine, which need a GPU each if it has any."""
    for processes in {trial.recipe.processes for trial in trials if trial.config.trains} - {1}:
        if device not in ("cpu", "mps") and (device.startswith("cuda:") or 0 < _gpus() < processes):
            what = f"{processes} processes of a training need a GPU each; the device is {device}, of {_gpus()}"
            hint = "set recipe.accumulate in the place of recipe.processes"
            yield UserError(what, where="recipe.processes", hint=hint)


def without_hooks(used: Iterable[tuple[str, Config]]) -> Iterator[UserError]:
    """Methods of other packages that lack hooks, those of any model or of experts, or that misspell one.

    Their models are imported, which takes seconds.
    """
    for name, config in dict.fromkeys(used):
        if name in BUILT_IN:
            continue
        from methods.contract import Model, missing_hooks

        model, (settings_module, module) = method(name).model, method(name).modules[:2]
        for own, base, where in ((type(config), Config, settings_module), (model, Model, module)):
            for written, hook in _misspelt(own, base):
                yield UserError(
                    f"{own.__name__} has '{written}', which nothing calls", where=where, hint=f"is it '{hook}'?"
                )
        always = ["deploy", "loss"] if config.trains else ["deploy"]
        if lacking := [hook for hook in always if getattr(model, hook) is getattr(Model, hook)]:
            hint = "what a model has to say: docs/add_a_method.md"
            yield UserError(f"method '{name}' has a Model without {' and '.join(lacking)}", where=module, hint=hint)
        if missing := missing_hooks(model, config):
            yield UserError(
                f"method '{name}' has experts, and its Model has no {' and no '.join(missing)}",
                where=module,
                hint="expert_parameters names the parameters of each expert, unused_parameters those that a step may "
                "leave without a gradient: docs/add_a_method.md",
            )


def _misspelt(own: type, base: type) -> Iterator[tuple[str, str]]:
    """Methods of a class that its base has not, and the hook of the base, left as it is, that each is nearly called."""
    left = [hook for hook, called in vars(base).items() if callable(called) and getattr(own, hook) is called]
    for each in own.__mro__[: own.__mro__.index(base)]:
        for name in [name for name, called in vars(each).items() if callable(called) and not hasattr(base, name)]:
            near = [] if name.startswith("_") else get_close_matches(name, left, n=1, cutoff=0.8)
            yield from ((name, hook) for hook in near)


def without_experts(suite: Suite) -> Iterator[UserError]:
    """Rows of `report.experts` whose method says nothing of single experts."""
    for row in suite.file.report.experts:
        if method(suite.file.rows[row].method).config.expert_choices is Config.expert_choices:
            hint = "a method says how to measure one alone in `Config.expert_choices`: docs/add_a_method.md"
            yield UserError(f"row '{row}' has no experts", where=suite.where(("report", "experts")), hint=hint)


def long_names(stages: Iterable[Stage]) -> Iterator[UserError]:
    """Class names for which learnt words leave no room in a text, by the tokenizer of the method's backbone.

    Only methods with such words are looked at, because torch takes seconds to import.
    """
    seen: set[tuple[Config, str, str]] = set()
    for stage in stages:
        config, name = stage.spec.get("config"), stage.spec.get("backbone", "")
        if stage.missing or not isinstance(config, Config) or (room := config.name_room(backbone(name))) is None:
            continue
        for key, texts in stage.inputs.items():
            plain, at = key == "texts" and stage.spec.get("plain_texts"), (config, name, texts.identity)
            if texts.kind != "texts" or plain or at in seen:
                continue
            from methods.names import class_names, name_tokens

            seen.add(at)
            prompts = [prompt for own in texts_of(texts.context) for prompt in own]
            try:
                name_tokens(_tokenizer(name), class_names(prompts), room, stage.title)
            except UserError as error:
                yield error


@cache
def _tokenizer(backbone_name: str) -> Tokenizer:
    import torch

    from bench.models.clip import Clip

    with torch.device("meta"):
        return Clip(backbone(backbone_name), model_config(backbone_name)).tokenizer


def unknown_weights(stages: Iterable[Stage]) -> Iterator[UserError]:
    """Tags of weights that open_clip does not have; it is asked only if there are tags, because it imports torch."""
    used = {
        (stage.spec.get("backbone"), stage.context["pretrained"]) for stage in stages if "pretrained" in stage.context
    }
    for name, pretrained in sorted((str(shape), own) for shape, own in used if shape):
        given = missing_weights(pretrained) or weights_file(name, pretrained)
        if given is None and random_seed(pretrained) is None:
            try:
                check_tag(name, pretrained)
            except UserError as error:
                yield error.at("recipe.pretrained")


def over_budget(suite: Suite, price: Price, kept_frames: float) -> Iterator[UserError]:
    """Limits of a suite's budget that the price of its stages exceeds."""
    budget, gigabytes = suite.file.budget, (sum(price.disk.values()) + kept_frames) / 1e9
    disk = None if budget.disk is None else budget.disk * 2**20 / 1e9
    hours = f"device-hours of {price.speed.device}"
    for key, found, most, unit, more in (
        ("device_hours", price.device_hours, budget.device_hours, hours, f"most of it: {dominating(price)}"),
        ("disk", gigabytes, disk, "GB of disk", "--frame-cache 0 keeps no frames"),
    ):
        if most is not None and found > most:
            what = f"a run takes about {amount(found)} {unit}, {amount(found - most)} over the budget of {amount(most)}"
            yield UserError(what, where=suite.where(("budget", key)), hint=more)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()


def _unwritable(folder: Path) -> str:
    """The reason why nothing can be written to a folder, which may have to be made; "" if it can."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if there.is_symlink() and not there.exists():
        return f"{there} is not a folder but a link to {os.readlink(there)}, which is not there"
    if not there.is_dir():
        return f"{there} is not a folder"
    try:
        with suppress(FileNotFoundError):
            os.lstat(folder)  # a name that is too long
        os.rmdir(mkdtemp(dir=there))  # rights alone do not tell: root has all of them
    except OSError as error:
        return f"{there} cannot be written: {error.strerror}"
    return ""
