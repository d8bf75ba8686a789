"""Live logs of trainings: what a W&B project is told, and that nothing is told unasked."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.core.errors import StageError
from bench.stages.train import run
from tests.stages.trainings import prepare, training

pytestmark = pytest.mark.usefixtures("one_thread")


class _Wandb(ModuleType):
    """Stands in for the package: notes what it is told."""

    Error = RuntimeError

    def __init__(self, refusal: str = "") -> None:
        super().__init__("wandb")
        self.refusal = refusal
        self.runs: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **given: Any) -> _Wandb:
        if self.refusal:
            raise self.Error(self.refusal)
        self.runs.append(given)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_a_training_is_a_run_of_its_wandb_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    work = training(folder, "tracked", epochs=1, validation="test")
    run(replace(work, compute=replace(work.compute, wandb="clip-to-video")))
    (given,) = wandb.runs
    assert (given["project"], given["name"], given["id"]) == (
        "clip-to-video",
        "mote-seed0-tracked-",
        "tracked-checkpoint",
    )
    assert given["resume"] == "allow" and given["config"]["recipe"]["epochs"] == 1
    assert [step for step, _ in wandb.logged] == [1, 2, 3, 3] and wandb.finished == 1
    assert 0 <= wandb.logged[-1][1]["validation/top1"] <= 100
    assert {"train/lr", "train/total"} <= set(wandb.logged[0][1])


@pytest.mark.parametrize(
    ("module", "said"), [(None, "pip install wandb"), (_Wandb("no key"), r"W&B refuses the run \(no key\)")]
)
def test_wandb_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType | None, said: str
) -> None:
    prepare(tmp_path)
    work = training(tmp_path, "untracked", epochs=1)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(StageError, match=said):
        run(replace(work, compute=replace(work.compute, wandb="clip-to-video")))


def test_trainings_are_not_logged_unless_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run(training(folder, "plain", epochs=1))
    assert wandb.runs == []
