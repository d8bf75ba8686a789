"""Cosines between the features of experts, against the definition; one view of each drawn video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from bench.core.errors import StageError
from bench.core.seeds import seed_for
from bench.stages import probe
from tests.errors import refused
from tests.stages.works import Experts, choices, work

VIDEOS, VIEWS, FRAMES, WIDTH = 9, 3, 4, 128


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Experts:
    model = Experts()
    monkeypatch.setattr(probe, "trained_model", lambda work, alpha: model)
    monkeypatch.setattr(probe, "deploy", lambda work, model, inference: model.predictor(inference))
    return model


def _work(folder: Path, **changes: Any) -> Any:
    features_NVTD = torch.randn(VIDEOS, VIEWS, FRAMES, WIDTH, generator=torch.Generator().manual_seed(2))
    spec = {"choices": choices(), "videos": 5, "view": 1, "feature": "t", **changes}
    made = work(folder, spec, features=features_NVTD)
    failure = pd.Series([None, "broken", *[None] * (VIDEOS - 2)], dtype="string")
    pd.DataFrame({"video": range(VIDEOS), "label": 0, "failure": failure}).to_parquet(
        made.inputs["features"] / "videos.parquet"
    )
    return made


def test_similarity_is_the_mean_cosine_of_the_view(model: Experts, tmp_path: Path) -> None:
    made = _work(tmp_path)
    result = probe.run(made)
    assert result == {"names": ["merged", "expert 0", "expert 1", "expert 2"], "videos": 5}
    similarity_EE = load_file(made.out / "similarity.safetensors")["similarity"].numpy()
    features_NVTD = load_file(made.inputs["features"] / "features.safetensors")["features"]
    decoded = [n for n in range(VIDEOS) if n != 1]
    drawn = np.random.default_rng(seed_for("probe")).permutation(decoded)[:5]
    shifts = [model.vectors_ELD.sum(1).mean(0), *model.vectors_ELD.sum(1)]
    t_END = np.stack([(features_NVTD[drawn, 1].mean(dim=1) + shift).numpy() for shift in shifts])
    for a, b in np.ndindex(similarity_EE.shape):
        cosine_N = (t_END[a] * t_END[b]).sum(1) / np.linalg.norm(t_END[a], axis=1) / np.linalg.norm(t_END[b], axis=1)
        assert similarity_EE[a, b] == pytest.approx(cosine_N.mean(), abs=1e-6)


def test_shares_of_the_first_choice_are_kept_where_a_method_tells_them(model: Experts, tmp_path: Path) -> None:
    model.shared = True
    made = _work(tmp_path)
    shares = probe.run(made)["shares"]
    features_NVTD = load_file(made.inputs["features"] / "features.safetensors")["features"]
    drawn = np.random.default_rng(seed_for("probe")).permutation([n for n in range(VIDEOS) if n != 1])[:5]
    shares_NE = features_NVTD[drawn, 1].mean(dim=1)[:, :3].softmax(dim=1).numpy()
    assert shares["mean"] == pytest.approx(shares_NE.mean(axis=0), abs=1e-6)
    assert shares["std"] == pytest.approx(shares_NE.std(axis=0), abs=1e-6)
    assert sum(shares["mean"]) == pytest.approx(1)


def test_a_feature_that_the_method_lacks(model: Experts, tmp_path: Path) -> None:
    with refused("'stand-in'", "'last_ffn_branch'", ": t", kind=StageError):
        probe.run(_work(tmp_path, feature="last_ffn_branch"))
