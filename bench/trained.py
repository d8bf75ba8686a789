"""The model of a stage as its training left it, and what it becomes under inference choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from torch import Tensor

from bench.clip import load_clip
from bench.errors import StageError
from methods.contract import Model, Prediction, Predictor, build_model
from methods.registry import method

if TYPE_CHECKING:
    from bench.work import Work


def trained_model(work: Work) -> Model:
    """The model, with its trained weights if it has any; on the CPU, its tower not yet interpolated with CLIP's."""
    registered = method(work.spec["method"])
    clip = load_clip(work.spec["backbone"], work.context["pretrained"])
    model: Model = build_model(registered.model, registered.config(**work.spec["config"]), clip, seed=0)
    if "train" in work.inputs:
        model.load_trained(load_file(work.inputs["train"] / "weights.safetensors"))
    return model.eval()


def deploy(work: Work, model: Model, inference: dict[str, Any]) -> Predictor:
    """The predictor of `model` under inference choices, on the stage's device."""
    device = work.compute.device
    chosen = method(work.spec["method"]).inference.model_validate(inference)
    return model.to(device).deploy(chosen, class_texts(work, "source_texts")).eval()


def class_texts(work: Work, name: str) -> Tensor:
    """Unit class features [C, D] of an input, on the stage's device."""
    return load_file(work.inputs[name] / "classes.safetensors")["classes"].to(work.compute.device)


def feature(work: Work, prediction: Prediction) -> Tensor:
    """The feature that the stage looks at. Raises StageError, naming the method's own, if it has no such feature."""
    wanted, offered = work.spec["feature"], prediction.features
    if wanted not in offered:
        has = ", ".join(offered) or "none"
        raise StageError(f"method '{work.spec['method']}' has no feature '{wanted}'; its features: {has}")
    return offered[wanted]
