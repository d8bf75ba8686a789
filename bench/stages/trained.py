"""Trained models of stages, and their predictors under inference choices."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.core.errors import StageError
from bench.core.identity import digest
from bench.models.clip import load_clip
from bench.models.prompts import texts_of
from bench.models.state_dicts import State, is_finite, require_finite
from methods.contract import Encoded, Model, Prediction, Predictor, build_model, frames_of
from methods.registry import method

if TYPE_CHECKING:
    from bench.stages.work import Work


_last: dict[tuple[Any, ...], Model] = {}  # the model that this process loaded last


def trained_model(work: Work, alpha: float = 1.0) -> Model:
    """The model on the CPU, with its trained weights if it has any, interpolated with CLIP's by `alpha`.

    Nothing is encoded, embedded or deployed before that, so `alpha` reaches frames, texts and logit scale alike.
    Stages in a row often share a training, so the last model is kept as it was trained; nobody else changes it.
    """
    file = work.inputs["train"] / "weights.safetensors" if "train" in work.inputs else None
    spec = {name: work.spec[name] for name in ("method", "backbone", "config")}
    key = digest(spec), work.context["pretrained"], file, file and file.stat().st_mtime_ns
    if key not in _last:
        _last.clear()
        _last[key] = _load(work)
    model = _last[key].cpu()
    if alpha < 1 and model.config.interpolates:
        model = deepcopy(model)
        model.interpolate(load_clip(work.spec["backbone"], work.context["pretrained"]), alpha)
    return model


def _load(work: Work) -> Model:
    registered = method(work.spec["method"])
    clip = load_clip(work.spec["backbone"], work.context["pretrained"])
    config = registered.config(**work.spec["config"])
    model: Model = build_model(registered.model, config, clip, seed=0, classes=_bound_to(work))
    if "train" in work.inputs:
        model.load_trained(trained_state(work.inputs["train"]))
    return model.eval()


def trained_state(folder: Path) -> State:
    """The weights of a training's record. Raises UserError if they are not finite."""
    state: State = load_file(folder / "weights.safetensors")
    require_finite(state.items(), folder / "weights.safetensors")
    return state


def _bound_to(work: Work) -> int:
    """Number of classes that the model was trained on; 0 if it has no training record."""
    record = work.inputs["train"] / "record.json" if "train" in work.inputs else None
    if record is None or not record.is_file():
        return 0
    return int(json.loads(record.read_text())["result"].get("classes", 0))


def deploy(work: Work, model: Model, inference: dict[str, Any]) -> Predictor:
    """The predictor of `model` under inference choices, on the stage's device."""
    device = work.compute.device
    chosen = method(work.spec["method"]).inference.model_validate(inference)
    model = model.to(device)
    return model.deploy(chosen, class_texts(work, "source_texts", model)).eval()


@torch.no_grad()
def class_texts(work: Work, name: str, model: Model, plain: bool = False) -> Tensor:
    """Class features [C, ...] of an input, on the stage's device; a model that adapts texts has to be there too.

    With `plain` they are CLIP's in any case.

    Raises UserError if they are not finite.
    """
    file = work.inputs[name] / "classes.safetensors"
    if model.config.texts_inside and not plain:
        classes_CD = model.embed_classes(class_prompts(work, name))
    else:
        classes_CD = load_file(file)["classes"].to(work.compute.device)
    require_finite([("classes", classes_CD)], file)
    return classes_CD


FEATURES = "features"  # name of the frame features in a file; others are "features.NAME"


def stored(encoded: Encoded) -> dict[str, Tensor]:
    """What `Model.encode` returned under the names of a file."""
    others = {f"{FEATURES}.{name}": own for name, own in encoded.items()} if isinstance(encoded, dict) else {}
    others.pop(f"{FEATURES}.frames", None)
    return {FEATURES: frames_of(encoded), **others}


def video_features(work: Work) -> Encoded:
    """Encodings [N, V, ...] of an input, of frames alone [N, V, T, D].

    Raises UserError, naming videos, if they are not finite.
    """
    folder = work.inputs["features"]
    tensors = load_file(folder / "features.safetensors")
    for own_NV in tensors.values():
        if not is_finite(own_NV):
            names = [f"features of {name}" for name in pd.read_parquet(folder / "videos.parquet")["video"]]
            require_finite(zip(names, own_NV, strict=True), folder / "features.safetensors")
    frames_NVTD = tensors.pop(FEATURES)
    others = {name.removeprefix(f"{FEATURES}."): own_NV for name, own_NV in tensors.items()}
    return {"frames": frames_NVTD, **others} if others else frames_NVTD


def class_prompts(work: Work, name: str) -> list[list[str]]:
    """Texts of each class, [C][P], that an input was made of. Raises StageError if they are others by now."""
    record = json.loads((work.inputs[name] / "record.json").read_text())
    texts = texts_of(record["context"])
    if digest(texts) != record["spec"]["prompts"]:
        raise StageError("the prompts have changed since their features were computed; launch again")
    return texts


def feature(work: Work, prediction: Prediction) -> Tensor:
    """The feature that the stage asks for. Raises StageError, naming the method's features, if it has no such one."""
    wanted, offered = work.spec["feature"], prediction.features
    if wanted not in offered:
        has = ", ".join(offered) or "none"
        raise StageError(f"method '{work.spec['method']}' has no feature '{wanted}'; its features: {has}")
    return offered[wanted]
