"""Running means of weights by hand, and the training whose result is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.stages.train import Trainer, run
from bench.stages.training.average import RunningMean
from bench.stages.training.ranks import Ranks
from bench.suite.recipe import Average, Training
from tests.stages.trainings import training, weights

ENDS = [1.7, 0.4, 0.3, -0.9]  # of one weight after four epochs
START = 2.0


def mean(ends: list[float] = ENDS, **rule: Any) -> float:
    own = RunningMean(Average(**rule), {"w": torch.tensor(START)})
    for epoch, end in enumerate(ends, start=1):
        own.after_step({"w": torch.tensor(end)})
        own.after_epoch(epoch, epoch == len(ends), {"w": torch.tensor(end)})
    return float(own.state["w"])


@pytest.mark.parametrize(
    ("rule", "counted"),
    [
        ({}, ENDS),
        ({"first": 2}, ENDS[1:]),
        ({"first": 2, "last": 3}, ENDS[1:3]),
        ({"start": True}, [START, *ENDS]),
        ({"first": 3, "start": True}, [START, *ENDS[2:]]),
        ({"first": 9}, ENDS[-1:]),
        ({"first": 9, "start": True}, [START, ENDS[-1]]),
    ],
)
def test_ends_of_epochs_count_alike(rule: dict[str, Any], counted: list[float]) -> None:
    assert mean(**rule) == pytest.approx(sum(counted) / len(counted), abs=1e-6)


def test_an_ema_begins_with_the_weights_before_training() -> None:
    assert mean([1.0], kind="ema", momentum=0.75) == pytest.approx(0.75 * START + 0.25)
    assert mean(kind="ema", momentum=1.0) == START
    assert mean(kind="ema", momentum=0.0) == pytest.approx(ENDS[-1])


def test_equal_tensors_keep_their_bits_and_integers_are_the_last() -> None:
    state = {"w": torch.randn(100, generator=torch.Generator().manual_seed(0)), "n": torch.tensor(1)}
    own = RunningMean(Average(start=True), state)
    for epoch in range(1, 8):
        own.after_epoch(epoch, False, {"w": state["w"].clone(), "n": torch.tensor(epoch)})
    assert torch.equal(own.state["w"], state["w"]) and int(own.state["n"]) == 7


def test_the_state_is_not_that_of_the_model() -> None:
    weight = torch.zeros(1)
    own = RunningMean(Average(start=True), {"w": weight})
    weight += 1
    assert float(own.state["w"]) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"average": {"first": 3, "last": 2}}, "first 3 comes after last 2"),
        ({"average": {"kind": "ema", "first": 2}}, "first has no effect with kind: ema"),
        ({"average": {"momentum": 0.5}}, "momentum has no effect with kind: epochs"),
        ({"average": {}, "keep": "best"}, "keep: best has no effect with an average"),
    ],
)
def test_averages_of_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training(**settings)


def test_an_average_survives_json() -> None:
    for rule in (Average(), Average(kind="ema", momentum=0.5), Average(first=2, last=3, start=True)):
        assert Average.model_validate(rule.model_dump(mode="json")) == rule


# ---------------------------------------------------------------------------------------------------------------------
# Trainings


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_record_is_the_mean_and_the_training_is_as_without_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[dict[str, Tensor]] = []
    original = Trainer._account

    def noting(trainer: Trainer, epoch: int, terms: dict[str, float]) -> None:
        original(trainer, epoch, terms)
        if trainer.position.step % trainer.steps_per_epoch == 0:
            ends.append({name: tensor.clone() for name, tensor in trainer.model.trained_state().items()})

    plain, averaged = training(folder, "unaveraged", epochs=3), training(folder, "mean", epochs=3, average={"first": 2})
    run(plain)
    monkeypatch.setattr(Trainer, "_account", noting)
    run(averaged)
    last, mean = weights(plain), weights(averaged)
    assert len(ends) == 3 and mean.keys() == last.keys()
    for name, tensor in mean.items():
        assert torch.equal(ends[2][name], last[name])
        torch.testing.assert_close(tensor, (ends[1][name] + ends[2][name]) / 2)


def test_a_teacher_moves_after_each_step_and_is_no_part_of_the_record(folder: Path, stand_ins: None) -> None:
    work = training(folder, "followed", {}, "taught", tuned=True, epochs=1)
    trainer = Trainer(work, Ranks())
    teacher, clip = trainer.model.teacher, trainer.model.clip
    trainer.model.train()
    assert teacher is not None and not teacher.training
    first = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    trainer._step(0, next(trainer.source.batches(0, 0, 0)))
    for name, own in clip.state_dict().items():
        torch.testing.assert_close(teacher.state_dict()[name], first[name].lerp(own, 0.1))
    assert not all(torch.equal(tensor, first[name]) for name, tensor in teacher.state_dict().items())
    run(work)
    assert {name.partition(".")[0] for name in weights(work)} == {"clip"}
