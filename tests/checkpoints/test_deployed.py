"""Deployed models: the scores of evaluations again, frames and files alike, other classes, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import video_transfer_bench as vtb
from bench.checkpoints.deployed import DeployedModel
from bench.measure.metrics import fuse
from bench.store.records import Store
from bench.video.reader import Video
from bench.video.source import Source
from bench.video.transforms import IMAGENET, normalise
from tests.errors import refused
from tests.trained import Trained
from tests.videos import CLASSES

PLACES = [(0, "plain", "closed"), (2, "dense", "closed"), (6, "tuned", "closed"), (7, "tuned", "other")]


def model_of(trained: Trained, line: int, **options: object) -> DeployedModel:
    results = vtb.results(trained.suite, store=trained.store).results
    return vtb.load_model(results.iloc[line], store=trained.store, **options)  # type: ignore[arg-type]


def videos(trained: Trained) -> list[Path]:
    return [trained.suite.parent / f"test/{n}.mp4" for n in range(4)]


def frames(path: Path) -> torch.Tensor:
    """All frames of a video, [1, T, 3, H, W]."""
    video = Video(Source(path))
    return torch.from_numpy(video.frames(np.arange(len(video)))).permute(0, 3, 1, 2)[None]


@pytest.mark.parametrize(("line", "row", "protocol"), PLACES)
def test_the_videos_of_an_evaluation_get_its_scores_again(trained: Trained, line: int, row: str, protocol: str) -> None:
    model = model_of(trained, line)
    assert f"{row}" in model.title and model.title.endswith(protocol) and model.classes == CLASSES
    identity = vtb.results(trained.suite, store=trained.store).results["identity"][line]
    kept = load_file(Store(trained.store).folder("evaluate", identity) / "scores.safetensors")
    expected_NC = fuse(kept["cosines"].numpy(), kept["norms"].numpy(), float(kept["logit_scale"]), model.fusion)
    scores_NC = model.scores(videos(trained))
    np.testing.assert_allclose(scores_NC, expected_NC, rtol=1e-4)
    whole_NC = np.concatenate([model.scores(frames(path)) for path in videos(trained)])
    np.testing.assert_allclose(whole_NC, scores_NC, rtol=1e-6)


def test_answers_are_the_best_classes_with_shares_of_one(trained: Trained) -> None:
    model = model_of(trained, 2)
    (answers,) = model(str(videos(trained)[0]))
    scores_C = model.scores(videos(trained)[0])[0]
    assert [own.label for own in answers] == [CLASSES[c] for c in np.argsort(-scores_C)]
    assert sum(own.probability for own in answers) == pytest.approx(1)
    assert [len(own) for own in model(videos(trained)[:2], top=1)] == [1, 1]


def test_preprocessed_frames_are_one_view(trained: Trained) -> None:
    model = model_of(trained, 1)  # one clip, one crop
    uint8_BT3SS = torch.randint(0, 256, (2, 2, 3, model.views.size, model.views.size), dtype=torch.uint8)
    plain = model.scores(uint8_BT3SS)
    np.testing.assert_allclose(model.scores(model._normalised(uint8_BT3SS)), plain, rtol=1e-5)
    assert not np.allclose(model.scores(normalise(uint8_BT3SS, *IMAGENET)), plain, rtol=1e-5)


def test_other_classes_and_templates(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("id,name\n0,moon rising\n1,sun setting\n2,star rising\n")
    names = ("moon rising", "sun setting", "star rising")
    for line in (2, 6):  # class texts of the text tower, and of a model that was tuned
        own, other = model_of(trained, line), model_of(trained, line, classes=tmp_path / "classes.csv")
        assert other.classes == names == model_of(trained, line, classes=names).classes
        shared = own.scores(videos(trained))[:, [2, 0]], other.scores(videos(trained))[:, [0, 2]]
        np.testing.assert_allclose(*shared, rtol=1e-5)
    reworded = model_of(trained, 2, templates=["not {}"])
    assert reworded.classes == CLASSES and not np.allclose(
        reworded.scores(videos(trained)), own.scores(videos(trained))
    )
    with refused("templates", allowed=[]):
        model_of(trained, 2, templates=["{description}"])


def test_what_cannot_be_measured_is_refused(trained: Trained, tmp_path: Path) -> None:
    model = model_of(trained, 1)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with refused("broken.mp4", "gone.mp4"):
        model([videos(trained)[0], tmp_path / "broken.mp4", tmp_path / "gone.mp4"])
    with refused("no videos"):
        model([])
    for wrong in (torch.zeros(2, 2, 3, 8, 8), torch.zeros(1, 2, 3, 8, 8, dtype=torch.int64), torch.zeros(2, 3, 8, 8)):
        with refused([*wrong.shape]):
            model(wrong)


def test_records_that_are_missing_or_damaged_are_refused(trained: Trained, tmp_path: Path) -> None:
    results = vtb.results(trained.suite, store=trained.store).results
    training = vtb.results(trained.suite, store=trained.store).trainings["identity"][0]
    with refused("'train'", where=training, allowed=["evaluate"]):
        vtb.load_model(training, store=trained.store)
    with refused("no record yet"):
        vtb.load_model(results.iloc[0].where(results.columns != "identity", ""), store=trained.store)
    shutil.copytree(trained.store / "records", tmp_path / "records")
    weights = tmp_path / "records" / "train" / training / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with refused("bytes", where=str(weights)):
        vtb.load_model(results["identity"][2], store=tmp_path)
    shutil.rmtree(weights.parent)
    with refused(where=str(weights.parent)):
        vtb.load_model(results["identity"][2], store=tmp_path)
