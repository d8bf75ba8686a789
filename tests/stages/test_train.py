"""A training on one process: the same bits after an interruption, and what its options change and do not change."""

from __future__ import annotations

import csv
import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from bench.core.errors import Interrupted, StageError
from bench.stages import train
from bench.stages.train import Trainer, run
from bench.stages.training.ranks import Ranks
from bench.stages.work import Work
from methods.text4vis.classifiers import discriminant_rows
from tests.errors import refused
from tests.stages.trainings import LDA, MOTE, ROUTED, VIDEOS, again, files, prepare, training, weights
from tests.videos import CLASSES

STEPS = 6  # two epochs of three batches


pytestmark = pytest.mark.usefixtures("one_thread")


def interrupted(work: Work, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a training that is interrupted within a step, after the checkpoint of the one before."""
    original = Trainer._step

    def stepping(trainer: Trainer, *arguments: Any) -> None:
        if trainer.position.step == step:
            raise KeyboardInterrupt
        original(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stepping)
        with pytest.raises(KeyboardInterrupt):
            run(work)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("plain", {}),
        ("tuned", {"tuned": True, "accumulate": 2, "clip_grad": 1.0, "checkpointing": True}),
        ("per-process", {"config": {**MOTE, "routing_scope": "process"}, "accumulate": 3}),
        ("fp16", {"precision": "fp16"}),
        ("compiled", {"tuned": True, "compile": True}),
        ("best", {"keep": "best", "validation": "test"}),
        ("discriminant", {"method": "text4vis", "config": LDA}),
        ("blends", {"tuned": True, "smoothing": 0.1, "mix": {"group": 2}, "accumulate": 2, "undecayed": ["1d"]}),
        ("averaged", {"average": {"first": 2, "start": True}, "schedule": "cosine", "floor": 0.1}),
        ("micro-steps", {"schedule": "vifi", "micro_steps": 2, "warmup_epochs": 1, "batch": 4, "drop_last": True}),
        ("decaying average", {"average": {"kind": "ema", "momentum": 0.5}, "schedule": "epoch_cosine"}),
        ("taught", {"method": "taught", "config": {}, "tuned": True, "average": {}}),
        (
            "moving teacher",
            {
                **{"method": "taco", "config": {"momentum": 0.5, "anchors": 20}, "tuned": True},
                **{"average": {"start": True}, "accumulate": 2, "precision": "bf16"},
            },
        ),
    ],
)
def test_it_resumes_at_any_step_with_the_same_bits(
    folder: Path, name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stand_ins: None
) -> None:
    whole = training(folder, name, **settings)
    state = torch.get_rng_state()
    result = run(whole)
    assert torch.equal(torch.get_rng_state(), state)
    assert result["steps"] == STEPS and len(result["epoch_seconds"]) == 2
    cut = again(whole)
    for step in range(1, STEPS, 1 if name == "plain" else 3):
        interrupted(cut, step, monkeypatch)
    run(cut)
    assert files(cut) == files(whole)
    counts = {"counts.safetensors"} if "method" not in settings else set()
    assert {"weights.safetensors", "history.json", "history.csv"} | counts == set(files(whole))


def test_it_stops_when_asked_and_goes_on_with_the_same_bits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seconds are those of all attempts; here a step takes one."""
    monkeypatch.setattr("bench.stages.train.time", SimpleNamespace(monotonic=partial(next, itertools.count())))
    whole = training(folder, "unasked")
    assert run(whole)["seconds"] == STEPS
    cut = replace(again(whole), compute=replace(whole.compute, checkpoint_seconds=1e9))
    asked = iter([False, True, True, False, False, False])  # at steps 2 and 3
    for step in (2, 3):
        with pytest.raises(Interrupted, match=f"step {step} of {STEPS}") as early:
            run(replace(cut, stopping=lambda: next(asked)))
        assert early.value.done == step
    assert run(replace(cut, stopping=lambda: next(asked)))["seconds"] == STEPS
    assert files(cut) == files(whole)


def test_a_training_asked_to_stop_at_its_last_step_is_finished(folder: Path) -> None:
    work = training(folder, "asked-late")
    steps = iter([False] * (STEPS - 1) + [True])
    assert run(replace(work, stopping=lambda: next(steps)))["steps"] == STEPS


def test_rows_are_learnt_from_the_sample_without_its_undecodable_videos(folder: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    table = pd.read_parquet(tmp_path / "features/videos.parquet")
    table.loc[4, "failure"] = "no video"
    table.to_parquet(tmp_path / "features/videos.parquet")
    features_ND = load_file(tmp_path / "features/features.safetensors")["features"].mean(dim=(1, 2))
    kept = torch.arange(VIDEOS) != 4
    rows_CD = discriminant_rows(features_ND[kept], torch.arange(VIDEOS)[kept] % len(CLASSES), len(CLASSES)).float()
    work = training(tmp_path, "sampled", LDA, "text4vis", tuned=True, epochs=1)
    run(work)
    torch.testing.assert_close(weights(work)["classifier.rows_CD"], rows_CD)


def test_what_is_not_drawn_rests(folder: Path) -> None:
    work = training(folder, "resting", {**ROUTED, "num_experts": 6}, epochs=1 / 3)
    run(work)
    (count_E,) = load_file(work.out / "counts.safetensors")["routing"]
    trained = weights(work)
    trainer = Trainer(again(work), Ranks())
    for name, tensor in trainer.model.trained_state().items():
        if "fc_up" in name:
            expert = int(name.split("fc_up.")[1].split(".")[0])
            assert torch.equal(tensor, trained[name]) == (not count_E[expert])


def test_counts_count_every_draw(folder: Path) -> None:
    """Once a step if it is shared; once for each part that has videos if not."""
    counts = []
    for scope in ("step", "process"):
        work = training(folder, f"counts-{scope}", {**MOTE, "routing_scope": scope}, accumulate=3)
        run(work)
        counts.append(int(load_file(work.out / "counts.safetensors")["routing"].sum()))
    assert counts == [STEPS, 2 * (3 + 3 + 2)]


def test_checkpointing_changes_nothing(folder: Path) -> None:
    plain, spared = (training(folder, f"spared-{on}", tuned=True, checkpointing=on, epochs=1) for on in (False, True))
    passes = []
    for work in (plain, spared):
        trainer, calls = Trainer(work, Ranks()), list[str]()
        trainer.model.clip.visual.transformer.resblocks[0].register_forward_pre_hook(partial(_called, calls))
        trainer.fit()
        trainer.write(work.out)
        passes.append(len(calls))
    assert files(plain) == files(spared)
    assert passes == [3, 6]


def _called(calls: list[str], module: torch.nn.Module, _arguments: Any) -> None:
    calls.append(type(module).__name__)


def test_gradients_are_clipped_together(folder: Path) -> None:
    trainer = Trainer(training(folder, "clipped", clip_grad=0.01), Ranks())
    trainer._update(next(trainer.source.batches(0, 0, 0)))
    norms = [p.grad.norm() for group in trainer.optimizer.param_groups for p in group["params"] if p.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(0.01, rel=1e-3)


def test_the_history_is_a_table(folder: Path) -> None:
    work = training(folder, "table", warmup_epochs=1, epochs=2.4)
    result = run(work)
    lines = list(csv.DictReader((work.out / "history.csv").read_text().splitlines()))
    assert result["steps"] == 7 and [line["epoch"] for line in lines] == ["1", "2", "3"]
    assert list(lines[0]) == ["epoch", "lr", "ce", "wmr", "mse", "total"]
    assert float(lines[0]["lr"]) == 0 and float(lines[1]["lr"]) == 1e-3
    assert float(lines[2]["total"]) == result["total"]


# ---------------------------------------------------------------------------------------------------------------------
# Validation


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


def test_event_files_need_their_package(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = training(folder, "events", epochs=1)
    work = replace(work, compute=replace(work.compute, tensorboard=str(tmp_path)))
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(StageError, match="pip install tensorboard"):
        run(work)


def test_event_files(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    work = training(folder, "more events", epochs=1)
    run(replace(work, compute=replace(work.compute, tensorboard=str(tmp_path))))
    (events,) = tmp_path.glob("mote-seed0-*/events.out.tfevents.*")
    assert b"train/total" in events.read_bytes()


def test_a_launcher_must_start_as_many_processes_as_the_recipe_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with refused("3 processes", "recipe.processes is 2", kind=StageError):
        train.run(training(folder, "launched", processes=2))


def test_processes_need_a_cuda_device_each() -> None:
    with refused("3 processes", "CUDA device", kind=StageError):
        train.RankInfo(2, 3, 99).device("cuda")
