"""From scores per view to the numbers of the tables: fusion of views, accuracies, means; numpy only.

A failed video counts as wrong everywhere: pass it as failed, or leave its scores NaN.

Legend: N videos, V views, C candidate classes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import softmax

from bench.suite.protocol import Fusion, Generator

Array = np.ndarray


def fuse(cosines_NVC: Array, norms_NV: Array, logit_scale: float, rule: Fusion) -> Array:
    """Scores [N,C] (float64) of videos from the cosines of their views with unit class features.

    double_softmax  softmax of the views' mean softmax of raw cosines (MoTE, BIKE)
    cos_mean        mean cosine (half-class routine of MoTE and BIKE)
    softmax_sum     sum of softmax of scaled cosines (X-CLIP, ViFi-CLIP)
    logit_sum       sum of scaled cosines (Open-VCLIP, FROSTER)
    feature_mean    cosine with the mean of un-normalised video features (Text4Vis). It takes cosines weighted by the
                    features' lengths `norms_NV`: the same ranking, and the same value up to a factor per video, the
                    length of the mean vector over the mean length, which cosines cannot tell.
    """
    cosines_NVC = cosines_NVC.astype(np.float64)
    if rule == "double_softmax":
        return softmax(softmax(cosines_NVC, axis=-1).mean(axis=1), axis=-1)  # type: ignore[no-any-return]
    if rule == "cos_mean":
        return cosines_NVC.mean(axis=1)  # type: ignore[no-any-return]
    if rule == "softmax_sum":
        return softmax(logit_scale * cosines_NVC, axis=-1).sum(axis=1)  # type: ignore[no-any-return]
    if rule == "logit_sum":
        return logit_scale * cosines_NVC.sum(axis=1)  # type: ignore[no-any-return]
    weights_NV = norms_NV / norms_NV.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.einsum("nv,nvc->nc", weights_NV, cosines_NVC)  # type: ignore[no-any-return]


def top_k_correct(scores_NC: Array, labels_N: Array, k: int) -> Array:
    """Tells whether the label is among the k best classes, [N] bool; the lowest class wins a tie, NaN is wrong."""
    own_N1 = np.take_along_axis(scores_NC, labels_N[:, None], axis=1)
    first_NC = np.arange(scores_NC.shape[1]) < labels_N[:, None]
    before_N = ((scores_NC > own_N1) | ((scores_NC == own_N1) & first_NC)).sum(axis=1)
    return (before_N < k) & ~np.isnan(scores_NC).any(axis=1)  # type: ignore[no-any-return]


def accuracies(scores_NC: Array, labels_N: Array, failed_N: Array | None = None) -> dict[str, float | None]:
    """`top1`, `top5` over all videos and `mean_class` over the classes that occur, in percent.

    `top5` is None for fewer than five classes. Failed videos count as wrong. Raises ValueError without videos.
    """
    if not len(labels_N):
        raise ValueError("no videos to measure")
    decoded_N = np.ones(len(labels_N), bool) if failed_N is None else ~failed_N
    top1_N, top5_N = (top_k_correct(scores_NC, labels_N, k) & decoded_N for k in (1, 5))
    per_class = np.bincount(labels_N, top1_N)[np.unique(labels_N)] / np.unique(labels_N, return_counts=True)[1]
    return {
        "top1": 100 * float(top1_N.mean()),
        "top5": 100 * float(top5_N.mean()) if scores_NC.shape[1] >= 5 else None,
        "mean_class": 100 * float(per_class.mean()),
    }


def harmonic_mean(values: Iterable[float | None]) -> float:
    """Harmonic mean of accuracies; nan if one is missing (None or nan) or there is none, else 0 if one is 0."""
    numbers = [math.nan if value is None else float(value) for value in values]
    if not numbers or any(map(math.isnan, numbers)):
        return math.nan
    return 0.0 if 0 in numbers else len(numbers) / sum(1 / number for number in numbers)


def subset_accuracies(
    cosines_NVC: Array,
    norms_NV: Array,
    logit_scale: float,
    rule: Fusion,
    labels_N: Array,
    failed_N: Array,
    ids: Sequence[int] | None = None,
) -> tuple[dict[str, float | None], Array]:
    """`accuracies` where only the classes `ids` are candidates and only their videos count (None: all of both).

    Also whether each video is right, [N] float: 1, 0, or NaN for a video of another class. Candidates are restricted
    before views are fused, because a softmax depends on them. Raises ValueError if no video has one of the classes.
    """
    ids_C = np.arange(cosines_NVC.shape[2]) if ids is None else np.unique(ids)
    kept_N = np.isin(labels_N, ids_C)
    scores_NC = fuse(cosines_NVC[kept_N][..., ids_C], norms_NV[kept_N], logit_scale, rule)
    places_N = np.searchsorted(ids_C, labels_N[kept_N])
    correct_N = np.full(len(labels_N), np.nan)
    correct_N[kept_N] = top_k_correct(scores_NC, places_N, 1) & ~failed_N[kept_N]
    return accuracies(scores_NC, places_N, failed_N[kept_N]), correct_N


def half_classes(classes: int, draw: int, generator: Generator = "text4vis") -> list[int]:
    """Ids of half of the classes, rounded down, in draw number `draw` of ten.

    text4vis    NumPy's legacy generator seeded with the draw, ids in its order (Text4Vis, BIKE, MoTE; EP1)
    open-vclip  Python's generator seeded once with 2023, every draw shuffles all ids anew; ids ascending
    """
    if generator == "text4vis":
        return np.random.RandomState(draw).permutation(classes)[: classes // 2].tolist()  # type: ignore[no-any-return]
    rng = random.Random(2023)
    for _ in range(draw + 1):
        ids = list(range(classes))
        rng.shuffle(ids)
    return sorted(ids[: classes // 2])
