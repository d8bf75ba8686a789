"""Replays of the golden files of the data path: each gives the largest deviation of every output, for any sizes.

Legend: N videos, V views, C classes, D width.
"""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from bench.measure.metrics import fuse, half_classes, subset_accuracies
from bench.video.sampling import test_indices, train_indices
from bench.video.views import TestViews, TrainViews

Deviations = dict[str, float]


def replay_frame_sampling(path: Path) -> Deviations:
    """Indices of the official loader, which wraps short clips; rows on which it crashes say nothing."""
    worst = {"val": 0.0, "test": 0.0}
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        for name in worst:
            if row.get(name) is not None:
                clips = row["clips"] if name == "test" else 1
                worst[name] = max(worst[name], _deviation(_indices(row, clips), np.array(row[name])))
    return worst


def _indices(row: dict[str, Any], clips: int) -> np.ndarray:
    views = TestViews(
        frames=row["frames"], clips=clips, sampler="dense" if row["dense"] else "segment_start", short_clip="wrap"
    )
    return test_indices(views, row["video_frames"]).ravel()


ADAPTER_SAMPLERS = {  # official rule -> (sampler of test views, sampler of training views)
    "st-adapter test (Vita-CLIP alike)": ("strided", ""),
    "st-adapter test, uniform": ("segments_inclusive", ""),
    "aim test": ("mmaction_strided", ""),
    "aim test, uniform": ("segments_inclusive", ""),
    "st-adapter training, short video (no chance; Vita-CLIP alike)": ("", "strided"),
}


def replay_adapter_frame_sampling(path: Path) -> Deviations:
    """Indices of the official data code of ST-Adapter, AIM and Vita-CLIP."""
    found: dict[str, list[float]] = {}
    for row in json.loads(path.read_text(encoding="utf-8"))["cases"]:
        test, train = ADAPTER_SAMPLERS[row["rule"]]
        fields = {"frames": row["frames"], "stride": row["stride"] or 1, "sampler": test or train}
        if test:
            own = test_indices(TestViews.model_validate({**fields, "clips": row["clips"]}), row["length"])
        else:
            own = train_indices(TrainViews.model_validate(fields), row["length"], np.random.default_rng(0))[None]
        found.setdefault(row["rule"], []).append(_deviation(own, np.array(row["indices"])))
    return {rule: max(deviations) for rule, deviations in found.items()}


def replay_actionclip_frame_sampling(path: Path) -> Deviations:
    """Validation frames of ActionCLIP, also of videos with fewer frames than segments."""
    found = {}
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        own = test_indices(TestViews(frames=row["frames"], sampler="segment_centre"), row["length"])
        found[f"{row['frames']} of {row['length']}"] = _deviation(own, np.array([row["indices"]]))
    return found


def replay_view_fusion(path: Path) -> Deviations:
    case = load_file(path)
    cosines_NVC = case["in.cosine_similarity_views"]
    fused_NC = fuse(cosines_NVC, np.ones(cosines_NVC.shape[:2]), 1.0, "double_softmax")
    return {"fused_scores": _deviation(fused_NC, case["out.fused_scores"])}


def replay_half_classes(path: Path) -> Deviations:
    case = load_file(path)
    cosines_NVC = np.einsum("nvd,cd->nvc", case["in.view_embeddings"], case["in.class_embeddings"])
    draws = range(len(case["out.top1_per_split"]))
    labels_N, ones_NV = case["in.labels"], np.ones(cosines_NVC.shape[:2])
    halves = [half_classes(cosines_NVC.shape[2], draw) for draw in draws]
    none_N = np.zeros(len(labels_N), bool)
    found = [subset_accuracies(cosines_NVC, ones_NV, 1.0, "cos_mean", labels_N, none_N, ids)[0] for ids in halves]
    return {
        f"{name}_per_split": _deviation(np.array([each[name] for each in found], float), case[f"out.{name}_per_split"])
        for name in ("top1", "top5")
    }


def _deviation(own: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(own - reference).max()) if own.shape == reference.shape else inf
