"""Numbers that are no numbers: every stage that meets one ends with the name of the tensor, and leaves no accuracy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core.errors import UserError
from bench.core.identity import digest
from bench.stages import encode, evaluate, probe, texts
from bench.stages.train import Trainer, train
from bench.stages.trained import trained_state
from bench.stages.training.batches import Features
from bench.stages.training.ranks import RankInfo
from tests.errors import refused
from tests.stages.trainings import training
from tests.stages.works import Experts, Shifted, tiny_selection, work

VIDEOS, WIDTH = 6, 128
MEASURED = {"inference": {"expert": None, "clip_alpha": 1.0}, "protocol": {"fusion": "softmax_sum", "half": ""}}
PROBED = {
    "choices": [["merged", {"expert": None, "clip_alpha": 1.0}], ["expert 0", {"expert": 0}]],
    "videos": 5,
    "view": 0,
    "feature": "t",
}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Experts:
    model = Experts()
    for stage in (evaluate, probe):
        monkeypatch.setattr(stage, "trained_model", lambda work, alpha: model)
        monkeypatch.setattr(stage, "deploy", lambda work, model, inference: model.predictor(inference))
    return model


def measured(folder: Path, spec: dict[str, Any], break_: Callable[[Tensor], object] = lambda features: None) -> Any:
    """A stage on the features of six videos, of which the second cannot be decoded."""
    features_NVTD = torch.randn(VIDEOS, 2, 3, WIDTH, generator=torch.Generator().manual_seed(2))
    features_NVTD[1] = 0
    break_(features_NVTD)
    made = work(folder, spec, features=features_NVTD)
    table = pd.DataFrame({"video": [f"{n}.mp4" for n in range(VIDEOS)], "label": [n % 3 for n in range(VIDEOS)]})
    table["failure"] = pd.Series([None, "broken", *[None] * (VIDEOS - 2)], dtype="string")
    table.to_parquet(made.inputs["features"] / "videos.parquet")
    return made


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("stage", "spec"), [(evaluate, MEASURED), (probe, PROBED)], ids=["evaluate", "probe"])
def test_features_are_named_by_their_video(
    stage: Any, spec: dict[str, Any], value: float, model: Experts, tmp_path: Path
) -> None:
    def broken(features_NVTD: Tensor) -> None:
        features_NVTD[3, 1, 2, 5] = value

    made = measured(tmp_path, spec, broken)
    with refused("features of 3.mp4", where=str(made.inputs["features"] / "features.safetensors")):
        stage.run(made)
    assert not list(made.out.iterdir())


@pytest.mark.parametrize(("stage", "spec"), [(evaluate, MEASURED), (probe, PROBED)], ids=["evaluate", "probe"])
def test_class_texts_are_named_by_their_file(stage: Any, spec: dict[str, Any], model: Experts, tmp_path: Path) -> None:
    made = measured(tmp_path, spec)
    file = made.inputs["texts"] / "classes.safetensors"
    classes_CD = load_file(file)["classes"]
    classes_CD[0, 0] = torch.nan
    save_file({"classes": classes_CD}, file)
    with refused("classes", where=str(file)):
        stage.run(made)


def test_scores_are_named_by_their_video_and_an_undecodable_one_may_have_any(
    model: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = measured(tmp_path, MEASURED)
    assert evaluate.run(made)["undecodable"] == 1
    vectors_ELD, model.vectors_ELD = model.vectors_ELD, torch.full_like(model.vectors_ELD, torch.inf)
    with refused("cosines of 0.mp4, cosines of 2.mp4, cosines of 3.mp4 and 2 more", where="stand-in"):
        evaluate.run(made)
    made.spec |= PROBED
    with refused("t of merged", where="stand-in"):
        probe.run(made)
    made.spec |= MEASURED
    model.vectors_ELD = vectors_ELD
    monkeypatch.setattr(Shifted, "logit_scale", float("inf"))
    with refused("logit scale", where="stand-in"):
        evaluate.run(made)


def test_weights_of_old_records_and_those_about_to_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    state = {
        "head.a": torch.tensor([1.0, torch.nan]),
        "head.ids": torch.tensor([1]),
        "head.attn_mask": -torch.ones(1) / 0,
    }
    save_file(state, tmp_path / "old" / "weights.safetensors")
    with refused("head.a: ", where=str(tmp_path / "old" / "weights.safetensors")):
        trained_state(tmp_path / "old")
    save_file({**state, "head.a": torch.ones(2)}, tmp_path / "old" / "weights.safetensors")
    assert trained_state(tmp_path / "old").keys() == state.keys()


def test_a_training_that_ends_in_a_nan_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflowing(trainer: Trainer) -> None:
        with torch.no_grad():
            next(parameter for parameter in trainer.model.parameters() if parameter.requires_grad).fill_(torch.nan)

    monkeypatch.setattr(Trainer, "fit", overflowing)
    made = training(folder, "overflow")
    with pytest.raises(UserError) as caught:
        train(made, RankInfo())
    assert caught.value.where == "trained weights" and "head." in caught.value.what and "recipe.lr" in caught.value.hint
    assert caught.value.final and not (made.out / "weights.safetensors").exists()


def test_a_training_names_broken_features(folder: Path, tmp_path: Path) -> None:
    made = training(folder, "broken")
    features_NVTD = load_file(folder / "features/features.safetensors")["features"]
    features_NVTD[4, 0, 0, 0] = torch.inf
    (tmp_path / "features").mkdir()
    save_file({"features": features_NVTD}, tmp_path / "features/features.safetensors")
    (tmp_path / "features/videos.parquet").write_bytes((folder / "features/videos.parquet").read_bytes())
    made.inputs["features"] = tmp_path / "features"
    with refused("features of 4.mp4", where="features.safetensors"):
        Features(made, None, None)  # type: ignore[arg-type]


def test_an_encoded_video_is_named_and_its_shard_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = tiny_selection(tmp_path)
    made = work(tmp_path, {"views": {"frames": 2, "resize": 64, "size": 64}, "content": "content"})
    made.context, made.checkpoint, made.stopping = {**made.context, **context}, tmp_path / "shards", lambda: False

    def overflowing(views_MT3HW: Tensor) -> Tensor:
        features_MTD = torch.ones(*views_MT3HW.shape[:2], WIDTH)
        features_MTD[2, 1, 7] = torch.nan
        return features_MTD

    monkeypatch.setattr(encode, "_encoder", lambda work: overflowing)
    names = [entry.name for entry in encode.opened(made.context).entries]
    with refused(f"features of {names[2]}: ", where="glyph-vit", hint="fp32"):
        encode.run(made)
    assert not list(made.checkpoint.glob("*"))


def test_class_texts_are_named_by_their_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [["a photo of a cat"], ["a photo of a dog"]]
    made = work(tmp_path, {"prompts": digest(shown)})
    monkeypatch.setattr(texts, "texts_of", lambda context: shown)
    clip = Experts().clip
    monkeypatch.setattr(clip, "embed_classes", lambda own: torch.tensor([[1.0], [torch.nan]]))
    monkeypatch.setattr(texts, "load_clip", lambda *named: clip)
    with refused("'a photo of a dog'", where="glyph-vit"):
        texts.run(made)
    assert not list(made.out.iterdir())
