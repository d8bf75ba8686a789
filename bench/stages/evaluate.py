"""Evaluate: scores of one deployed model under one protocol, kept per view so that any fusion can be computed later.

Legend: N videos, V views, T frames, D joint CLIP width, C candidate classes, M views that go through the head at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.core.errors import StageError
from bench.measure.metrics import accuracies, fuse, half_classes, subset_accuracies, top_k_correct
from bench.models.state_dicts import is_finite, require_finite
from bench.stages.trained import class_texts, deploy, trained_model, video_features
from methods.contract import Encoded, Predictor, frames_of, mapped

if TYPE_CHECKING:
    from bench.stages.work import Work

Array = np.ndarray

VIEWS, VIEWS_OF_CPU = 1024, 64  # those that go through the head at once; few fit into the cache of a CPU
DRAWS = 10  # halves of the classes under a half-class protocol


def run(work: Work) -> dict[str, Any]:
    """Writes `predictions.parquet` (one line a video) and `scores.safetensors` (cosines [N, V, C], norms [N, V]).

    The result holds top-1, top-5 and mean class accuracy in percent over all videos; undecodable ones count as wrong.
    Under a half-class protocol it holds the means over the draws, and each draw under `draws`; a video's `correct` is
    then its mean over the draws that have its class.
    """
    model = trained_model(work, work.spec["inference"]["clip_alpha"])
    predictor = deploy(work, model, work.spec["inference"])
    texts_CD = class_texts(work, "texts", model, plain=work.spec.get("plain_texts", False))
    features = video_features(work)
    cosines_NVC, norms_NV = _scores(work, predictor, features, texts_CD)
    save_file(
        {"cosines": cosines_NVC, "norms": norms_NV, "logit_scale": torch.tensor(predictor.logit_scale)},
        work.out / "scores.safetensors",
    )
    videos = pd.read_parquet(work.inputs["features"] / "videos.parquet")
    failed_N, labels_N = videos["failure"].notna().to_numpy(), videos["label"].to_numpy()
    rule, half = work.spec["protocol"]["fusion"], work.spec["protocol"]["half"]
    scores_NC = fuse(cosines_NVC.numpy(), norms_NV.numpy(), predictor.logit_scale, rule)
    require_finite([("logit scale", torch.tensor(predictor.logit_scale))], work.spec["method"])
    for name, each in {"cosines": cosines_NVC, "norms": norms_NV, "scores": torch.from_numpy(scores_NC)}.items():
        if not is_finite(decoded := each[~failed_N]):
            shown = (f"{name} of {video}" for video in videos["video"][~failed_N])
            require_finite(zip(shown, decoded, strict=True), work.spec["method"])
    result: dict[str, Any] = {"classes": len(texts_CD)}
    if half:
        draws, correct_N = _halves(work, predictor, features, texts_CD, cosines_NVC, norms_NV, labels_N, failed_N)
        result |= {name: _mean(draw[name] for draw in draws) for name in ("top1", "top5", "mean_class")}
        result["draws"] = draws
    else:
        correct_N = top_k_correct(scores_NC, labels_N, 1) & ~failed_N
        result |= accuracies(scores_NC, labels_N, failed_N)
    pd.DataFrame(
        {
            "video": videos["video"],
            "label": labels_N,
            "prediction": scores_NC.argmax(axis=1),
            "correct": correct_N,
            "failure": videos["failure"],
        }
    ).to_parquet(work.out / "predictions.parquet")
    return {**result, "videos": len(videos), "undecodable": int(failed_N.sum())}


def _halves(
    work: Work,
    predictor: Predictor,
    features: Encoded,
    texts_CD: Tensor,
    cosines_NVC: Tensor,
    norms_NV: Tensor,
    labels_N: Array,
    failed_N: Array,
) -> tuple[list[dict[str, Any]], Array]:
    """The result of every draw of half of the classes, and each video's mean correctness, NaN if never measured.

    A method that looks at the candidates is run anew with those of the draw; others keep their cosines.
    """
    scale, rule, generator = predictor.logit_scale, work.spec["protocol"]["fusion"], work.spec["protocol"]["half"]
    draws, correct_DN = [], np.full((DRAWS, len(labels_N)), np.nan)
    for draw in range(DRAWS):
        ids = np.sort(half_classes(len(texts_CD), draw, generator))
        kept_N = np.isin(labels_N, ids)
        if not kept_N.any():
            raise StageError(f"draw {draw}: the list has no video of the drawn half of the classes")
        kept_cosines, kept_norms = cosines_NVC[kept_N][..., ids], norms_NV[kept_N]
        if predictor.looks_at_classes:
            kept_cosines, kept_norms = _scores(work, predictor, _videos(features, kept_N), texts_CD[ids])
            require_finite([("cosines", kept_cosines[~failed_N[kept_N]])], f"draw {draw} of half of the classes")
        labels_n = np.searchsorted(ids, labels_N[kept_N])
        numbers, correct_DN[draw, kept_N] = subset_accuracies(
            kept_cosines.numpy(), kept_norms.numpy(), scale, rule, labels_n, failed_N[kept_N]
        )
        draws.append({**numbers, "videos": int(kept_N.sum()), "classes": len(ids)})
    measured_N = ~np.isnan(correct_DN).all(axis=0)
    correct_N = np.full(len(labels_N), np.nan)
    correct_N[measured_N] = np.nanmean(correct_DN[:, measured_N], axis=0)
    return draws, correct_N


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def _videos(features: Encoded, which: Any, device: str = "cpu") -> Encoded:
    """Some videos or views of the encodings."""
    return mapped(lambda own_N: own_N[which].to(device), features)


@torch.no_grad()
def _scores(work: Work, predictor: Predictor, features: Encoded, texts_CD: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines [N, V, C] and norms [N, V] of every view."""
    cosines, norms = [], []
    shape, flat = frames_of(features).shape[:2], mapped(lambda own_NV: own_NV.flatten(0, 1), features)
    at_once = VIEWS_OF_CPU if work.compute.device == "cpu" else VIEWS
    for start in range(0, shape.numel(), at_once):
        prediction = predictor(_videos(flat, slice(start, start + at_once), work.compute.device), texts_CD)
        cosines.append(prediction.cosines_BC.float().cpu())
        norms.append(prediction.norms_B.float().cpu())
        work.progress(sum(map(len, norms)), shape.numel(), "views")
    return torch.cat(cosines).unflatten(0, shape), torch.cat(norms).unflatten(0, shape)
