"""Probe: similarity of the features of a model's experts on unseen videos (MoTE, arXiv 2410.10589, Fig. 7).

The paper does not name the compared tensor. `t`, the temporal feature before it is added to the frame features, is what
it calls the temporal feature; `z`, the video embedding, carries a further copy of the frame features that pushes every
cosine to 1; `last_ffn_branch` is what experts alone put in, without what all of them pass on.

Legend: N videos, V views, E experts or choices of them, D joint CLIP width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from bench.core.seeds import seed_for
from bench.models.state_dicts import require_finite
from bench.stages.trained import class_texts, deploy, feature, trained_model, video_features
from methods.contract import mapped

if TYPE_CHECKING:
    from bench.stages.work import Work


@torch.no_grad()
def run(work: Work) -> dict[str, Any]:
    """Writes `similarity.safetensors` (`similarity` [E, E]: cosine of two choices' features, mean over videos).

    The videos are drawn once for all seeds and methods; of each, one view is looked at. For the first choice the result
    has the experts' `shares` of the answer: `mean` and `std` (population form) [E] over videos, if the method tells
    them. Raises StageError if the method has no such feature.
    """
    videos = pd.read_parquet(work.inputs["features"] / "videos.parquet")
    decoded = np.flatnonzero(videos["failure"].isna())
    drawn = np.random.default_rng(seed_for("probe")).permutation(decoded)[: work.spec["videos"]]
    view, device = work.spec["view"], work.compute.device
    encoded = mapped(lambda own_NV: own_NV[drawn, view].to(device), video_features(work))
    alpha = work.spec["choices"][0][1]["clip_alpha"]  # alike in all choices
    model = trained_model(work, alpha).to(device)
    texts_CD = class_texts(work, "texts", model)
    shares_NE: Tensor | None = None
    features: list[Tensor] = []
    for name, inference in work.spec["choices"]:
        predictor = deploy(work, model, inference)
        prediction = predictor(encoded, texts_CD)
        if not features:
            shares_NE = predictor.shares(encoded, texts_CD)
        features.append(F.normalize(feature(work, prediction).float().cpu(), dim=-1))
        require_finite([(f"{work.spec['feature']} of {name}", features[-1])], work.spec["method"])
    features_END = torch.stack(features)
    similarity_EE = torch.einsum("end,fnd->ef", features_END, features_END) / len(drawn)
    save_file({"similarity": similarity_EE}, work.out / "similarity.safetensors")
    names = [name for name, _ in work.spec["choices"]]
    return {"names": names, "videos": len(drawn)} | ({} if shares_NE is None else {"shares": _spread(shares_NE)})


def _spread(shares_NE: Tensor) -> dict[str, list[float]]:
    shares_NE = shares_NE.double().cpu()
    return {"mean": shares_NE.mean(dim=0).tolist(), "std": shares_NE.std(dim=0, correction=0).tolist()}
