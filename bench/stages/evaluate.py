"""Evaluate: scores of one deployed model under one protocol, kept per view so that any fusion can be computed later.

Legend: N videos, V views, T frames, D joint CLIP width, C candidate classes, M views that go through the head at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.clip import load_clip
from bench.metrics import accuracies, fuse, top_k_correct
from methods.contract import Model, Predictor, build_model
from methods.registry import method

if TYPE_CHECKING:
    from bench.work import Work

VIEWS = 1024


def run(work: Work) -> dict[str, Any]:
    """Writes `predictions.parquet` (one line a video) and `scores.safetensors` (cosines [N, V, C], norms [N, V]).

    The result holds top-1, top-5 and mean class accuracy in percent over all videos; undecodable ones count as wrong.
    """
    predictor, texts_CD = deployed(work, work.spec["inference"]), class_texts(work, "texts")
    features_NVTD = load_file(work.inputs["features"] / "features.safetensors")["features"]
    cosines_NVC, norms_NV = _scores(work, predictor, features_NVTD, texts_CD)
    videos = pd.read_parquet(work.inputs["features"] / "videos.parquet")
    failed_N, labels_N = videos["failure"].notna().to_numpy(), videos["label"].to_numpy()
    scores_NC = fuse(cosines_NVC.numpy(), norms_NV.numpy(), predictor.logit_scale, work.spec["protocol"]["fusion"])
    correct_N = top_k_correct(scores_NC, labels_N, 1) & ~failed_N
    save_file(
        {"cosines": cosines_NVC, "norms": norms_NV, "logit_scale": torch.tensor(predictor.logit_scale)},
        work.out / "scores.safetensors",
    )
    pd.DataFrame(
        {
            "video": videos["video"],
            "label": labels_N,
            "prediction": scores_NC.argmax(axis=1),
            "correct": correct_N,
            "failure": videos["failure"],
        }
    ).to_parquet(work.out / "predictions.parquet")
    return {
        **accuracies(scores_NC, labels_N, failed_N),
        "videos": len(videos),
        "classes": len(texts_CD),
        "undecodable": int(failed_N.sum()),
    }


def class_texts(work: Work, name: str) -> Tensor:
    """Unit class features [C, D] of an input."""
    return load_file(work.inputs[name] / "classes.safetensors")["classes"].to(work.compute.device)


def deployed(work: Work, inference: dict[str, Any]) -> Predictor:
    """The stage's model, trained if it has anything to train, deployed with these inference choices."""
    registered = method(work.spec["method"])
    clip = load_clip(work.spec["backbone"], work.context["pretrained"])
    model: Model = build_model(registered.model, registered.config(**work.spec["config"]), clip, seed=0)
    if "train" in work.inputs:
        model.load_trained(load_file(Path(work.inputs["train"]) / "weights.safetensors"))
    chosen = registered.inference.model_validate(inference)
    return model.to(work.compute.device).deploy(chosen, class_texts(work, "source_texts")).eval()


@torch.no_grad()
def _scores(work: Work, predictor: Predictor, features_NVTD: Tensor, texts_CD: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines [N, V, C] and norms [N, V] of every view."""
    cosines, norms = [], []
    flat_MTD = features_NVTD.flatten(0, 1)
    for part_MTD in flat_MTD.split(VIEWS):
        prediction = predictor(part_MTD.to(work.compute.device), texts_CD)
        cosines.append(prediction.cosines_BC.float().cpu())
        norms.append(prediction.norms_B.float().cpu())
        work.progress(sum(map(len, norms)), len(flat_MTD), "views")
    shape = features_NVTD.shape[:2]
    return torch.cat(cosines).unflatten(0, shape), torch.cat(norms).unflatten(0, shape)
