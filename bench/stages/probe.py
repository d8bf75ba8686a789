"""Probe: how alike the features of a model's experts are on unseen videos (MoTE, arXiv 2410.10589, Fig. 7).

The paper does not name the compared tensor; `t`, the temporal feature before it is added to the frame features, is
taken, because the sum would carry a further copy of them that pushes every cosine to 1.

Legend: N videos, E choices of experts, T frames, D joint CLIP width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from bench.seeds import seed_for
from bench.stages.evaluate import class_texts, deployed

if TYPE_CHECKING:
    from bench.work import Work


@torch.no_grad()
def run(work: Work) -> dict[str, Any]:
    """Writes `similarity.safetensors` (`similarity` [E, E]: cosine of two choices' features, mean over videos).

    The videos are drawn once for all seeds and methods; the first view of each is used.
    """
    videos = pd.read_parquet(work.inputs["features"] / "videos.parquet")
    decoded = np.flatnonzero(videos["failure"].isna())
    drawn = np.random.default_rng(seed_for("probe")).permutation(decoded)[: work.spec["videos"]]
    frames_NTD = load_file(work.inputs["features"] / "features.safetensors")["features"][drawn, 0]
    texts_CD, names, features = class_texts(work, "texts"), [], []
    for name, inference in work.spec["choices"]:
        prediction = deployed(work, inference)(frames_NTD.to(work.compute.device), texts_CD)
        names.append(name)
        features.append(F.normalize(prediction.features[work.spec["feature"]].float().cpu(), dim=-1))
    features_END = torch.stack(features)
    similarity_EE = torch.einsum("end,fnd->ef", features_END, features_END) / len(drawn)
    save_file({"similarity": similarity_EE}, work.out / "similarity.safetensors")
    return {"names": names, "videos": len(drawn)}
