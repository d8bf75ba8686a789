"""Validation during a training: what it measures, what it keeps, and that it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.stages.train import run
from bench.stages.training.validation import Validation
from tests.stages.trainings import files, prepare, training, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def test_validation_leaves_no_trace_on_the_training(folder: Path) -> None:
    plain = training(folder, "unwatched", batch=12, tuned=True)
    watched = training(folder, "watched", batch=12, tuned=True, validation="test", validate_every=2)
    run(plain)
    result = run(watched)
    assert files(plain)["weights.safetensors"] == files(watched)["weights.safetensors"]
    first, second = json.loads(files(watched)["history.json"])
    assert "validation" not in first and second["validation"] == result["validation"]
    assert result["validation"] * 6 / 100 == pytest.approx(round(result["validation"] * 6 / 100))


def test_the_best_weights_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([10.0, 30.0, 30.0, 20.0])
    states: list[dict[str, Tensor]] = []

    def accuracy(self: Validation, model: Any, classes_CD: Tensor) -> float:
        states.append({name: tensor.clone() for name, tensor in model.trained_state().items()})
        return next(measured)

    monkeypatch.setattr(Validation, "accuracy", accuracy)
    work = training(folder, "kept", validation="test", keep="best", epochs=4)
    result = run(work)
    assert result["kept_epoch"] == 2 and result["validation"] == 20
    kept = weights(work)
    assert all(torch.equal(kept[name], tensor) for name, tensor in states[1].items())
    assert [path.name for path in work.checkpoint.glob("best-*")] == ["best-1.pt"]


def test_an_undecodable_validation_video_is_a_wrong_answer(folder: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    for n in range(6):
        (tmp_path / f"test/{n}.mp4").write_bytes(b"no video")
    assert run(training(tmp_path, "blind", validation="test", epochs=1))["validation"] == 0
