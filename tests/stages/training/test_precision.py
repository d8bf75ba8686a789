"""Half precision: close to single, and steps that overflow are left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.stages.train import Trainer, run
from bench.stages.training.ranks import Ranks
from tests.stages.trainings import training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_comes_close(folder: Path, precision: str) -> None:
    full, half = (
        run(training(folder, f"{precision} against {name}", tuned=True, precision=name, epochs=1 / 3))
        for name in ("fp32", precision)
    )
    assert full["total"] == pytest.approx(half["total"], rel=0.02) and full["total"] != half["total"]


def test_a_step_whose_scaled_gradients_overflow_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = training(folder, "overflow", precision="fp16", epochs=1)
    trainer = Trainer(work, Ranks())
    before = {name: tensor.clone() for name, tensor in trainer.model.trained_state().items()}
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    batch = next(trainer.source.batches(0, 0, 0))
    trainer._update(batch)
    assert trainer.scaler.get_scale() == pytest.approx(5e37, rel=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.trained_state().items())
    trainer.save()
    other = Trainer(work, Ranks())
    other.resume()
    assert other.scaler.get_scale() == trainer.scaler.get_scale() and other.position.step == 1
