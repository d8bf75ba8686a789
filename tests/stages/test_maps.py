"""Cosines of patch tokens with temporal features, against another way to the same tokens; which videos are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from bench.core.errors import StageError
from bench.core.seeds import seed_for
from bench.models.clip import load_clip
from bench.stages import maps
from bench.video.transforms import normalise
from tests.errors import refused
from tests.stages.works import Experts, choices, tiny_selection, work

VIEWS = {"frames": 4, "resize": 64, "size": 64}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Experts:
    model = Experts()
    monkeypatch.setattr(maps, "trained_model", lambda work, alpha: model)
    monkeypatch.setattr(maps, "deploy", lambda work, model, inference: model.predictor(inference))
    return model


def _folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _work(folder: Path, test: int = 6, **changes: Any) -> Any:
    chosen = [choices()[0], choices()[1], choices()[-1]]
    made = work(
        folder, {"choices": chosen, "videos": 2, "views": VIEWS, "alpha": 1.0, "feature": "t_frames", **changes}
    )
    made.context |= tiny_selection(folder, test)
    return made


def test_maps_are_cosines_with_the_projected_patch_tokens(model: Experts, tmp_path: Path) -> None:
    made = _work(tmp_path)
    result = maps.run(made)
    found = load_file(made.out / "maps.safetensors")
    pixels_NT3SS, cosines_NETGG = found["pixels"], found["cosines"]
    assert pixels_NT3SS.dtype == torch.uint8 and pixels_NT3SS.shape == (2, 4, 3, 64, 64)
    assert cosines_NETGG.shape == (2, 3, 4, 8, 8)
    clip = load_clip("glyph-vit", "random:0")
    clip.visual.output_tokens = True
    pooled_TD, tokens_TPW = clip.visual(normalise(pixels_NT3SS[1], clip.spec.mean, clip.spec.std))
    temporal_TD = pooled_TD + model.vectors_ELD[2].sum(dim=0)
    patches_TPD = F.normalize(tokens_TPW @ clip.visual.proj, dim=-1)
    expected_TP = torch.einsum("tpd,td->tp", patches_TPD, F.normalize(temporal_TD, dim=-1))
    torch.testing.assert_close(cosines_NETGG[1, 2].flatten(1), expected_TP, atol=1e-5, rtol=1e-4)
    assert result["names"] == ["merged", "expert 0", "expert 2"]
    assert np.shape(result["predictions"]) == (2, 3) and set(np.ravel(result["predictions"])) <= {0, 1, 2}


def test_videos_are_drawn_by_a_seed_and_broken_ones_passed_over(model: Experts, tmp_path: Path) -> None:
    order = np.random.default_rng(seed_for("maps")).permutation(6).tolist()
    made = _work(tmp_path)
    (tmp_path / f"test/{order[0]}.mp4").write_bytes(b"no video")
    result = maps.run(made)
    assert result["videos"] == [f"test/{n}.mp4" for n in order[1:3]]
    assert result["labels"] == [n % 3 for n in order[1:3]]


def test_fewer_videos_than_asked_for_and_none_at_all(model: Experts, tmp_path: Path) -> None:
    made = _work(tmp_path, test=1)
    assert maps.run(made)["videos"] == ["test/0.mp4"]
    (tmp_path / "test/0.mp4").write_bytes(b"no video")
    with refused("'tiny'", "decoded", kind=StageError):
        maps.run(made)


def test_a_feature_of_the_video_is_compared_with_every_frame(model: Experts, tmp_path: Path) -> None:
    made = _work(tmp_path, feature="t", videos=1)
    maps.run(made)
    cosines_ETGG = load_file(made.out / "maps.safetensors")["cosines"][0]
    assert cosines_ETGG.shape == (3, 4, 8, 8)
    with pytest.raises(StageError, match="its features: t, t_frames"):
        made.spec["feature"] = "z"
        maps.run(made)


def test_the_model_is_interpolated_with_clip(model: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def trained(work: Any, alpha: float) -> Experts:
        asked.append(alpha)
        return model

    monkeypatch.setattr(maps, "trained_model", trained)
    maps.run(_work(tmp_path, alpha=0.25, videos=1))
    assert asked == [0.25]
